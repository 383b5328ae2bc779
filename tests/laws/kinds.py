"""The list of caches. A new one joins it and has every law of this folder to keep."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from kept.cache import Cache, KVShape, make_cache
from kept.ops import AttentionSpec
from laws.rounding import head_bytes

STATIC_LENGTH = 24


@dataclass(frozen=True)
class Ring:
    """What a sliding cache may forget of one layer."""

    window: int
    sinks: int
    slack: int

    @property
    def width(self) -> int:
        """Entries a slot takes at rest."""
        return self.sinks + self.window + self.slack


@dataclass(frozen=True)
class Kind:
    """One cache of the list: how to make it, and what it is expected to do.

    shapes: (L,) one per layer, layers differing on purpose. options: for `make_cache`. rings: (L,)
    what each layer may forget, None: nothing. limit: most tokens a slot takes. codec: what
    numbers are stored as. readers: for each layer that comes after these, which it shares.
    """

    name: str
    shapes: tuple[KVShape, ...]
    kind: str
    rings: tuple[Ring | None, ...] = (None, None)
    limit: int | None = None
    options: dict[str, Any] = field(default_factory=dict)
    codec: str = "float32"
    readers: tuple[int, ...] = ()

    def make(self, num_slots: int = 1) -> Cache:
        """An empty cache of this kind."""
        return make_cache(
            self.all_shapes, self.kind, num_slots=num_slots, kv_dtype=self.codec, **self.options
        )

    @property
    def all_shapes(self) -> tuple[KVShape, ...]:
        """What a model with this cache asks for."""
        return self.shapes + tuple(replace(self.shapes[i], shares=i) for i in self.readers)

    def token_bytes(self, layer: int) -> int:
        """Bytes of a token's key and value in one layer."""
        shape = self.shapes[layer]
        return 2 * shape.num_kv_heads * head_bytes(self.codec, shape.head_dim)

    def spec(self, layer: int, softcap: float | None = None) -> AttentionSpec:
        """How the layer of a model with these shapes attends."""
        shape = self.shapes[layer]
        return AttentionSpec(shape.head_dim**-0.5, window=shape.window, softcap=softcap)


def _shapes(first: int | None = None, second: int | None = None) -> tuple[KVShape, ...]:
    return KVShape(1, 3, first), KVShape(2, 4, second)


def _sliding(window: int, sinks: int = 0, slack: int = 0) -> Kind:
    return Kind(
        f"sliding-{window}-sinks-{sinks}-slack-{slack}",
        _shapes(),
        "sliding",
        (Ring(window, sinks, slack),) * 2,
        options={"sliding_window": window, "num_sinks": sinks, "slack": slack},
    )


def _coded(kind: Kind, codec: str) -> Kind:
    """The same with another codec; the second layer's heads are odd, and wider than a group."""
    first, second = kind.shapes
    shapes = (first, replace(second, head_dim=37))
    return replace(kind, name=f"{kind.name}-{codec}", shapes=shapes, codec=codec)


PLAIN = (
    Kind("dynamic", _shapes(), "dynamic"),
    Kind("dynamic-windowed-model", _shapes(None, 3), "dynamic"),
    Kind("static", _shapes(2, None), "static", limit=STATIC_LENGTH,
         options={"max_cache_len": STATIC_LENGTH}),
    _sliding(1),
    _sliding(4),
    _sliding(3, slack=4),
    _sliding(5, sinks=2, slack=3),
    _sliding(2, sinks=6, slack=1),
    _sliding(6, sinks=1, slack=64),
    Kind("mixed", _shapes(None, 5), "sliding", (None, Ring(5, 0, 2)), options={"slack": 2}),
    Kind("mixed-rings", _shapes(7, 3), "sliding", (Ring(4, 0, 1), Ring(3, 0, 1)),
         options={"sliding_window": 4, "slack": 1}),
    Kind("shared", _shapes(None, 3), "dynamic", readers=(1, 0, 1)),
    Kind("shared-mixed", _shapes(None, 5), "sliding", (None, Ring(5, 0, 2)),
         options={"slack": 2}, readers=(0, 1)),
)  # fmt: skip
BY_NAME = {kind.name: kind for kind in PLAIN}
KINDS = (
    *PLAIN,
    _coded(BY_NAME["sliding-4-sinks-0-slack-0"], "bfloat16"),
    _coded(BY_NAME["dynamic-windowed-model"], "float16"),
    *(
        _coded(BY_NAME[name], codec)
        for codec in ("int8", "int4")
        for name in ("dynamic", "static", "sliding-5-sinks-2-slack-3", "shared-mixed")
    ),
)
NAMES = [kind.name for kind in KINDS]
