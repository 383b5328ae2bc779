"""A file for each family that a `DecoderConfig` or a `Seq2SeqConfig` describes."""

from __future__ import annotations

from collections.abc import Mapping

from kept.models.families import (
    bart,
    bloom,
    cohere,
    exaone4,
    falcon,
    gemma3n,
    gemma4,
    glm,
    gpt_neo,
    gpt_neox,
    gptj,
    granite,
    internlm2,
    m2m_100,
    marian,
    mbart,
    minicpm,
    mistral3,
    mpt,
    olmo,
    opt,
    pegasus,
    phi,
    smollm3,
    stablelm,
    starcoder2,
)
from kept.models.family import Family

_EACH: tuple[Mapping[str, Family], ...] = (
    bloom.FAMILIES,
    cohere.FAMILIES,
    exaone4.FAMILIES,
    falcon.FAMILIES,
    gemma3n.FAMILIES,
    gemma4.FAMILIES,
    glm.FAMILIES,
    gpt_neo.FAMILIES,
    gpt_neox.FAMILIES,
    gptj.FAMILIES,
    granite.FAMILIES,
    internlm2.FAMILIES,
    minicpm.FAMILIES,
    mistral3.FAMILIES,
    mpt.FAMILIES,
    olmo.FAMILIES,
    opt.FAMILIES,
    phi.FAMILIES,
    smollm3.FAMILIES,
    stablelm.FAMILIES,
    starcoder2.FAMILIES,
)
_EACH_WITH_ENCODER: tuple[Mapping[str, Family], ...] = (
    bart.FAMILIES,
    m2m_100.FAMILIES,
    marian.FAMILIES,
    mbart.FAMILIES,
    pegasus.FAMILIES,
)
DECODERS: Mapping[str, Family] = {
    kind: family for families in _EACH for kind, family in families.items()
}
ENCODER_DECODERS: Mapping[str, Family] = {
    kind: family for families in _EACH_WITH_ENCODER for kind, family in families.items()
}

__all__ = ["DECODERS", "ENCODER_DECODERS"]
