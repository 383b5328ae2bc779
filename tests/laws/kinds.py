"""The list of caches. A new one joins it and has every law of this folder to keep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kept.batch import Batch, Source
from kept.blocks import BLOCK
from kept.cache import Cache, KVShape, Offloaded, make_cache
from kept.ops import AttentionSpec
from laws.rounding import pair_bytes

STATIC_LENGTH = 24
POOL_BYTES = 2 << 20  # little enough to look at all of it


Rows = list[tuple[Tensor, Tensor]]  # per layer keys and values (N, G, D)


def random_rows(shapes: Sequence[KVShape], num_rows: int, generator: torch.Generator) -> Rows:
    """Keys and values of so many tokens in layers of these shapes."""
    return [
        (
            torch.randn(num_rows, shape.num_kv_heads, shape.head_dim, generator=generator),
            torch.randn(num_rows, shape.num_kv_heads, shape.head_dim, generator=generator),
        )
        for shape in shapes
    ]


def give_inputs(cache: Cache, slots: Sequence[int], inputs: Sequence[Rows]) -> None:
    """Let slots without tokens attend these inputs, in a step that brings no token."""
    ends = list(accumulate(len(rows[0][0]) for rows in inputs))
    none = torch.zeros(0, dtype=torch.int64)
    source = Source(torch.zeros(ends[-1]), (0, *ends), tuple(range(len(slots))))
    starts = (0,) * (len(slots) + 1)
    with cache.step(Batch(none, none, starts, tuple(slots), starts[1:], None, source)) as stores:
        for layer, store in enumerate(stores[cache.num_layers :]):
            k, v = (torch.cat([rows[layer][which] for rows in inputs]) for which in (0, 1))
            store.append(k, v)


@dataclass(frozen=True)
class Window:
    """What a layer attends: so many of the last tokens, and of the first."""

    size: int
    sinks: int = 0

    @property
    def sunk(self) -> int:
        """Tokens in the blocks that sinks keep."""
        return -(-self.sinks // BLOCK) * BLOCK

    def passed(self, length: int) -> int:
        """The first token past the sinks that stays of so many: 64 can be taken back, and whole
        blocks go."""
        left = length - BLOCK
        return max(0, min(left - self.size + 1, left - 1) // BLOCK * BLOCK)


class NothingStays(Offloaded):
    """Gives every layer back as soon as the next one is reached."""

    def _count_staying(self, layers: Sequence[Any], lengths: Sequence[int]) -> int:
        return 0


@dataclass(frozen=True)
class Kind:
    """One cache of the list: how to make it, and what it is expected to do.

    shapes: (L,) one per layer, layers differing on purpose. cross: those of cross layers; the slots
    of a new cache then attend the `inputs` of the kind. options: for `make_cache`. windows: (L,)
    what each layer's cache keeps, None: everything. limit: most tokens a slot takes. codec: what
    numbers are stored as. offloaded: whether its buffers lie in files. readers: for each layer that
    comes after these, which it shares.
    """

    name: str
    shapes: tuple[KVShape, ...]
    kind: str
    windows: tuple[Window | None, ...] = (None, None)
    limit: int | None = None
    options: dict[str, Any] = field(default_factory=dict)
    codec: str | tuple[str, str] = "float32"
    offloaded: bool = False
    readers: tuple[int, ...] = ()
    cross: tuple[KVShape, ...] = ()

    def __str__(self) -> str:
        return self.name

    def make(self, num_slots: int = 1) -> Cache:
        """A cache of this kind without tokens."""
        place = NothingStays(Path(__file__).parent, 1 << 30) if self.offloaded else None
        cache = make_cache(
            self.all_shapes,
            self.kind,
            num_slots=num_slots,
            kv_dtype=self.codec,
            place=place,
            pool_bytes=POOL_BYTES if self.in_blocks else None,
            **self.options,
        )
        if self.cross:
            rows = self.inputs(num_slots)
            give_inputs(cache, list(range(num_slots)), [rows[i] for i in range(num_slots)])
        return cache

    @property
    def blocks(self) -> tuple[bool, ...]:
        """(L,) whether a layer's tokens lie in blocks."""
        asked = self.kind != "static" and self.options.get("in_blocks", True)
        whole = bool(asked) and not self.offloaded
        return tuple(window is not None or whole for window in self.windows)

    @property
    def in_blocks(self) -> bool:
        """Whether those of all layers do, in memory, where blocks stay where they are."""
        return all(self.blocks) and not self.offloaded

    def inputs(self, count: int, seed: int = 5) -> list[Rows]:
        """Encoder inputs of different lengths: per cross layer keys and values (S, G, D)."""
        generator = torch.Generator().manual_seed(seed)
        return [random_rows(self.cross, 1 + 3 * number % 7, generator) for number in range(count)]

    @property
    def all_shapes(self) -> tuple[KVShape, ...]:
        """What a model with this cache asks for."""
        readers = tuple(replace(self.shapes[i], shares=i) for i in self.readers)
        return self.shapes + readers + self.cross

    @property
    def apart(self) -> tuple[KVShape, ...]:
        """The layers that hold tokens of their own, by which the plain lists number them."""
        return self.shapes + self.cross

    def token_bytes(self, layer: int) -> int:
        """Bytes of a token's key and value in one layer."""
        shape = self.apart[layer]
        return shape.num_kv_heads * pair_bytes(self.codec, shape.head_dim)

    def spec(self, layer: int, softcap: float | None = None) -> AttentionSpec:
        """How the layer of a model with these shapes attends; a cross layer sees all."""
        shape = self.apart[layer]
        return AttentionSpec(
            shape.head_dim**-0.5, causal=not shape.cross, window=shape.window, softcap=softcap
        )


