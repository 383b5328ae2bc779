"""A file for each family that a `DecoderConfig` describes."""

from __future__ import annotations

from collections.abc import Mapping

from kept.models.families import (
    cohere,
    exaone4,
    glm,
    granite,
    olmo,
    phi,
    smollm3,
    stablelm,
    starcoder2,
)
from kept.models.family import Family

_EACH: tuple[Mapping[str, Family], ...] = (
    cohere.FAMILIES,
    exaone4.FAMILIES,
    glm.FAMILIES,
    granite.FAMILIES,
    olmo.FAMILIES,
    phi.FAMILIES,
    smollm3.FAMILIES,
    stablelm.FAMILIES,
    starcoder2.FAMILIES,
)
DECODERS: Mapping[str, Family] = {
    kind: family for families in _EACH for kind, family in families.items()
}

__all__ = ["DECODERS"]
