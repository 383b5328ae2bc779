"""The pair of caches that an encoder-decoder model takes: its own tokens, and the encoder's."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any, Self

import torch
from transformers.cache_utils import EncoderDecoderCache

from kept.errors import OptionError
from kept.integrations.transformers.cache import KeptCache
from kept.integrations.transformers.model import ModelLayers

_OWN, _CROSS = "decoder.safetensors", "encoder.safetensors"


class KeptEncoderDecoderCache(EncoderDecoderCache):
    """An EncoderDecoderCache of two `KeptCache`s; every operation is done to both."""

    self_attention_cache: KeptCache
    cross_attention_cache: KeptCache

    @classmethod
    def from_config(cls, config: Any, *, kv_dtype: str | None = None) -> Self:
        """An empty pair for models of this config, which grow as they need to.

        kv_dtype: as `kept.make_cache` takes it, for both. Raises OptionError for a decoder alone,
        or for what cannot be had.
        """
        own, cross = _layers(config)
        options = {"kind": "dynamic", "kv_dtype": kv_dtype, "max_cache_len": None}
        return cls(KeptCache._of(own, options), KeptCache._of(cross, options, lends=False))

    def save(self, folder: str | PathLike[str], *, fingerprint: str = "") -> None:
        """Write both to a folder, which is made if need be; see `KeptCache.save`."""
        place = Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        self.self_attention_cache.save(place / _OWN, fingerprint=fingerprint)
        self.cross_attention_cache.save(place / _CROSS, fingerprint=fingerprint)

    @classmethod
    def load(
        cls,
        folder: str | PathLike[str],
        config: Any,
        *,
        fingerprint: str = "",
        device: torch.device | str = "cpu",
    ) -> Self:
        """The pair that `save` wrote; see `KeptCache.load`."""
        own, cross = _layers(config)
        place = Path(folder)
        return cls(
            KeptCache._load(place / _OWN, own, fingerprint, device),
            KeptCache._load(place / _CROSS, cross, fingerprint, device, lends=False),
        )


def _layers(config: Any) -> tuple[ModelLayers, ModelLayers]:
    if not config.is_encoder_decoder:
        raise OptionError(
            f"{config.model_type} is no encoder-decoder; make its cache with KeptCache.from_config"
        )
    return ModelLayers.read_decoder(config), ModelLayers.read_cross(config)
