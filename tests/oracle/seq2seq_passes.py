"""Passes of an encoder and a decoder that every family of them is held to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

import kept
from kept import make_cache

CLOSE = {"rtol": 0.0, "atol": 1e-4}
KINDS: Mapping[str, dict[str, Any]] = {
    "dynamic": {},
    "static": {"max_cache_len": 20},
    "sliding": {"sliding_window": 20},
}
_OF_THE_PASS = (
    "decoder_hidden_states",
    "decoder_attentions",
    "cross_attentions",
    "encoder_hidden_states",
    "encoder_attentions",
)
Draw = Callable[..., Tensor]  # token ids of a shape


class Both(Protocol):
    """One checkpoint in both."""

    @property
    def folder(self) -> Any: ...

    @property
    def hf(self) -> Any: ...

    @property
    def model(self) -> Any: ...


def check_everything_of_a_pass(pair: Both, draw: Draw) -> None:
    """Logits, states and attention weights are transformers', with a cache and without."""
    ids, new = draw(2, 23), draw(2, 19, seed=4)
    wanted = pair.hf(
        input_ids=ids, decoder_input_ids=new, output_hidden_states=True, output_attentions=True
    )
    assert wanted.logits.std() > 0.5
    for use_cache in (True, False):
        found = pair.model(
            ids,
            decoder_input_ids=new,
            use_cache=use_cache,
            output_hidden_states=True,
            output_attentions=True,
        )
        torch.testing.assert_close(found.logits, wanted.logits, **CLOSE)
        states = found.encoder_last_hidden_state
        torch.testing.assert_close(states, wanted.encoder_last_hidden_state, **CLOSE)
        for name in _OF_THE_PASS:
            torch.testing.assert_close(getattr(found, name), getattr(wanted, name), **CLOSE)
        plain = pair.model(ids, decoder_input_ids=new, use_cache=use_cache)
        torch.testing.assert_close(plain.logits, wanted.logits, **CLOSE)
        assert plain.cross_attentions is None


def check_cached_steps(pair: Both, draw: Draw, kinds: Mapping[str, dict[str, Any]]) -> None:
    """Steps over a cache of each of these kinds are transformers' one pass."""
    ids, new = draw(2, 11), draw(2, 17, seed=4)
    expected = pair.hf(input_ids=ids, decoder_input_ids=new).logits
    for kind, options in kinds.items():
        held = make_cache(pair.model.kv_shapes, kind, num_slots=2, **options)
        first, *rest = new.split([1, 1, 6, 1, 8], dim=1)
        found = [pair.model(ids, decoder_input_ids=first, cache=held).logits]
        found += [pair.model(decoder_input_ids=part, cache=held).logits for part in rest]
        torch.testing.assert_close(torch.cat(found, dim=1), expected, **CLOSE)
        assert (held.lengths, held.input_lengths) == ((17, 17), (11, 11))


def check_bfloat16(pair: Both, draw: Draw) -> None:
    """A model loaded in bfloat16 stores keys so, and is near the one in fp32."""
    rounded = kept.LLM(pair.folder, dtype="bfloat16").model
    ids, new = draw(2, 9), draw(2, 6, seed=4)
    wanted = pair.model(ids, decoder_input_ids=new).logits
    found = rounded(ids, decoder_input_ids=new)
    assert found.cache.dtype == torch.bfloat16
    assert (found.logits - wanted).abs().mean() < 0.05 * wanted.std()
