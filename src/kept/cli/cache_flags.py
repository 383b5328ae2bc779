"""The options of a cache as flags, whose help is the table's own."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from typing import Annotated, Any

import typer

from kept.cli.options import CACHE, option
from kept.options import (
    CacheField,
    CacheImplementation,
    CacheOptions,
    EvictionScore,
    KVDtypeName,
    Overflow,
)
from kept.options import cache_fields as f


def _flag(field: CacheField[object], *names: str, metavar: str | None = None) -> Any:
    """A typer option whose help is the field's text, with other options as they are typed here."""
    text = re.sub(
        r'(\w+)="(\w+)"', lambda found: f"--{found[1].replace('_', '-')} {found[2]}", field.text
    )
    return option(CACHE, text, *names, metavar=metavar)


@dataclass(frozen=True, kw_only=True)
class CacheFlags:
    """A flag for every field of CacheOptions. None: the checkpoint's value, else the default."""

    use_cache: Annotated[bool | None, _flag(f.USE_CACHE, "--use-cache/--no-cache")] = None
    cache_implementation: Annotated[CacheImplementation | None, _flag(f.CACHE_IMPLEMENTATION)] = (
        None
    )
    kv_dtype: Annotated[KVDtypeName | None, _flag(f.KV_DTYPE)] = None
    max_cache_len: Annotated[int | None, _flag(f.MAX_CACHE_LEN)] = None
    sliding_window: Annotated[int | None, _flag(f.SLIDING_WINDOW)] = None
    num_sinks: Annotated[int | None, _flag(f.NUM_SINKS)] = None
    kv_budget: Annotated[
        str | None, _flag(f.KV_BUDGET, metavar="<number, or a list with commas>")
    ] = None
    eviction_score: Annotated[EvictionScore | None, _flag(f.EVICTION_SCORE)] = None
    num_recent: Annotated[int | None, _flag(f.NUM_RECENT)] = None
    overflow: Annotated[Overflow | None, _flag(f.OVERFLOW)] = None
    slide_hop: Annotated[int | None, _flag(f.SLIDE_HOP)] = None

    def to_options(self) -> CacheOptions:
        """The options as the library takes them. Raises OptionError for a value out of range."""
        given: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        if self.kv_budget is not None:
            given["kv_budget"] = _read_budget(self.kv_budget)
        return CacheOptions(**given)


def _read_budget(text: str) -> int | tuple[int, ...]:
    try:
        found = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is neither a whole number of tokens nor a list of them, as 512,256,256,128",
            param_hint="--kv-budget",
        ) from None
    return found[0] if len(found) == 1 else found
