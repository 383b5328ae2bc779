"""BART and its kin against transformers: states, logits, padding, and steps over a cache."""

from __future__ import annotations

import pytest
import torch

from kept import ContextLengthError
from kept.batch import pack, pack_source
from kept.models import encoder_passes
from kept.models.record import Record

from ..seq2seq import pad
from ..seq2seq_passes import (
    CLOSE,
    KINDS,
    check_bfloat16,
    check_cached_steps,
    check_everything_of_a_pass,
)
from .checkpoints import CONFIGS, CONTEXT, FAMILIES, Pair, draw

every_family = pytest.mark.parametrize("pair", FAMILIES, indirect=True)


@pytest.mark.parametrize("pair_on", CONFIGS, indirect=True)
@torch.no_grad()
def test_everything_of_a_pass(pair_on: Pair) -> None:
    check_everything_of_a_pass(pair_on, draw)


@every_family
@torch.no_grad()
def test_cached_steps_equal_one_pass(pair: Pair) -> None:
    check_cached_steps(pair, draw, {**KINDS, "evicting": {"budget": 40}})


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
    check_bfloat16(pair, draw)


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
