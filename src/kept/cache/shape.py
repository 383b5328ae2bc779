"""What a model asks of its cache."""

from __future__ import annotations

from dataclasses import dataclass

from kept.ops import KVCodec


@dataclass(frozen=True, slots=True)
class KVShape:
    """What one layer stores per token: G heads of D, and the window its config gives it."""

    num_kv_heads: int
    head_dim: int
    window: int | None = None

    @property
    def numel(self) -> int:
        """Numbers stored per token: a key and a value for each head."""
        return 2 * self.num_kv_heads * self.head_dim

    def num_bytes(self, codec: KVCodec) -> int:
        """Bytes stored per token, scales included."""
        return self.num_kv_heads * codec.num_bytes(self.head_dim)
