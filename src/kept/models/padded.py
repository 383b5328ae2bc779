"""Between padded (B, T) tensors and packed rows.

input_ids   . a b c        rows   a b c | d | e f        padding is neither computed nor stored;
            d . . .                                      what comes back has zeros there
            . . e f
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from kept.batch import Batch
from kept.cache import Cache
from kept.errors import OptionError
from kept.ops import Span

INTEGERS = frozenset({torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8})


@dataclass(frozen=True, slots=True)
class PaddedInput:
    """A padded input and the batch made of it.

    present: (B, T) bool, where there are tokens. columns: (B, past + T) bool, where keys are in the
    columns of the attention weights.
    """

    batch: Batch
    present: Tensor
    columns: Tensor

    def unpack(self, rows: Tensor) -> Tensor:
        """(N, E) -> (B, T, E), zero at padding."""
        if rows.shape[0] == self.present.numel():  # no padding: logits can be gigabytes
            return rows.reshape(*self.present.shape, rows.shape[-1])
        out = rows.new_zeros(*self.present.shape, rows.shape[-1])
        out[self.present] = rows
        return out

    def unpack_weights(self, span: Span, groups: list[Tensor]) -> Tensor:
        """Attention weights (B', H, T', S) of a span's groups -> (B, H, T, past + T)."""
        num_heads = groups[0].shape[1]
        batch, width = self.columns.shape
        num_new = self.present.shape[1]
        out = groups[0].new_zeros(batch, num_heads, num_new, width)
        for group, weights in zip(span.groups, groups, strict=True):
            for member, of_member in zip(group.members, weights, strict=True):
                slot = span.slots[member]
                columns = self.columns[slot].nonzero().flatten()
                tokens = torch.arange(span.width, dtype=torch.int64, device=weights.device)
                here = tokens < span.lengths[member]
                rows = self.present[slot].nonzero().flatten()
                place = out[slot]  # (H, T, past + T)
                place[:, rows[:, None], columns[tokens[here]]] = of_member[:, :, here]
        return out


def read_padded(
    input_ids: Tensor,
    attention_mask: Tensor | None,
    position_ids: Tensor | None,
    cache: Cache | None,
    vocab_size: int,
) -> PaddedInput:
    """Check a padded input against the cache it continues, and pack it."""
    _check_types(input_ids, attention_mask, position_ids, cache)
    _check_ids(input_ids, position_ids, cache, vocab_size)
    num_sequences, num_new = input_ids.shape
    past = cache.lengths if cache is not None else (0,) * num_sequences
    columns = _columns(attention_mask, num_sequences, num_new, past, input_ids.device)
    present = columns[:, columns.shape[1] - num_new :]
    counts: list[int] = present.sum(1).tolist()
    slots = tuple(b for b, count in enumerate(counts) if count)
    if not slots:
        raise OptionError("attention_mask leaves no token to compute; give at least one 1")
    before = torch.tensor(past, dtype=torch.int64, device=input_ids.device)[:, None]
    positions = before + present.cumsum(1) - 1 if position_ids is None else position_ids
    positions = positions.expand(num_sequences, num_new)[present]
    batch = Batch(
        tokens=input_ids[present].long(),
        positions=positions.long(),
        starts=(0, *accumulate(counts[b] for b in slots)),
        slots=slots,
        totals=_totals(positions, [counts[b] for b in slots]),
    )
    return PaddedInput(batch, present, columns)


def _totals(positions: Tensor, counts: list[int]) -> tuple[int, ...]:
    return tuple(int(part.max()) + 1 for part in torch.split(positions, counts))


def _check_types(
    input_ids: object, attention_mask: object, position_ids: object, cache: object
) -> None:
    for name, value in (("attention_mask", attention_mask), ("position_ids", position_ids)):
        if value is not None and not isinstance(value, Tensor):
            raise OptionError(f"{name} is a {type(value).__name__}; pass a torch tensor")
        check_readable(name, value)
    for name, value in (("input_ids", input_ids), ("position_ids", position_ids)):
        if value is not None or name == "input_ids":
            kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
            if kind not in INTEGERS:
                raise OptionError(f"{name} is a {kind}; pass a torch tensor of integers")
    check_readable("input_ids", input_ids)
    if cache is not None and not isinstance(cache, Cache):
        raise OptionError(
            f"cache is a {type(cache).__name__}; pass one of make_cache, or from_legacy(tuples)"
        )


def check_readable(name: str, value: object) -> None:
    """Raise OptionError for a tensor without numbers (meta), or of others than plain rows."""
    if isinstance(value, Tensor) and (
        value.is_meta or value.is_nested or value.layout != torch.strided
    ):
        kind = "meta" if value.is_meta else "nested" if value.is_nested else value.layout
        raise OptionError(f"{name} is a {kind} tensor, which cannot be read; pass a dense one")


def _check_ids(
    input_ids: Tensor, position_ids: Tensor | None, cache: Cache | None, vocab_size: int
) -> None:
    if input_ids.ndim != 2 or input_ids.numel() == 0:
        raise OptionError(
            f"input_ids is {input_ids.dtype} of shape {tuple(input_ids.shape)}; pass integers of "
            "shape (batch, time), with at least one token"
        )
    low, high = int(input_ids.min()), int(input_ids.max())
    if low < 0 or high >= vocab_size:
        raise OptionError(
            f"input_ids run from {low} to {high}, and the vocabulary from 0 to {vocab_size - 1}; "
            "use the tokenizer that belongs to this model"
        )
    if cache is not None and cache.num_slots != input_ids.shape[0]:
        raise OptionError(
            f"input_ids has {input_ids.shape[0]} sequences and the cache {cache.num_slots} slots; "
            "make them equal (cache.select or cache.repeat changes the cache)"
        )
    if position_ids is not None:
        wide = position_ids.ndim == 2 and position_ids.shape[0] in (1, input_ids.shape[0])
        if not wide or position_ids.shape[1] != input_ids.shape[1] or position_ids.min() < 0:
            raise OptionError(
                f"position_ids has shape {tuple(position_ids.shape)} for input_ids of "
                f"{tuple(input_ids.shape)}; give each new token a position of at least 0"
            )


def _columns(
    mask: Tensor | None,
    num_sequences: int,
    num_new: int,
    past: tuple[int, ...],
    device: torch.device,
) -> Tensor:
    """(B, past + T) bool: the mask with what the cache holds in front."""
    lengths = torch.tensor(past, dtype=torch.int64, device=device)
    held = torch.arange(max(past), dtype=torch.int64, device=device) < lengths[:, None]
    if mask is None:
        new = torch.ones(num_sequences, num_new, dtype=torch.bool, device=device)
        return torch.cat((held, new), dim=1)
    if mask.ndim != 2 or mask.shape[0] != num_sequences or mask.shape[1] < num_new:
        raise OptionError(
            f"attention_mask has shape {tuple(mask.shape)}; pass ({num_sequences}, {num_new}) for "
            f"the new tokens, or ({num_sequences}, past + {num_new}) with the cached ones in front"
        )
    if bool(((mask != 0) & (mask != 1)).any()):
        raise OptionError("attention_mask holds values other than 0 (padding) and 1 (token)")
    present = mask.to(device).bool()
    if mask.shape[1] == num_new:
        return torch.cat((held, present), dim=1)
    counted: list[int] = present[:, : mask.shape[1] - num_new].sum(1).tolist()
    if tuple(counted) != past:
        raise OptionError(
            f"attention_mask marks {counted} cached tokens per sequence and the cache holds "
            f"{list(past)}; pass the mask of all tokens so far, or only of the {num_new} new ones"
        )
    return present
