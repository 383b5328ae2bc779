"""`kept store`: what outlives processes, to look at and to look after."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING, Annotated

import typer

from kept.cli.loading import bar
from kept.cli.options import STORE_KEY
from kept.errors import CacheError, OptionError
from kept.format import format_bytes, format_duration, parse_bytes, table
from kept.options import PREFIX_STORE
from kept.paths import read_path

if TYPE_CHECKING:
    from kept.store import Admin, Summary

store_app = typer.Typer(
    no_args_is_help=True,
    help="Look after prefixes that outlive the process: keys and values of texts, in files.",
)

Folder = Annotated[
    str,
    typer.Option(
        "--prefix-store",
        help=f"The directory of the store. Default: {PREFIX_STORE}.",
        envvar="KEPT_PREFIX_STORE",
        show_default=False,
    ),
]


@store_app.command("ls")
def ls(folder: Folder = PREFIX_STORE) -> None:
    """List what is stored, a row for each model, instruction set and kind of cache.

    Files that are encrypted are described where KEPT_STORE_KEY holds their key. Files of a kept or
    a model that is no more are never read again, and go first as they are never used.
    """
    admin = _admin(folder)
    found = admin.summaries()
    if not found:
        typer.echo("nothing is stored")
        return
    header = ("model", "kernels", "keys and values", "files", "blocks", "bytes", "last used")
    typer.echo(table(header, [_row(one) for one in found]))
    typer.echo(f"{format_bytes(sum(one.num_bytes for one in found))} in {read_folder(folder)}")


@store_app.command("verify")
def verify(
    folder: Folder = PREFIX_STORE,
    remove: Annotated[
        bool, typer.Option("--remove", help="Remove each file that is not sound.")
    ] = False,
) -> None:
    """Read every file and hold it against its checksums. Exit code 1 where one is not sound.

    A generation does the same with each file that it reads, and removes what is damaged by itself.
    """
    admin, bad = _admin(folder), 0
    with bar("Verifying", unit="bytes") as update:
        for path, reason, text in admin.verify(remove, update):
            bad += 1
            typer.echo(f"{reason}: {path}: {text}{'; removed' if remove else ''}")
    if bad:
        advice = "" if remove else "; --remove has them go, and they are computed again"
        raise CacheError(f"{bad:,} files are not sound{advice}")
    typer.echo("all files are sound")


@store_app.command("prune")
def prune(
    folder: Folder = PREFIX_STORE,
    size: Annotated[
        str | None,
        typer.Option(
            "--store-bytes",
            help="Keep so much, of what was used last.",
            metavar="<bytes, or as 512MiB, 2GiB>",
            show_default=False,
        ),
    ] = None,
    days: Annotated[
        float | None,
        typer.Option(
            "--unused", help="Remove what was not used for so many days.", show_default=False
        ),
    ] = None,
) -> None:
    """Remove what was used least recently: until it fits, or what is old, or both."""
    if size is None and days is None:
        raise OptionError("nothing says what may go; give --store-bytes, or --unused, or both")
    if days is not None and not days >= 0:
        raise OptionError(f"--unused={days}: give a number of days of at least 0")
    admin = _admin(folder)
    limit = None if size is None else parse_bytes(size)
    gone = admin.prune(limit, None if days is None else 86_400 * days)
    typer.echo(f"removed {gone['files']:,} files, {format_bytes(gone['bytes'])}")


@store_app.command("clear")
def clear(
    folder: Folder = PREFIX_STORE,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Remove all that is stored. Whoever generates computes it again."""
    admin = _admin(folder)
    if not yes and sys.stdin is not None and sys.stdin.isatty():
        size = format_bytes(admin.num_bytes)
        typer.confirm(f"Remove {size} in {read_folder(folder)}?", abort=True)
    gone = admin.clear()
    typer.echo(f"removed {gone['files']:,} files, {format_bytes(gone['bytes'])}")


def read_folder(folder: str) -> str:
    """The directory that a flag names. Raises OptionError for no path."""
    return str(read_path(folder, "the prefix store").expanduser())


def _admin(folder: str) -> Admin:
    from kept.store import Admin
    from kept.store.seal import read_key

    path = read_path(folder, "the prefix store").expanduser()
    return Admin(path, read_key(os.environ.get(STORE_KEY) or None))


def _row(one: Summary) -> tuple[str, ...]:
    counts = f"{one.num_files:,}", f"{one.num_blocks:,}", format_bytes(one.num_bytes)
    last = f"{format_duration(max(0.0, time.time() - one.last_use))} ago"
    header = one.header
    if header is None:
        return "encrypted, or damaged", "-", "-", *counts, last
    space = header.namespace
    return header.name or space.model[:12], space.isa, space.codec, *counts, last
