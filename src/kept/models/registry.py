"""Which families kept runs, and the model that a config.json describes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch

from kept.errors import CheckpointError, KeptError, OptionError, UnsupportedModelError
from kept.models.causal_lm import CausalLM
from kept.models.deepseek import Deepseek
from kept.models.deepseek_config import read_deepseek_config
from kept.models.deepseek_weights import DEEPSEEK_NAMES, deepseek_weight_map
from kept.models.families import DECODERS, ENCODER_DECODERS
from kept.models.family import Family
from kept.models.gemma import Gemma, gemma3_weight_map, gemma_weight_map
from kept.models.gemma_config import read_gemma3_config, read_gemma_config
from kept.models.gpt2 import GPT2, gpt2_weight_map, read_gpt2_config
from kept.models.gpt_oss import (
    GPT_OSS_NAMES,
    GptOss,
    gpt_oss_weight_map,
    read_gpt_oss_config,
)
from kept.models.llama import Llama, llama_weight_map, read_llama_config
from kept.models.mixture import (
    MIXTRAL_NAMES,
    QWEN_MOE_NAMES,
    Mixture,
    mixtral_weight_map,
    qwen_moe_weight_map,
)
from kept.models.mixture_config import read_mixture_config
from kept.models.model_config import ModelConfig
from kept.models.olmoe import Olmoe, olmoe_weight_map, read_olmoe_config
from kept.models.t5 import T5
from kept.models.t5_config import read_mt5_config, read_t5_config
from kept.models.t5_weights import t5_weight_map


def _llama(architecture: str, *aliases: str) -> Family:
    return Family(architecture, read_llama_config, Llama, llama_weight_map, aliases)


def _qwen_moe(architecture: str) -> Family:
    return Family(
        architecture, read_mixture_config, Mixture, qwen_moe_weight_map,
        expert_names=QWEN_MOE_NAMES,
    )  # fmt: skip


def _deepseek(architecture: str) -> Family:
    return Family(
        architecture, read_deepseek_config, Deepseek, deepseek_weight_map,
        expert_names=DEEPSEEK_NAMES,
    )  # fmt: skip


def _gemma(architecture: str) -> Family:
    return Family(architecture, read_gemma_config, Gemma, gemma_weight_map)


FAMILIES: Mapping[str, Family] = {
    **DECODERS,
    **ENCODER_DECODERS,
    "deepseek_v2": _deepseek("DeepseekV2ForCausalLM"),
    "deepseek_v3": _deepseek("DeepseekV3ForCausalLM"),
    "gemma": _gemma("GemmaForCausalLM"),
    "gemma2": _gemma("Gemma2ForCausalLM"),
    "gemma3": Family(
        "Gemma3ForConditionalGeneration", read_gemma3_config, Gemma, gemma3_weight_map
    ),
    "gemma3_text": _gemma("Gemma3ForCausalLM"),
    # trl's first models for PPO; their value head is no part of the model.
    "gpt2": Family(
        "GPT2LMHeadModel", read_gpt2_config, GPT2, gpt2_weight_map, ("GPT2HeadWithValueModel",)
    ),
    "gpt_oss": Family(
        "GptOssForCausalLM",
        read_gpt_oss_config,
        GptOss,
        gpt_oss_weight_map,
        expert_names=GPT_OSS_NAMES,
        quantized_as=("mxfp4",),
    ),
    "llama": _llama("LlamaForCausalLM", "LLaMAForCausalLM"),
    "mistral": _llama("MistralForCausalLM"),
    "mixtral": Family(
        "MixtralForCausalLM",
        read_mixture_config,
        Mixture,
        mixtral_weight_map,
        expert_names=MIXTRAL_NAMES,
    ),
    "mt5": Family("MT5ForConditionalGeneration", read_mt5_config, T5, t5_weight_map),
    "olmoe": Family(
        "OlmoeForCausalLM",
        read_olmoe_config,
        Olmoe,
        olmoe_weight_map,
        expert_names=QWEN_MOE_NAMES,
    ),
    "qwen2": _llama("Qwen2ForCausalLM"),
    "qwen2_moe": _qwen_moe("Qwen2MoeForCausalLM"),
    "qwen3": _llama("Qwen3ForCausalLM"),
    "qwen3_moe": _qwen_moe("Qwen3MoeForCausalLM"),
    "t5": Family(
        "T5ForConditionalGeneration", read_t5_config, T5, t5_weight_map, ("T5WithLMHeadModel",)
    ),
}

ENCODERS = frozenset(
    {
        "albert",
        "bert",
        "big_bird",
        "camembert",
        "convbert",
        "deberta",
        "deberta-v2",
        "distilbert",
        "electra",
        "ernie",
        "esm",
        "eurobert",
        "fnet",
        "funnel",
        "ibert",
        "layoutlm",
        "longformer",
        "luke",
        "megatron-bert",
        "mobilebert",
        "modernbert",
        "mpnet",
        "mra",
        "nezha",
        "nomic_bert",
        "nystromformer",
        "rembert",
        "roberta",
        "roberta-prelayernorm",
        "roformer",
        "splinter",
        "squeezebert",
        "tapas",
        "xlm-roberta",
        "xlm-roberta-xl",
        "xmod",
        "yoso",
    }
)


# Families of which some layers keep a state instead of keys and values.
RECURRENT = frozenset(
    {
        "bamba",
        "falcon_h1",
        "falcon_mamba",
        "granitemoehybrid",
        "jamba",
        "kimi_linear",
        "lfm2",
        "lfm2_moe",
        "mamba",
        "mamba2",
        "minimax",
        "nemotron_h",
        "olmo_hybrid",
        "qwen3_5",
        "qwen3_5_moe",
        "qwen3_5_text",
        "qwen3_next",
        "recurrent_gemma",
        "rwkv",
        "xlstm",
        "zamba",
        "zamba2",
    }
)

# Relatives of encoder-decoders that kept runs, and what sets them apart.
RELATIVES: Mapping[str, str] = {
    "bigbird_pegasus": "whose encoder attends some blocks of its input",
    "led": "whose encoder attends windows of its input",
    "longt5": "whose encoder attends windows of its input, or summaries beside them",
    "nllb-moe": "some of whose layers are experts, in encoder and decoder",
    "pegasus_x": "whose encoder attends blocks of its input and tokens that are there for all",
}


def find_family(config: Mapping[str, Any]) -> Family:
    """The family of a config.json.

    Raises UnsupportedModelError that names `model_type` or `architectures`, and lists what runs.
    """
    kind = config.get("model_type")
    known = "those of model_type " + ", ".join(sorted(FAMILIES))
    if isinstance(kind, str) and kind in ENCODERS:
        raise UnsupportedModelError(
            f"config.json has model_type = {kind!r}, an encoder: it generates no tokens one after "
            f"another, so there are no keys and values to cache. kept runs decoders: {known}"
        )
    if isinstance(kind, str) and kind in RECURRENT:
        raise UnsupportedModelError(
            f"config.json has model_type = {kind!r}, some of whose layers keep a state that sums "
            "up the tokens so far, by convolutions or linear attention, and no keys and values: it "
            "cannot be cut back, forked at a token or shared by its blocks, as everything kept "
            f"holds can. It runs {known}"
        )
    if isinstance(kind, str) and kind in RELATIVES:
        raise UnsupportedModelError(
            f"config.json has model_type = {kind!r}, {RELATIVES[kind]}, which kept does not run. "
            f"It runs {known}"
        )
    if not isinstance(kind, str) or kind not in FAMILIES:
        raise UnsupportedModelError(
            f"config.json has model_type = {kind!r}, which kept does not know. It runs {known}"
        )
    family = FAMILIES[kind]
    named = config.get("architectures") or [family.architecture]
    base = re.sub("ForCausalLM|LMHeadModel|ForConditionalGeneration", "Model", family.architecture)
    known_names = (family.architecture, base, *family.aliases)
    if not isinstance(named, list) or not named or named[0] not in known_names:
        raise UnsupportedModelError(
            f"config.json has architectures = {named!r}, which has no language-model head kept "
            f"knows; for model_type {kind!r} it runs {family.architecture}"
        )
    return family


def read_config(config: Mapping[str, Any]) -> ModelConfig:
    """The family's config object for a config.json."""
    found: ModelConfig = find_family(config).read_config(dict(config))
    return found


def resolve_device(device: str | torch.device | None) -> torch.device:
    """The device asked for, or the CPU. Raises OptionError for one torch does not have."""
    try:
        found = torch.device(device or "cpu")
        torch.empty(0, dtype=torch.float32, device=found)
        if found.type == "meta":
            raise RuntimeError("it holds shapes and no numbers")
    except (RuntimeError, AssertionError, TypeError, ValueError) as error:  # torch's, by device
        reason = str(error).splitlines()[0]
        raise OptionError(f"device {str(device)[:100]!r} cannot be used: {reason}") from error
    return found


def build_model(config: Mapping[str, Any]) -> CausalLM:
    """A model of the config's shape with parameters on the meta device: shapes, no memory."""
    family = find_family(config)
    return shape_model(family, family.read_config(dict(config)))


def shape_model(family: Family, config: Any) -> CausalLM:
    """`build_model` of a config that its family has read."""
    try:
        return family.build(config)
    except KeptError:
        raise
    except RuntimeError as error:  # sizes within bounds one by one, whose product is not
        reason = str(error).splitlines()[0]
        raise CheckpointError(
            f"config.json describes matrices that no machine can hold ({reason}): {config}; "
            "correct its sizes"
        ) from error
