"""The rotary scaling of a GGUF file, as config.json writes it.

Llama 3.1's lies in a tensor, the factor of each pair, and not in what it is made by; LongRoPE's two
tables are tensors too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from kept.errors import UnsupportedModelError, WeightsError
from kept.gguf import GGUFHeader
from kept.models.fields import Fields
from kept.models.gguf_blocks import read_floats
from kept.models.rope import inverse_frequencies
from kept.models.rope_config import RopeConfig

FACTORS = "rope_freqs.weight"
LONG, SHORT = "rope_factors_long.weight", "rope_factors_short.weight"
_TYPES = ("none", "linear", "yarn")
# What Llama 3.1 and later were trained with; only the contexts are searched.
_LOW, _HIGH = 1.0, 4.0
_CONTEXTS = tuple(1 << n for n in (13, 12, 11, 14, 15, 16, 17))


def rope_scaling(
    header: GGUFHeader, fields: Fields, config: Mapping[str, Any]
) -> dict[str, Any] | None:
    """`rope_scaling` of config.json, None without one.

    fields: the architecture's metadata; config: the fields that are known. Raises
    UnsupportedModelError for a scaling that kept does not know, WeightsError for one of LongRoPE's
    tables without the other.
    """
    if FACTORS in header.tensors:
        return _of_factors(header, config)
    if LONG in header.tensors or SHORT in header.tensors:
        return _by_length(header, fields)
    kind = fields.choice("rope.scaling.type", "none", _TYPES)
    factor = fields.number("rope.scaling.factor", fields.number("rope.scale_linear", 1.0))
    if kind == "none" or (kind == "linear" and factor == 1):
        return None
    if kind == "linear":
        return {"rope_type": "linear", "factor": factor}
    fields.refuse("rope.scaling.attn_factor", 1.0, "its temperature follows from the factor")
    original = fields.integer(
        "rope.scaling.original_context_length", config["max_position_embeddings"]
    )
    return {
        "rope_type": "yarn",
        "factor": factor,
        "original_max_position_embeddings": original,
        "beta_fast": fields.number("rope.scaling.yarn_beta_fast", 32.0),
        "beta_slow": fields.number("rope.scaling.yarn_beta_slow", 1.0),
    }


def _by_length(header: GGUFHeader, fields: Fields) -> dict[str, Any]:
    """LongRoPE's, whose temperature a file states as well."""
    for name, other in ((LONG, SHORT), (SHORT, LONG)):
        if name not in header.tensors:
            raise WeightsError(
                f"{header.path} holds the rotary factors {other} and not {name}; download it again."
            )
    found: dict[str, Any] = {
        "rope_type": "longrope",
        "long_factor": read_floats(header.tensors[LONG]).flatten().tolist(),
        "short_factor": read_floats(header.tensors[SHORT]).flatten().tolist(),
    }
    if fields.has("rope.scaling.attn_factor"):
        found["attention_factor"] = fields.number("rope.scaling.attn_factor")
    return found


def _of_factors(header: GGUFHeader, config: Mapping[str, Any]) -> dict[str, Any]:
    stored = read_floats(header.tensors[FACTORS])
    factor = round(float(stored.max()), 4)
    for context in _CONTEXTS if stored.shape == (config["head_dim"] // 2,) else ():
        found = RopeConfig(
            "llama3", config["rope_theta"], config["head_dim"], context, factor, _LOW, _HIGH
        )
        if torch.allclose(_factors(found), stored, rtol=1e-3):
            return {
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": _LOW,
                "high_freq_factor": _HIGH,
                "original_max_position_embeddings": context,
            }
    raise UnsupportedModelError(
        f"{header.path} scales its rotary embedding by the factors {FACTORS}, which are not those "
        "of Llama 3.1 for any context. Load a checkpoint of safetensors, whose config.json says "
        "how they are made."
    )


def _factors(config: RopeConfig) -> Tensor:
    plain = RopeConfig("default", config.theta, config.dim, config.original_context)
    return inverse_frequencies(plain) / inverse_frequencies(config)
