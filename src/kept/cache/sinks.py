"""The first tokens of each sequence beside their codes, as bfloat16.

Attention leans on the first tokens of a sequence wherever it has nothing better to look at (Xiao et
al. 2023, "Efficient Streaming Language Models with Attention Sinks"), and their keys are unlike all
others. A layer of codes can hold them unrounded, in a buffer of (slots, G, n, D): token i of a slot
in row i, whatever the layout does. Codes are written for them too, and not read.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from kept.errors import OptionError
from kept.ops import Codec, KVCodec, Span

MAX_UNQUANTIZED_SINKS = 64  # tokens of the first tile that kernels walk
SINK_DTYPE = torch.bfloat16


@dataclass(frozen=True, slots=True)
class NewSinks:
    """New rows [first, last) of a step that are tokens `token` and on of a slot."""

    slot: int
    token: int
    first: int
    last: int


def check_unquantized_sinks(count: int, codec: KVCodec) -> None:
    """Raise OptionError for a number that cannot be had, or does nothing."""
    if not 0 <= count <= MAX_UNQUANTIZED_SINKS:
        raise OptionError(
            f"unquantized_sinks={count}: give from 0 to {MAX_UNQUANTIZED_SINKS} tokens"
        )
    if count and not (codec.keys.is_coded or codec.values.is_coded):
        raise OptionError(
            f"unquantized_sinks={count} would do nothing where keys and values are stored as "
            f"{codec.name}, which quantizes neither; leave it out, or give a kv_dtype that does"
        )


def new_sinks(span: Span, count: int) -> Iterator[NewSinks]:
    """Those of a step's rows that are among the first `count` tokens of their sequences."""
    for slot, length, first, new in zip(
        span.slots, span.lengths, span.starts, span.counts, strict=False
    ):
        token = length - new
        if token < count and new:
            yield NewSinks(slot, token, first, first + min(new, count - token))


def put_sinks(buffer: Tensor, x: Tensor, span: Span, codec: Codec) -> None:
    """Store what of a step's rows x (N, G, D) belongs into a buffer (slots, G, n, D), rotated as
    its codec's codes are."""
    for new in new_sinks(span, buffer.shape[2]):
        rows = codec.turned(x[new.first : new.last].float()).transpose(0, 1)
        buffer[new.slot, :, new.token : new.token + rows.shape[1]] = rows.to(buffer.dtype)


def erase_sinks(buffer: Tensor, span: Span) -> None:
    """Zero what `put_sinks` stored."""
    for new in new_sinks(span, buffer.shape[2]):
        buffer[new.slot, :, new.token : new.token + new.last - new.first] = 0
