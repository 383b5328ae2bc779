"""What the commands of `kept bench` share: their subject, and how they report what they found."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from kept.cli.loading import bar
from kept.errors import KeptError
from kept.interrupt import INTERRUPTED

if TYPE_CHECKING:
    from rich.console import RenderableType

    from kept.bench.subject import Subject

Writer = Callable[[Path], None]


def load_subject(
    model: str | None,
    shape: str,
    dtype: str | None,
    device: str | None,
    seed: int,
    quantize: str | None = None,
    activations: str = "auto",
) -> Subject:
    """The checkpoint `model`, or random weights of a shape. Raises what loading one raises."""
    from kept.bench.subject import checkpoint_subject, random_subject

    if model is None:
        return random_subject(shape, dtype, seed, device, quantize, activations)
    with bar("Loading", unit="bytes") as update:
        return checkpoint_subject(model, dtype, device, update, quantize, activations)


def check_choice(model: str | None, shape: str | None) -> None:
    """Raise typer.BadParameter where both are given."""
    if model is not None and shape is not None:
        raise typer.BadParameter("give --model or --shape, not both", param_hint="--model")


def check_targets(json_file: Path | None, png_file: Path | None) -> None:
    """Refuse what could not be written, before minutes of measuring.

    Raises typer.BadParameter, or BackendError where a picture is wanted without matplotlib.
    """
    from kept.bench.plot import require_matplotlib

    check_file(json_file, "--json")
    check_file(png_file, "--png")
    if png_file is not None:
        require_matplotlib()


def check_file(path: Path | None, option: str) -> None:
    """Raise typer.BadParameter for a file that has no folder to lie in, or is one."""
    if path is not None and (path.is_dir() or not path.parent.is_dir()):
        why = "lies in a folder that does not exist; give a file in one that does"
        if path.is_dir():
            why = "is a folder; give a file, in it or elsewhere"
        raise typer.BadParameter(f"{path} {why}", param_hint=option)


def check_measured(measured: object) -> None:
    """Say so and exit where Ctrl-C came before anything was measured."""
    if not measured:
        typer.echo("Interrupted before anything was measured.", err=True)
        raise typer.Exit(INTERRUPTED)


def deliver(
    report: RenderableType, targets: Sequence[tuple[Path | None, Writer]], *, interrupted: bool
) -> None:
    """Print a report, write the files that were asked for, and exit as is due after Ctrl-C.

    Raises as `write_files`.
    """
    from rich.console import Console

    Console(highlight=False).print(report)
    write_files(targets)
    if interrupted:
        raise typer.Exit(INTERRUPTED)


def write_json(content: Any) -> Writer:
    """What writes `content` to a path."""

    def write(path: Path) -> None:
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

    return write


def write_files(targets: Sequence[tuple[Path | None, Writer]]) -> None:
    """Write each file that was asked for. Raises KeptError that names those that failed."""
    failed = []
    for path, write in targets:
        try:
            if path is not None:
                write(path)
        except OSError as error:
            failed.append(f"{path} ({error.strerror or error})")
    if failed:
        raise KeptError(
            f"cannot write {' and '.join(failed)}; the tables were printed all the same. Free "
            "space there or name another file, and run it again"
        )
