"""What a model's attention is handed beside queries, keys and a mask, and kept's does not know.

The attention function sees it in the first pass. What a module hands on of its own, such as learned
sinks, is there once the model is built: `check_built` finds in the source of its forward pass which
of its attributes these are, where transformers looks too for what a model can do.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor

from kept.errors import OptionError
from kept.integrations.transformers.model import ATTENTION

# What models pass along that changes no score.
_HARMLESS = {
    "cache_position", "logits_to_keep", "num_items_in_batch", "output_attentions",
    "output_hidden_states", "output_router_logits", "past_key_values", "position_embeddings",
    "position_ids", "return_dict", "token_type_ids", "use_cache",
}  # fmt: skip
_INTERFACE = "ALL_ATTENTION_FUNCTIONS"  # what models of transformers look their attention up in


def check_known(module: Any, others: Mapping[str, Any], *, own_scale: bool = False) -> None:
    """Raise OptionError for what would change a score in a way that kept's attention does not know.

    others: what it is handed beyond its own arguments. own_scale: whether its scale is left to it.
    """
    unknown = [
        name
        for name, x in others.items()
        if name not in _HARMLESS and isinstance(x, Tensor | float) and not isinstance(x, bool)
    ]
    if own_scale and getattr(module, "scale_attn_by_inverse_layer_idx", False):
        unknown.append("scale_attn_by_inverse_layer_idx")
    if unknown:
        raise OptionError(
            f"attn_implementation={ATTENTION!r} does not know how {', '.join(unknown)} change a "
            f"score of {type(module).__name__}; load the model with attn_implementation='eager', "
            "which takes a KeptCache wherever from_config makes one"
        )


def check_built(model: torch.nn.Module, arguments: frozenset[str]) -> None:
    """`check_known` of what the modules of this model's config will hand on of their own.

    arguments: those of kept's attention. What only a pass can tell is left to the pass.
    """
    for module in model.modules():
        if getattr(module, "config", None) is model.config:
            handed = _handed_on(type(module).forward).items()
            own = {name: getattr(module, x, None) for name, x in handed if name not in arguments}
            check_known(module, own)


@cache
def _handed_on(forward: Callable[..., Any]) -> dict[str, str]:
    """The attributes that a module's pass hands to the attention it looks up, by the name of the
    argument: {"s_aux": "sinks"} of `attention(self, ..., s_aux=self.sinks)`."""
    forward = inspect.unwrap(forward)
    code = getattr(forward, "__code__", None)
    if code is None or _INTERFACE not in code.co_names:
        return {}
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(forward)))
    except (OSError, SyntaxError, TypeError):
        return {}  # a model without its source, such as one made in a shell
    nodes, itself = list(ast.walk(tree)), code.co_varnames[:1]
    attention = {
        target.id
        for node in nodes
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(target, ast.Name)
        and any(isinstance(x, ast.Name) and x.id == _INTERFACE for x in ast.walk(node.value))
    }
    return {
        word.arg: word.value.attr
        for node in nodes
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in attention
        for word in node.keywords
        if word.arg is not None
        and isinstance(word.value, ast.Attribute)
        and isinstance(word.value.value, ast.Name)
        and word.value.value.id in itself
    }
