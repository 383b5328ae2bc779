"""Gradients flow without a cache, equal transformers', and never pass a cache in silence."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kept import OptionError, make_cache

from .generation import prompts
from .test_padded import pad
from .zoo import Pair


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> str:
    """The kernels compute no gradients."""
    monkeypatch.setenv("KEPT_OPS", "reference")
    return "reference"


def gradients(loss: Tensor, parameters: dict[str, torch.nn.Parameter]) -> dict[str, Tensor]:
    return dict(zip(parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True))


@pytest.mark.parametrize("watched", [False, True], ids=["fused", "written out"])
@pytest.mark.parametrize("pair", ["gpt2", "llama", "qwen2 window"], indirect=True)
def test_gradients_equal(pair: Pair, watched: bool) -> None:
    rows = prompts(9, 4, 6)
    ids, mask = pad(rows, (0, 5, 2), 9)
    weights = torch.randn(3, 9, 97) * mask[..., None]
    pair.model.train()
    try:
        output = pair.model(ids, mask, use_cache=False, output_attentions=watched)
        found = gradients((output.logits * weights).sum(), dict(pair.model.named_parameters()))
    finally:
        pair.model.eval()
    theirs = dict(pair.hf.named_parameters())
    expected = {name: torch.zeros_like(p) for name, p in theirs.items()}
    for row, tokens in enumerate(rows):
        logits = pair.hf(torch.tensor([tokens])).logits[0]
        loss = (logits * weights[row, mask[row].bool()]).sum()
        for name, gradient in gradients(loss, theirs).items():
            expected[name] += gradient
    for name, names in fused(pair).items():
        wanted = torch.cat([expected[n].t() if "c_" in n else expected[n] for n in names])
        close = torch.testing.assert_close
        close(found[name], wanted, rtol=1e-3, atol=1e-4 * float(wanted.abs().max()))


def fused(pair: Pair) -> dict[str, list[str]]:
    """kept's parameters and the ones of transformers they are made of."""
    if pair.name == "gpt2":
        return {
            "embedding.weight": ["transformer.wte.weight"],
            "positions.weight": ["transformer.wpe.weight"],
            "blocks.0.qkv.weight": ["transformer.h.0.attn.c_attn.weight"],
            "blocks.1.down.bias": ["transformer.h.1.mlp.c_proj.bias"],
        }
    attention = "model.layers.1.self_attn"
    return {
        "embedding.weight": ["model.embed_tokens.weight"],
        "head.weight": ["lm_head.weight"],
        "blocks.0.attention_norm.weight": ["model.layers.0.input_layernorm.weight"],
        "blocks.1.attention.qkv.weight": [f"{attention}.{x}_proj.weight" for x in "qkv"],
        "blocks.1.mlp.gate_up.weight": [
            f"model.layers.1.mlp.{x}_proj.weight" for x in ("gate", "up")
        ],
    }


@pytest.mark.parametrize("pair", ["llama"], indirect=True)
def test_a_cache_in_training_is_refused(pair: Pair) -> None:
    ids = torch.tensor([[1, 2, 3]])
    cache = make_cache(pair.model.kv_shapes)
    pair.model.train()
    try:
        with pytest.raises(OptionError, match=r"cached keys carry no gradient.*use_cache=False"):
            pair.model(ids)
        with pytest.raises(OptionError, match=r"train\(\) mode"):
            pair.model(ids, cache=cache)
        with torch.no_grad():
            pair.model(ids, cache=cache)
    finally:
        pair.model.eval()
    assert cache.lengths == (3,)


@pytest.mark.parametrize("pair", ["llama"], indirect=True)
def test_a_cache_outside_training_gives_no_gradient(pair: Pair) -> None:
    ids = torch.tensor([[1, 2, 3]])
    assert not pair.model(ids).logits.requires_grad
    assert pair.model(ids, use_cache=False).logits.requires_grad
