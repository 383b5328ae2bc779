"""`--adapter NAME=FOLDER`: which LoRA adapters a model is loaded with, and which one is used."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from kept.cli.options import MODEL, option
from kept.errors import OptionError

Adapters = Annotated[
    list[str] | None,
    option(
        MODEL,
        "A LoRA adapter of the model as peft saves it, under a name; may be given several times. "
        "Default: none.",
        "--adapter",
        metavar="NAME=FOLDER",
    ),
]
UsedAdapter = Annotated[
    str | None,
    option(
        MODEL,
        "Which --adapter texts go through. Default: the one that is given.",
        "--use-adapter",
        metavar="NAME",
    ),
]


def read_adapters(given: Sequence[str] | None) -> dict[str, str]:
    """Names and folders. Raises OptionError for what is none of these, and a name that is given
    twice."""
    found: dict[str, str] = {}
    for each in given or ():
        name, equals, folder = each.partition("=")
        if not equals or not name.strip() or not folder.strip():
            raise OptionError(
                f"--adapter {each!r} is not NAME=FOLDER, as in support=./support-lora"
            )
        if name in found:
            raise OptionError(f"--adapter names {name!r} twice; give each a name of its own")
        found[name] = folder
    return found


def used_adapter(adapters: dict[str, str], asked: str | None) -> str | None:
    """The name of the adapter that texts go through, None: none. Raises OptionError for one that
    is not given, and where nothing says which of several."""
    if asked is None and len(adapters) > 1:
        raise OptionError(f"several adapters are given; --use-adapter says which ({_of(adapters)})")
    if asked is None:
        return next(iter(adapters), None)
    if asked not in adapters:
        raise OptionError(
            f"--use-adapter {asked!r} is none of the --adapter given: {_of(adapters)}"
        )
    return asked


def _of(adapters: dict[str, str]) -> str:
    return ", ".join(adapters) or "none is"
