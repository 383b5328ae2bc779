"""A model whose next token is a known function of all tokens before it.

It keeps the tokens themselves as keys and their positions as values, and makes its logits from what
the cache hands back. So a slot mixed up, a token lost or one read twice changes what it says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kept.batch import Batch
from kept.cache import Cache, KVShape, stores
from kept.models import CausalLM
from kept.models.causal_lm import Rope

VOCAB = 11


@dataclass(frozen=True)
class ToyConfig:
    """What the engine asks of a config."""

    context: int = 64
    vocab_size: int = VOCAB
    num_layers: int = 1
    num_heads: int = 1

    @property
    def kv_shapes(self) -> tuple[KVShape, ...]:
        return (KVShape(1, 1),)


def next_logits(tokens: Sequence[int]) -> Tensor:
    """The toy's logits (V,) after these tokens."""
    seed = 17
    for token in tokens:
        seed = (seed * 31 + int(token) + 1) % 1_000_003
    return torch.randn(VOCAB, generator=torch.Generator().manual_seed(seed)) * 2


class Toy(CausalLM):
    """Counts its passes and their rows; `fail_at` makes one of them raise half-way."""

    is_rotary = False

    def __init__(self, context: int = 64) -> None:
        super().__init__(ToyConfig(context))
        self.weight = nn.Parameter(torch.zeros(1))
        self.rows: list[int] = []
        self.fail_at: dict[int, BaseException] = {}

    def embed(self, batch: Batch) -> tuple[Tensor, Rope]:
        raise AssertionError("the toy runs by itself")

    def run(self, batch: Batch, cache: Cache | None = None, record: object = None) -> Tensor:
        """Logits (M, V) of the wanted rows, from the keys as the cache gives them back."""
        assert int(batch.positions.max()) < self.config.context
        self.rows.append(batch.num_rows)
        with stores(cache, batch, self.kv_shapes) as [store]:
            k, v = (x.float()[:, None, None] for x in (batch.tokens, batch.positions))
            keys, values = store.append(k, v).dense()
            if error := self.fail_at.pop(len(self.rows), None):
                raise error
            rows = []
            for row, length in enumerate(store.span.lengths):
                held = keys[row, 0, :length, 0].long().tolist()
                assert values[row, 0, :length, 0].tolist() == list(range(length))
                count = batch.counts[row]
                rows += [next_logits(held[:end]) for end in range(length - count + 1, length + 1)]
        logits = torch.stack(rows)
        return logits if batch.wanted is None else logits[batch.wanted]
