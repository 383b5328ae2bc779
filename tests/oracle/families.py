"""Checkpoints of the families that a `DecoderConfig` describes, as the zoo has those of others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import (
    Phi3Config,
    Phi3ForCausalLM,
    PhiConfig,
    PhiForCausalLM,
    PreTrainedModel,
)

from .sizes import DYNAMIC_CONTEXT, LLAMA, longrope

MODELS: Mapping[str, tuple[type[PreTrainedModel], Any, Mapping[str, Any]]] = {
    "phi": (PhiForCausalLM, PhiConfig, LLAMA),
    "phi3": (Phi3ForCausalLM, Phi3Config, {**LLAMA, "pad_token_id": None}),
}
# The first of a family has its name; the others are what its configs can ask for besides.
FAMILIES: Mapping[str, Mapping[str, Any]] = {
    "phi": {},
    "phi3": {},
    "phi3 window": {"sliding_window": 7},
    "phi3 partial": {"partial_rotary_factor": 0.5, "tie_word_embeddings": True},
    "phi3 long": {
        "original_max_position_embeddings": DYNAMIC_CONTEXT,
        **longrope(4),
    },
}
FIRST = [name for name in FAMILIES if " " not in name]
