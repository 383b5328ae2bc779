"""T5 against transformers: states, logits, padding, and steps over the cache of its inputs."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from transformers.models.t5.modeling_t5 import T5Attention

import kept
from kept import make_cache
from kept.ops import RelativeBias

from ..seq2seq import T5S, Pair, draw, pad
from ..seq2seq_passes import (
    CLOSE,
    KINDS,
    check_bfloat16,
    check_cached_steps,
    check_everything_of_a_pass,
)

every_config = pytest.mark.parametrize("pair", T5S, indirect=True)
both_versions = pytest.mark.parametrize("pair", ["v1.0", "v1.1"], indirect=True)


@every_config
@pytest.mark.parametrize("backend", ["auto", "reference"])
@torch.no_grad()
def test_everything_of_a_pass(backend: str, pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEPT_OPS", backend)
    pair = replace(pair, llm=kept.LLM(pair.folder))
    assert (pair.model.native is None) == (
        backend == "reference" or not kept.machine.NATIVE_AVAILABLE
    )
    check_everything_of_a_pass(pair, draw)


@every_config
@torch.no_grad()
def test_cached_steps_equal_one_pass(pair: Pair) -> None:
    check_cached_steps(pair, draw, KINDS)


@both_versions
@torch.no_grad()
def test_forked_truncated_and_selected_as_one_pass(pair: Pair) -> None:
    """Whatever was done to the slots, each goes on as transformers does from its tokens alone."""
    ids, new = draw(2, 11), draw(2, 9, seed=4)
    for kind, options in KINDS.items():
        held = make_cache(pair.model.kv_shapes, kind, num_slots=2, **options)
        pair.model(ids, decoder_input_ids=new, cache=held)
        twin = held.fork()
        twin.truncate([4, 6])
        twin.select([1, 0, 1])
        for one, rows, lengths in ((twin, [1, 0, 1], [6, 4, 6]), (held, [0, 1], [9, 9])):
            more = draw(len(rows), 3, seed=8)
            found = pair.model(decoder_input_ids=more, cache=one).logits
            for slot, (row, length) in enumerate(zip(rows, lengths, strict=True)):
                tokens = torch.cat((new[row, :length], more[slot]))[None]
                wanted = pair.hf(input_ids=ids[row][None], decoder_input_ids=tokens).logits
                torch.testing.assert_close(found[slot], wanted[0, length:], **CLOSE)
        held.reset()
        other = draw(2, 5, seed=6)
        found = pair.model(other, decoder_input_ids=new, cache=held).logits
        wanted = pair.hf(input_ids=other, decoder_input_ids=new).logits
        torch.testing.assert_close(found, wanted, **CLOSE)


@both_versions
@torch.no_grad()
def test_padding_on_both_sides_of_both(pair: Pair) -> None:
    """Each sequence gives what it gives alone; what transformers makes of left padding is not."""
    inputs, news = [draw(n, seed=n) for n in (7, 2, 5)], [draw(n, seed=n + 9) for n in (3, 6, 1)]
    ids, mask = pad(inputs, [1, 6, 0], 9)
    new, new_mask = pad(news, [0, 1, 4], 7)
    out = pair.model(ids, mask, new, new_mask, output_attentions=True)
    for row, (source, tokens) in enumerate(zip(inputs, news, strict=True)):
        alone = pair.hf(
            input_ids=source[None], decoder_input_ids=tokens[None], output_attentions=True
        )
        here, there = new_mask[row].bool(), mask[row].bool()
        torch.testing.assert_close(out.logits[row, here], alone.logits[0], **CLOSE)
        states = out.encoder_last_hidden_state[row]
        torch.testing.assert_close(states[there], alone.encoder_last_hidden_state[0], **CLOSE)
        assert not states[~there].any()
        for found, wanted in zip(out.cross_attentions, alone.cross_attentions, strict=True):
            assert found.shape == (3, wanted.shape[1], 7, 9)
            torch.testing.assert_close(found[row][:, here][:, :, there], wanted[0], **CLOSE)
            assert found[row].sum().item() == pytest.approx(wanted.sum().item(), abs=1e-4)
    assert out.cache.input_lengths == (7, 2, 5)
    more = pair.model(decoder_input_ids=draw(3, 1), cache=out.cache, output_attentions=True)
    assert more.cross_attentions[0].shape[-1] == 7
    assert more.encoder_last_hidden_state is None


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize(("count", "longest"), [(32, 128), (10, 17), (7, 5), (4, 3)])
def test_buckets(bidirectional: bool, count: int, longest: int) -> None:
    distances = torch.arange(-400, 400)
    expected = T5Attention._relative_position_bucket(distances, bidirectional, count, longest)
    found = RelativeBias(torch.zeros(count, 1), longest, bidirectional).buckets(distances)
    assert torch.equal(found, expected)


@both_versions
@torch.no_grad()
def test_bfloat16(pair: Pair) -> None:
    check_bfloat16(pair, draw)
