"""What a codec does to attention, against softmax written out in float64."""

import itertools

import pytest
import torch

from kept import LLM
from kept.explain.codecs import CodecEffect, codec_effects
from kept.explain.explanation import Explanation
from kept.ops import find_kv_codec


@pytest.fixture(scope="module")
def effects(found: Explanation, bundled: LLM) -> dict[str, CodecEffect]:
    names = ["float32", "bfloat16", "float16", "int8", "k8v4", "int4"]
    return {e.name: e for e in codec_effects(found.recording, bundled.model.kv_shapes, names)}


def test_float32_changes_nothing(found: Explanation, effects: dict[str, CodecEffect]) -> None:
    exact = effects["float32"]
    for x in (exact.key_errors, exact.value_errors, exact.moved, exact.output_errors):
        assert not x.any()
    for again, recorded in zip(exact.weights, found.recording.attention, strict=True):
        torch.testing.assert_close(again, recorded, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["bfloat16", "int8", "k8v4", "int4"])
def test_attention_over_coded_keys(
    found: Explanation, effects: dict[str, CodecEffect], name: str
) -> None:
    recording, codec, effect = found.recording, find_kv_codec(name), effects[name]
    for layer in (0, 3):
        queries = recording.queries[layer].double().transpose(0, 1)  # (H, S, D)
        heads, width = queries.shape[0], queries.shape[2]
        outputs, rows = [], []
        for coded in (False, True):
            keys, values = (
                of.decode(tuple(_stored(of, x)), width) if coded else x
                for of, x in (
                    (codec.keys, recording.keys[layer]),
                    (codec.values, recording.values[layer]),
                )
            )
            repeat = heads // keys.shape[0]
            k, v = (x.double().repeat_interleave(repeat, 0) for x in (keys, values))
            scores = queries @ k.transpose(1, 2) * recording.specs[layer].scale
            hidden = torch.ones(scores.shape[1:], dtype=torch.bool).triu(1)
            rows.append(scores.masked_fill(hidden, -torch.inf).softmax(-1))
            outputs.append(rows[-1] @ v)
        moved = (rows[1] - rows[0]).abs().sum(-1) / 2
        error = (outputs[1] - outputs[0]).norm(dim=-1) / outputs[0].norm(dim=-1)
        torch.testing.assert_close(effect.moved[layer].double(), moved, rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(
            effect.output_errors[layer].double(), error, rtol=1e-3, atol=1e-5
        )
        torch.testing.assert_close(effect.weights[layer].double(), rows[1], rtol=1e-4, atol=1e-5)


def _stored(codec, x):  # type: ignore[no-untyped-def]
    parts = zip(codec.encode(x), codec.parts(x.shape[-1]), strict=True)
    return [tensor.to(part.dtype) for tensor, part in parts]


def test_narrower_is_worse_and_smaller(effects: dict[str, CodecEffect]) -> None:
    order = [effects[name] for name in ("float32", "float16", "bfloat16", "int8", "int4")]
    for better, worse in itertools.pairwise(order):
        assert better.bytes_per_token >= worse.bytes_per_token
        assert better.key_errors.mean() < worse.key_errors.mean()
        assert better.value_errors.mean() < worse.value_errors.mean()
        assert better.moved.mean() < worse.moved.mean()
    # A bfloat16 has eight bits of significand: a number is off by at most 2^-9 of itself.
    assert effects["bfloat16"].key_errors.max() <= 2**-8
