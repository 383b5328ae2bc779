"""Experts of a GGUF file, which lie one behind the other in one tensor for all of a layer.

ffn_gate_exps, ffn_up_exps (X, F, E)   ffn_down_exps (X, E, F)   their biases (X, F) or (X, E)
"""

from __future__ import annotations

from collections.abc import Iterator

from kept.gguf import GGUFTensor
from kept.models.gguf_source import Source
from kept.models.registry import FAMILIES
from kept.models.stacked_experts import ExpertNames

_PARTS = ("ffn_gate_exps", "ffn_up_exps", "ffn_down_exps")
_ROUTERS = {"gpt_oss": "router"}
# Of the network beside the experts, where there is one.
_SHARED = {
    "ffn_gate_inp_shexp": "shared_expert_gate",
    "ffn_gate_shexp": "shared_expert.gate_proj",
    "ffn_up_shexp": "shared_expert.up_proj",
    "ffn_down_shexp": "shared_expert.down_proj",
}


def expert_sources(
    model_type: str, layer: str, part: str, kind: str, tensor: GGUFTensor
) -> Iterator[tuple[str, Source]]:
    """The tensors of a checkpoint that a block's `part` holds, of those about experts; else none.

    kind: "weight" or "bias".
    """
    family = FAMILIES.get(model_type)
    names = None if family is None else family.expert_names
    if names is None:
        return
    home = f"model.layers.{layer}.{names.home}"
    if part == "ffn_gate_inp":
        router = _ROUTERS.get(model_type, "gate")
        yield f"{home}.{router}.{kind}", Source(tensor, tensor.shape)
    elif part in _SHARED:
        # One output's weights are a vector there, and a matrix of one row here.
        shape = tensor.shape if len(tensor.shape) > 1 else (1, *tensor.shape)
        yield f"{home}.{_SHARED[part]}.{kind}", Source(tensor, shape)
    elif part in _PARTS and len(tensor.shape) == (3 if kind == "weight" else 2):
        yield from _each(home, names, part, kind, tensor)


def _each(
    home: str, names: ExpertNames, part: str, kind: str, tensor: GGUFTensor
) -> Iterator[tuple[str, Source]]:
    name, shape = names.parts[_PARTS.index(part)], tensor.shape[1:]
    rows = shape[0] if len(shape) > 1 else 1
    for expert in range(tensor.shape[0]):
        yield f"{home}.experts.{expert}.{name}.{kind}", Source(tensor, shape, expert * rows)
