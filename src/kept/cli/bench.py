"""`kept bench`: measurements of kept on this machine."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kept.bench.shapes import SHAPES, shape_config
from kept.cli.errors import INTERRUPTED
from kept.cli.loading import bar
from kept.errors import KeptError

if TYPE_CHECKING:
    from kept.bench.experiment import Result
    from kept.bench.subject import Subject

bench_app = typer.Typer(no_args_is_help=True)


@bench_app.callback()
def bench() -> None:
    """Measure kept on this machine."""


@bench_app.command("cache")
def cache(
    model: Annotated[
        str | None,
        typer.Option(help="Measure this checkpoint: a folder or a hub id.", metavar="FOLDER|ID"),
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
        int | None, typer.Option(min=1, help="Threads torch computes with. Default: torch's own.")
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
    from kept.bench.plot import require_matplotlib
    from kept.bench.progress import BenchProgress
    from kept.models import read_config

    if model is not None and shape is not None:
        raise typer.BadParameter("give --model or --shape, not both", param_hint="--model")
    settings = Settings(new, prompt_tokens, runs, without, seed, threads)
    # What cannot be run or written should be known before minutes of measuring.
    if model is None:
        settings.check(read_config(shape_config(shape or "gpt2")).context)
    _check_target(json_file, "--json")
    _check_target(png_file, "--png")
    if png_file is not None:
        require_matplotlib()
    messages = Console(stderr=True)
    subject = _load(model, shape or "gpt2", dtype, device, seed)
    with BenchProgress(messages) as progress:
        result = run_experiment(subject, settings, progress)
    if not result.of(True):
        messages.print("Interrupted before anything was measured.")
        raise typer.Exit(INTERRUPTED)
    _report(result, json_file, png_file)
    if result.interrupted:
        raise typer.Exit(INTERRUPTED)


def _report(result: Result, json_file: Path | None, png_file: Path | None) -> None:
    from rich.console import Console

    from kept.bench.json_report import as_json
    from kept.bench.plot import save_plot
    from kept.bench.summary import summarise
    from kept.bench.tables import report

    summary = summarise(result)
    Console(highlight=False).print(report(result, summary))

    def write_json(path: Path) -> None:
        path.write_text(json.dumps(as_json(result, summary), indent=1) + "\n", encoding="utf-8")

    failed = []
    for path, write in ((json_file, write_json), (png_file, partial(save_plot, result, summary))):
        try:
            if path is not None:
                write(path)
        except OSError as error:
            failed.append(f"{path} ({error.strerror or error})")
    if failed:
        raise KeptError(
            f"cannot write {' and '.join(failed)}; the tables were printed all the same. Free "
            "space there or name another file, and measure again"
        )


def _load(
    model: str | None, shape: str, dtype: str | None, device: str | None, seed: int
) -> Subject:
    from kept.bench.subject import checkpoint_subject, random_subject

    if model is None:
        return random_subject(shape, dtype, seed, device)
    with bar("Loading", unit="bytes") as update:
        return checkpoint_subject(model, dtype, device, update)


def _check_target(path: Path | None, option: str) -> None:
    if path is None:
        return
    if path.is_dir() or not path.parent.is_dir():
        why = "is a folder" if path.is_dir() else "lies in a folder that does not exist"
        raise typer.BadParameter(f"{path} {why}; give a file in one that does", param_hint=option)
