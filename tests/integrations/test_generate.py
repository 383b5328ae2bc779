"""generate() with a kept cache writes what it writes with transformers' own."""

import pytest
import torch

from kept.errors import CacheError
from kept.integrations.transformers import KeptCache
from kept.integrations.transformers.versions import IS_5

from .models import FAMILIES, decoder, generate, logits, padded, prompt, theirs

# sdpa does without a soft cap.
CASES = [
    (family, attention)
    for family in FAMILIES
    for attention in ("eager" if family == "gemma2" else "sdpa", "kept")
]
WINDOWED = ("mistral", "gemma2", "gemma3_text")


def kept(model, **options):
    return KeptCache.from_config(model.config, **options)


def layouts(family):
    found = [{}, {"layout": "static", "max_cache_len": 64}]
    return [*found, {"layout": "sliding"}] if family in WINDOWED else found


@pytest.mark.parametrize(("family", "attention"), CASES)
def test_greedy(family, attention):
    expected = generate(decoder(family), theirs(decoder(family)), prompt(2))
    model = decoder(family, attention)
    for options in layouts(family):
        cache = kept(model, **options)
        assert torch.equal(generate(model, cache, prompt(2)), expected), options
        assert cache.get_seq_length() == expected.shape[1] - 1


@pytest.mark.parametrize(("family", "attention"), CASES)
def test_padded_on_the_left(family, attention):
    ids, mask = padded(9, 3, 9, 7)
    expected = generate(decoder(family), theirs(decoder(family)), ids, mask)
    model = decoder(family, attention)
    for options in layouts(family):
        found = generate(model, kept(model, **options), ids, mask)
        assert torch.equal(found, expected), options


@pytest.mark.parametrize("family", ["gpt2", "gemma3_text"])
@pytest.mark.parametrize("attention", ["eager", "kept"])
@pytest.mark.parametrize(
    "options",
    [
        {"num_beams": 3, "num_return_sequences": 2},
        {"do_sample": True, "top_k": 8, "num_return_sequences": 3},
        {"do_sample": True, "num_beams": 2},
    ],
    ids=["beams", "samples", "sampled beams"],
)
def test_beams_and_samples(family, attention, options):
    ids, mask = padded(9, 5)
    expected = generate(decoder(family), theirs(decoder(family)), ids, mask, **options)
    model = decoder(family, attention)
    for layout in layouts(family):
        found = generate(model, kept(model, **layout), ids, mask, **options)
        assert torch.equal(found, expected), layout


@pytest.mark.parametrize("family", ["gpt2", "mistral", "gemma3_text"])
@pytest.mark.parametrize("attention", ["eager", "kept"])
def test_drafts(family, attention):
    """By an assistant that is often right, and looked up in the prompt."""
    ids = torch.cat([prompt(), prompt()], dim=1)
    expected = generate(decoder(family), theirs(decoder(family)), ids, max_new_tokens=16)
    model = decoder(family, attention)
    for options in layouts(family):
        for drafts in (
            {"assistant_model": decoder("qwen3")},
            {"prompt_lookup_num_tokens": 4},
        ):
            cache = kept(model, **options)
            found = generate(model, cache, ids, max_new_tokens=16, **drafts)
            # Looking up, 4.57 may write one token more than it was asked for.
            assert torch.equal(found[:, : expected.shape[1]], expected), (options, drafts)
            assert cache.get_seq_length() < found.shape[1]


def test_a_window_is_cropped_by_as_much_as_a_pass_brings():
    """And keeps no more than that of it."""
    model = decoder("mistral")
    ids = prompt(1, 230)
    cache = kept(model, layout="sliding")
    cache.activate_past_recording()
    logits(model, cache, ids[:, :30])
    expected = logits(model, cache, ids[:, 30:])
    cache.crop(-200)
    assert torch.equal(logits(model, cache, ids[:, 30:]), expected)
    held = cache.num_bytes
    for token in ids[:, :4].split(1, dim=1):
        logits(model, cache, token)
    assert cache.num_bytes < held
    with pytest.raises(CacheError, match="cannot go back"):
        cache.crop(-200)


@pytest.mark.parametrize("family", ["gpt2", "mistral", "gemma2"])
@pytest.mark.parametrize("attention", ["eager", "kept"])
def test_turns(family, attention):
    """A conversation goes on from its cache, given all ids or the new ones, and the full mask."""
    num_turns = 2 if IS_5 else 1  # 4.57 takes all ids only
    model = decoder(family, attention)
    first, mask = padded(9, 6)
    for options in layouts(family):
        ours, own = kept(model, **options), theirs(model)
        text = generate(model, ours, first, mask, max_new_tokens=8)
        assert torch.equal(generate(model, own, first, mask, max_new_tokens=8), text)
        for turn in range(num_turns):
            asked = prompt(2, 4, seed=turn)
            whole = torch.cat([text, asked], dim=1)
            full = torch.cat([mask, mask.new_ones(2, whole.shape[1] - mask.shape[1])], dim=1)
            missing = whole[:, ours.get_seq_length() :]
            given = whole if turn == 0 else missing
            found = generate(model, ours, given, full, max_new_tokens=8)
            expected = generate(model, own, given, full, max_new_tokens=8)
            assert torch.equal(found, expected), (options, turn)
            text = torch.cat([whole, found[:, given.shape[1] :]], dim=1)
