"""Writes a GPT-2 or Qwen2 checkpoint as GGUF, for llama.cpp.

    FOLDER/llamacpp/bin/python to_gguf.py CHECKPOINT OUT.gguf {bf16,q8_0,q4_0}

Needs gguf, numpy, torch and safetensors. Matrices get the format that is asked for, except that
with q4_0 the table of embeddings, which is also the output head, gets q8_0: llama.cpp's own recipe
keeps it wider, too. Vectors and learned positions stay fp32.
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
EMBEDDING = "token_embd.weight"

# Of both families: how a stored name begins, and the names of the parts of a layer.
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
QWEN2_LAYER = re.compile(r"(?:model\.)?layers\.(\d+)\.(.+)\.(weight|bias)$")
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
QWEN2_REST = {"embed_tokens.weight": EMBEDDING, "norm.weight": "output_norm.weight"}


def main() -> None:
    """Convert what the arguments name."""
    if len(sys.argv) != 4 or sys.argv[3] not in FILE_TYPES:
        raise SystemExit(__doc__)
    folder, out, kind = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if config["model_type"] not in ("gpt2", "qwen2") or not config.get("tie_word_embeddings", True):
        raise SystemExit(f"{folder} is not a GPT-2 or Qwen2 with a tied output head")
    unfinished = out.with_suffix(".unfinished")
    writer = gguf.GGUFWriter(unfinished, config["model_type"])
    writer.add_file_type(FILE_TYPES[kind])
    add_shape(writer, config)
    add_tokenizer(writer, folder, config["vocab_size"])
    for name, matrix in tensors(folder, config["model_type"]):
        if matrix.ndim == 1 or name == "position_embd.weight":
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


def add_tokenizer(writer: gguf.GGUFWriter, folder: Path, size: int) -> None:
    """A byte-level BPE, filled up with names for the ids that it does not use."""
    model = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    names = {number: text for text, number in model["vocab"].items()}
    kinds = {True: gguf.TokenType.NORMAL, False: gguf.TokenType.UNUSED}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([names.get(i, f"[unused{i}]") for i in range(size)])
    writer.add_token_types([kinds[i in names] for i in range(size)])
    merges = model["merges"]
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in merges])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)


def tensors(folder: Path, family: str) -> Iterator[tuple[str, np.ndarray]]:
    """llama.cpp's names, and the values as fp32, matrices (out, in)."""
    gpt2 = family == "gpt2"
    with safe_open(folder / "model.safetensors", framework="pt") as stored:
        for name in stored.keys():  # noqa: SIM118 (no mapping: it cannot be iterated)
            target = renamed(name, gpt2)
            if target is None:
                continue
            values = stored.get_tensor(name).to(torch.float32)
            if gpt2 and values.ndim == 2 and target.startswith("blk."):
                values = values.T  # GPT-2 stores (in, out)
            yield target, np.ascontiguousarray(values.numpy())


def renamed(name: str, gpt2: bool) -> str | None:
    """llama.cpp's name of a tensor; None for one it has no use for."""
    layer, parts, rest = (
        (GPT2_LAYER, GPT2_PARTS, GPT2_REST) if gpt2 else (QWEN2_LAYER, QWEN2_PARTS, QWEN2_REST)
    )
    if name == "lm_head.weight" or name.endswith((".attn.bias", ".attn.masked_bias")):
        return None
    if found := layer.match(name):
        return f"blk.{found[1]}.{parts[found[2]]}.{found[3]}"
    return rest[name.removeprefix("transformer.").removeprefix("model.")]


if __name__ == "__main__":
    main()
