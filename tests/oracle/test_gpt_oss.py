"""gpt-oss as it is published, in MXFP4, and experts that are stacked in one tensor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import GptOssConfig, PreTrainedModel
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from kept import LLM, quantize_checkpoint
from kept.errors import UnsupportedFormatError, UnsupportedModelError, WeightsError
from kept.models import build_model, read_config
from kept.models.block_sizes import bytes_saved_by_blocks
from kept.models.mixture_config import MixtureConfig
from kept.ops import PackedMatrix

from .generation import prompts
from .test_files import rewrite_config
from .zoo import make_hf

CLOSE = {"rtol": 0.0, "atol": 1e-4}
MXFP4 = {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]}


def read(**config: Any) -> MixtureConfig:
    found = read_config(config)
    assert isinstance(found, MixtureConfig)
    return found


def test_what_a_config_leaves_out() -> None:
    hf = GptOssConfig(num_hidden_layers=4)
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")
    given = {name: getattr(hf, name) for name in (*names, "num_attention_heads")}
    for told in ({}, hf.to_dict()):
        found = read(**{**given, **told, "model_type": "gpt_oss"})
        assert found.windows == (128, None, 128, None)
        assert (found.num_kv_heads, found.head_dim) == (hf.num_key_value_heads, hf.head_dim)
        assert (found.context, found.norm_eps) == (hf.max_position_embeddings, hf.rms_norm_eps)
        assert found.qkv_bias
        assert found.out_bias
        assert (found.rope.theta, found.rope.factor) == (150000.0, 32.0)
        assert (found.rope.original_context, found.rope.truncate) == (4096, False)
        assert found.experts.num_experts == hf.num_local_experts
        assert found.experts.routing.top_k == hf.num_experts_per_tok
    with pytest.raises(UnsupportedModelError, match=r"swiglu_limit = 5\.0"):
        read(**given, model_type="gpt_oss", swiglu_limit=5.0)


def in_mxfp4(folder: Path) -> PreTrainedModel:
    """A checkpoint whose experts are random blocks, and transformers' model of their numbers."""
    hf = make_hf("gpt_oss", hidden_size=64, intermediate_size=96)
    hf.save_pretrained(folder)
    path = folder / "model.safetensors"
    tensors = load_file(path)
    generator = torch.Generator().manual_seed(1)

    def drawn(low: int, high: int, *shape: int) -> Tensor:
        return torch.randint(low, high, shape, generator=generator, dtype=torch.uint8)

    for name in [name for name in tensors if name.endswith(("gate_up_proj", "down_proj"))]:
        experts, num_in, num_out = tensors.pop(name).shape
        blocks = drawn(0, 256, experts, num_out, num_in // 32, 16)
        scales = drawn(122, 126, experts, num_out, num_in // 32)
        tensors |= {f"{name}_blocks": blocks, f"{name}_scales": scales}
        with torch.no_grad():
            hf.get_parameter(name).copy_(convert_moe_packed_tensors(blocks, scales))
    save_file(tensors, path, metadata={"format": "pt"})
    rewrite_config(folder, quantization_config=MXFP4)
    return hf


@torch.no_grad()
def test_weights_in_mxfp4(tmp_path: Path, backend: str) -> None:
    hf = in_mxfp4(tmp_path)
    ids = torch.tensor(prompts(40))
    expected = hf(ids).logits
    exact = LLM(tmp_path, dtype="float32").model
    torch.testing.assert_close(exact(ids).logits, expected, rtol=0.0, atol=2e-4)
    # In bfloat16 the kernels read them as they are.
    model = LLM(tmp_path, dtype="bfloat16").model
    if backend == "native":
        config = json.loads((tmp_path / "config.json").read_text())
        saved = bytes_saved_by_blocks(build_model(config), config, torch.bfloat16)
        packed = {id(x.weight): x.weight for x in model.modules() if hasattr(x, "weight")}
        held = [x for x in packed.values() if isinstance(x, PackedMatrix)]
        experts = [x for x in held if x.format == "mxfp4"]
        biases = sum(x.bias.nbytes for x in experts if x.bias is not None)
        as_numbers = sum(2 * x.num_out * x.num_in for x in experts)
        assert saved == as_numbers - sum(x.num_bytes for x in experts) + biases
    found = model(ids).logits
    assert (found - expected).norm() / expected.norm() < 0.2
    if backend == "native":
        expert = model.get_submodule("blocks.1.mlp.experts.2.gate_up")
        assert isinstance(expert.weight, PackedMatrix)
        assert expert.weight.format == "mxfp4"
        stored = hf.get_parameter("model.layers.1.mlp.experts.gate_up_proj")[2].T
        assert torch.equal(expert.weight.unpack(), torch.cat((stored[0::2], stored[1::2])))


@torch.no_grad()
def test_mxfp4_becomes_another_format(tmp_path: Path, backend: str) -> None:
    hf = in_mxfp4(tmp_path / "whole")
    loaded = LLM(tmp_path / "whole", quantize="int8").model
    folder = quantize_checkpoint(tmp_path / "whole", tmp_path / "small", "int8")
    ids = torch.tensor(prompts(12))
    found = loaded(ids).logits
    assert torch.equal(LLM(folder).model(ids).logits, found)
    expected = hf(ids).logits
    assert (found - expected).norm() / expected.norm() < 0.4


def test_mxfp4_of_another_family(tmp_path: Path) -> None:
    make_hf("qwen3_moe").save_pretrained(tmp_path)
    rewrite_config(tmp_path, quantization_config=MXFP4)
    with pytest.raises(UnsupportedFormatError, match="mxfp4"):
        LLM(tmp_path)


@pytest.mark.parametrize("name", ["mixtral", "qwen2_moe", "qwen3_moe sparse"])
@torch.no_grad()
def test_experts_that_are_stacked(tmp_path: Path, name: str) -> None:
    hf = make_hf(name)
    hf.save_pretrained(tmp_path, save_original_format=False)
    assert any("experts.gate_up_proj" in x for x in load_file(tmp_path / "model.safetensors"))
    ids = torch.tensor(prompts(30))
    torch.testing.assert_close(LLM(tmp_path).model(ids).logits, hf(ids).logits, **CLOSE)


UP = "model.layers.0.mlp.experts.gate_up_proj"
ALONE = "model.layers.0.mlp.experts.0.up_proj.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({f"{UP}_blocks": (5, 192)}, r"gate_up_proj_blocks' is \(5, 192\), and .* 4 dimensions"),
        ({f"{UP}_blocks": (5, 0, 2, 16)}, r"of at least 1, the first of up to 4,096"),
        ({f"{UP}_blocks": (2**31, 2, 2, 0)}, r"is \(2147483648, 2, 2, 0\)"),
        ({f"{UP}_scales": None}, "its scales are none; in MXFP4 they are uint8"),
        ({f"{UP}_scales": (5, 192, 3)}, r"its scales are uint8 \(5, 192, 3\)"),
        ({f"{UP}_blocks": (5, 192, 2, 8)}, r"is uint8 \(5, 192, 2, 8\)"),
        ({f"{UP}_bias": (5, 4, 4)}, "gate_up_proj_bias' is .*, and .* 2 dimensions"),
        ({UP: (5, 64, 192)}, "by itself and among stacked experts"),
        ({ALONE: (96, 64)}, "by itself and among stacked experts"),
    ],
)
def test_stacks_that_hold_no_experts(
    tmp_path: Path, change: dict[str, tuple[int, ...] | None], message: str
) -> None:
    in_mxfp4(tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    for name, shape in change.items():
        tensors.pop(name, None)
        if shape is not None:
            tensors[name] = torch.zeros(shape, dtype=torch.uint8)
    save_file(tensors, path)
    with pytest.raises(WeightsError, match=message):
        LLM(tmp_path)


@torch.no_grad()
def test_attention_that_goes_to_nothing(tmp_path: Path, backend: str) -> None:
    hf = make_hf("gpt_oss")
    hf.save_pretrained(tmp_path)
    ids = torch.tensor(prompts(20))
    theirs = hf(ids, output_attentions=True).attentions
    found = LLM(tmp_path).model(ids, output_attentions=True).attentions
    assert found is not None
    for mine, expected in zip(found, theirs, strict=True):
        torch.testing.assert_close(mine, expected, **CLOSE)
        assert mine.sum(-1).min() < 0.9
