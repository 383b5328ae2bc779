"""What a pass over a model reads and computes: the two sides of a roofline."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from torch import nn

from kept.bench.expert_costs import (
    ExpertCosts,
    expert_costs,
    held_bytes,
    matrix_elements,
    without_experts,
)
from kept.cache import KVShape
from kept.models import CausalLM
from kept.models.layers import Embedding
from kept.ops import KVCodec, KVDtype, find_kv_codec


@dataclass(frozen=True, slots=True)
class Work:
    """What one pass takes at the least.

    weight_bytes, kv_bytes: read from memory. operations: of matrix products, in which a
    multiplication and an addition are two.
    """

    weight_bytes: int
    kv_bytes: int
    operations: int

    @property
    def num_bytes(self) -> int:
        """Weights, keys and values together."""
        return self.weight_bytes + self.kv_bytes

    @property
    def intensity(self) -> float:
        """Operations per byte (Williams et al., 2009, "Roofline")."""
        return self.operations / self.num_bytes

    def floor(self, bandwidth: float, peak: float | None) -> float:
        """Seconds no pass can be faster than: reading or arithmetic, whichever takes longer.

        bandwidth: bytes per second. peak: operations per second, None where it is not known.
        """
        reading = self.num_bytes / bandwidth
        return reading if peak is None else max(reading, self.operations / peak)


@dataclass(frozen=True, slots=True)
class Costs:
    """What passes over one model cost, whatever format its weights are held in.

    num_parameters: shared ones count once. weight_bytes: that every pass reads. experts: of the
    layers that hold some, of which it reads what its tokens chose. block_elements, head_elements:
    numbers in the matrices of all blocks that a token is multiplied with, and of the output head.
    codec: of the keys and values in the cache.
    """

    num_parameters: int
    weight_bytes: int
    block_elements: int
    head_elements: int
    num_heads: int
    kv_shapes: tuple[KVShape, ...]
    codec: KVCodec
    experts: tuple[ExpertCosts, ...] = ()

    @classmethod
    def of(cls, model: CausalLM, kv_dtype: KVDtype | None = None) -> Costs:
        """The costs of a model; kv_dtype None: the cache holds the model's own dtype."""
        # Counted on a new one, which has no memory: the matrices of this one may be packed.
        plain = type(model)(model.config)
        experts = expert_costs(plain.blocks, model.blocks)
        return cls(
            num_parameters=plain.num_parameters,
            weight_bytes=weight_bytes(model),
            block_elements=_elements_met(plain.blocks, experts),
            head_elements=matrix_elements(plain.head),
            num_heads=model.config.num_heads,
            kv_shapes=model.kv_shapes,
            codec=find_kv_codec(model.dtype if kv_dtype is None else kv_dtype),
            experts=experts,
        )

    @classmethod
    def of_layers(cls, model: CausalLM, kv_dtype: str | None = None) -> tuple[Costs, ...]:
        """(L,) the costs of each layer alone: no embedding, and a head of no elements."""
        whole = cls.of(model, kv_dtype)
        plain = type(model)(model.config)
        return tuple(
            replace(
                whole,
                num_parameters=sum(p.numel() for p in block.parameters()),
                weight_bytes=held_bytes(without_experts(held)),
                block_elements=_elements_met(block, expert_costs([block], [held])),
                head_elements=0,
                kv_shapes=(shape,),
                experts=expert_costs([block], [held]),
            )
            for block, held, shape in zip(plain.blocks, model.blocks, model.kv_shapes, strict=True)
        )

    def pass_bytes(self, rows: int) -> int:
        """Bytes of weights that a pass over so many tokens reads."""
        return self.weight_bytes + sum(each.bytes_read(rows) for each in self.experts)

    def decode_step(self, lengths: Sequence[int]) -> Work:
        """Of a step that draws a token for each sequence; lengths: tokens each attends, itself
        included."""
        operations = sum(self.operations(n - 1, n, num_logits=1) for n in lengths)
        weights = self.pass_bytes(len(lengths))
        return Work(weights, sum(map(self.kv_bytes, lengths)), operations)

    def prompt(self, length: int, batch: int = 1) -> Work:
        """Of reading `batch` prompts for their last tokens' logits, as if in a single pass."""
        operations = batch * self.operations(0, length, num_logits=1)
        weights = self.pass_bytes(batch * length)
        return Work(weights, batch * self.kv_bytes(length), operations)

    def operations(self, past: int, length: int, num_logits: int) -> int:
        """Of the tokens of a sequence from `past` to `length`, and the logits behind so many."""
        matrices = (length - past) * self.block_elements + num_logits * self.head_elements
        return 2 * (matrices + self._attention(past, length))

    def kv_bytes(self, length: int) -> int:
        """Bytes of the keys and values that a token attends at this length, windows considered."""
        return sum(
            s.num_bytes_read(self.codec) * min(length, s.window or length) for s in self.kv_shapes
        )

    def _attention(self, past: int, length: int) -> int:
        """Multiplications of the tokens from `past` to `length`: queries by keys, weights by
        values."""
        return sum(
            self.num_heads
            * (s.head_dim + s.value_width)
            * (num_pairs(length, s.window) - num_pairs(past, s.window))
            for s in self.kv_shapes
        )


def weight_bytes(model: CausalLM) -> int:
    """Bytes of weights that every pass reads, in the format they are held in, scales included.

    Of experts that tokens choose among none are counted. Of a table of vectors a pass reads the
    batch's rows, which is next to nothing; a table that is also the output head is read whole.
    """
    modules = without_experts(model)
    return held_bytes(module for module in modules if not isinstance(module, Embedding))


def stored_bytes(model: CausalLM) -> int:
    """Bytes of all weights, in the format they are held in; shared ones count once."""
    return held_bytes(model.modules())


def _elements_met(part: nn.Module, experts: Iterable[ExpertCosts]) -> int:
    """Numbers of matrices that a token is multiplied with."""
    every = matrix_elements(part)
    return every + sum(e.elements_met - e.num_experts * e.elements for e in experts)


def num_pairs(length: int, window: int | None) -> int:
    """How many (token, attended token) pairs the first `length` tokens make; window None: all."""
    inside = min(length, window or length)
    return inside * (inside + 1) // 2 + (length - inside) * inside
