"""LoRA adapters as peft writes them, of random numbers, and models that have them merged in."""

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

LATENT = ("q_a_proj", "q_b_proj", "kv_a_proj_with_mqa")
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj", "c_attn", "attn.c_proj", *LATENT)
EVERY = (*ATTENTION, "gate_proj", "up_proj", "down_proj", "c_fc", "mlp.c_proj")


def targets_of(hf: PreTrainedModel, names: Sequence[str]) -> dict[str, tuple[int, int]]:
    """The linear layers of these names by path, and how many outputs and inputs they have."""
    found = {}
    for path, module in hf.named_modules():
        if not path.endswith(tuple(names)) or ".experts" in path:
            continue
        if isinstance(module, Conv1D):
            found[path] = (module.weight.shape[1], module.weight.shape[0])
        elif isinstance(module, nn.Linear):
            found[path] = (module.out_features, module.in_features)
    assert found, names
    return found


def write_adapter(
    folder: Path,
    hf: PreTrainedModel,
    targets: Sequence[str] = EVERY,
    *,
    rank: int = 4,
    alpha: float = 8.0,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    size: float = 0.3,
    **config: Any,
) -> dict[str, tuple[Tensor, Tensor]]:
    """Write an adapter of some layers; returns A (R, in) and B (out, R) of each, as stored.

    config: further fields of adapter_config.json.
    """
    random = torch.Generator().manual_seed(seed)
    pairs, tensors = {}, {}
    for path, (num_out, num_in) in targets_of(hf, targets).items():
        own = config.get("rank_pattern", {}).get(path, rank)
        down = torch.randn(own, num_in, generator=random) * size / num_in**0.5
        up = torch.randn(num_out, own, generator=random) * size
        pairs[path] = down.to(dtype), up.to(dtype)
        for side, tensor in zip("AB", pairs[path], strict=True):
            tensors[f"base_model.model.{path}.lora_{side}.weight"] = tensor.contiguous()
    fields = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": alpha,
        "target_modules": sorted(targets),
        "bias": "none",
        "fan_in_fan_out": hf.config.model_type == "gpt2",
        "task_type": "CAUSAL_LM",
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(fields | config))
    save_file(tensors, str(folder / "adapter_model.safetensors"))
    return pairs


def merged(
    hf: PreTrainedModel, pairs: dict[str, tuple[Tensor, Tensor]], scale: float = 2.0
) -> PreTrainedModel:
    """A copy of a model whose matrices are W + scale * B A, in fp32."""
    found = copy.deepcopy(hf).float()
    with torch.no_grad():
        for path, (down, up) in pairs.items():
            module: Any = found.get_submodule(path)
            delta = scale * up.float() @ down.float()
            module.weight += delta.T if isinstance(module, Conv1D) else delta
    return found
