"""Gemma 3n: where the tensors of its text model go; what sees and hears is passed over by name."""

from __future__ import annotations

from kept.models.families.gemma4 import BESIDE, UNUSED, WITHIN, outer_tensors, shared_tensors
from kept.models.family import Family
from kept.models.gemma3n import Gemma3n
from kept.models.gemma3n_config import (
    Gemma3nConfig,
    read_gemma3n_config,
    read_gemma3n_text_config,
)
from kept.models.weight_map import Placement, WeightMap

_OF_A_LAYER = {
    "altup.router_norm": "streams.norm",
    "laurel.linear_left": "side.left",
    "laurel.linear_right": "side.right",
    "laurel.post_laurel_norm": "side_norm",
}
_OF_STREAMS = {
    "altup.modality_router": "streams.router",
    "altup.prediction_coefs": "streams.prediction",
    "altup.correction_coefs": "streams.correction",
}


def _text_weights(config: Gemma3nConfig) -> WeightMap:
    return _weights(config, "model.", ("model.",), ())


def _weights_beside(config: Gemma3nConfig) -> WeightMap:
    return _weights(config, "", WITHIN, BESIDE)


def _weights(
    config: Gemma3nConfig, prefix: str, prefixes: tuple[str, ...], ignored: tuple[str, ...]
) -> WeightMap:
    width, streams = ("hidden_size",), ("altup_num_inputs", "hidden_size")
    found = outer_tensors(config, prefix)
    for index in range(config.num_streams - 1):
        for stored, here in (("projections", "spreads"), ("unembed_projections", "joins")):
            found[f"{prefix}altup_{stored}.{index}.weight"] = Placement(
                f"{here}.{index}.weight", config_fields=streams
            )
    for index, deviations in enumerate(config.deviations):
        there, here = f"{prefix}layers.{index}.", f"blocks.{index}."
        found |= shared_tensors(config, index, there, here, apart=deviations is not None)
        for stored, name in _OF_A_LAYER.items():
            found[f"{there}{stored}.weight"] = Placement(
                f"{here}{name}.weight", config_fields=(*width, "laurel_rank")
            )
        for stored, name in _OF_STREAMS.items():
            found[f"{there}{stored}.weight"] = Placement(f"{here}{name}", config_fields=streams)
        found[f"{there}altup.correct_output_scale"] = Placement(
            f"{here}input_scale", config_fields=width
        )
    optional = {"lm_head.weight", f"{prefix}embed_tokens.weight"}
    return WeightMap(
        found,
        optional=frozenset(optional) if config.tied else frozenset(),
        ignored=(r"rotary_emb\.", UNUSED, *ignored),
        prefixes=prefixes,
    )


FAMILIES = {
    "gemma3n": Family(
        "Gemma3nForConditionalGeneration", read_gemma3n_config, Gemma3n, _weights_beside
    ),
    "gemma3n_text": Family("Gemma3nForCausalLM", read_gemma3n_text_config, Gemma3n, _text_weights),
}
