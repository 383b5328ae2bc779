"""Padded prompts: taken with an attention mask, refused without, never read as text."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from kept.errors import OptionError
from kept.models import Checkpoint
from kept.models.padded import check_readable
from kept.text import Tokenizer

_REMEDY = (
    "pass attention_mask as the tokenizer made it (ones everywhere if it is meant as text), or "
    "lists of ids without padding"
)


@dataclass(frozen=True, slots=True)
class Padding:
    """The tokens a batch may have been padded with.

    certain: they occur nowhere else. shared: they also begin or end a text, as where a tokenizer
    without a padding token was told to pad with its end of sequence.
    """

    certain: frozenset[int] = frozenset()
    shared: frozenset[int] = frozenset()

    def refuse(self, rows: Sequence[Sequence[int]]) -> None:
        """Raise OptionError if rows that were given together look padded.

        A certain one may not stand at either end. A shared one may begin or end every row once;
        more of it, or not as many in each row, is taken for padding.
        """
        together = len({len(row) for row in rows}) == 1
        for token in sorted(self.certain | self.shared):
            edges = [(_run(row, token), _run(row[::-1], token)) for row in rows]
            for place, found in enumerate(zip(*edges, strict=True)):
                shared = token in self.shared
                uneven = together and len(set(found)) > 1
                if max(found) > (1 if shared else 0) or (shared and uneven):
                    row = found.index(max(found))
                    raise OptionError(
                        f"prompt {row} {('begins', 'ends')[place]} with {max(found)} of token "
                        f"{token}, which looks like padding and would be read as text; {_REMEDY}"
                    )


NO_PADDING = Padding()


def padding_of(checkpoint: Checkpoint, tokenizer: Tokenizer | None) -> Padding:
    """What a checkpoint's batches may have been padded with, by its files."""
    settings = (checkpoint.generation_config, checkpoint.config)
    shared = {
        i for s in settings for name in ("eos", "bos") for i in _ids(s.get(f"{name}_token_id"))
    }
    pads = {i for s in settings for i in _ids(s.get("pad_token_id"))}
    if tokenizer is not None:
        shared |= {i for i in (tokenizer.eos_token_id, tokenizer.bos_token_id) if i is not None}
        if pad := tokenizer.special_tokens.get("pad_token"):
            pads = set(_ids(tokenizer.backend.token_to_id(pad)))
    if not pads:  # so that padding was done with what a program chose: the end of sequence
        pads = {i for s in settings for i in _ids(s.get("eos_token_id"))}
        if tokenizer is not None:
            pads |= set(_ids(tokenizer.eos_token_id))
    return Padding(frozenset(pads - shared), frozenset(pads & shared))


def unpack(prompts: object, attention_mask: object) -> tuple[object, object]:
    """A tokenizer's whole output as its ids and its mask; anything else as it is."""
    if isinstance(prompts, Mapping) and "input_ids" in prompts:
        mask = prompts.get("attention_mask") if attention_mask is None else attention_mask
        return prompts["input_ids"], mask
    return prompts, attention_mask


def without_padding(prompts: object, attention_mask: object) -> list[list[int]]:
    """The ids of each row where its mask is 1.

    prompts, attention_mask: tensors, arrays or lists (T,) or (B, T) of one shape. Raises
    OptionError for another shape or value, and for a row without one unbroken run of 1.
    """
    ids = _array("a prompt beside an attention_mask", prompts)
    mask = _array("attention_mask", attention_mask)
    if ids.shape != mask.shape or ids.ndim not in (1, 2) or ids.dtype.kind not in "iu":
        raise OptionError(
            f"attention_mask has the shape {mask.shape}, and the prompts {ids.shape} of "
            f"{ids.dtype}; pass token ids, and a mask of their shape"
        )
    if not np.isin(mask, (0, 1)).all():
        raise OptionError("attention_mask holds more than 0 and 1; pass 1 for text, 0 for padding")
    rows = []
    for index, (row, kept) in enumerate(zip(np.atleast_2d(ids), np.atleast_2d(mask), strict=True)):
        places = np.flatnonzero(kept)
        if places.size == 0 or places[-1] - places[0] + 1 != places.size:
            raise OptionError(
                f"attention_mask leaves of prompt {index} {_what_is_left(places)}; a prompt is one "
                "run of ones, with padding before or behind it"
            )
        rows.append(row[places].tolist())
    return rows


def _what_is_left(places: Collection[int]) -> str:
    return "several pieces" if len(places) else "nothing"


def _array(what: str, values: object) -> np.ndarray[Any, Any]:
    if isinstance(values, torch.Tensor):
        check_readable(what, values)
        values = values.detach().cpu()
        return (values.float() if values.dtype == torch.bfloat16 else values).numpy()
    try:
        return np.asarray(values)
    except ValueError as error:
        raise OptionError(f"{what} has rows of unequal lengths; pass them as padded") from error


def _ids(value: object) -> list[int]:
    listed = value if isinstance(value, list) else [value]
    return [i for i in listed if isinstance(i, int) and not isinstance(i, bool) and i >= 0]


def _run(row: Sequence[int], token: int) -> int:
    """How many of `token` a row begins with."""
    return next((i for i, found in enumerate(row) if found != token), len(row))
