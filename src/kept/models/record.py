"""What a forward pass writes down when hidden states or attention weights are asked for."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from kept.ops import AttentionSpec, Span


@dataclass(slots=True)
class Record:
    """Filled by a forward pass, layer by layer.

    hidden: (L + 1) of (N, E): the embeddings, each layer's output; the last is after the final
    norm. attention: (L,) of (span, weights of each of its groups, (B', H, T, S)). queries: (L,) of
    (queries (N, H, D) as the layer's keys meet them, its spec), beside the attention.
    cross_attention: the attention to an encoder's input. encoder: what the encoder writes down, if
    it runs. states: (M, E) its output.
    """

    want_hidden: bool = False
    want_attention: bool = False
    hidden: list[Tensor] = field(default_factory=list)
    attention: list[tuple[Span, list[Tensor]]] = field(default_factory=list)
    queries: list[tuple[Tensor, AttentionSpec]] = field(default_factory=list)
    cross_attention: list[tuple[Span, list[Tensor]]] = field(default_factory=list)
    encoder: Record | None = None
    states: Tensor | None = None

    def take_hidden(self, x: Tensor) -> None:
        """Keep a hidden state, if they are wanted."""
        if self.want_hidden:
            self.hidden.append(x)

    def take_attention(
        self, span: Span, weights: list[Tensor], queries: Tensor, spec: AttentionSpec
    ) -> None:
        """Keep what a layer's attention was, and the queries it came from."""
        self.attention.append((span, weights))
        self.queries.append((queries, spec))
