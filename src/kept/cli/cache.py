"""`kept cache`: have prompts read before anybody asks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kept.cli.cache_flags import CacheFlags
from kept.cli.grouped import grouped
from kept.cli.loading import bar, load
from kept.cli.options import ModelOptions
from kept.cli.prompts import read_prompts
from kept.errors import CacheError, OptionError
from kept.format import format_seconds
from kept.options import PREFIX_STORE

cache_app = typer.Typer(
    no_args_is_help=True, help="Fill the prefix store ahead of time (see also `kept store`)."
)


def prompt(
    text: Annotated[
        str | None,
        typer.Argument(
            help="The text to read; - reads it from stdin, and so does leaving it out where stdin "
            "is a pipe.",
            show_default=False,
        ),
    ] = None,
    *,
    file: Annotated[
        Path | None,
        typer.Option(
            "--file", "-f", help="Read the text from this UTF-8 file.", show_default=False
        ),
    ] = None,
    system: Annotated[
        bool,
        typer.Option(
            "--system",
            help="It is a system message: what the chat template makes of it is read, as far as "
            "every conversation begins so.",
        ),
    ] = False,
    model: ModelOptions,
    cache: CacheFlags,
) -> None:
    """Read a text once, and store its keys: who begins a prompt with it computes what follows.

    For a generation of the same model, kv_dtype and prefix store, in this process's place or beside
    it. Ctrl-C keeps what has been read by then.

    For example: kept cache prompt --file system.txt --system --model Qwen/Qwen2.5-0.5B-Instruct
    """
    from kept.llm.storing import store_prompt, system_prefix

    [found] = read_prompts(text, file, lines=False)
    if model.prefix_store == "off":
        raise OptionError("--prefix-store=off leaves nowhere to store it; name a directory")
    llm = load(model, PREFIX_STORE)
    if llm.store is None:
        raise CacheError("there is no prefix store for this model here, so nothing is read ahead")
    options = cache.to_options()
    tokens = system_prefix(llm, found) if system else found
    with bar("Reading", unit="tokens") as update:
        done = store_prompt(llm, tokens, options, update)
    typer.echo(
        f"{done.prompt_tokens:,} tokens are stored, {done.cached_tokens:,} of them were before; "
        f"{format_seconds(done.total_time)}"
    )


cache_app.command("prompt")(grouped(prompt))
