"""What a model asks of its cache."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class KVShape:
    """What one layer stores per token: G heads of D, and the window its config gives it."""

    num_kv_heads: int
    head_dim: int
    window: int | None = None
