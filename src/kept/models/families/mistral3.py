"""The text of Mistral Small 3.1 and its like, which also see: a Mistral, the rest passed over."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from kept.errors import UnsupportedModelError
from kept.models.family import Family
from kept.models.fields import Fields
from kept.models.llama import Llama, LlamaConfig, llama_weight_map, read_llama_config
from kept.models.weight_map import WeightMap


def read_mistral3_config(config: dict[str, Any]) -> LlamaConfig:
    """Read config.json of model type mistral3: its text model alone."""
    outer = Fields(config)
    outer.text_config()
    text = config["text_config"]
    kind = text.get("model_type", "mistral")
    if kind != "mistral":
        raise UnsupportedModelError(
            f"config.json's text_config has model_type = {kind!r}, and kept runs the text of "
            "mistral3 models whose text_config is of type mistral"
        )
    found = read_llama_config({**text, "model_type": "mistral"})
    return replace(found, tied=outer.flag("tie_word_embeddings", True))


def mistral3_weight_map(config: LlamaConfig) -> WeightMap:
    """Where the text model's tensors go; those of images are passed over by their names."""
    plain = llama_weight_map(config)
    return WeightMap(
        {name.removeprefix("model."): place for name, place in plain.placements.items()},
        optional=frozenset(name.removeprefix("model.") for name in plain.optional),
        ignored=(*plain.ignored, r"(^|\.)vision_tower\.", r"(^|\.)multi_modal_projector\."),
        # As transformers 5 names them, and as it did before.
        prefixes=("model.language_model.", "language_model.model.", "language_model."),
        may_untie=True,
    )


FAMILIES = {
    "mistral3": Family(
        "Mistral3ForConditionalGeneration", read_mistral3_config, Llama, mistral3_weight_map
    )
}
