"""The grid of caches: every layout with every codec in every place, and every operation on each.

`test_grid_laws.py` carries all of them out, and `scripts/cache_grid` writes what came of it into
docs/caches.md. Sequences are lists of numbers; a number has the same keys and values wherever it
stands, so what a cache must hold follows from the lists alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import count, product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kept.batch import pack
from kept.cache import BlockLayout, Cache, KVShape, Place, make_cache
from kept.cache.evicting import EvictingLayout
from kept.ops import KV_CODECS, KVDtype, KVView
from laws.kinds import STATIC_LENGTH, NothingStays
from laws.plain import Token, kept
from laws.steps import batch_of, storing

FIRST, SECOND = KVShape(1, 3), KVShape(2, 37)
NUM_TOKENS = 400  # different ones
PLACES = ("in memory", "offloaded")


@dataclass(frozen=True, eq=False)
class LayoutRow:
    """One way to lay tokens out. kind, options: for `make_cache`. shapes: of a model's layers."""

    name: str
    kind: str
    options: dict[str, Any] = field(default_factory=dict)
    shapes: tuple[KVShape, ...] = (FIRST, SECOND)

    @property
    def own(self) -> tuple[KVShape, ...]:
        """Of layers that attend a sequence's own tokens."""
        return tuple(shape for shape in self.shapes if not shape.cross)

    @property
    def cross(self) -> tuple[KVShape, ...]:
        """Of cross layers, behind the others."""
        return tuple(shape for shape in self.shapes if shape.cross)


@dataclass(frozen=True)
class CodecRow:
    """One way to store numbers."""

    name: str
    kv_dtype: KVDtype


WINDOW = {"sliding_window": 5}
LAYOUTS = (
    LayoutRow("dynamic", "dynamic"),
    LayoutRow("static", "static", {"max_cache_len": STATIC_LENGTH}),
    LayoutRow("sliding", "sliding", WINDOW),
    LayoutRow("sliding, with sinks", "sliding", WINDOW | {"num_sinks": 2}),
    LayoutRow("sliding, in some layers", "sliding", {},
              (FIRST, replace(SECOND, window=5))),
    LayoutRow("dynamic, layers that share", "dynamic", {},
              (FIRST, SECOND, replace(SECOND, shares=1), replace(FIRST, shares=0))),
    LayoutRow("dynamic, and cross layers", "dynamic", {},
              (FIRST, SECOND, replace(FIRST, cross=True), KVShape(2, 5, cross=True))),
    LayoutRow("evicting", "evicting", {"budget": 6, "grain": 4}),
)  # fmt: skip
CODECS = (
    *(CodecRow(name, name) for name in KV_CODECS),
    CodecRow("int4 keys, bfloat16 values", ("int4", "bfloat16")),
)


@dataclass(frozen=True)
class Combination:
    """A cache of the grid."""

    layout: LayoutRow
    codec: CodecRow
    place: str

    def __str__(self) -> str:
        return f"{self.layout.name}, {self.codec.name}, {self.place}"

    @property
    def can_be(self) -> bool:
        """Whether it is promised. An evicting cache takes little memory."""
        return self.layout.kind != "evicting" or self.place == "in memory"

    def make(self, num_slots: int = 1) -> Cache:
        """An empty one."""
        return make_cache(
            self.layout.shapes,
            self.layout.kind,
            num_slots=num_slots,
            kv_dtype=self.codec.kv_dtype,
            place=self.put(),
            **self.layout.options,
        )

    def put(self) -> Place | None:
        """Where its buffers are to lie."""
        offloaded = NothingStays(Path(__file__).parent, 1 << 30)
        return {"in memory": None, "offloaded": offloaded}[self.place]


COMBINATIONS = [Combination(*parts) for parts in product(LAYOUTS, CODECS, PLACES)]


@cache
def stored(shape: KVShape) -> tuple[Tensor, Tensor]:
    """Keys and values (NUM_TOKENS, G, D) of every token in a layer of this shape."""
    generator = torch.Generator().manual_seed(shape.head_dim)
    size = 2, NUM_TOKENS, shape.num_kv_heads, shape.head_dim
    keys, values = torch.randn(size, generator=generator)
    return keys, values


@cache
def rounded(shape: KVShape, codec: KVDtype) -> tuple[Tensor, Tensor]:
    """What the codec leaves of them, by its definition."""
    tokens: list[Token] = list(zip(*stored(shape), strict=True))
    left = kept(tokens, codec)  # type: ignore[arg-type]
    keys, values = (torch.stack(side) for side in zip(*left, strict=True))
    return keys, values


