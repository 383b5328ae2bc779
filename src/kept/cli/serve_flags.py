"""A server's settings as flags, variables and a file, whose help is the table's own."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from kept.cli.options import option
from kept.errors import OptionError
from kept.paths import read_path
from kept.serve.settings import SETTINGS, Setting, Settings


def _flag(setting: Setting[object]) -> Any:
    """The annotation of one flag. None stands for what is not given."""
    name = "--" + setting.name.replace("_", "-")
    names = (f"{name}/--no-{name[2:]}",) if setting.kind is bool else (name,)
    made = option(setting.panel, setting.text, *names, metavar=setting.metavar)
    return Annotated[setting.kind | None, made]


# One field for each setting; `grouped` makes a flag of each.
ServeFlags: Any = dataclasses.make_dataclass(
    "ServeFlags",
    [(setting.name, _flag(setting), None) for setting in SETTINGS],
    kw_only=True,
    frozen=True,
    namespace={"__doc__": "A flag for every setting of a server. None: not given."},
)


def to_settings(flags: Any) -> Settings:
    """The settings that flags come to. Raises OptionError for a value that will not do."""
    given = {setting.name: getattr(flags, setting.name) for setting in SETTINGS}
    return Settings(**{name: v for name, v in given.items() if v not in (None, [], ())})


def read_config(context: typer.Context, path: str | None) -> str | None:
    """Have a TOML file answer for what neither flags nor variables say; a callback of `--config`.

    Raises OptionError for a file that cannot be read, or that names what is no flag.
    """
    if path is None:
        return None
    try:
        given = tomllib.loads(read_path(path, "the file of --config").expanduser().read_text())
    except OSError as error:
        raise OptionError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:  # of the encoding, or of TOML
        raise OptionError(f"{path} is not valid TOML: {error}") from error
    known = {str(parameter.name) for parameter in context.command.params} - {"config", "checkpoint"}
    context.default_map = {**(context.default_map or {}), **_named(given, known, path)}
    return path


def _named(given: Mapping[str, Any], known: set[str], path: str) -> dict[str, Any]:
    found = {}
    for name, value in given.items():
        if isinstance(value, Mapping):
            raise OptionError(f"{path} has a table [{name}]; write {name} = value")
        plain = name.replace("-", "_")
        if plain not in known:
            names = ", ".join(sorted(each.replace("_", "-") for each in known))
            raise OptionError(f"{path} sets {name}, and kept serve has no --{name}; it has {names}")
        found[plain] = value
    return found
