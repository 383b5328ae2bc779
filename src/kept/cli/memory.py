"""How many bytes a cache takes, without making one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kept.cache import KVShape
    from kept.ops import KVCodec


@dataclass(frozen=True, slots=True)
class CachePlan:
    """A kind of cache. window, num_sinks: of the sliding kind; window None: the layers' own.
    input_length: tokens of the encoder input that a sequence attends in cross layers."""

    shapes: tuple[KVShape, ...]
    kind: str
    codec: KVCodec
    window: int | None = None
    num_sinks: int = 0
    input_length: int = 0

    def num_bytes(self, length: int) -> int:
        """Bytes of one sequence once it has `length` tokens, unused room included."""
        return sum(
            shape.num_bytes(self.codec)
            * (self.input_length if shape.cross else self._entries(shape, length))
            for shape in self.shapes
        )

    def _entries(self, shape: KVShape, length: int) -> int:
        from kept.blocks import BLOCK
        from kept.cache import num_held

        if self.kind == "static":
            return length
        if self.kind == "dynamic":
            return BLOCK * num_held(shape.window, length)
        window = min((w for w in (shape.window, self.window) if w is not None), default=None)
        return BLOCK * num_held(window, length, self.num_sinks)

    def longest(self, room: int, batch: int, limit: int) -> int:
        """The most tokens, at most `limit`, that `batch` sequences can have in `room` bytes."""
        low, high = 0, limit
        while low < high:
            middle = (low + high + 1) // 2
            if batch * self.num_bytes(middle) <= room:
                low = middle
            else:
                high = middle - 1
        return low


def kinds(shapes: Sequence[KVShape], window: int | None) -> tuple[str, ...]:
    """The kinds of cache a model can have: sliding needs a window, its own or one that is asked."""
    sliding = window is not None or any(shape.window is not None for shape in shapes)
    return ("dynamic", "static", "sliding") if sliding else ("dynamic", "static")
