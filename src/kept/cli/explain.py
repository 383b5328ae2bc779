"""`kept explain`: a short generation step by step, in the terminal and as a page."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from kept.cli.bench_files import check_file, write_files, write_json
from kept.cli.loading import bar, load
from kept.cli.options import ModelOptions, option
from kept.cli.prompts import read_prompts
from kept.options import KV_DTYPES

RUN = "Generation"
VIEW = "What to look at"
FORGET = "What to compare"
FILES = "Files"

# Short, and repetitive enough that heads have something to look back at.
_PROMPT = "for i in range(len(items)):\n    item = items["
_KV_DTYPES = ("bfloat16", "int8", "int4")

# An enum, as typer takes no list of literals.
KVDtype = StrEnum("KVDtype", [(name, name) for name in KV_DTYPES])  # type: ignore[misc]


def explain(
    prompt: Annotated[
        str | None,
        typer.Argument(
            help="The text to continue; - reads it from stdin. Default: two lines of Python.",
            show_default=False,
        ),
    ] = None,
    *,
    max_new_tokens: Annotated[
        int, option(RUN, "At most this many tokens after the prompt. Default: 10.")
    ] = 10,
    seed: Annotated[
        int | None,
        option(RUN, "Draw each token, with this seed. Default: take the likeliest each time."),
    ] = None,
    layer: Annotated[
        int | None, option(VIEW, "The layer whose attention is shown. Default: the middle one.")
    ] = None,
    head: Annotated[
        int | None, option(VIEW, "The query head that is shown. Default: the mean of all heads.")
    ] = None,
    window: Annotated[
        int | None,
        option(FORGET, "Tokens a sliding window keeps. Default: a third of the tokens."),
    ] = None,
    sinks: Annotated[int, option(FORGET, "First tokens kept beside the window. Default: 2.")] = 2,
    budget: Annotated[
        int | None,
        option(
            FORGET,
            "Tokens that eviction by accumulated attention (H2O) keeps. Default: as many as window "
            "and sinks.",
        ),
    ] = None,
    kv_dtype: Annotated[
        list[KVDtype] | None,
        option(
            FORGET,
            "Compare keys and values stored as this with float32; may be given several times. "
            "Default: bfloat16, int8 and int4.",
        ),
    ] = None,
    html_file: Annotated[
        Path | None,
        option(
            FILES,
            "Write a page here that opens in any browser, with the steps to click through and "
            "sliders for what is kept. Default: none.",
            "--html",
            metavar="FILE",
        ),
    ] = None,
    json_file: Annotated[
        Path | None,
        option(FILES, "Write everything here as JSON. Default: nowhere.", "--json", metavar="FILE"),
    ] = None,
    force: Annotated[
        bool, option(FILES, "Overwrite files that are there. Default: refuse.", "--force")
    ] = False,
    model: ModelOptions,
) -> None:
    """Explain a short generation: what each step computes, reads from the cache and attends.

    Then what caches that forget or round would lose. The tables go to stdout, progress to stderr.

    For example: kept explain "def main():" --html page.html
    """
    from rich.console import Console

    from kept.explain.explanation import Settings
    from kept.explain.explanation import explain as explain_generation
    from kept.explain.json_record import as_json
    from kept.explain.page import write_page
    from kept.explain.report import report

    for path, name in ((html_file, "--html"), (json_file, "--json")):
        _check_file(path, name, force)
    if html_file is not None and html_file == json_file:
        raise typer.BadParameter(
            f"{html_file} is named by --json too; give two files", param_hint="--html"
        )
    text = _PROMPT if prompt is None else read_prompts(prompt, None, False)[0]
    settings = Settings(
        max_new_tokens=max_new_tokens,
        seed=seed,
        layer=layer,
        head=head,
        window=window,
        sinks=sinks,
        budget=budget,
        kv_dtypes=tuple(dict.fromkeys(map(str, kv_dtype or _KV_DTYPES))),
    )
    llm = load(model)
    with bar("Generating", unit="tokens") as update:
        name = "bundled" if model.model is None else Path(model.model).name or model.model
        found = explain_generation(llm, name, text, settings, update)
    console = Console(highlight=False)
    console.print(report(found, console.width))
    if html_file is not None or json_file is not None:
        record = as_json(found)
        write_files(((json_file, write_json(record)), (html_file, write_page(record))))


def _check_file(path: Path | None, name: str, force: bool) -> None:
    check_file(path, name)
    if path is not None and path.exists() and not force:
        raise typer.BadParameter(
            f"{path} is there already; give another file, or --force to overwrite it",
            param_hint=name,
        )
