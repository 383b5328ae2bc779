"""The config.json of a model small enough to generate with in milliseconds."""

from collections.abc import Mapping
from typing import Any

TINY: Mapping[str, Any] = {
    "model_type": "qwen2",
    "vocab_size": 61,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 96,
    "tie_word_embeddings": True,
}
