"""`kept bench kernels`: the native kernels alone, beside the machine's limits."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from kept.bench.shapes import SHAPES
from kept.cli.bench_files import check_measured, check_targets, deliver, write_json


def kernels(
    shape: Annotated[
        str,
        typer.Option(
            help=f"The layers of this known shape. One of {', '.join(SHAPES)}.", metavar="NAME"
        ),
    ] = "qwen2.5-0.5b",
    rows: Annotated[
        str,
        typer.Option(
            help="Rows of input of a linear layer; empty: no linear layers.", metavar="N[,N...]"
        ),
    ] = "1,4,16,128,512",
    lengths: Annotated[
        str,
        typer.Option(help="Tokens that are attended; empty: no attention.", metavar="N[,N...]"),
    ] = "256,2048,8192",
    queries: Annotated[
        str,
        typer.Option(
            help="Newest tokens of a sequence that attend together; empty: no single sequences.",
            metavar="N[,N...]",
        ),
    ] = "1,256",
    sharing: Annotated[
        str,
        typer.Option(
            help="Sequences that decode together after common tokens; empty: none.",
            metavar="N[,N...]",
        ),
    ] = "16",
    formats: Annotated[
        str, typer.Option(help="Formats of the weights.", metavar="NAME[,NAME...]")
    ] = "fp32,bf16,int8,int4",
    codecs: Annotated[
        str, typer.Option(help="Formats of the keys and values.", metavar="NAME[,NAME...]")
    ] = "float32,bfloat16,int8,int4",
    isa: Annotated[
        str | None,
        typer.Option(
            help="The kernels' instructions. Default: KEPT_ISA, or the best of this CPU.",
            metavar="NAME",
        ),
    ] = None,
    runs: Annotated[int, typer.Option(min=1, help="How often each is timed.")] = 10,
    threads: Annotated[
        int | None,
        typer.Option(
            min=1, help="The kernels' threads. Default: KEPT_NUM_THREADS, or one for each CPU."
        ),
    ] = None,
    json_file: Annotated[
        Path | None,
        typer.Option(
            "--json", help="Write everything here as JSON, raw times too.", metavar="FILE"
        ),
    ] = None,
    png_file: Annotated[
        Path | None,
        typer.Option("--png", help="Draw rooflines here; needs matplotlib.", metavar="FILE"),
    ] = None,
) -> None:
    """Time the native kernels alone: the linear layers of a shape, and attention.

    Weights, keys and values lie in as many copies as no cache holds, and are walked in turn. An
    operation's floor is what it reads at the read bandwidth, or what it computes at the matrix peak
    that this machine reaches in the same run, whichever takes longer. Tables go to stdout, progress
    to stderr. Ctrl-C reports what was measured so far (exit code 130).
    """
    from rich.console import Console

    from kept.bench.kernel_plot import save_kernels
    from kept.bench.kernel_progress import KernelProgress
    from kept.bench.kernel_report import kernel_figures, kernel_json, kernel_report
    from kept.bench.kernels import KernelSettings, run_kernels

    settings = KernelSettings(
        shape,
        _counts(rows, "--rows"),
        _counts(lengths, "--lengths"),
        _counts(queries, "--queries"),
        _counts(sharing, "--sharing"),
        _names(formats),
        _names(codecs),
        isa,
        runs,
        threads,
    )
    check_targets(json_file, png_file)
    with KernelProgress(Console(stderr=True)) as progress:
        result = run_kernels(settings, progress)
    check_measured(result.timed)
    figures = kernel_figures(result)
    targets = (
        (json_file, write_json(kernel_json(result, figures))),
        (png_file, partial(save_kernels, result, figures)),
    )
    deliver(kernel_report(result, figures), targets, interrupted=result.interrupted)


def _names(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))


def _counts(text: str, option: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in _names(text))
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is not a list of whole numbers, as in 1,16", param_hint=option
        ) from None
