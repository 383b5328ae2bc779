"""BART and its kin against transformers: states, logits, padding, and steps over a cache."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import kept
from kept import ContextLengthError, make_cache
from kept.batch import pack, pack_source
from kept.models import encoder_passes
from kept.models.record import Record

from ..seq2seq import pad
from .checkpoints import CONFIGS, CONTEXT, FAMILIES, Pair, draw

CLOSE = {"rtol": 0.0, "atol": 1e-4}
KINDS: dict[str, dict[str, Any]] = {
    "dynamic": {},
    "static": {"max_cache_len": 20},
    "sliding": {"sliding_window": 20},
    "evicting": {"budget": 40},
}

every_family = pytest.mark.parametrize("pair", FAMILIES, indirect=True)


@pytest.mark.parametrize("pair_on", CONFIGS, indirect=True)
@torch.no_grad()
def test_everything_of_a_pass(pair_on: Pair) -> None:
    pair = pair_on
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
        for name in (
            "decoder_hidden_states",
            "decoder_attentions",
            "cross_attentions",
            "encoder_hidden_states",
            "encoder_attentions",
        ):
            torch.testing.assert_close(getattr(found, name), getattr(wanted, name), **CLOSE)
        plain = pair.model(ids, decoder_input_ids=new, use_cache=use_cache)
        torch.testing.assert_close(plain.logits, wanted.logits, **CLOSE)


@every_family
@torch.no_grad()
def test_cached_steps_equal_one_pass(pair: Pair) -> None:
    ids, new = draw(2, 11), draw(2, 17, seed=4)
    expected = pair.hf(input_ids=ids, decoder_input_ids=new).logits
    for kind, options in KINDS.items():
        held = make_cache(pair.model.kv_shapes, kind, num_slots=2, **options)
        first, *rest = new.split([1, 1, 6, 1, 8], dim=1)
        found = [pair.model(ids, decoder_input_ids=first, cache=held).logits]
        found += [pair.model(decoder_input_ids=part, cache=held).logits for part in rest]
        torch.testing.assert_close(torch.cat(found, dim=1), expected, **CLOSE)
        assert (held.lengths, held.input_lengths) == ((17, 17), (11, 11))


@every_family
@torch.no_grad()
def test_padding_on_both_sides_of_both(pair: Pair) -> None:
    """Each sequence gives what it gives alone, at its own places."""
    inputs, news = [draw(n, seed=n) for n in (7, 2, 5)], [draw(n, seed=n + 9) for n in (3, 6, 1)]
    ids, mask = pad(inputs, [1, 6, 0], 9)
    new, new_mask = pad(news, [0, 1, 4], 7)
    out = pair.model(ids, mask, new, new_mask)
    for row, (source, tokens) in enumerate(zip(inputs, news, strict=True)):
        alone = pair.hf(input_ids=source[None], decoder_input_ids=tokens[None])
        here, there = new_mask[row].bool(), mask[row].bool()
        torch.testing.assert_close(out.logits[row, here], alone.logits[0], **CLOSE)
        states = out.encoder_last_hidden_state[row]
        torch.testing.assert_close(states[there], alone.encoder_last_hidden_state[0], **CLOSE)


@pytest.mark.parametrize("pair_on", ["bart", "m2m_100"], indirect=True)
@torch.no_grad()
def test_many_inputs_are_read_in_several_passes(
    pair_on: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = pack_source([draw(n, seed=n).tolist() for n in (4, 9, 2, 30, 5)], 5)
    whole = pair_on.model.encode(source, Record())
    monkeypatch.setattr(encoder_passes, "ENCODER_ROWS", 12)
    torch.testing.assert_close(pair_on.model.encode(source, Record()), whole, **CLOSE)


@every_family
@torch.no_grad()
def test_bfloat16(pair: Pair) -> None:
    rounded = kept.LLM(pair.folder, dtype="bfloat16").model
    ids, new = draw(2, 9), draw(2, 6, seed=4)
    wanted = pair.model(ids, decoder_input_ids=new).logits
    found = rounded(ids, decoder_input_ids=new)
    assert found.cache.dtype == torch.bfloat16
    assert (found.logits - wanted).abs().mean() < 0.05 * wanted.std()


@pytest.mark.parametrize("pair_on", ["bart", "marian"], indirect=True)
@torch.no_grad()
def test_places_end(pair_on: Pair) -> None:
    """Of an input and of a text the last place counts, and one more is refused."""
    pair, full = pair_on, draw(1, CONTEXT)
    wanted = pair.hf(input_ids=full, decoder_input_ids=full).logits
    torch.testing.assert_close(
        pair.model(full, decoder_input_ids=full).logits, wanted, rtol=0.0, atol=1e-3
    )
    more = draw(1, CONTEXT + 1)
    too_long = f"input has {CONTEXT + 1} tokens and this model has positions for {CONTEXT}"
    with pytest.raises(ContextLengthError, match=too_long):
        pair.model(more, decoder_input_ids=full)
    with pytest.raises(ContextLengthError, match=f"position {CONTEXT} is past this model's"):
        pair.model(full, decoder_input_ids=more)
    with pytest.raises(ContextLengthError, match=too_long):
        pair.llm.generate([full[0].tolist(), more[0].tolist()])
    with pytest.raises(ContextLengthError, match=too_long):
        pair.model.run(pack([[2]], sources=[more[0].tolist()]))
    found = pair.llm.generate(full, max_new_tokens=500, ignore_eos=True)
    assert [len(c.token_ids) for c in found] == [CONTEXT], "the last token drawn is never read"
