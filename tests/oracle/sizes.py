"""Sizes of the checkpoints, and fields that several of them share."""

from __future__ import annotations

from typing import Any

VOCAB = 97
# The context of the checkpoints that tests run to the end of.
SHORT = 20
# Where dynamic scaling begins: prompts of the tests are longer than this.
DYNAMIC_CONTEXT = 16

GPT2 = {"vocab_size": VOCAB, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}
LLAMA = {
    "vocab_size": VOCAB,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
THREE = {**LLAMA, "num_hidden_layers": 3}


def rope(kind: str, **fields: Any) -> dict[str, Any]:
    """A config's `rope_parameters`."""
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 1000.0, **fields}}


def yarn(**fields: Any) -> dict[str, Any]:
    """`rope_parameters` of type yarn, trained on 32 positions and stretched four times."""
    given = {"factor": 4.0, "original_max_position_embeddings": 32, **fields}
    return rope("yarn", **{name: value for name, value in given.items() if value != "absent"})


def longrope(pairs: int) -> dict[str, Any]:
    """`rope_parameters` of type longrope with factors that tell short texts from long ones."""
    short = [1.0 + 0.1 * i for i in range(pairs)]
    return rope("longrope", short_factor=short, long_factor=[2.0 * x for x in short])
