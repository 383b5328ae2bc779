"""`kept bench`: measurements of kept on this machine."""

from __future__ import annotations

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
from kept.cli.bench_kernels import kernels
from kept.cli.bench_quality import quality
from kept.cli.bench_serve import serve
from kept.cli.bench_speed import decode, prefill
from kept.cli.grouped import grouped

if TYPE_CHECKING:
    from kept.bench.experiment import Result

bench_app = typer.Typer(no_args_is_help=True)


@bench_app.callback()
def bench() -> None:
    """Measure kept on this machine."""


bench_app.command("decode")(grouped(decode))
bench_app.command("prefill")(grouped(prefill))
bench_app.command("kernels")(kernels)
bench_app.command("quality")(quality)
bench_app.command("serve")(grouped(serve))


@bench_app.command("cache")
def cache(
    model: Annotated[
        str | None,
        typer.Option(
            help="Measure this checkpoint: a folder, GGUF file or hub id.", metavar="FOLDER|ID"
        ),
    ] = None,
    shape: Annotated[
        str | None,
        typer.Option(
            help="Measure random weights of a known shape; nothing is downloaded. "
            f"One of {', '.join(SHAPES)}. This is what is measured without --model, for gpt2.",
            metavar="NAME",
        ),
    ] = None,
    new: Annotated[int, typer.Option(min=1, help="New tokens of each run.")] = 1000,
    runs: Annotated[
        int, typer.Option(min=1, help="Runs with and as many without the cache, in turn.")
    ] = 3,
    prompt_tokens: Annotated[
        int, typer.Option(min=1, help="Random tokens in front of the new ones.")
    ] = 8,
    dtype: Annotated[
        str | None,
        typer.Option(help="float32, bfloat16 or float16. Default: the model's own."),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="Where to run, as torch names devices. Default: the CPU.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads to compute on. Default: all there are.")
    ] = None,
    without: Annotated[
        bool,
        typer.Option("--without/--no-without", help="Measure generation without the cache, too."),
    ] = True,
    seed: Annotated[int, typer.Option(min=0, help="Draws the prompt and the random weights.")] = 0,
    json_file: Annotated[
        Path | None,
        typer.Option(
            "--json", help="Write everything here as JSON, raw step times too.", metavar="FILE"
        ),
    ] = None,
    png_file: Annotated[
        Path | None,
        typer.Option("--png", help="Draw the curves here; needs matplotlib.", metavar="FILE"),
    ] = None,
) -> None:
    """Time generation with and without the key/value cache.

    Every token is drawn greedily and nothing ends the text early. Tables go to stdout, progress to
    stderr. Ctrl-C ends the experiment and reports what was measured so far (exit code 130).
    """
    from rich.console import Console

    from kept.bench.experiment import Settings, run_experiment
    from kept.bench.progress import BenchProgress
    from kept.models import read_config

    check_choice(model, shape)
    settings = Settings(new, prompt_tokens, runs, without, seed, threads)
    # What cannot be run or written should be known before minutes of measuring.
    if model is None:
        settings.check(read_config(shape_config(shape or "gpt2")).context)
    check_targets(json_file, png_file)
    subject = load_subject(model, shape or "gpt2", dtype, device, seed)
    with BenchProgress(Console(stderr=True)) as progress:
        result = run_experiment(subject, settings, progress)
    check_measured(result.of(True))
    _report(result, json_file, png_file)


def _report(result: Result, json_file: Path | None, png_file: Path | None) -> None:
    from kept.bench.json_report import as_json
    from kept.bench.plot import save_plot
    from kept.bench.summary import summarise
    from kept.bench.tables import report

    summary = summarise(result)
    targets = (
        (json_file, write_json(as_json(result, summary))),
        (png_file, partial(save_plot, result, summary)),
    )
    deliver(report(result, summary), targets, interrupted=result.interrupted)
