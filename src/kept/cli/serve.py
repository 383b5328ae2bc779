"""`kept serve`: a server that the clients people have can talk with."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import typer

from kept.cli.adapters import Adapters, read_adapters
from kept.cli.cache_flags import CacheFlags
from kept.cli.loading import load
from kept.cli.options import ModelOptions
from kept.cli.serve_flags import ServeFlags, read_config, to_settings
from kept.cli.streams import say
from kept.errors import BackendError, OptionError
from kept.options import PREFIX_STORE

MISSING = "kept serve needs FastAPI and uvicorn, which are not here; pip install 'kept-llm[serve]'"


def serve(
    *,
    context: typer.Context,
    checkpoint: Annotated[
        str | None,
        typer.Argument(
            metavar="[MODEL]",
            help="A checkpoint's folder, GGUF file or hub id. Default: the bundled model.",
            show_default=False,
            envvar=[],
        ),
    ] = None,
    config: Annotated[
        str | None,
        typer.Option(
            "--config",
            help="A TOML file of these options, `port = 8000` for --port 8000. Flags come before "
            "variables, and variables before the file.",
            callback=read_config,
            is_eager=True,
            metavar="FILE",
        ),
    ] = None,
    adapter: Adapters = None,
    flags: ServeFlags,
    model: ModelOptions,
    cache: CacheFlags,
) -> None:
    """Serve a model over HTTP, as OpenAI's clients and those of others expect it.

    Every option is also read from a variable, --max-queue-time from KEPT_MAX_QUEUE_TIME, and from
    the file of --config. What has been read of texts outlives the server, in --prefix-store.
    Requests choose an --adapter by its name as the model's.
    SIGTERM or Ctrl-C end it once its answers have ended, a second one at once.
    """
    settings = to_settings(flags)
    source = context.get_parameter_source("model")
    if checkpoint is not None and source is not None and source.name == "COMMANDLINE":
        raise OptionError("MODEL and --model both name a model; give one")
    model = dataclasses.replace(model, model=checkpoint or model.model)
    cache_options = cache.to_options()
    try:
        from kept.serve.running import address_of, bind
        from kept.serve.running import serve as run
        from kept.serve.service import Service
        from kept.serve.tenants import keys_of
    except ModuleNotFoundError as error:
        raise BackendError(f"{MISSING} ({error.name})") from error
    keys_of(settings)  # what is wrong with one is told before a model is loaded
    listener = bind(settings)
    with listener:
        more: dict[str, Any] = {
            "max_batch_size": settings.max_batch_size,
            "prefill_chunk": settings.prefill_chunk,
            "adapters": read_adapters(adapter),
        }
        llm = load(model, PREFIX_STORE, **more)
        service = Service(llm, settings, cache_options, _name_of(model.model))
        say(f"{service.models[0]} answers at {address_of(listener)}")
        run(service, listener)


def _name_of(model: str | None) -> str:
    """What a model is called: a folder by its last part, a hub id as it is."""
    if model is None:
        return "kept"
    folder = Path(model).expanduser()
    return (folder.resolve().name or "model") if folder.exists() else model
