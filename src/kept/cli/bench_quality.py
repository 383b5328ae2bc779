"""`kept bench quality`: what each format of weights and cache costs in quality of predictions."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kept.cli.bench_eviction import BUDGETS, evictions, read_budgets
from kept.cli.bench_files import check_measured, check_targets, deliver, write_json
from kept.cli.loading import bar, bars
from kept.cli.options import ACTIVATIONS_HELP, ActivationsName
from kept.cli.prompts import decode
from kept.errors import CheckpointNotFoundError, OptionError

if TYPE_CHECKING:
    from kept.bench.quality import WeightFormat
    from kept.bench.windows import Window
    from kept.models import CausalLM

# A model's context where that is shorter. Longer windows would say the same of a format, and the
# tokens that are read but not scored grow with them.
_LONGEST_WINDOW = 2048
_FORMATS = "fp32,bf16,int8,int4"
_KV_DTYPES = "bfloat16,int8,k8v4,int4"


def quality(
    model: Annotated[
        str | None,
        typer.Option(
            help="Measure this checkpoint: a folder, GGUF file or hub id. Default: the bundled "
            "model.",
            metavar="FOLDER|ID",
        ),
    ] = None,
    text: Annotated[
        list[Path] | None,
        typer.Option(
            help="Score this UTF-8 file; give it as often as there are files. Default: the modules "
            "of Python's standard library that the bundled model was not trained on.",
            metavar="FILE",
        ),
    ] = None,
    formats: Annotated[
        str,
        typer.Option(
            help="Weight formats to measure, separated by commas: bf16, int8, int4, or stored, as "
            "the model is held where nothing is asked for (blocks of a GGUF file). fp32, which the "
            "others are compared with, is always measured.",
            metavar="NAME[,NAME...]",
        ),
    ] = _FORMATS,
    activations: Annotated[ActivationsName, typer.Option(help=ACTIVATIONS_HELP)] = (
        ActivationsName.AUTO
    ),
    kv_dtypes: Annotated[
        str,
        typer.Option(
            help="What a cache may store, to measure under fp32 weights, separated by commas: "
            'float16, bfloat16, int8, k8v4 (int8 keys, int4 values), int4; "" for none.',
            metavar="NAME[,NAME...]",
        ),
    ] = _KV_DTYPES,
    tokens: Annotated[
        int, typer.Option(min=1, help="Score at most so many tokens, spread over the whole text.")
    ] = 40_000,
    evict: Annotated[
        bool,
        typer.Option(
            "--evict",
            help="Measure caches that keep a part of their tokens instead: on the text, and on "
            "recall tasks with a small model of their own.",
        ),
    ] = False,
    budgets: Annotated[
        str | None,
        typer.Option(
            help="With --evict: what they keep, in percent of the context, separated by commas. "
            f"Default: {BUDGETS}.",
            metavar="PERCENT[,PERCENT...]",
        ),
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the figures here as JSON.", metavar="FILE")
    ] = None,
) -> None:
    """Score a text with the weights in each format, and with each cache, beside all in fp32.

    Or, with --evict, over caches that drop tokens, beside one that keeps all.

    All run side by side on the same tokens, so memory must hold the model once in each format.
    The table goes to stdout, progress to stderr. Ctrl-C reports what was measured so far (exit
    code 130).
    """
    from kept.bench.eviction import late_windows
    from kept.bench.quality import measure_quality
    from kept.bench.quality_report import Setting, quality_json, quality_report
    from kept.bench.subject import Subject
    from kept.bench.windows import choose_windows
    from kept.models import open_checkpoint, read_config

    names, caches = _read_formats(formats), _read_kv_dtypes(kv_dtypes)
    check_targets(json_file, None)
    shares = read_budgets(budgets) if evict else []
    _check_evict(evict, budgets, (formats, kv_dtypes))
    documents, described = _read_texts(text)
    checkpoint = open_checkpoint(model)
    context = min(read_config(checkpoint.config).context, _LONGEST_WINDOW)
    windows = _cut(checkpoint.folder, documents, context)
    name = "bundled" if model is None else Path(model).name or model
    if evict:
        late = choose_windows(late_windows(windows, context), tokens)
        [loaded] = _load(model, ["fp32"]).values()
        subject = Subject(name, loaded, random=False)
        evictions(subject, described, context, late, shares, json_file)
        return
    windows = choose_windows(windows, tokens)
    models = _load(model, names, activations.value)
    with bar("Scoring", unit="tokens") as update:
        found = measure_quality(models, windows, update, kv_dtypes=caches)
    check_measured(found.num_windows)
    subject = Subject(name, models["fp32"], random=False)
    setting = Setting(subject, described, context, len(windows), _bits_of(models.get("stored")))
    targets = [(json_file, write_json(quality_json(setting, found)))]
    deliver(quality_report(setting, found), targets, interrupted=found.interrupted)


def _read_formats(text: str) -> list[WeightFormat]:
    from kept.bench.quality import FORMATS

    asked = {part.strip() for part in text.split(",")}
    unknown = sorted(asked - set(FORMATS))
    if unknown:
        raise typer.BadParameter(
            f"{', '.join(map(repr, unknown))} is not one of {', '.join(FORMATS)}",
            param_hint="--formats",
        )
    return [name for name in FORMATS if name in asked or name == "fp32"]


def _read_kv_dtypes(text: str) -> list[str]:
    from kept.options import KV_DTYPES

    asked = [part.strip() for part in text.split(",") if part.strip()]
    unknown = sorted(set(asked) - set(KV_DTYPES))
    if unknown:
        raise typer.BadParameter(
            f"{', '.join(map(repr, unknown))} is not one of {', '.join(KV_DTYPES)}",
            param_hint="--kv-dtypes",
        )
    return list(dict.fromkeys(asked))


def _read_texts(files: list[Path] | None) -> tuple[list[str], str]:
    """The documents, and what they are in words."""
    if not files:
        from kept.bench.standard_library import read_held_out

        modules = read_held_out()
        where = f"{len(modules)} held-out modules of Python {platform.python_version()}"
        return [module.text for module in modules], where
    documents = []
    for file in files:
        try:
            documents.append(decode(file.read_bytes(), str(file)))
        except OSError as error:
            raise OptionError(
                f"--text {file} cannot be read: {error.strerror}; name a file that can"
            ) from error
    return documents, files[0].name if len(files) == 1 else f"{len(files)} files"


def _load(
    model: str | None, names: list[WeightFormat], activations: str = "auto"
) -> dict[WeightFormat, CausalLM]:
    from kept.bench.quality import load_variant

    found = {}
    for name in names:
        steps = ((f"Loading {name}", "bytes"), (f"Packing {name}", "weights"))
        with bars(*steps) as (loading, packing):
            found[name] = load_variant(model, name, loading, packing, activations)
    return found


def _bits_of(model: CausalLM | None) -> float | None:
    from kept.bench.work import stored_bytes

    return None if model is None else 8 * stored_bytes(model) / model.num_parameters


def _check_evict(evict: bool, budgets: str | None, others: tuple[str, str]) -> None:
    if not evict and budgets is not None:
        raise typer.BadParameter("it goes with --evict", param_hint="--budgets")
    if evict and others != (_FORMATS, _KV_DTYPES):
        raise typer.BadParameter(
            "eviction is measured with weights and caches in fp32; leave --formats and "
            "--kv-dtypes out",
            param_hint="--evict",
        )


def _cut(folder: Path, documents: list[str], context: int) -> list[Window]:
    from kept.bench.windows import cut_windows, encode_documents
    from kept.text import find_tokenizer

    tokenizer = find_tokenizer(folder)
    if tokenizer is None:
        raise CheckpointNotFoundError(
            f"{folder} has no tokenizer.json, which scoring a text needs; add it"
        )
    encoded = encode_documents(tokenizer, documents)
    return [w for ids in encoded for w in cut_windows(ids, context)]
