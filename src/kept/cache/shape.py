"""What a model asks of its cache."""

from __future__ import annotations

from dataclasses import dataclass

from kept.ops import Codec


@dataclass(frozen=True, slots=True)
class KVShape:
    """What one layer stores per token: G heads of D, and the window its config gives it.

    cross: whether the tokens are those of an encoder's input, which the layer attends whole. The
    cross layers of a model come after the others.
    """

    num_kv_heads: int
    head_dim: int
    window: int | None = None
    cross: bool = False

    @property
    def numel(self) -> int:
        """Numbers stored per token: a key and a value for each head."""
        return 2 * self.num_kv_heads * self.head_dim

    def num_bytes(self, codec: Codec) -> int:
        """Bytes stored per token, scales included."""
        return 2 * self.num_kv_heads * codec.num_bytes(self.head_dim)
