"""`kept doctor`: what is wrong with this machine, and what to do about it."""

from __future__ import annotations

import dataclasses
import json
import sys
from typing import Annotated

import typer

from kept.cli.checkups import Asked, Finding, State, run
from kept.cli.description import describe_model
from kept.cli.options import MODEL, option
from kept.cli.terminal import BOLD, styled

_MARKS: dict[State, str] = {"ok": "ok     ", "warning": "warning", "error": "ERROR  "}


def doctor(
    model: Annotated[
        str | None,
        typer.Argument(
            help="A folder, a GGUF file or a hub id, of which only the description is fetched: "
            "whether it fits. "
            "Default: the bundled model.",
            show_default=False,
        ),
    ] = None,
    revision: Annotated[
        str | None, option(MODEL, "Branch, tag or commit of a hub id. Default: main.")
    ] = None,
    host: Annotated[str, typer.Option("--host", help="Where a server is to listen.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", help="Its port.", min=0, max=65535, metavar="<int>")
    ] = 8000,
    prefix_store: Annotated[
        str | None,
        typer.Option("--prefix-store", help="Its store's folder. Default: the usual one."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Look for what keeps kept from running well here, and say the remedy.

    Nothing is changed. The exit code is 1 where something is an error, 0 with warnings alone.
    """
    from kept.errors import OptionError
    from kept.paths import read_path

    if revision is not None and model is None:
        raise OptionError("--revision is of a hub id, and no MODEL is given; leave it out")
    described = describe_model(model, revision)
    weights = described.weight_bytes(described.dtype())
    asked = Asked(host, port, weights)
    if prefix_store is not None:
        read_path(prefix_store, "the prefix store")  # else the folder this was called from
        asked = dataclasses.replace(asked, store=prefix_store)
    found = list(run(asked))
    if as_json:
        typer.echo(json.dumps({"findings": [dataclasses.asdict(each) for each in found]}))
    else:
        typer.echo("\n".join(_line(each) for each in found))
        typer.echo(_summary(found))
    if any(each.state == "error" for each in found):
        raise typer.Exit(1)


def _line(found: Finding) -> str:
    mark = _MARKS[found.state]
    if found.state != "ok":
        mark = styled(mark, BOLD, sys.stdout)
    line = f"{mark}  {found.name}: {found.text}"
    return line + (f"\n         -> {found.remedy}" if found.remedy else "")


def _summary(found: list[Finding]) -> str:
    errors = sum(each.state == "error" for each in found)
    warnings = sum(each.state == "warning" for each in found)
    return f"\n{errors} errors, {warnings} warnings"
