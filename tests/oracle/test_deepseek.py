"""DeepSeek's configs as they are published, its files, and what is stored of its latents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import DeepseekV2Config, DeepseekV3Config

from kept import LLM, make_cache, quantize_checkpoint
from kept.errors import (
    BackendError,
    CheckpointError,
    OptionError,
    UnsupportedModelError,
    WeightsError,
)
from kept.models import read_config
from kept.models.deepseek_config import DeepseekConfig

from .foreign_formats import METHOD, float8
from .generation import prompts
from .test_files import rewrite_config, rewrite_tensors
from .zoo import make_hf

CLOSE = {"rtol": 0.0, "atol": 1e-4}
SIZES = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")


def read(**config: Any) -> DeepseekConfig:
    found = read_config(config)
    assert isinstance(found, DeepseekConfig)
    return found


@pytest.mark.parametrize("config_class", [DeepseekV2Config, DeepseekV3Config])
def test_what_a_config_leaves_out(config_class: Any) -> None:
    hf = config_class(num_experts_per_tok=6)
    given = {name: getattr(hf, name) for name in (*SIZES, "num_attention_heads")}
    found = read(model_type=hf.model_type, num_experts_per_tok=6, **given)
    experts, latent = found.experts, found.latent
    is_v3 = hf.model_type == "deepseek_v3"
    for mine, theirs in (
        (found.context, hf.max_position_embeddings),
        (found.norm_eps, hf.rms_norm_eps),
        (found.tied, hf.tie_word_embeddings),
        (found.activation, hf.hidden_act),
        (found.attention_bias, hf.attention_bias),
        (found.rope.theta, hf.rope_parameters["rope_theta"]),
        (found.rope.dim, hf.qk_rope_head_dim),
        (found.query_rank, hf.q_lora_rank),
        (latent.latent, hf.kv_lora_rank),
        (latent.plain, hf.qk_nope_head_dim),
        (latent.turning, hf.qk_rope_head_dim),
        (latent.neighbours, getattr(hf, "rope_interleave", True)),
        (found.value_dim, hf.v_head_dim),
        (found.dense, frozenset(range(hf.first_k_dense_replace))),
        (found.shared_size, hf.n_shared_experts * hf.moe_intermediate_size),
        (experts.num_experts, hf.n_routed_experts),
        (experts.size, hf.moe_intermediate_size),
        (experts.routing.top_k, 6),
        (experts.routing.scale, hf.routed_scaling_factor),
        (experts.routing.normalised, is_v3 and hf.norm_topk_prob),
        (experts.routing.num_groups, hf.n_group or 1),
        (experts.routing.top_groups, hf.topk_group or 1),
        (experts.routing.scoring, "sigmoid" if is_v3 else "softmax"),
    ):
        assert mine == theirs
    shape = found.kv_shapes[0]
    assert (shape.numel, shape.value_dim) == (576, 512)


@pytest.mark.parametrize("value", [True, False, None])
@torch.no_grad()
def test_weights_of_experts_that_sum_to_one(tmp_path: Path, value: bool | None) -> None:
    """Null is no, as in transformers; a field that is not there is yes."""
    hf = make_hf("deepseek_v3", norm_topk_prob=value)
    hf.save_pretrained(tmp_path)
    rewrite_config(tmp_path, norm_topk_prob=value)
    ids = torch.tensor(prompts(20))
    torch.testing.assert_close(LLM(tmp_path).model(ids).logits, hf(ids).logits, **CLOSE)


@pytest.mark.parametrize(
    ("name", "changes", "error", "message"),
    [
        ("deepseek_v2", {"norm_topk_prob": True}, UnsupportedModelError, "in two ways"),
        ("deepseek_v2", {"scoring_func": "sigmoid"}, UnsupportedModelError, "by a softmax"),
        ("deepseek_v2", {"topk_method": "noaux_tc"}, CheckpointError, "topk_method"),
        ("deepseek_v2", {"moe_layer_freq": 2}, UnsupportedModelError, "moe_layer_freq = 2"),
        ("deepseek_v3", {"scoring_func": "softmax"}, UnsupportedModelError, "by sigmoids"),
        ("deepseek_v3", {"n_group": 3}, CheckpointError, "8 experts do not lie in so many"),
        ("deepseek_v3", {"n_group": 8}, CheckpointError, "2 or more in each"),
        ("deepseek_v3", {"topk_group": 1}, CheckpointError, "num_experts_per_tok = 3"),
        ("deepseek_v3", {"topk_group": 5}, CheckpointError, "topk_group = 5 of 4 groups"),
        ("deepseek_v3", {"num_experts_per_tok": 9}, CheckpointError, "more than the 8 experts"),
        ("deepseek_v3", {"qk_rope_head_dim": 7}, UnsupportedModelError, "in pairs.*complete"),
    ],
)
def test_configs_that_cannot_be(
    name: str, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        read(**{**make_hf(name).config.to_dict(), **changes})


@torch.no_grad()
def test_layers_that_predict_several_tokens_are_passed_over(tmp_path: Path) -> None:
    hf = make_hf("deepseek_v3")
    hf.save_pretrained(tmp_path)
    extra = {
        f"model.layers.3.{name}": torch.ones(2, 2)
        for name in ("eh_proj.weight", "self_attn.q_a_proj.weight", "embed_tokens.weight")
    }
    rewrite_tensors(tmp_path, lambda tensors: {**tensors, **extra})
    rewrite_config(tmp_path, num_nextn_predict_layers=1)
    ids = torch.tensor(prompts(20))
    torch.testing.assert_close(LLM(tmp_path).model(ids).logits, hf(ids).logits, **CLOSE)
    rewrite_config(tmp_path, num_nextn_predict_layers=0)
    with pytest.raises(WeightsError, match=r"Unexpected tensors: .*layers\.3"):
        LLM(tmp_path)


@torch.no_grad()
def test_blocks_of_floats_of_8_bits(tmp_path: Path) -> None:
    """As V3 is published: every linear layer but the router and the head."""
    make_hf("deepseek_v3").save_pretrained(tmp_path / "plain")
    plain = load_file(tmp_path / "plain" / "model.safetensors")
    coded = {}
    for seed, (name, numbers) in enumerate(sorted(plain.items())):
        if not name.endswith("proj.weight") and "kv_a_proj_with_mqa" not in name:
            coded[name] = numbers.clone()
            continue
        parts, matrix = float8((numbers.shape[0], numbers.shape[1]), seed, block=16)
        plain[name] = matrix.contiguous()
        coded |= {f"{name.removesuffix('weight')}{part}": x for part, x in parts.items()}
    save_file(plain, tmp_path / "plain" / "model.safetensors")
    (tmp_path / "coded").mkdir()
    save_file(coded, tmp_path / "coded" / "model.safetensors")
    config = (tmp_path / "plain" / "config.json").read_text()
    (tmp_path / "coded" / "config.json").write_text(config)
    method = {"quant_method": "fp8", "weight_block_size": [16, 16]}
    rewrite_config(tmp_path / "coded", **{METHOD: method})
    ids = torch.tensor(prompts(20))
    found, exact = (
        LLM(tmp_path / x, dtype="float32").model(ids).logits for x in ("coded", "plain")
    )
    torch.testing.assert_close(found, exact, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_decides_for_experts_is_not_rounded(tmp_path: Path, backend: str, dtype: str) -> None:
    hf = make_hf("deepseek_v3")
    hf.save_pretrained(tmp_path)
    model = LLM(tmp_path, dtype=dtype).model
    bias = hf.model.layers[1].mlp.gate.e_score_correction_bias
    assert torch.equal(model.get_parameter("blocks.1.mlp.router.choice_bias"), bias)


@torch.no_grad()
@pytest.mark.parametrize("format", ["int8", "int4"])
def test_quantized(tmp_path: Path, backend: str, format: str) -> None:
    make_hf("deepseek_v3").save_pretrained(tmp_path / "whole")
    loaded = LLM(tmp_path / "whole", quantize=format).model
    folder = quantize_checkpoint(tmp_path / "whole", tmp_path / "small", format)
    ids = torch.tensor(prompts(12))
    found = loaded(ids).logits
    assert torch.equal(LLM(folder).model(ids).logits, found)
    exact = LLM(tmp_path / "whole").model(ids).logits
    assert (found - exact).norm() / exact.norm() < {"int8": 0.2, "int4": 0.7}[format]


@torch.no_grad()
@pytest.mark.parametrize(
    ("codec", "most"), [("float32", 1e-5), ("bfloat16", 0.02), ("int8", 0.05), ("int4", 0.4)]
)
def test_latents_in_every_codec(tmp_path: Path, backend: str, codec: str, most: float) -> None:
    # Without experts, to others of which a rounding can send a token.
    hf = make_hf("deepseek_v3", qk_rope_head_dim=16, first_k_dense_replace=3)
    hf.save_pretrained(tmp_path)
    llm = LLM(tmp_path)
    ids = torch.tensor(prompts(30))
    cache = make_cache(llm.model.kv_shapes, kv_dtype=codec)
    found = torch.cat([llm.model(x, cache=cache).logits for x in ids.split([9, 21], 1)], 1)
    exact = hf(ids, use_cache=False).logits
    assert (found - exact).norm() / exact.norm() < most
    per_token = cache.shapes[0].num_bytes(cache.codec)
    assert per_token == cache.codec.keys.num_bytes(48)


def test_two_codecs_are_refused(tmp_path: Path) -> None:
    make_hf("deepseek_v3").save_pretrained(tmp_path)
    llm = LLM(tmp_path)
    with pytest.raises(OptionError, match="stores both as one, 32 values within 44 keys"):
        llm.generate([[1, 2]], max_new_tokens=2, kv_dtype="k8v4")


def test_sizes_that_kernels_do_not_multiply(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hf = make_hf("deepseek_v3", v_head_dim=20, qk_rope_head_dim=6)
    hf.save_pretrained(tmp_path)
    ids = torch.tensor(prompts(20))
    model = LLM(tmp_path).model
    assert model.native is None
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, hf(ids).logits, **CLOSE)
    monkeypatch.setenv("KEPT_OPS", "native")
    with pytest.raises(BackendError, match="v_head_dim is a multiple of 32"):
        LLM(tmp_path)
