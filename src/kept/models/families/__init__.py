"""A file for each family that a `DecoderConfig` describes."""

from __future__ import annotations

from collections.abc import Mapping

from kept.models.families import (
    phi,
)
from kept.models.family import Family

_EACH: tuple[Mapping[str, Family], ...] = (phi.FAMILIES,)
DECODERS: Mapping[str, Family] = {
    kind: family for families in _EACH for kind, family in families.items()
}

__all__ = ["DECODERS"]
