"""Making a cache: kinds by name, one layout per distinct window."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch

from kept.cache.block_groups import block_layouts
from kept.cache.cache import Cache
from kept.cache.contiguous import ContiguousLayout
from kept.cache.evicting import evicting_layouts
from kept.cache.in_keys import why_not_in_keys
from kept.cache.indices import check_num_slots, read_all_whole, read_whole
from kept.cache.layout import Layout
from kept.cache.place import Place
from kept.cache.policy import EvictionPolicy
from kept.cache.shape import KVShape
from kept.errors import OptionError
from kept.ops import KVDtype, find_kv_codec, plain_torch

KINDS = ("dynamic", "static", "sliding", "evicting")


@plain_torch()
def make_cache(
    shapes: Sequence[KVShape],
    kind: str = "dynamic",
    *,
    num_slots: int = 1,
    max_cache_len: int | None = None,
    sliding_window: int | None = None,
    num_sinks: int = 0,
    budget: int | Sequence[int] | None = None,
    policy: EvictionPolicy | str | None = None,
    grain: int | None = None,
    dtype: torch.dtype = torch.float32,
    kv_dtype: KVDtype | None = None,
    device: torch.device | str = "cpu",
    place: Place | None = None,
    pool_bytes: int | None = None,
    in_blocks: bool = True,
    keeps_all: bool = False,
) -> Cache:
    """An empty cache.

    shapes: what each layer stores, `model.kv_shapes`. Layers that share the keys and values of an
        earlier one come behind it, and last cross layers, which hold the encoder inputs of an
        encoder-decoder model, the same in every kind.
    kind: "dynamic" keeps what later tokens may attend, and grows, a slot by 64 tokens at a time;
        "static" is allocated once for `max_cache_len` tokens a slot and refuses more; "sliding"
        attends the last `sliding_window` tokens, and the first `num_sinks`. Without
        `sliding_window` it takes each layer's own window, and layers that have none keep
        everything; an own window hides sinks, so they are refused there.
        "evicting" keeps `budget` tokens a slot, of those that `policy` chooses (an
        `EvictionPolicy`, or the name of its score; default "key-norm", which needs no queries),
        each time a sequence comes to a multiple of `grain` tokens (default 64); see
        `cache/evicting.py`. Layers with a window of their own keep that window instead, and cross
        layers all of an input. A list of budgets has one for each other layer that stores.
    num_slots: sequences it holds. dtype: the model's; new keys and values are cast to it.
    kv_dtype: what they are stored as, in place of `dtype`: "float32", "bfloat16", "float16",
        "int8" (half the bytes of bfloat16), "int4" (a quarter) or "k8v4" (int8 keys, int4 values);
        or a pair of one for keys and one for values. Codes round, see `ops/codecs.py`.
    place: where buffers lie, by default in the device's memory; `Offloaded(folder, budget)` keeps
        them in files, and reads one layer ahead.
    pool_bytes: of keys and values at most that a dynamic or sliding cache in memory and all its
        forks have together, by default what the machine's memory holds. It is taken as tokens come.
    in_blocks: False: layers that let no token go have a run of memory for each slot that grows with
        the longest one, as those in files, for what reads keys in place. Those of a dynamic cache
        then let none go.
    keeps_all: True: a dynamic cache in blocks keeps all tokens also in layers with a window, so
        that it can be truncated to any length. Else layers with a window, those of every kind but
        static, let go, after each step, the blocks that no later token sees, 64 tokens spared: a
        sequence can be truncated by these.

    Raises OptionError for an unknown kind or kv_dtype, too small a budget, or an option that these
    have no use for.
    """
    check_shapes(shapes)
    max_cache_len = _read_optional(max_cache_len, "max_cache_len")
    sliding_window = _read_optional(sliding_window, "sliding_window")
    grain = _read_optional(grain, "grain")
    budget = _read_budget(budget)
    num_slots, num_sinks = read_whole(num_slots, "num_slots"), read_whole(num_sinks, "num_sinks")
    check_num_slots(num_slots, f"num_slots={num_slots}")
    own = _without_cross(shapes)
    _check(own, kind, num_slots, max_cache_len, sliding_window, num_sinks)
    _check_evicting(kind, budget, policy, grain)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise OptionError(f"dtype is {dtype!r}; pass a torch dtype of real numbers")
    where, codec = read_device(device), find_kv_codec(dtype if kv_dtype is None else kv_dtype)
    if (reason := why_not_in_keys(shapes, codec)) is not None:
        raise OptionError(reason)
    stored = [shape for shape in own if shape.shares is None]
    check_place(place, where, evicts=kind == "evicting")
    in_blocks = in_blocks and kind in ("dynamic", "sliding") and place is None
    pool_bytes = _read_optional(pool_bytes, "pool_bytes")
    if pool_bytes is not None and not in_blocks:
        raise OptionError(
            f"pool_bytes={pool_bytes} is for dynamic and sliding caches in memory, which lie in "
            f"blocks; leave it out of this {kind} one"
        )
    if keeps_all and kind != "dynamic":
        raise OptionError(f"keeps_all=True is for dynamic caches, not {kind} ones; leave it out")

    def made(layouts: Sequence[Layout]) -> Cache:
        return Cache(shapes, layouts, codec, where, kind, place=place)

    if kind == "static":
        assert max_cache_len is not None
        layout = ContiguousLayout(num_slots, max_cache_len, fixed=True)
        return made([layout] * len(stored))
    if kind == "evicting":
        return made(evicting_layouts(stored, num_slots, budget, policy, grain, codec, where))
    windows = _windows(stored, sliding_window)
    if kind == "dynamic" and (keeps_all or not in_blocks):
        windows = [None] * len(stored)
    blocks = [window is not None or in_blocks for window in windows]
    parts = [
        (shape, window) for shape, window, lies in zip(stored, windows, blocks, strict=True) if lies
    ]
    found: Iterator[Layout] = iter(
        block_layouts(
            [shape for shape, _ in parts],
            [window for _, window in parts],
            num_slots,
            codec,
            where,
            pool_bytes,
            num_sinks,
            place,
        )
    )
    run = ContiguousLayout(num_slots)
    return made([next(found) if lies else run for lies in blocks])


def read_device(device: torch.device | str) -> torch.device:
    """A torch device from its name; raises OptionError for one that there cannot be."""
    if not isinstance(device, str | torch.device):
        raise OptionError(f"device {device!r:.100} is a {type(device).__name__}; pass its name")
    try:
        return torch.device(device)
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise OptionError(f"device {device!r} cannot be used: {reason}") from error


def check_place(place: Place | None, device: torch.device, *, evicts: bool) -> None:
    """Raise OptionError for a place where a cache on this device cannot lie."""
    if place is not None and not isinstance(place, Place):
        raise OptionError(
            f"place is {place!r:.100}, a {type(place).__name__}; pass Offloaded(folder, budget)"
        )
    if place is not None and device.type != "cpu":
        raise OptionError(f"a cache in files is for the CPU, not {device}; leave place out")
    if place is not None and evicts:
        raise OptionError(
            "an evicting cache lies in memory, of which it takes a fixed amount; leave place out"
        )


def check_shapes(shapes: object) -> None:
    """Raise OptionError unless these are what layers store: KVShapes of whole numbers."""
    listed = isinstance(shapes, Sequence) and all(isinstance(shape, KVShape) for shape in shapes)
    if not isinstance(shapes, Sequence) or not listed:
        raise OptionError(
            f"the shapes are {shapes!r:.100}, a {type(shapes).__name__}; pass model.kv_shapes, the "
            "KVShape of each layer"
        )
    for index, shape in enumerate(shapes):
        for name in ("num_kv_heads", "head_dim", "window", "shares", "value_dim"):
            _read_optional(getattr(shape, name), f"{name} of layer {index}")
        if shape.num_kv_heads is None or shape.head_dim is None or type(shape.cross) is not bool:
            raise OptionError(f"layer {index} is {shape!r:.200}; heads and head size are numbers")
        if type(shape.values_in_keys) is not bool:
            raise OptionError(f"layer {index} is {shape!r:.200}; values_in_keys is True or False")


def _read_optional(value: object, what: str) -> int | None:
    return None if value is None else read_whole(value, what)


def _windows(shapes: Sequence[KVShape], window: int | None) -> list[int | None]:
    # What is whole may be an array, which cannot tell groups apart.
    return [
        min((int(w) for w in (window, shape.window) if w is not None), default=None)
        for shape in shapes
    ]


def _without_cross(shapes: Sequence[KVShape]) -> Sequence[KVShape]:
    """Check sizes, and that cross layers come last and keep all; returns the others."""
    count = sum(not shape.cross for shape in shapes)
    for index, shape in enumerate(shapes):
        whole = shape.window is None and shape.shares is None
        if shape.cross != (index >= count) or (shape.cross and not whole):
            raise OptionError(
                f"layer {index} is {shape}; cross layers come after the others, and each stores "
                "and attends the whole input, so give none a window, nor a layer to share"
            )
        sizes = shape.num_kv_heads, shape.head_dim, shape.value_width, shape.window or 1
        if min(sizes) < 1 or shape.window == 0:
            raise OptionError(
                f"layer {index} is {shape}; heads, head size and window need to be at least 1 "
                "(window None: it has none)"
            )
        if shape.cross and shape.value_width != shape.head_dim:
            raise OptionError(
                f"layer {index} is {shape}; the keys and values of a cross layer have one size, so "
                "leave value_dim out"
            )
    return shapes[:count]


def _check_shares(shapes: Sequence[KVShape]) -> None:
    stored = next((i for i, s in enumerate(shapes) if s.shares is not None), len(shapes))
    for index, shape in enumerate(shapes[stored:], start=stored):
        if shape.shares is None or not 0 <= shape.shares < stored:
            raise OptionError(
                f"layer {index} is {shape}, after layer {stored}, which shares: layers that store "
                f"come first, and others share one of the {stored} of them"
            )
        if replace(shape, shares=None) != shapes[shape.shares]:
            raise OptionError(
                f"layer {index} is {shape}, which cannot share what layer {shape.shares} stores, "
                f"{shapes[shape.shares]}; heads, head size and window need to be the same"
            )


def _check(
    shapes: Sequence[KVShape],
    kind: str,
    num_slots: int,
    max_cache_len: int | None,
    sliding_window: int | None,
    num_sinks: int,
) -> None:
    if not isinstance(kind, str) or kind not in KINDS:
        raise OptionError(f"no cache is called {kind!r}; there are {', '.join(KINDS)}")
    if not shapes:
        raise OptionError("a cache of 0 layers holds nothing; give at least 1, as model.kv_shapes")
    _check_shares(shapes)
    if num_slots < 1:
        raise OptionError(f"num_slots={num_slots}: a cache needs at least 1, one per sequence")
    if kind == "static" and (max_cache_len is None or max_cache_len < 1):
        raise OptionError(
            f"a static cache needs max_cache_len of at least 1, not {max_cache_len}; "
            "give the longest sequence it is to hold"
        )
    if kind != "static" and max_cache_len is not None:
        raise OptionError(
            f"max_cache_len={max_cache_len} is for static caches, not {kind} ones; leave it out or "
            "use kind='static'"
        )
    if kind != "sliding" and (sliding_window is not None or num_sinks):
        raise OptionError(
            f"sliding_window={sliding_window} and num_sinks={num_sinks} are for sliding caches; "
            f"use kind='sliding' in place of {kind!r}"
        )
    if sliding_window is not None and sliding_window < 1:
        raise OptionError(
            f"sliding_window={sliding_window} keeps nothing to attend; give at least 1"
        )
    if num_sinks < 0:
        raise OptionError(f"num_sinks={num_sinks} counts tokens; give at least 0")
    if kind == "sliding" and sliding_window is None and all(s.window is None for s in shapes):
        raise OptionError(
            "this model's layers have no window of their own, so a sliding cache needs "
            "sliding_window=N, the number of tokens to keep"
        )
    hidden = next((s.window for s in shapes if s.window is not None), None)
    if num_sinks and hidden is not None:
        raise OptionError(
            f"num_sinks={num_sinks} would do nothing where the model's own window of {hidden} "
            "tokens hides the first ones; leave it out"
        )


def _read_budget(budget: int | Sequence[int] | None) -> int | list[int] | None:
    if budget is None:
        return None
    if isinstance(budget, list | tuple):
        return read_all_whole(budget, "a layer's budget")
    return read_whole(budget, "budget")


def _check_evicting(
    kind: str,
    budget: int | Sequence[int] | None,
    policy: EvictionPolicy | str | None,
    grain: int | None,
) -> None:
    if kind != "evicting" and any(x is not None for x in (budget, policy, grain)):
        raise OptionError(
            f"budget={budget}, policy={policy} and grain={grain} are for evicting caches; use "
            f"kind='evicting' in place of {kind!r}"
        )