def _shapes(first: int | None = None, second: int | None = None) -> tuple[KVShape, ...]:
    return KVShape(1, 3, first), KVShape(2, 4, second)


def _sliding(window: int, sinks: int = 0) -> Kind:
    return Kind(
        f"sliding-{window}-sinks-{sinks}",
        _shapes(),
        "sliding",
        (Window(window, sinks),) * 2,
        options={"sliding_window": window, "num_sinks": sinks},
    )


def _coded(kind: Kind, codec: str | tuple[str, str]) -> Kind:
    """The same with another codec; the second layer's heads are odd, and wider than a group."""
    first, second = kind.shapes
    shapes = (first, replace(second, head_dim=37))
    named = codec if isinstance(codec, str) else "-".join(codec)
    cross = tuple(replace(shape, head_dim=37) if i else shape for i, shape in enumerate(kind.cross))
    return replace(kind, name=f"{kind.name}-{named}", shapes=shapes, codec=codec, cross=cross)


def _offloaded(kind: Kind) -> Kind:
    return replace(kind, name=f"{kind.name}-offloaded", offloaded=True)


def _cross(name: str) -> Kind:
    """The same with cross layers beside its own."""
    cross = tuple(replace(shape, window=None, cross=True) for shape in _shapes())
    return replace(BY_NAME[name], name=f"cross-{name}", cross=cross)


PLAIN = (
    Kind("dynamic", _shapes(), "dynamic"),
    Kind("dynamic-windowed-model", _shapes(None, 3), "dynamic", (None, Window(3))),
    Kind("dynamic-windows", _shapes(70, 2), "dynamic", (Window(70), Window(2))),
    Kind("dynamic-keeps-all", _shapes(None, 3), "dynamic", options={"keeps_all": True}),
    Kind("dynamic-runs", _shapes(None, 3), "dynamic", options={"in_blocks": False}),
    Kind("static", _shapes(2, None), "static", limit=STATIC_LENGTH,
         options={"max_cache_len": STATIC_LENGTH}),
    _sliding(1),
    _sliding(4),
    _sliding(5, sinks=2),
    _sliding(2, sinks=6),
    Kind("mixed", _shapes(None, 5), "sliding", (None, Window(5))),
    Kind("mixed-runs", _shapes(None, 5), "sliding", (None, Window(5)),
         options={"in_blocks": False}),
    Kind("mixed-windows", _shapes(7, 3), "sliding", (Window(4), Window(3)),
         options={"sliding_window": 4}),
    Kind("shared", _shapes(None, 3), "dynamic", (None, Window(3)), readers=(1, 0, 1)),
    Kind("shared-mixed", _shapes(None, 5), "sliding", (None, Window(5)), readers=(0, 1)),
)  # fmt: skip
BY_NAME = {kind.name: kind for kind in PLAIN}
KINDS = (
    *PLAIN,
    _coded(BY_NAME["sliding-4-sinks-0"], "bfloat16"),
    _coded(BY_NAME["dynamic-windowed-model"], "float16"),
    *(
        _coded(BY_NAME[name], codec)
        for codec in ("int8", "int4")
        for name in ("dynamic", "static", "sliding-5-sinks-2", "shared-mixed")
    ),
    _coded(BY_NAME["sliding-1-sinks-0"], "k8v4"),
    _coded(BY_NAME["dynamic"], ("int4", "bfloat16")),
    _coded(BY_NAME["dynamic-runs"], "k8v4"),
    _coded(BY_NAME["static"], ("bfloat16", "int4")),
    _coded(BY_NAME["mixed"], "int8"),
    _cross("dynamic"),
    _cross("shared-mixed"),
    _coded(_cross("static"), "bfloat16"),
    _coded(_cross("dynamic"), "int8"),
    _coded(_cross("dynamic"), ("int4", "float16")),
    _coded(_cross("sliding-5-sinks-2"), "int4"),
    _coded(_cross("static"), "k8v4"),
)
KINDS += tuple(
    _offloaded(kind)
    for kind in KINDS
    if kind.name
    in (
        "dynamic",
        "static",
        "sliding-5-sinks-2",
        "mixed-int8",
        "cross-dynamic-int8",
        "cross-shared-mixed",
    )
)
NAMES = [kind.name for kind in KINDS]
