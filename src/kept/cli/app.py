"""`kept` itself: its commands, --version and --debug."""

from __future__ import annotations

from typing import Annotated

import typer

from kept import __version__
from kept.cli.bench import bench_app
from kept.cli.cache import cache_app
from kept.cli.chat import chat
from kept.cli.connect import connect
from kept.cli.doctor import doctor
from kept.cli.errors import ReportingGroup
from kept.cli.explain import explain
from kept.cli.generate import generate
from kept.cli.grouped import grouped
from kept.cli.info import info
from kept.cli.plan import plan
from kept.cli.quantize import quantize
from kept.cli.serve import serve
from kept.cli.store import store_app

app = typer.Typer(
    cls=ReportingGroup,
    invoke_without_command=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"kept {__version__}")
        raise typer.Exit


@app.callback()
def root(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
    debug: Annotated[
        bool,
        typer.Option("--debug", envvar="KEPT_DEBUG", help="Show the traceback of an error."),
    ] = False,
) -> None:
    """Text generation from Hugging Face checkpoints that never computes a key or a value twice.

    Exit codes: 0 done, 1 failed, 2 wrong options, 130 ended by Ctrl-C.
    """
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


app.command()(grouped(generate))
app.command()(grouped(chat))
app.command()(grouped(explain))
app.command()(info)
app.command()(doctor)
app.command()(connect)
app.command()(plan)
app.command()(quantize)
app.command(context_settings={"auto_envvar_prefix": "KEPT"})(grouped(serve))
app.add_typer(cache_app, name="cache")
app.add_typer(store_app, name="store")
app.add_typer(bench_app, name="bench")
