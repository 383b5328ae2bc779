"""The mask function of attn_implementation="kept".

Masks are those of sdpa, so that any attention can use them. Where one says no more than "causal, or
a window, and left padding", it carries the window, and how much padding each sequence begins with,
and kept's attention reads that in its place. The window is the mask's and not the config's: Moshi's
config names one that its masks do without.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor
from transformers.masking_utils import sdpa_mask

from kept.integrations.transformers.versions import mask_places


@dataclass(frozen=True)
class Said:
    """What a mask comes down to. padding: (B,) tokens that each sequence is padded with on its
    left, () for none. window: None where all tokens before a query are seen."""

    padding: tuple[int, ...] = ()
    window: int | None = None


def kept_mask(*args: Any, **kwargs: Any) -> Tensor | None:
    """A mask (B, 1, T, S) bool, True where a query may look, or None: plainly causal.

    Called by transformers' `create_causal_mask` and its like, which say what each argument is.
    """
    mask: Tensor | None = sdpa_mask(*args, **kwargs)
    padding_mask = kwargs.get("attention_mask")
    # Nothing else was laid over the mask if transformers would do without one.
    if mask is not None and kwargs.get("allow_is_causal_skip", True):
        _, length = mask_places(kwargs)
        padding = (0,) * mask.shape[0] if padding_mask is None else _left(padding_mask, length)
        if padding is not None:
            said = Said(padding, kwargs.get("local_size"))
            mask.kept_said = said  # type: ignore[attr-defined]
    return mask


def said_by(mask: Tensor | None) -> Said | None:
    """What a mask says, None if that is more than `Said` holds. Without a mask, all that a model is
    handed is seen."""
    if mask is None:
        return Said()
    found: Said | None = getattr(mask, "kept_said", None)
    return found


def _left(padding_mask: Tensor, length: int) -> tuple[int, ...] | None:
    """Of a mask (B, S) over all tokens so far, None if it hides others than the first."""
    real = padding_mask.bool()
    if real.shape[-1] != length or bool((real[:, 1:] < real[:, :-1]).any()):
        return None
    return tuple(int(n) for n in length - real.sum(-1))
