"""Which tensor of a checkpoint each tensor of a GGUF file is, and what llama.cpp made of it.

Names are those of gguf-py/gguf/tensor_mapping.py; what is done to numbers is in
convert_hf_to_gguf.py: the rows of Llama's queries and keys stand in the order in which its kernels
rotate pairs, and Gemma's norms are stored as what they multiply by.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from kept.errors import WeightsError
from kept.gguf import GGUFHeader, GGUFTensor
from kept.models.gguf_experts import expert_sources
from kept.models.gguf_rope import FACTORS, LONG, SHORT
from kept.models.gguf_source import Source

_OUTER = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_ATTENTION = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
}
_MLP = {"ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}
_PRE_NORMS = {**_ATTENTION, **_MLP, "ffn_norm": "post_attention_layernorm"}
_FOUR_NORMS = {
    **_ATTENTION,
    **_MLP,
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
_MORE = {
    "gpt_oss": {"post_attention_norm": "post_attention_layernorm"},
    "phi3": {"attn_qkv": "self_attn.qkv_proj", "ffn_up": "mlp.gate_up_proj"},
}
_PERMUTED = ("llama", "mistral", "mixtral")
_IN_BLOCK = re.compile(r"blk\.(\d+)\.(.+)\.(weight|bias)")


def find_sources(header: GGUFHeader, config: Mapping[str, Any]) -> dict[str, Source]:
    """The tensors by the names a checkpoint has for them, those kept does not know by their own.

    config: as `gguf_config` gives it. Raises WeightsError for two tensors that are the same one.
    """
    kind = config["model_type"]
    names = _FOUR_NORMS if kind in ("gemma2", "gemma3_text") else _PRE_NORMS
    is_gemma = kind in ("gemma", "gemma2", "gemma3_text")
    if kind in _MORE:
        names = {**names, **_MORE[kind]}
    found: dict[str, Source] = {}

    def put(there: str, source: Source) -> None:
        if there in found:
            raise WeightsError(
                f"{header.path} holds {there!r} twice, as {found[there].tensor.name!r} and as "
                f"{source.tensor.name!r}. Convert the model again."
            )
        found[there] = source

    for name, tensor in header.tensors.items():
        if name in (FACTORS, LONG, SHORT):
            continue
        part = None
        there = _OUTER.get(name, name)
        if match := _IN_BLOCK.fullmatch(name):
            layer, part, what = match.groups()
            if apart := dict(expert_sources(kind, layer, part, what, tensor)):
                for there, source in apart.items():
                    put(there, source)
                continue
            if part == "attn_sinks":
                there = f"model.layers.{layer}.self_attn.sinks"
            if part in names:
                there = f"model.layers.{layer}.{names[part]}.{what}"
        order = _pairs(part, tensor, config) if kind in _PERMUTED else None
        less = 1.0 if is_gemma and name.endswith("norm.weight") else 0.0
        put(there, Source(tensor, tensor.shape, order=order, less=less))
    return found


def _pairs(part: str | None, tensor: GGUFTensor, config: Mapping[str, Any]) -> Tensor | None:
    """Pairs next to each other, as llama.cpp rotates them, back to halves of a head."""
    heads = {
        "attn_q": config["num_attention_heads"],
        "attn_k": config["num_key_value_heads"],
    }.get(part or "")
    rows = tensor.shape[0]
    if heads is None or rows % (2 * heads):
        return None
    places = torch.arange(rows, dtype=torch.int64, device="cpu")
    return places.view(heads, -1, 2).transpose(1, 2).reshape(-1)
