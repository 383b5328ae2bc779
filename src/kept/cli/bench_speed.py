"""`kept bench decode` and `kept bench prefill`: speed beside the machine's limits."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kept.bench.shapes import SHAPES, shape_config
from kept.cli.bench_files import (
    check_choice,
    check_measured,
    check_targets,
    deliver,
    load_subject,
    write_json,
)
from kept.cli.options import ACTIVATIONS_HELP, ActivationsName, QuantizedFormat
from kept.options import KVDtypeName

if TYPE_CHECKING:
    from kept.bench.speed import SpeedResult, SpeedSettings

_SHAPE = "gpt2"


@dataclass(frozen=True, kw_only=True)
class SpeedOptions:
    """What is measured and how often, and where it is written."""

    model: Annotated[
        str | None,
        typer.Option(
            help="Measure this checkpoint: a folder, GGUF file or hub id.", metavar="FOLDER|ID"
        ),
    ] = None
    shape: Annotated[
        str | None,
        typer.Option(
            help="Measure random weights of a known shape; nothing is downloaded. "
            f"One of {', '.join(SHAPES)}. This is what is measured without --model, for {_SHAPE}.",
            metavar="NAME",
        ),
    ] = None
    dtype: Annotated[
        str | None,
        typer.Option(help="float32, bfloat16 or float16. Default: the model's own."),
    ] = None
    quantize: Annotated[
        QuantizedFormat | None,
        typer.Option(help="Hold the weights as codes with scales. Default: as --dtype says."),
    ] = None
    activations: Annotated[ActivationsName, typer.Option(help=ACTIVATIONS_HELP)] = (
        ActivationsName.AUTO
    )
    kv_dtype: Annotated[
        KVDtypeName | None,
        typer.Option(help="Hold keys and values in this format. Default: the model's dtype."),
    ] = None
    batch: Annotated[int, typer.Option(min=1, help="Sequences side by side.")] = 1
    runs: Annotated[int, typer.Option(min=1, help="How often each is measured, in turn.")] = 5
    device: Annotated[
        str | None, typer.Option(help="Where to run, as torch names devices. Default: the CPU.")
    ] = None
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads to compute on. Default: all there are.")
    ] = None
    seed: Annotated[int, typer.Option(min=0, help="Draws the prompts and the random weights.")] = 0
    json_file: Annotated[
        Path | None,
        typer.Option(
            "--json", help="Write everything here as JSON, raw step times too.", metavar="FILE"
        ),
    ] = None
    png_file: Annotated[
        Path | None,
        typer.Option("--png", help="Draw a roofline here; needs matplotlib.", metavar="FILE"),
    ] = None


def decode(
    options: SpeedOptions,
    prompt_tokens: Annotated[
        int, typer.Option(min=1, help="Random tokens in front of the new ones.")
    ] = 128,
    new: Annotated[int, typer.Option(min=2, help="New tokens of each sequence in a run.")] = 64,
) -> None:
    """Time the steps that draw one token after another, beside the least they can take.

    A step reads every weight and the keys and values so far from memory, and computes a row for
    each sequence. Its limit is the slower of the two, at the read bandwidth and the matrix peak
    that this machine reaches in the same run. The table goes to stdout, progress to stderr. Ctrl-C
    reports what was measured so far (exit code 130).
    """
    _measure("decode", options, (prompt_tokens,), new)


def prefill(
    options: SpeedOptions,
    prompt_tokens: Annotated[
        str, typer.Option(help="Prompt lengths, separated by commas.", metavar="N[,N...]")
    ] = "128,1024",
) -> None:
    """Time the reading of prompts, beside the peak of this machine's matrix arithmetic.

    Up to and including the choice of the first token. The table goes to stdout, progress to
    stderr. Ctrl-C reports what was measured so far (exit code 130).
    """
    _measure("prefill", options, _lengths(prompt_tokens), 1)


def _lengths(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is not a list of whole numbers, as in 128,1024", param_hint="--prompt-tokens"
        ) from None


def _measure(benchmark: str, options: SpeedOptions, prompts: tuple[int, ...], new: int) -> None:
    from rich.console import Console

    from kept.bench.speed import SpeedSettings, run_speed
    from kept.bench.speed_progress import SpeedProgress

    check_choice(options.model, options.shape)
    settings = SpeedSettings(
        prompts,
        new,
        options.batch,
        options.runs,
        options.seed,
        options.threads,
        options.kv_dtype,
    )
    _check_shape(options, settings)
    check_targets(options.json_file, options.png_file)
    subject = load_subject(
        options.model,
        options.shape or _SHAPE,
        options.dtype,
        options.device,
        options.seed,
        options.quantize,
        options.activations.value,
    )
    with SpeedProgress(Console(stderr=True)) as progress:
        result = run_speed(subject, settings, progress)
    check_measured(result.measured)
    _report(benchmark, result, options)


def _check_shape(options: SpeedOptions, settings: SpeedSettings) -> None:
    """Refuse what does not fit a shape's context before its weights are made."""
    from kept.models import read_config

    if options.model is None:
        settings.check(read_config(shape_config(options.shape or _SHAPE)).context)


def _report(benchmark: str, result: SpeedResult, options: SpeedOptions) -> None:
    from kept.bench.roofline import save_roofline
    from kept.bench.speed_figures import speed_figures
    from kept.bench.speed_report import speed_json, speed_report

    figures = speed_figures(result)
    targets = (
        (options.json_file, write_json(speed_json(benchmark, result, figures))),
        (options.png_file, partial(save_roofline, result, figures)),
    )
    deliver(speed_report(result, figures), targets, interrupted=result.interrupted)
