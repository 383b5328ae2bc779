"""Writes a GPT-2, Qwen2 or Qwen3-MoE checkpoint as GGUF, for llama.cpp.

    FOLDER/llamacpp/bin/python to_gguf.py CHECKPOINT OUT.gguf {bf16,q8_0,q4_0}

Needs gguf, numpy, torch and safetensors. Matrices get the format that is asked for, except that
with q4_0 the table of embeddings, which is also the output head, gets q8_0: llama.cpp's own recipe
keeps it wider, too. Vectors, learned positions and routers stay fp32. The experts of a layer become
one tensor for each of their three matrices.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from safetensors import safe_open

FILE_TYPES = {
    "bf16": gguf.LlamaFileType.MOSTLY_BF16,
    "q8_0": gguf.LlamaFileType.MOSTLY_Q8_0,
    "q4_0": gguf.LlamaFileType.MOSTLY_Q4_0,
}
FAMILIES = {"gpt2": "gpt2", "qwen2": "qwen2", "qwen3_moe": "qwen3moe"}  # as llama.cpp has them
EMBEDDING = "token_embd.weight"
IN_FP32 = ("position_embd.weight", "ffn_gate_inp.weight")

# Of each family: how a stored name begins, and the names of the parts of a layer.
GPT2_LAYER = re.compile(r"(?:transformer\.)?h\.(\d+)\.(.+)\.(weight|bias)$")
GPT2_PARTS = {
    "ln_1": "attn_norm",
    "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output",
    "ln_2": "ffn_norm",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
}
GPT2_REST = {
    "wte.weight": EMBEDDING,
    "wpe.weight": "position_embd.weight",
    "ln_f.weight": "output_norm.weight",
    "ln_f.bias": "output_norm.bias",
}
QWEN_LAYER = re.compile(r"(?:model\.)?layers\.(\d+)\.(.+)\.(weight|bias)$")
QWEN2_PARTS = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
QWEN3_MOE_PARTS = QWEN2_PARTS | {
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate": "ffn_gate_inp",
}
EXPERT = re.compile(r"(.+layers\.(\d+)\.mlp\.experts)\.(\d+)\.(gate|up|down)_proj\.weight$")
QWEN_REST = {"embed_tokens.weight": EMBEDDING, "norm.weight": "output_norm.weight"}


def main() -> None:
    """Convert what the arguments name."""
    if len(sys.argv) != 4 or sys.argv[3] not in FILE_TYPES:
        raise SystemExit(__doc__)
    folder, out, kind = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    check(folder, config)
    unfinished = out.with_suffix(".unfinished")
    writer = gguf.GGUFWriter(unfinished, FAMILIES[config["model_type"]])
    writer.add_file_type(FILE_TYPES[kind])
    add_shape(writer, config)
    add_tokenizer(writer, folder, config["vocab_size"])
    for name, matrix in tensors(folder, config):
        if matrix.ndim == 1 or name.endswith(IN_FP32):
            writer.add_tensor(name, matrix)
            continue
        width = "q8_0" if kind == "q4_0" and name == EMBEDDING else kind
        form = gguf.GGMLQuantizationType[width.upper()]
        writer.add_tensor(name, gguf.quants.quantize(matrix, form), raw_dtype=form)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    unfinished.replace(out)


def check(folder: Path, config: Mapping[str, Any]) -> None:
    """Refuse what would become another model."""
    family = config["model_type"]
    if family not in FAMILIES or not config.get("tie_word_embeddings", family == "gpt2"):
        raise SystemExit(f"{folder} is not a {', '.join(FAMILIES)} with a tied output head")
    if family == "qwen3_moe" and not (
        config.get("norm_topk_prob", False)
        and config.get("decoder_sparse_step", 1) == 1
        and not config.get("mlp_only_layers")
    ):
        raise SystemExit(f"llama.cpp has experts in every layer and norms their shares: {folder}")


def add_shape(writer: gguf.GGUFWriter, config: Mapping[str, Any]) -> None:
    """What llama.cpp needs of config.json."""
    if config["model_type"] == "gpt2":
        width = config["n_embd"]
        writer.add_block_count(config["n_layer"])
        writer.add_head_count(config["n_head"])
        writer.add_context_length(config["n_positions"])
        writer.add_embedding_length(width)
        writer.add_feed_forward_length(config.get("n_inner") or 4 * width)
        writer.add_layer_norm_eps(config["layer_norm_epsilon"])
        return
    rope = config.get("rope_parameters") or config
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(rope["rope_theta"])
    if config["model_type"] == "qwen3_moe":
        writer.add_key_length(config["head_dim"])
        writer.add_value_length(config["head_dim"])
        writer.add_expert_count(config["num_experts"])
        writer.add_expert_used_count(config["num_experts_per_tok"])
        writer.add_expert_feed_forward_length(config["moe_intermediate_size"])


def add_tokenizer(writer: gguf.GGUFWriter, folder: Path, size: int) -> None:
    """A byte-level BPE, in which ids up to `size` that have no text are `[unusedID]`."""
    model = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    names = {number: text for text, number in model["vocab"].items()}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([names.get(i, f"[unused{i}]") for i in range(size)])
    # All of them, as llama.cpp writes nothing for a token that it knows to be unused.
    writer.add_token_types([gguf.TokenType.NORMAL] * size)
    merges = model["merges"]
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in merges])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)


def tensors(folder: Path, config: Mapping[str, Any]) -> Iterator[tuple[str, np.ndarray]]:
    """llama.cpp's names, and the values as fp32: matrices (out, in), of experts (X, out, in)."""
    family = config["model_type"]
    with safe_open(folder / "model.safetensors", framework="pt") as stored:
        for name in stored.keys():  # noqa: SIM118 (no mapping: it cannot be iterated)
            if found := EXPERT.match(name):
                begin, layer, number, part = found.groups()
                if number == "0":  # which stands for all of them
                    target = f"blk.{layer}.ffn_{part}_exps.weight"
                    yield target, stacked(stored, begin, part, config["num_experts"])
                continue
            target = renamed(name, family)
            if target is None:
                continue
            values = stored.get_tensor(name).to(torch.float32)
            if family == "gpt2" and values.ndim == 2 and target.startswith("blk."):
                values = values.T  # GPT-2 stores (in, out)
            yield target, np.ascontiguousarray(values.numpy())


def stacked(stored: safe_open, begin: str, part: str, count: int) -> np.ndarray:
    """One matrix of all experts of a layer, in the order of their numbers."""
    experts = [stored.get_tensor(f"{begin}.{i}.{part}_proj.weight") for i in range(count)]
    return torch.stack(experts).to(torch.float32).numpy()


def renamed(name: str, family: str) -> str | None:
    """llama.cpp's name of a tensor; None for one it has no use for."""
    layer, parts, rest = {
        "gpt2": (GPT2_LAYER, GPT2_PARTS, GPT2_REST),
        "qwen2": (QWEN_LAYER, QWEN2_PARTS, QWEN_REST),
        "qwen3_moe": (QWEN_LAYER, QWEN3_MOE_PARTS, QWEN_REST),
    }[family]
    if name == "lm_head.weight" or name.endswith((".attn.bias", ".attn.masked_bias")):
        return None
    if found := layer.match(name):
        return f"blk.{found[1]}.{parts[found[2]]}.{found[3]}"
    return rest[name.removeprefix("transformer.").removeprefix("model.")]


if __name__ == "__main__":
    main()
