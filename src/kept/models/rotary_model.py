"""Decoders whose layers all rotate by one table."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from kept.batch import Batch
from kept.models.causal_lm import CausalLM
from kept.models.model_config import ModelConfig
from kept.models.rope import Rotary
from kept.models.rope_config import RopeConfig
from kept.ops import Rope, RopeTables


class RotaryModel(CausalLM):
    """A decoder of token vectors as they are, and one rotary embedding."""

    is_rotary = True

    def __init__(self, config: ModelConfig, rope: RopeConfig) -> None:
        super().__init__(config)
        self.rotary = Rotary(rope)

    def embed(self, batch: Batch) -> tuple[Tensor, Rope]:
        """Token vectors (N, E), and the rotary tables of their positions."""
        x = self.embedding(batch.tokens)
        return x, self.rotary.tables(batch, self.dtype)

    @property
    def keys_follow_length(self) -> bool:
        """See `CausalLM.keys_follow_length`."""
        return self.rotary.config.follows_length

    @property
    def reread_at(self) -> int | None:
        """See `CausalLM.reread_at`."""
        return self.rotary.config.reread_at

    def rope_tables(self, batch: Batch) -> RopeTables:
        """See `CausalLM.rope_tables`."""
        return self.rotary.halves(batch)

    def rope_ahead(self, lengths: Sequence[int]) -> RopeTables:
        """See `CausalLM.rope_ahead`."""
        return self.rotary.ahead(lengths)
