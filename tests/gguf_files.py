"""GGUF files of tiny models, written as llama.cpp's converter writes them.

Names come from the package gguf and not from kept's table.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

Blocks = Callable[[np.ndarray], tuple[np.ndarray, gguf.GGMLQuantizationType]]
Write = Callable[[gguf.GGUFWriter], None]

_ARCHITECTURES = {
    "gemma3_text": "gemma3",
    "gpt_oss": "gpt-oss",
    "mistral": "llama",
    "mixtral": "llama",
    "qwen2_moe": "qwen2moe",
    "qwen3_moe": "qwen3moe",
}
# Where the fp16 scales of blocks lie, whose other bytes may be anything.
SCALES: Mapping[str, tuple[int, ...]] = {
    **{"Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,)},
    **{"IQ4_XS": (0,), "IQ4_NL": (0,), "Q5_0": (0,), "Q4_1": (0, 2), "TQ2_0": (64,)},
}


def write_gguf(
    path: Path, hf: PreTrainedModel, store: Blocks | None = None, more: Write | None = None
) -> Path:
    """Write a model's file. store: what becomes of a matrix (out, in), by default fp32; more: adds
    metadata."""
    config = hf.config
    architecture = _ARCHITECTURES.get(config.model_type, config.model_type)
    writer = gguf.GGUFWriter(path, architecture)
    _write_config(writer, config)
    if more is not None:
        more(writer)
    kind = next(k for k, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    names = gguf.get_tensor_name_map(kind, config.num_hidden_layers)
    state = dict(hf.state_dict())
    if config.tie_word_embeddings:
        state.pop("lm_head.weight", None)
    for name, tensor in _apart(state, config).items():
        there = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert there is not None, name
        there += ".weight" if name.endswith(".sinks") else ""
        numbers = _as_converted(name, tensor, config, architecture).numpy()
        whole = numbers.ndim < 2 or name.endswith(("bias", "gate.weight", "router.weight"))
        data, type = (numbers, _F32) if store is None or whole else _stored(numbers, store)
        writer.add_tensor(there, data, raw_dtype=type)
    if (factors := _factors(hf)) is not None:
        writer.add_tensor("rope_freqs.weight", factors)
    if (rope := dict(config.rope_parameters)).get("rope_type") == "longrope":
        for length in ("long", "short"):
            numbers = np.array(rope[f"{length}_factor"], np.float32)
            writer.add_tensor(f"rope_factors_{length}.weight", numbers)
        writer.add_rope_scaling_orig_ctx_len(config.original_max_position_embeddings)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _apart(state: dict[str, torch.Tensor], config: Any) -> dict[str, torch.Tensor]:
    """Gates and ups of experts in tensors of their own, and rows of outputs."""
    turned = config.model_type == "gpt_oss"
    found = {}
    for name, tensor in state.items():
        stem, experts, part = name.partition(".mlp.experts.")
        kind = "bias" if part.endswith("_bias") else "weight"
        if turned and kind == "weight" and experts:
            tensor = tensor.transpose(1, 2)
        if part.startswith("gate_up_proj"):
            gate, up = (tensor[:, i::2] for i in (0, 1)) if turned else tensor.chunk(2, 1)
            found[f"{stem}{experts}gate_proj.{kind}"] = gate
            found[f"{stem}{experts}up_proj.{kind}"] = up
        elif experts:
            found[f"{stem}{experts}down_proj.{kind}"] = tensor
        elif name.endswith("shared_expert_gate.weight"):
            found[name] = tensor[0]
        else:
            found[name] = tensor
    return found


def _stored(numbers: np.ndarray, store: Blocks) -> tuple[np.ndarray, gguf.GGMLQuantizationType]:
    data, type = store(numbers.reshape(-1, numbers.shape[-1]))
    return data.reshape(*numbers.shape[:-1], -1), type


def from_folder(path: Path, folder: Path, store: Blocks | None = None) -> Path:
    """The file of a checkpoint folder, its byte-level tokenizer and chat template with it."""
    state = json.loads((folder / "tokenizer.json").read_text())
    config = json.loads((folder / "tokenizer_config.json").read_text())
    tokens = sorted(state["model"]["vocab"], key=state["model"]["vocab"].get)
    special = {token["content"] for token in state["added_tokens"]}

    def more(writer: gguf.GGUFWriter) -> None:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("gpt-2")
        writer.add_token_list(tokens)
        writer.add_token_types([3 if token in special else 1 for token in tokens])
        writer.add_token_merges([" ".join(pair) for pair in state["model"]["merges"]])
        writer.add_bos_token_id(tokens.index(config["bos_token"]))
        writer.add_eos_token_id(tokens.index(config["eos_token"]))
        writer.add_chat_template(config["chat_template"])

    hf = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return write_gguf(path, hf, store, more)


_F32 = gguf.GGMLQuantizationType.F32


def quantized(type: str) -> Blocks:
    """Matrices rounded to a type, those of rows that do not consist of its blocks excepted."""
    kind = gguf.GGMLQuantizationType[type]
    block = gguf.GGML_QUANT_SIZES[kind][0]

    def store(numbers: np.ndarray) -> tuple[np.ndarray, gguf.GGMLQuantizationType]:
        if numbers.shape[-1] % block:
            return numbers, _F32
        return gguf.quantize(numbers, kind), kind

    return store


def random_blocks(type: str) -> Blocks:
    """Matrices of random blocks of a type that the package gguf only reads."""
    kind = gguf.GGMLQuantizationType[type]
    weights, size = gguf.GGML_QUANT_SIZES[kind]

    def store(numbers: np.ndarray) -> tuple[np.ndarray, gguf.GGMLQuantizationType]:
        rows, width = numbers.shape
        draw = np.random.default_rng(rows * width + len(type))
        data = draw.integers(0, 256, (rows, width // weights, size), dtype=np.uint8)
        if type == "MXFP4":
            data[..., 0] = draw.integers(118, 122, data.shape[:-1])
        for at in SCALES.get(type, ()):
            scales = (draw.random((rows, width // weights)) * 2e-3).astype(np.float16)
            data[..., at : at + 2] = scales[..., None].view(np.uint8)
        return data.reshape(rows, -1), kind

    return store


def _as_converted(name: str, tensor: torch.Tensor, config: Any, kind: str) -> torch.Tensor:
    found = tensor.detach().float()
    if kind.startswith("gemma") and name.endswith("norm.weight"):
        found = found + 1
    for part, heads in (
        ("q_proj", config.num_attention_heads),
        ("k_proj", config.num_key_value_heads),
    ):
        if kind == "llama" and f"self_attn.{part}." in name:
            halves = found.reshape(heads, 2, found.shape[0] // heads // 2, *found.shape[1:])
            found = halves.swapaxes(1, 2).reshape(found.shape)
    return found.contiguous()


def _write_config(writer: gguf.GGUFWriter, config: Any) -> None:
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    head_dim = getattr(config, "head_dim", None)
    head_dim = head_dim or config.hidden_size // config.num_attention_heads
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    share = config.rope_parameters.get("partial_rotary_factor", 1.0)
    writer.add_rope_dimension_count(int(head_dim * share))
    experts = getattr(config, "num_local_experts", getattr(config, "num_experts", 0))
    if experts:
        writer.add_expert_count(experts)
        writer.add_expert_used_count(config.num_experts_per_tok)
        if config.model_type != "mixtral":
            size = getattr(config, "moe_intermediate_size", config.intermediate_size)
            writer.add_expert_feed_forward_length(size)
        if config.model_type == "qwen2_moe":
            writer.add_expert_shared_feed_forward_length(config.shared_expert_intermediate_size)
    rope = dict(config.rope_parameters)
    rope = rope.get("full_attention", rope)
    writer.add_rope_freq_base(rope["rope_theta"])
    if rope["rope_type"] in ("linear", "yarn"):
        writer.add_rope_scaling_type(gguf.RopeScalingType(rope["rope_type"]))
        writer.add_rope_scaling_factor(rope["factor"])
    if rope["rope_type"] == "yarn":
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
    if getattr(config, "sliding_window", None):
        writer.add_sliding_window(config.sliding_window)
    if config.model_type == "gemma2":
        writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
        writer.add_final_logit_softcapping(config.final_logit_softcapping)


def _factors(hf: PreTrainedModel) -> np.ndarray | None:
    rope = dict(hf.config.rope_parameters)
    if rope.get("rope_type") != "llama3":
        return None
    scaled = hf.model.rotary_emb.inv_freq
    width = 2 * len(scaled)
    plain = 1 / rope["rope_theta"] ** (torch.arange(0, width, 2).float() / width)
    return (plain / scaled).numpy()
