"""Every operation on every cache of the grid; `scripts/cache_grid` collects what is recorded."""

from collections.abc import Callable
from pathlib import Path

import pytest
from thinning import in_part

from kept.cache import KINDS as CACHE_KINDS
from kept.cache import Cache, Place
from kept.errors import OptionError
from kept.ops import KV_CODECS
from laws.grid import CODECS, COMBINATIONS, LAYOUTS, PLACES, Combination
from laws.grid_page import HELD, PAGE, REFUSED, axes, render
from laws.operations import OPERATIONS

# What makes up an append, what comes before the first, what reads, a truncation of one slot, and
# blocks and encoder inputs that slots share (test_block_laws.py, test_inputs.py).
SERVING = {
    "step", "lend", "lease", "update", "put", "abandon", "max_step", "max_steps", "reshape",
    "layer", "held", "truncate_slot", "share", "adopt", "attend", "num_new_bytes", "slot_bytes",
    "let_go", "release", "slot_blocks",
}  # fmt: skip


@pytest.mark.parametrize("of", COMBINATIONS, ids=str)
def test_every_operation(
    of: Combination, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """Of 12 operations each cache is put through two, such that any two of layout, codec, place
    and operation meet; with KEPT_TEST_FULL=1, as in `scripts/cache_grid`, through all."""
    cell = of.layout.name, of.codec.name, of.place
    places = LAYOUTS.index(of.layout), CODECS.index(of.codec), PLACES.index(of.place)
    if not of.can_be:
        with pytest.raises(OptionError) as found:
            of.make()
        for name in OPERATIONS:
            record_property("grid", [*cell, name, "refused", str(found.value)])
        return
    for number, (name, operation) in enumerate(OPERATIONS.items()):
        if not in_part(*places, number, out_of=6):
            continue
        limit = operation(of, tmp_path)
        record_property("grid", [*cell, name, "held", limit])


def test_the_page_is_about_the_caches_that_there_are() -> None:
    """What it says of them is written by `scripts/cache_grid`, which takes its time."""
    assert axes(PAGE.read_text(encoding="utf-8")) == {
        "layouts": [layout.name for layout in LAYOUTS],
        "codecs": [codec.name for codec in CODECS],
        "places": list(PLACES),
        "operations": list(OPERATIONS),
    }


def test_the_grid_has_every_kind_codec_and_place() -> None:
    assert {layout.kind for layout in LAYOUTS} == set(CACHE_KINDS)
    assert set(KV_CODECS) <= {codec.kv_dtype for codec in CODECS}
    made = [type(of.make().place) for of in COMBINATIONS[: len(PLACES)]]
    places = Place.__subclasses__()
    assert all(sum(issubclass(x, place) for x in made) == 1 for place in places)
    assert len(places) == len(PLACES)


def test_the_grid_has_every_operation() -> None:
    """A new method of `Cache` is an operation of the grid, or one of those that serve it."""
    public = {name for name in dir(Cache) if callable(getattr(Cache, name)) and name[0] != "_"}
    assert public - SERVING == set(OPERATIONS) - {"append", "load", "num_bytes", "share prefixes"}
    assert public >= SERVING


def test_a_page_of_other_results_is_another_page() -> None:
    """So the page can tell: a mark that was not recorded is missed, and a stranger is noticed."""
    of, reason = COMBINATIONS[0], "the cache cannot"
    every = [
        ("grid", [x.layout.name, x.codec.name, x.place, name, "held", None])
        for x in COMBINATIONS
        for name in OPERATIONS
    ]
    page = render(every)
    assert page.count(HELD) == len(LAYOUTS) * len(PLACES) * len(OPERATIONS)
    cell = [of.layout.name, of.codec.name, of.place, "append"]
    refused = render([("grid", [*cell, "refused", reason]), *every[1:]])
    apart = len(PLACES) * len(OPERATIONS)  # a row for the one codec that differs
    assert refused.count(HELD) == page.count(HELD) + apart - 1
    assert f"| {of.codec.name} | {REFUSED}¹" in refused
    assert f"1. {reason}" in refused
    with pytest.raises(KeyError, match="append"):
        render(every[1:])
    with pytest.raises(ValueError, match="not on the grid"):
        render([*every, ("grid", ["paged", "int8", "in memory", "append", "held", None])])
    with pytest.raises(ValueError, match="twice"):
        render([*every, every[0]])
