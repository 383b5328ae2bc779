"""T5 with a pair of kept caches."""

import pytest
import torch
from transformers import DynamicCache, EncoderDecoderCache

from kept.errors import CacheError, OptionError
from kept.integrations.transformers import KeptCache, KeptEncoderDecoderCache

from .models import decoder, generate, padded, t5


def pair(**options):
    return KeptEncoderDecoderCache.from_config(t5().config, **options)


def theirs():
    return EncoderDecoderCache(DynamicCache(), DynamicCache())


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_beams": 3, "num_return_sequences": 2},
        {"do_sample": True, "top_k": 8, "num_return_sequences": 2},
    ],
    ids=["greedy", "beams", "samples"],
)
def test_writes_what_it_writes_with_theirs(options):
    ids, mask = padded(9, 5)
    expected = generate(t5(), theirs(), ids, mask, **options)
    assert torch.equal(generate(t5(), pair(), ids, mask, **options), expected)


def test_logits_are_theirs():
    ids, mask = padded(9, 5)
    ours, own = pair(), theirs()
    for tokens in torch.tensor([[0, 5, 6, 9, 7]] * 2).split([3, 1, 1], dim=1):
        with torch.no_grad():
            found, expected = (
                t5()(ids, attention_mask=mask, decoder_input_ids=tokens, past_key_values=x).logits
                for x in (ours, own)
            )
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("looked_up", [True, False])
def test_drafts(looked_up):
    # Their own cache for an assistant has as many layers as its encoder.
    assistant = {"assistant_model": t5(num_decoder_layers=2)}
    drafts = {"prompt_lookup_num_tokens": 3} if looked_up else assistant
    ids, mask = padded(9)
    expected = generate(t5(), theirs(), ids, mask)
    found = generate(t5(), pair(), ids, mask, **drafts)
    # Looking up, transformers 4.57 may write one token more than it was asked for.
    assert torch.equal(found[:, : expected.shape[1]], expected)


def test_every_operation():
    cache = pair(kv_dtype="int8")
    ids, mask = padded(9, 5)
    ids = torch.cat([ids, ids.flip(0)])
    mask = torch.cat([mask, mask.flip(0)])
    start = torch.tensor([[0, 5, 6, 7]]).repeat(4, 1)
    with torch.no_grad():
        t5()(ids, attention_mask=mask, decoder_input_ids=start, past_key_values=cache)
        cache.crop(-2)
        cache.batch_select_indices(torch.tensor([3, 0]))
        cache.batch_repeat_interleave(2)
        cache.reorder_cache(torch.tensor([2, 0, 1, 3]))
        assert cache.get_seq_length() == 2
        order = [0, 3, 3, 0]
        more = torch.tensor([[8]]).repeat(4, 1)
        found = t5()(
            ids[order], attention_mask=mask[order], decoder_input_ids=more, past_key_values=cache
        ).logits
        fresh = pair(kv_dtype="int8")
        t5()(
            ids[order],
            attention_mask=mask[order],
            decoder_input_ids=start[:, :2],
            past_key_values=fresh,
        )
        expected = t5()(
            ids[order], attention_mask=mask[order], decoder_input_ids=more, past_key_values=fresh
        ).logits
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    cache.reset()
    assert not any(cache.is_updated.values())


def test_int8_holds_less():
    caches = pair(), pair(kv_dtype="int8")
    for cache in caches:
        generate(t5(), cache, *padded(9, 5))
    whole, small = (
        x.self_attention_cache.num_bytes + x.cross_attention_cache.num_bytes for x in caches
    )
    assert small < whole / 3


def test_each_kind_of_model_has_its_own():
    with pytest.raises(OptionError, match=r"KeptEncoderDecoderCache\.from_config"):
        KeptCache.from_config(t5().config)
    with pytest.raises(OptionError, match=r"KeptCache\.from_config"):
        KeptEncoderDecoderCache.from_config(decoder("llama").config)


def test_what_is_no_folder_for_a_pair(tmp_path):
    file = tmp_path / "file"
    file.write_text("text")
    for place in (None, b"x", ""):
        with pytest.raises(OptionError, match="folder of a pair of caches"):
            pair().save(place)
        with pytest.raises(OptionError, match="folder of a pair of caches"):
            KeptEncoderDecoderCache.load(place, t5().config)
    full = pair()
    generate(t5(), full, *padded(9, 5))
    for place in (file, file / "inside"):
        with pytest.raises(CacheError, match="cannot be made to save caches in"):
            full.save(place)
    assert file.read_text() == "text"
    assert list(tmp_path.iterdir()) == [file]


def test_a_pair_that_holds_nothing_leaves_no_folder(tmp_path):
    half = pair()
    generate(t5(), half, *padded(9, 5))
    half.cross_attention_cache = pair().cross_attention_cache
    for empty in (pair(), half):
        with pytest.raises(CacheError, match="never held a token"):
            empty.save(tmp_path / "outer" / "pair")
        assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("there", [False, True])
def test_a_pair_is_saved_whole_or_not_at_all(tmp_path, there, monkeypatch):
    place = tmp_path / "pair"
    cache = pair()
    generate(t5(), cache, *padded(9, 5))
    if there:
        cache.save(place)
        (place / "notes").write_text("text")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    generate(t5(), cache := pair(), *padded(7, 7))

    def fail(*args, **kwargs):
        raise CacheError("no room")

    with monkeypatch.context() as patch:
        patch.setattr(type(cache.cross_attention_cache), "save", fail)
        with pytest.raises(CacheError, match="no room"):
            cache.save(place)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert place.exists() == there
    cache.save(place)
    names = {"decoder.safetensors", "encoder.safetensors", *["notes"] * there}
    assert {path.name for path in place.iterdir()} == names
    assert list(tmp_path.iterdir()) == [place]
    again = KeptEncoderDecoderCache.load(place, t5().config)
    assert again.get_seq_length() == cache.get_seq_length()


def test_a_folder_in_the_place_of_one_file_leaves_the_other(tmp_path):
    (tmp_path / "encoder.safetensors").mkdir()
    cache = pair()
    generate(t5(), cache, *padded(9, 5))
    with pytest.raises(CacheError, match="in the way"):
        cache.save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["encoder.safetensors"]
