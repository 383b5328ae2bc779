"""`kept generate`: continue a prompt."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kept.cli.adapters import Adapters, UsedAdapter, read_adapters, used_adapter
from kept.cli.cache_flags import CacheFlags
from kept.cli.loading import bar, load
from kept.cli.options import REPORT, ModelOptions
from kept.cli.prompts import read_prompts
from kept.cli.report import stats as format_stats
from kept.cli.report import to_json
from kept.cli.sampling_options import SamplingOptions
from kept.cli.streaming import show
from kept.cli.terminal import BOLD, Writer
from kept.errors import OptionError
from kept.interrupt import INTERRUPTED

if TYPE_CHECKING:
    from kept.engine import Completion
    from kept.llm import LLM
    from kept.options import CacheOptions
    from kept.sampling import SamplingParams

PROMPT = "Prompt"


def generate(
    prompt: Annotated[
        str | None,
        typer.Argument(
            help="The text to continue; - reads it from stdin, and so does leaving it out where "
            "stdin is a pipe. The last line's end is not part of a prompt that is read.",
            show_default=False,
        ),
    ] = None,
    *,
    file: Annotated[
        Path | None,
        typer.Option(
            "--file",
            "-f",
            help="Read the prompt from this UTF-8 file.",
            rich_help_panel=PROMPT,
            show_default=False,
        ),
    ] = None,
    lines: Annotated[
        bool,
        typer.Option(
            "--lines",
            help="Every line of the file or of stdin that is not blank is a prompt of its own; "
            "up to 16 are computed side by side.",
            rich_help_panel=PROMPT,
        ),
    ] = False,
    src_lang: Annotated[
        str | None,
        typer.Option(
            "--src-lang",
            help="The prompt's language, by its code in a tokenizer of mBART, mBART-50, NLLB or "
            "M2M-100, as eng_Latn. Default: the checkpoint's.",
            rich_help_panel=PROMPT,
            show_default=False,
        ),
    ] = None,
    tgt_lang: Annotated[
        str | None,
        typer.Option(
            "--tgt-lang",
            help="The language to translate to, likewise.",
            rich_help_panel=PROMPT,
            show_default=False,
        ),
    ] = None,
    echo: Annotated[
        bool | None,
        typer.Option(
            "--echo/--no-echo",
            help="Print the prompt in front of what continues it. Default: print it, unless an "
            "encoder-decoder model answers it.",
            rich_help_panel=REPORT,
            show_default=False,
        ),
    ] = None,
    stats: Annotated[
        bool,
        typer.Option("--stats", help="Counts and times, on stderr.", rich_help_panel=REPORT),
    ] = False,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json",
            help="Print one JSON object a line for each text: text, token ids, why it ended, "
            "log-probabilities, counts, times in seconds, cache in bytes, seed.",
            rich_help_panel=REPORT,
        ),
    ] = False,
    adapter: Adapters = None,
    use_adapter: UsedAdapter = None,
    model: ModelOptions,
    cache: CacheFlags,
    sampling: SamplingOptions,
) -> None:
    """Continue a prompt. The text appears as it is written; Ctrl-C ends it and keeps it.

    For example: kept generate "def fibonacci(n):" --max-new-tokens 64
    """
    if sampling.logprobs is not None and not as_json:
        raise OptionError("--logprobs is reported only by --json; add --json, or leave it out")
    prompts = read_prompts(prompt, file, lines)
    params, cache_options = sampling.to_params(), cache.to_options()
    adapters = read_adapters(adapter)
    used = used_adapter(adapters, use_adapter)
    started = time.perf_counter()
    llm = load(model, adapters=adapters)
    loading = time.perf_counter() - started
    texts = len(prompts) * _num_texts(llm, params, cache_options)
    if echo is None:
        echo = not llm.model.is_encoder_decoder
    given = {"adapter": used, "src_lang": src_lang, "tgt_lang": tgt_lang}
    if as_json:
        completions, ending = _run(llm, prompts, params, cache_options, given)
        for completion in completions:
            print(to_json(completion, prompts[completion.prompt_index], llm.tokenizer), flush=True)
    elif texts == 1:
        completions, ending = _stream(llm, prompts[0], params, cache_options, given, echo)
    else:
        completions, ending = _run(llm, prompts, params, cache_options, given)
        _print_all(completions, prompts, echo)
    if stats:
        typer.echo(format_stats(completions, loading), err=True)
    if ending is not None:
        raise ending


def _num_texts(llm: LLM, params: SamplingParams, cache_options: CacheOptions) -> int:
    """Texts a prompt, counting each beam: only one can be shown as it is written."""
    resolved, _ = llm.resolve(params, {}, cache_options)
    return max(resolved.num_return_sequences, resolved.num_beams)


def _stream(
    llm: LLM,
    prompt: str,
    params: SamplingParams,
    cache_options: CacheOptions,
    given: dict[str, str | None],
    echo: bool,
) -> tuple[list[Completion], Exception | None]:
    """The completion, and what there is to raise once it has been reported. given: see
    `LLM.stream`."""
    stream = llm.stream(prompt, params, cache_options=cache_options, **given)
    out = Writer(sys.stdout)
    if echo:
        out.write(prompt, BOLD)
    ending: Exception | None = None
    try:
        show(stream, out.write)
    except Exception as error:
        if not hasattr(error, "completions"):
            raise
        ending = error
    out.end_line()
    completion = stream.completion
    if completion.finish_reason == "interrupted":
        ending = typer.Exit(INTERRUPTED)
    return [completion], ending


def _run(
    llm: LLM,
    prompts: list[str],
    params: SamplingParams,
    cache_options: CacheOptions,
    given: dict[str, str | None],
) -> tuple[list[Completion], Exception | None]:
    """The completions, and what there is to raise once they have been reported."""
    from kept.engine import GenerationInterrupted

    try:
        with bar("Generating", unit="texts") as update:
            completions = llm.generate(
                prompts, params, cache_options=cache_options, progress=update, **given
            )
            return completions, None
    except GenerationInterrupted as error:
        return error.completions, typer.Exit(INTERRUPTED)
    except Exception as error:
        if not hasattr(error, "completions"):
            raise
        return error.completions, error


def _print_all(completions: list[Completion], prompts: list[str], echo: bool) -> None:
    """Every text under a line that says which it is; a single one as it is."""
    out = Writer(sys.stdout)
    per_prompt = len(completions) // len(prompts)
    for completion in completions:
        if len(completions) > 1:
            which = [f"text {completion.index + 1} of {per_prompt}"] if per_prompt > 1 else []
            if len(prompts) > 1:
                which.insert(0, f"prompt {completion.prompt_index + 1} of {len(prompts)}")
            out.write(f"--- {', '.join(which)} ---\n")
        if echo:
            out.write(prompts[completion.prompt_index], BOLD)
        out.write(completion.text)
        out.end_line()