class Case:
    """A cache of the grid beside the lists of tokens that its slots hold."""

    def __init__(self, of: Combination, cache: Cache, held: Sequence[Sequence[int]]) -> None:
        self.of, self.cache = of, cache
        self.held = [list(tokens) for tokens in held]

    @classmethod
    def begun(cls, of: Combination, counts: Sequence[int] = (11, 9)) -> Case:
        """Slots of so many tokens, which came in steps of several."""
        case = cls(of, of.make(len(counts)), [[] for _ in counts])
        while tuple(map(len, case.held)) != tuple(counts):
            case.feed([min(3, n - len(held)) for n, held in zip(counts, case.held, strict=True)])
        return case

    def feed(self, counts: Sequence[int]) -> None:
        """New tokens for each slot, as many as a step may bring, and then the rest."""
        counts = list(counts)
        while any(counts):
            most = [self.cache.max_step(slot) or n for slot, n in enumerate(counts)]
            part = [min(pair) for pair in zip(counts, most, strict=True)]
            self.step(part)
            counts = [n - done for n, done in zip(counts, part, strict=True)]

    def step(self, counts: Sequence[int]) -> list[list[Tensor]]:
        """One step; what each layer then attends of each slot that had a new token."""
        slots = [slot for slot, n in enumerate(counts) if n]
        new = {slot: [next(NEW) % NUM_TOKENS for _ in range(counts[slot])] for slot in slots}
        order = [token for tokens in new.values() for token in tokens]
        views: list[KVView] = []
        shapes, cross = self.of.layout.own, self.of.layout.cross
        sources = [
            input_of(new[slot][0]) if cross and not self.held[slot] else None for slot in slots
        ]
        batch = pack([[0] * counts[slot] for slot in slots], slots=slots, sources=sources)
        with self.cache.step(batch) as stores:
            own = storing(stores[: len(shapes)])
            for store, shape in zip(own, shapes, strict=False):
                keys, values = stored(replace(shape, window=None))
                views.append(store.append(keys[order], values[order]))
            views += [store.read() for store in stores[len(own) : len(shapes)]]
            for store, shape in zip(stores[len(shapes) :], cross, strict=True):
                keys, values = stored(replace(shape, cross=False))
                rows = None if batch.source is None else batch.source.tokens
                views.append(
                    store.read() if rows is None else store.append(keys[rows], values[rows])
                )
            # Copies, as tokens leave an evicting cache when the step ends.
            seen = [[x.clone() for x in view.dense()] for view in views]
        for slot, tokens in new.items():
            self.held[slot] += tokens
        return seen

    def check(self) -> None:
        """Its lengths are those of the lists, and the next step attends what they say."""
        assert self.cache.lengths == tuple(map(len, self.held))
        probe = Case(self.of, self.cache.fork(), self.held)
        before = [probe.visible_before(slot) for slot in range(len(self.held))]
        views = probe.step([1] * len(self.held))
        num_own = len(self.of.layout.own)
        for shape, dense in zip(self.of.layout.cross, views[num_own:], strict=True):
            probe.check_inputs(shape, dense)
        for layer, dense in enumerate(views[:num_own]):
            shape = replace(self.of.layout.shapes[layer], window=None, shares=None)
            for slot, tokens in enumerate(probe.held):
                for head, places in enumerate(before[slot][layer]):
                    seen = torch.tensor([*places, len(tokens) - 1])
                    for side, want in enumerate(self._expected(shape, tokens, seen, head)):
                        row = dense[side][slot, head]
                        assert torch.equal(row[: len(seen)], want.to(row.dtype))
                        assert not row[len(seen) :].any()

    def check_inputs(self, shape: KVShape, dense: list[Tensor]) -> None:
        """A cross layer attends the input of each slot, all of it and nothing else."""
        sides = rounded(replace(shape, cross=False), self.of.codec.kv_dtype)
        for slot, tokens in enumerate(self.held):
            rows = input_of(tokens[0])
            for found, side in zip(dense, sides, strict=True):
                want = side[rows].transpose(0, 1)
                assert torch.equal(found[slot, :, : len(rows)], want.to(found.dtype))
                assert not found[slot, :, len(rows) :].any()

    def _expected(
        self, shape: KVShape, tokens: Sequence[int], places: Tensor, head: int
    ) -> tuple[Tensor, Tensor]:
        """Keys and values (S, D) of some of a slot's tokens, as the codec leaves them."""
        which = torch.tensor(tokens)[places]
        keys, values = rounded(shape, self.of.codec.kv_dtype)
        return keys[which, head], values[which, head]

    def visible_before(self, slot: int) -> list[list[list[int]]]:
        """Per layer and head, which of a slot's tokens the next one sees."""
        length, found = len(self.held[slot]), []
        for layer, shape in enumerate(self.of.layout.own):
            owner = layer if shape.shares is None else shape.shares
            layout = self.cache.layouts[owner]
            places = list(range(length))
            if isinstance(layout, BlockLayout) and layout.window is not None:
                begin = max(layout.sinks, length + 1 - layout.window)
                places = [*range(min(layout.sinks, length)), *range(begin, length)]
            by_head = [places] * shape.num_kv_heads
            if isinstance(layout, EvictingLayout):
                by_head = alone(self.of, tuple(self.held[slot]))[owner]
            found.append(by_head)
        return found


NEW = count()


def input_of(token: int) -> list[int]:
    """The encoder input of a sequence that begins with this token."""
    return [(7 * token + i) % NUM_TOKENS for i in range(1 + token % 4)]


@cache
def alone(of: Combination, tokens: tuple[int, ...]) -> list[list[list[int]]]:
    """Per layer and head, which tokens are held of a sequence that came by itself, one by one."""
    case = Case(of, of.make(), [[]])
    for token in tokens:
        with case.cache.step(batch_of([1], [0])) as stores:
            for store, shape in zip(stores, of.layout.shapes, strict=True):
                store.append(*(x[token : token + 1] for x in stored(shape)))
    return [case.cache.held(layer)[0].tolist() for layer in range(case.cache.num_layers)]
