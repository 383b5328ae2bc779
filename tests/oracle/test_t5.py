"""T5 against transformers: states, logits, text, beams, padding, and the cache of its inputs."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import T5Config, T5ForConditionalGeneration
from transformers.models.t5.modeling_t5 import T5Attention

import kept
from kept import BackendError, CacheError, ContextLengthError, OptionError, load_cache, make_cache
from kept.batch import pack, pack_source
from kept.models import build_model, encoder_decoder, encoder_passes
from kept.models.record import Record
from kept.ops import RelativeBias

from .seq2seq import BASE, START, T5S, VOCAB, Pair, draw, hf_generate, make_hf

CLOSE = {"rtol": 0.0, "atol": 1e-4}
KINDS: dict[str, dict[str, Any]] = {
    "dynamic": {},
    "static": {"max_cache_len": 20},
    "sliding": {"sliding_window": 20},
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Pair]:
    @cache
    def pair(name: str) -> Pair:
        folder = tmp_path_factory.mktemp("t5")
        hf = make_hf(name)
        hf.save_pretrained(folder)
        return Pair(name, folder, hf, kept.LLM(folder))

    return pair


@pytest.fixture
def pair(request: pytest.FixtureRequest, made: Callable[[str], Pair]) -> Pair:
    return made(request.param)


every_config = pytest.mark.parametrize("pair", T5S, indirect=True)
both_versions = pytest.mark.parametrize("pair", ["v1.0", "v1.1"], indirect=True)


def prompts() -> list[list[int]]:
    return [draw(n, seed=n).tolist() for n in (9, 1, 21)]


@every_config
@pytest.mark.parametrize("backend", ["auto", "reference"])
@torch.no_grad()
def test_everything_of_a_pass(backend: str, pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEPT_OPS", backend)
    pair = replace(pair, llm=kept.LLM(pair.folder))
    assert (pair.model.native is None) == (
        backend == "reference" or not kept.machine.NATIVE_AVAILABLE
    )
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
        assert plain.cross_attentions is None


@every_config
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


def pad(rows: list[Tensor], begins: list[int], width: int) -> tuple[Tensor, Tensor]:
    ids, mask = torch.full((len(rows), width), 5), torch.zeros(len(rows), width, dtype=torch.int64)
    for row, (tokens, begin) in enumerate(zip(rows, begins, strict=True)):
        ids[row, begin : begin + len(tokens)], mask[row, begin : begin + len(tokens)] = tokens, 1
    return ids, mask


@every_config
def test_greedy(pair: Pair) -> None:
    different = {"no_repeat_ngram_size": 1}  # else a random T5 says one token over and over
    expected = [hf_generate(pair, prompt, **different)[0] for prompt in prompts()]
    found = pair.llm.generate(prompts(), max_new_tokens=24, **different)
    assert [c.token_ids for c in found] == expected
    assert [c.prompt_tokens for c in found] == [9, 1, 21]
    assert len(set(expected)) == 3
    plain = [c.token_ids for c in pair.llm.generate(prompts(), max_new_tokens=24)]
    assert plain == [hf_generate(pair, prompt)[0] for prompt in prompts()]


@both_versions
def test_a_padded_batch_of_transformers(pair: Pair) -> None:
    rows = [torch.tensor(prompt) for prompt in prompts()]
    ids, mask = pad(rows, [0] * 3, 21)
    options = {"max_new_tokens": 12, "no_repeat_ngram_size": 1}
    wanted = pair.hf.generate(
        ids, attention_mask=mask, pad_token_id=START, do_sample=False, **options
    )
    found = pair.llm.generate(prompts(), **options)
    assert [list(c.token_ids) for c in found] == wanted[:, 1:].tolist()


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
    rounded = kept.LLM(pair.folder, dtype="bfloat16").model
    ids, new = draw(2, 9), draw(2, 6, seed=4)
    wanted = pair.model(ids, decoder_input_ids=new).logits
    found = rounded(ids, decoder_input_ids=new)
    assert found.cache.dtype == torch.bfloat16
    assert (found.logits - wanted).abs().mean() < 0.05 * wanted.std()


@both_versions
@pytest.mark.parametrize(
    "options",
    [
        {"num_beams": 3, "num_return_sequences": 3, "eos_token_id": [3, 40, 71]},
        {"num_beams": 4, "length_penalty": 2.0, "eos_token_id": list(range(0, VOCAB, 2))},
        {"num_beams": 3, "early_stopping": True, "eos_token_id": list(range(0, VOCAB, 2))},
        {"repetition_penalty": 1.4, "no_repeat_ngram_size": 3, "eos_token_id": [3, 40]},
        {"min_new_tokens": 5, "eos_token_id": list(range(0, VOCAB, 2))},
    ],
    ids=lambda options: " ".join(options),
)
def test_beams_and_processors(pair: Pair, options: dict[str, Any]) -> None:
    expected = [text for prompt in prompts() for text in hf_generate(pair, prompt, **options)]
    found = pair.llm.generate(prompts(), max_new_tokens=24, **options)
    assert [c.token_ids for c in found] == expected


@both_versions
@pytest.mark.parametrize(
    "options",
    [
        {"use_cache": False},
        {"cache_implementation": "static"},
        {"cache_implementation": "sliding", "sliding_window": 40},
        {"kv_dtype": ("float32", "float32"), "overflow": "slide"},
    ],
    ids=str,
)
def test_every_cache_and_few_slots(pair: Pair, options: dict[str, Any]) -> None:
    several = {"max_new_tokens": 12, "num_beams": 2, "num_return_sequences": 2}
    expected = [c.token_ids for c in pair.llm.generate(prompts(), **several)]
    pair.llm.max_batch_size = 2
    try:
        found = pair.llm.generate(prompts(), **several, **options)
    finally:
        pair.llm.max_batch_size = 16
    assert [c.token_ids for c in found] == expected


@pytest.mark.parametrize("pair", ["v1.1"], indirect=True)
def test_samples_are_those_of_each_seed_alone(pair: Pair) -> None:
    options = {"max_new_tokens": 8, "temperature": 1.3, "top_k": 20}
    found = pair.llm.generate(prompts(), num_return_sequences=3, seed=7, **options)
    for completion in found:
        prompt = prompts()[completion.prompt_index]
        [alone] = pair.llm.generate([prompt], seed=completion.seed, **options)
        assert alone.token_ids == completion.token_ids
    assert len({c.token_ids for c in found}) > 3


@both_versions
def test_samples_come_with_transformers_log_probabilities(pair: Pair) -> None:
    found = pair.llm.generate(
        prompts(), num_return_sequences=2, seed=7, temperature=0.8, max_new_tokens=8, logprobs=3
    )
    assert len({c.token_ids for c in found}) == 6
    for completion in found:
        source = torch.tensor([prompts()[completion.prompt_index]])
        tokens = torch.tensor([[START, *completion.token_ids]])
        with torch.no_grad():
            logits = pair.hf(input_ids=source, decoder_input_ids=tokens[:, :-1]).logits[0]
        wanted = logits.log_softmax(-1).gather(1, tokens[0, 1:, None])[:, 0]
        assert completion.logprobs is not None
        chosen = torch.tensor([entry.chosen.logprob for entry in completion.logprobs])
        torch.testing.assert_close(chosen, wanted, **CLOSE)


@both_versions
@pytest.mark.parametrize(
    "options",
    [{"kv_dtype": "k8v4"}, {"kv_dtype": "int8"}, {"kv_dtype": "bfloat16"}],
    ids=str,
)
def test_keys_and_values_in_files(pair: Pair, options: dict[str, Any]) -> None:
    """Where a cache lies changes no token, whatever its codecs; its inputs lie there too."""
    several = {"max_new_tokens": 12, "num_beams": 2, **options}
    expected = pair.llm.generate(prompts(), **several)
    filed = kept.LLM(pair.folder, offload_folder=Path(__file__).parent, offload_memory=1 << 22)
    found = filed.generate(prompts(), **several)
    assert [c.token_ids for c in found] == [c.token_ids for c in expected]
    assert all(c.cache_bytes > 0 for c in found)  # in runs there, which have other room to grow


@pytest.mark.parametrize("pair", ["v1.0"], indirect=True)
def test_an_input_is_encoded_once(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[tuple[int, ...]] = []
    encode = type(pair.model).encode_input

    def counting(model: Any, tokens: list[int], cache: Any) -> Any:
        read.append((len(tokens),))
        return encode(model, tokens, cache)

    monkeypatch.setattr(type(pair.model), "encode_input", counting)
    pair.llm.forget()
    pair.llm.generate([*prompts(), prompts()[0]], max_new_tokens=9, num_beams=3)
    assert read == [(9,), (1,), (21,)], "each by itself"
    pair.llm.generate(prompts()[:1], max_new_tokens=9, temperature=1.0, num_return_sequences=5)
    assert len(read) == 3


@pytest.mark.parametrize("pair", ["v1.1"], indirect=True)
@torch.no_grad()
def test_many_inputs_are_read_in_several_passes(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = pack_source([draw(n, seed=n).tolist() for n in (4, 9, 2, 30, 5)], 5)
    whole = pair.model.encode(source, Record())
    monkeypatch.setattr(encoder_passes, "ENCODER_ROWS", 12)
    torch.testing.assert_close(pair.model.encode(source, Record()), whole, **CLOSE)


@both_versions
@pytest.mark.parametrize("codec", ["bfloat16", "int8", "int4"])
@torch.no_grad()
def test_a_saved_cache_goes_on(pair: Pair, codec: str, tmp_path: Path) -> None:
    held = make_cache(pair.model.kv_shapes, num_slots=2, kv_dtype=codec)
    pair.model(draw(2, 8), decoder_input_ids=draw(2, 3), cache=held)
    held.repeat(2)
    held.save(tmp_path / "cache")
    loaded = load_cache(tmp_path / "cache", pair.model.kv_shapes)
    assert loaded.cross.num_bytes == held.cross.num_bytes
    step = draw(4, 1)
    found, expected = (pair.model(decoder_input_ids=step, cache=c).logits for c in (loaded, held))
    assert torch.equal(found, expected)


def test_tables_under_every_name(made: Callable[[str], Pair], tmp_path: Path) -> None:
    """Older files name the table of tokens three times, and the head beside it."""
    pair = made("v1.0")
    for file in pair.folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = load_file(pair.folder / "model.safetensors")
    table = weights.pop("shared.weight")
    names = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight")
    for several in (names[:1], names):
        save_file(
            {**weights, **{n: table.clone() for n in several}}, tmp_path / "model.safetensors"
        )
        found = kept.LLM(tmp_path)
        assert found.model.num_parameters == pair.model.num_parameters
        out = found.generate(prompts()[:1], max_new_tokens=5)[0].token_ids
        assert out == pair.llm.generate(prompts()[:1], max_new_tokens=5)[0].token_ids


@pytest.mark.parametrize("format", ["int8", "int4"])
def test_quantized_weights(
    made: Callable[[str], Pair], format: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("kept._native")
    pair = made("v1.1")
    rounded = kept.LLM(pair.folder, quantize=format)
    stored = kept.LLM(kept.quantize_checkpoint(pair.folder, tmp_path / format, format))
    batch = pack([[START, 5, 6]], sources=[prompts()[0]])
    with torch.no_grad():
        found, again = rounded.model.run(batch), stored.model.run(batch)
        close = pair.model.run(batch)
        monkeypatch.setenv("KEPT_OPS", "reference")
        for source, quantize in ((pair.folder, format), (tmp_path / format, None)):
            plain = kept.LLM(source, quantize=quantize, dtype="float32").model.run(batch)
            assert (found - plain).abs().mean() < 0.05 * close.std()
    assert torch.equal(found, again)
    assert (found - close).abs().mean() < (0.1 if format == "int8" else 1.0) * close.std()


def test_the_kernels_say_why_not(
    made: Callable[[str], Pair], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:  # fmt: skip
    for file in made("v1.0").folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    config["relative_attention_max_distance"] = 100_000
    (tmp_path / "config.json").write_text(json.dumps(config))
    monkeypatch.setenv("KEPT_OPS", "auto")
    kept.ops.backend.__globals__["say_once"].cache_clear()
    with caplog.at_level(logging.WARNING, "kept"):
        for _ in range(2):
            kept.LLM(tmp_path)
    if kept.machine.NATIVE_AVAILABLE:
        [said] = caplog.messages
        assert said == (
            "using the torch reference: the native kernels take biases of distances up to 65,536, "
            "and this model's reach to 100,000"
        )
        monkeypatch.setenv("KEPT_OPS", "native")
        with pytest.raises(BackendError, match=r"KEPT_OPS=native, but.*reach to 100,000; use"):
            kept.LLM(tmp_path)


def test_what_is_refused(made: Callable[[str], Pair]) -> None:
    pair = made("v1.0")
    model, new = pair.model, draw(2, 1)
    held = model(draw(2, 4), decoder_input_ids=new).cache
    other = make_cache(model.kv_shapes[:2], num_slots=2)
    swapped = make_cache([replace(s, cross=False) for s in model.kv_shapes], num_slots=2)
    evicting = make_cache(model.kv_shapes, "evicting", num_slots=2, budget=9)
    for call, error, message in (
        (lambda: model(draw(2, 4)), OptionError, r"decoder_input_ids is missing.*start token 0"),
        (lambda: model(decoder_input_ids=new), CacheError, "slot 0 has no encoder input"),
        (lambda: model(decoder_input_ids=new, use_cache=False), OptionError, "without an encoder"),
        (lambda: model(draw(1, 4), decoder_input_ids=new), OptionError, "each sequence needs both"),
        (lambda: model(draw(2, 4), decoder_input_ids=new, cache=held), CacheError, "another input"),
        (
            lambda: model(draw(2, 4), decoder_input_ids=new, cache=other),
            CacheError,
            "of 2 layers, and this model has 2 layers and 2 cross layers; make it with.*kv_shapes",
        ),
        (
            lambda: model(draw(2, 4), decoder_input_ids=new, cache=swapped),
            CacheError,
            "3 heads of 12 numbers in layer 2, and this model has .* numbers of an encoder input",
        ),
        (
            lambda: model(draw(2, 4), decoder_input_ids=new, cache=evicting),
            OptionError,
            "how far apart tokens are, and an evicting cache closes the gaps",
        ),
        (
            lambda: pair.llm.generate([5], cache_implementation="evicting", kv_budget=9),
            OptionError,
            "'evicting' cannot serve this model: T5's scores depend on how far apart.*'sliding'",
        ),
        (lambda: model(None, new, new, cache=held), OptionError, "attention_mask is of input_ids"),
        (lambda: pair.llm.chat([{"role": "user", "content": "x"}]), OptionError, "encoder-decoder"),
        (lambda: kept.LLM(pair.folder, dtype="float16"), OptionError, r"65,504.*bfloat16"),
        (lambda: pair.llm.generate([[]]), OptionError, "the prompt is empty.*at least one token"),
        (lambda: pair.llm.generate([[5, VOCAB]]), OptionError, f"{VOCAB}"),
        (lambda: pair.llm.generate([[5, -1]]), OptionError, "-1"),
        (lambda: model(draw(2, 0), decoder_input_ids=new), OptionError, "input_ids"),
    ):
        with pytest.raises(error, match=message):
            call()
    assert held.lengths == (1, 1)


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("pair", ["v1.0"], indirect=True)
def test_an_input_that_memory_cannot_read(
    backend: str, pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEPT_OPS", backend)
    machine = replace(encoder_decoder.describe_machine(), total_memory=1 << 22)
    monkeypatch.setattr(encoder_decoder, "describe_machine", lambda: machine)
    message = "input of 3,000 tokens takes .*B while it is read.*cut it into parts.*on 512 tokens"
    with pytest.raises(ContextLengthError, match=message):
        kept.LLM(pair.folder).generate([[5] * 3000])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"feed_forward_proj": "gated-cosine"}, "feed_forward_proj = 'gated-cosine'.*gated-gelu"),
        ({"feed_forward_proj": 5}, "feed_forward_proj = 5"),
        ({"relative_attention_num_buckets": 3}, "at least 4"),
        ({"relative_attention_max_distance": 16}, "max_distance = 16, which must be more than"),
        ({"decoder_start_token_id": 99999}, "decoder_start_token_id = 99999"),
        ({"architectures": ["T5EncoderModel"]}, "T5EncoderModel.*T5ForConditionalGeneration"),
    ],
)
def test_configs_that_cannot_be_run(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(kept.CheckpointError, match=message):
        build_model({"model_type": "t5", **fields})


def test_a_tied_head_that_is_not_scaled(tmp_path: Path) -> None:
    """transformers 5 makes v1.1 with its head tied, where no checkpoint says otherwise."""
    hf = T5ForConditionalGeneration(T5Config(**{**BASE, **T5S["v1.1"]})).eval()
    assert hf.lm_head.weight is hf.shared.weight
    assert not hf.config.scale_decoder_outputs
    hf.save_pretrained(tmp_path)
    found = kept.LLM(tmp_path).model
    tokens = draw(2, 9), draw(2, 5, seed=4)
    expected = hf(input_ids=tokens[0], decoder_input_ids=tokens[1]).logits
    torch.testing.assert_close(
        found(tokens[0], decoder_input_ids=tokens[1]).logits, expected, **CLOSE
    )
