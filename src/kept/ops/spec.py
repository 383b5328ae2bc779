"""How a layer attends, apart from where its keys lie."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True, slots=True)
class AttentionSpec:
    """A layer's attention, fixed by the model's config.

    scale: what scores are multiplied by, usually D ** -0.5.
    causal: a query sees only keys at its own place or before it.
    window: a query at i sees keys j with i - window < j (config `sliding_window`); None: all.
    sinks: the first tokens of the sequence that stay visible beside the window (Xiao et al. 2023,
        "Efficient Streaming Language Models with Attention Sinks").
    softcap: scores become softcap * tanh(score / softcap) (Gemma 2); None: untouched.
    idle: (H,) the score of attending nothing, which takes its share of each head's attention (as
        gpt-oss does, whose configs call it a sink); None: all of it goes to keys.
    """

    scale: float
    causal: bool = True
    window: int | None = None
    sinks: int = 0
    softcap: float | None = None
    idle: Tensor | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class HeadSpec:
    """How a fused projection falls into heads: H query heads, G key/value heads of D numbers.

    norm_eps: of the norms over single heads, where a model has them. centred: these are layer norms
    without bias, else root-mean-square norms. neighbours: rotation turns elements 2 i and 2 i + 1
    of a head against each other, else i and i + R / 2. value_dim: the size of a value where it is
    not D; in_keys: values are the first numbers of keys.
    """

    num_heads: int
    num_kv_heads: int
    head_dim: int
    norm_eps: float = 0.0
    centred: bool = False
    neighbours: bool = False
    value_dim: int | None = None
    in_keys: bool = False

    @property
    def value_width(self) -> int:
        """Numbers in a value of one head."""
        return self.head_dim if self.value_dim is None else self.value_dim
