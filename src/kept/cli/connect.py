"""`kept connect`: how a client is told of a server that runs."""

from __future__ import annotations

import http.client
import json
import os
import re
import urllib.error
import urllib.request
from typing import Annotated, Final
from urllib.parse import urlsplit

import typer

from kept.cli.clients import CLIENTS, Server
from kept.errors import OptionError

PATIENCE: Final = 5.0  # seconds for a server to say what it is called


def connect(
    client: Annotated[
        str,
        typer.Argument(help=f"One of {', '.join(CLIENTS)}.", show_default=False),
    ],
    url: Annotated[
        str, typer.Option("--url", help="Where the server answers, without a path.", metavar="URL")
    ] = "http://127.0.0.1:8000",
    model: Annotated[
        str | None,
        typer.Option("--model", help="What the model is called. Default: what the server says."),
    ] = None,
    key: Annotated[
        str,
        typer.Option(
            "--key",
            help="The environment variable that holds the API key; its value is never printed.",
            metavar="VARIABLE",
        ),
    ] = "KEPT_API_KEY",
) -> None:
    """Print what has to be set for a client to talk with a server of `kept serve`.

    Nothing is written anywhere: the first line says where the rest belongs.
    """
    if client not in CLIENTS:
        raise OptionError(f"{client!r} is no client known here; it may be {', '.join(CLIENTS)}")
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", key):
        raise OptionError("--key takes the name of an environment variable, as KEPT_API_KEY")
    base = _base(url)
    name = model or _model_of(base, os.environ.get(key))
    typer.echo(CLIENTS[client](Server(base, name, key)))


def _base(url: str) -> str:
    try:
        found = urlsplit(url)
        host, _ = found.hostname, found.port
    except ValueError as error:
        raise OptionError(f"--url {url} is no address: {error}") from error
    is_plain = not (found.username or found.password or found.query or found.fragment)
    if found.scheme not in ("http", "https") or not host or not is_plain:
        raise OptionError("--url takes http:// or https:// and a host, as http://127.0.0.1:8000")
    if found.path.rstrip("/") not in ("", "/v1"):
        raise OptionError(f"--url {url} has a path; leave it out, each client adds its own")
    return f"{found.scheme}://{found.netloc}"


def _model_of(base: str, key: str | None) -> str:
    asked = urllib.request.Request(f"{base}/v1/models")
    if key:
        if not re.fullmatch(r"[!-~]+", key):  # told here: urllib's own error would quote it
            raise OptionError(
                "the API key in the variable of --key has spaces, line ends or other characters "
                "that none has; set it again, or name the --model"
            )
        asked.add_header("Authorization", f"Bearer {key}")
    try:
        with urllib.request.urlopen(asked, timeout=PATIENCE) as answer:
            found = json.loads(answer.read(1 << 20))["data"][0]["id"]
    except urllib.error.HTTPError as error:
        error.close()
        hint = "set the variable of --key to its key" if error.code == 401 else "check --url"
        raise OptionError(f"{base} answers {error.code}; {hint}, or name the --model") from error
    except (OSError, http.client.HTTPException, ValueError, LookupError, TypeError) as error:
        reason = getattr(error, "reason", None) or str(error).strip() or type(error).__name__
        raise OptionError(
            f"no server of kept answers at {base} ({reason}); start `kept serve`, give its --url, "
            "or name the --model"
        ) from error
    return str(found)
