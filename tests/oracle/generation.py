"""Generating with transformers, one prompt at a time, in the form kept gives its results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from .zoo import VOCAB, Pair, settle


def prompts(*lengths: int) -> list[list[int]]:
    """Random prompts of these lengths, always the same."""
    generator = torch.Generator().manual_seed(11)
    return [torch.randint(0, VOCAB, (n,), generator=generator).tolist() for n in lengths]


def hf_generate(pair: Pair, prompt: Sequence[int], **options: Any) -> list[tuple[int, ...]]:
    """The new tokens of each returned sequence, the end-of-sequence token included."""
    settle(pair.hf)
    ids = torch.tensor([list(prompt)])
    eos = options.get("eos_token_id") or ()
    eos = (eos,) if isinstance(eos, int) else tuple(eos)
    rows = pair.hf.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        pad_token_id=VOCAB - 1,
        **{"do_sample": False, "max_new_tokens": 64, **options},
    )
    return [upto_eos(row[len(prompt) :].tolist(), eos) for row in rows]


def upto_eos(tokens: list[int], eos: Sequence[int]) -> tuple[int, ...]:
    """Cut after the first end-of-sequence token; what follows it is padding."""
    ends = [i for i, token in enumerate(tokens) if token in eos]
    return tuple(tokens[: ends[0] + 1] if ends else tokens)


def likeliest(pair: Pair, prompt: Sequence[int], text: Sequence[int]) -> tuple[int, ...]:
    """What transformers finds likeliest at each place of a text, given all before it."""
    with torch.no_grad():
        logits = pair.hf(torch.tensor([[*prompt, *text[:-1]]]), use_cache=False).logits[0]
    return tuple(logits[len(prompt) - 1 :].argmax(-1).tolist())
