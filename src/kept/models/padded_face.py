"""The face of a decoder that people know from transformers: padded input, over packed rows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from kept import ops
from kept.batch import Batch
from kept.cache import Cache, KVShape, make_cache
from kept.errors import OptionError
from kept.models.model_config import ModelConfig
from kept.models.padded import read_padded
from kept.models.record import Record


@dataclass(frozen=True, slots=True)
class CausalLMOutput:
    """What the padded face returns.

    logits: (B, T, V) fp32, zero at padding. cache: the one given, or a new one; None without.
    hidden_states: (L + 1) of (B, T, E). attentions: (L,) of (B, H, T, past + T).
    """

    logits: Tensor
    cache: Cache | None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


class PaddedFace(nn.Module, ABC):
    """A model that is called with padded input.

    is_rotary: whether positions are relative, so that they may run past the context.
    """

    is_rotary: ClassVar[bool]
    config: ModelConfig

    @property
    @abstractmethod
    def kv_shapes(self) -> tuple[KVShape, ...]:
        """What each layer stores per token."""

    @property
    @abstractmethod
    def dtype(self) -> torch.dtype:
        """Of the weights."""

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where the weights are."""

    @abstractmethod
    def run(self, batch: Batch, cache: Cache | None = None, record: Record | None = None) -> Tensor:
        """The forward pass over packed rows, (M, V)."""

    @ops.plain_torch(watched=True)
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: Cache | None = None,
        use_cache: bool = True,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
    ) -> CausalLMOutput:
        """The face people know from transformers, over padded input.

        input_ids: (B, T) int. attention_mask: (B, T) for the new tokens, or (B, past + T) with the
            mask of what the cache holds in front; 0 is padding, left or right, and is never
            computed or stored. position_ids: (B, T); by default each sequence counts its own
            tokens. cache: continue from it (mutated); with use_cache and none, a dynamic one is
            made and returned.

        Raises OptionError for shapes, ids or masks that do not fit, ContextLengthError past the
        context where positions are absolute (rotary ones run on, beyond what the model was trained
        for), and OptionError for a cache in training, or attentions over an evicting cache.
        """
        if cache is not None and not use_cache:
            raise OptionError("a cache was passed with use_cache=False; drop one of the two")
        if output_attentions and cache is not None and cache.name == "evicting":
            raise OptionError(
                "attention weights come with a column for each token, and the heads of an evicting "
                "cache hold different ones; pass a dynamic cache, or leave output_attentions out"
            )
        padded = read_padded(input_ids, attention_mask, position_ids, cache, self.config.vocab_size)
        if use_cache and cache is None:
            cache = make_cache(
                self.kv_shapes, num_slots=input_ids.shape[0], dtype=self.dtype, device=self.device
            )
        record = Record(output_hidden_states, output_attentions)
        logits = self.run(padded.batch, cache, record)
        return CausalLMOutput(
            logits=padded.unpack(logits),
            cache=cache,
            hidden_states=tuple(padded.unpack(x) for x in record.hidden) or None,
            attentions=tuple(padded.unpack_weights(*x) for x in record.attention) or None,
        )
