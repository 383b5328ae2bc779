"""The pair of caches that an encoder-decoder model takes: its own tokens, and the encoder's."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from os import PathLike
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, Self

import torch
from transformers.cache_utils import EncoderDecoderCache

from kept.errors import CacheError, OptionError
from kept.integrations.transformers.cache import KeptCache
from kept.integrations.transformers.model import ModelLayers
from kept.ops import KVDtype
from kept.paths import read_path

_OWN, _CROSS = "decoder.safetensors", "encoder.safetensors"


class KeptCrossCache(KeptCache):
    """The keys and values of an encoder's output, in a cache that a config alone makes: T5Gemma
    makes the cross cache of a pair anew, by `type(cross_cache)(config=...)`.

    kv_dtype: see `cross_cache`, which makes the classes in use.
    """

    kv_dtype: ClassVar[KVDtype | None] = None

    def __init__(self, config: Any, *, offloading: bool = False) -> None:
        """An empty one for decoders of this config. Raises OptionError for offloading."""
        if offloading:
            raise OptionError(
                "a kept cache is not offloaded; leave cache_implementation out, or store less with "
                "kv_dtype='int8'"
            )
        made = KeptCache._of(ModelLayers.read_cross(config), _options(self.kv_dtype), lends=False)
        super().__init__(made._model, made._make, made._forgets, lends=False)

    def __reduce__(self) -> Any:
        return _blank, (self.kv_dtype,), self.__dict__


@cache
def cross_cache(kv_dtype: KVDtype | None) -> type[KeptCrossCache]:
    """The class of cross caches that store as `kv_dtype`."""
    return type(KeptCrossCache.__name__, (KeptCrossCache,), {"kv_dtype": kv_dtype})


def _blank(kv_dtype: KVDtype | None) -> KeptCrossCache:
    made = cross_cache(kv_dtype)
    return made.__new__(made)


def _options(kv_dtype: KVDtype | None) -> dict[str, Any]:
    return {"kind": "dynamic", "kv_dtype": kv_dtype, "max_cache_len": None, "in_blocks": False}


class KeptEncoderDecoderCache(EncoderDecoderCache):
    """An EncoderDecoderCache of two `KeptCache`s; every operation is done to both."""

    self_attention_cache: KeptCache
    cross_attention_cache: KeptCache

    @classmethod
    def from_config(cls, config: Any, *, kv_dtype: KVDtype | None = None) -> Self:
        """An empty pair for models of this config, which grow as they need to.

        kv_dtype: as `kept.make_cache` takes it, for both. Raises OptionError for a decoder alone,
        or for what cannot be had.
        """
        own, _ = _layers(config)
        cache = KeptCache._of(own, _options(kv_dtype))  # refuses what is no kv_dtype
        if not isinstance(kv_dtype, str | None):
            kv_dtype = kv_dtype[0], kv_dtype[1]  # of a list, which no class can be kept by
        return cls(cache, cross_cache(kv_dtype)(config))

    def save(self, folder: str | PathLike[str], *, fingerprint: str = "") -> None:
        """Write both to a folder, which is made if need be; see `KeptCache.save`.

        Raises OptionError for what names no folder, CacheError if either holds nothing or cannot be
        written; what was there before is then unchanged.
        """
        place = read_path(folder, "the folder of a pair of caches")
        pair = {_OWN: self.self_attention_cache, _CROSS: self.cross_attention_cache}
        for part in pair.values():
            part.to_save()
        with _beside(place) as made:
            for name, part in pair.items():
                part.save(made / name, fingerprint=fingerprint)

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
        place = read_path(folder, "the folder of a pair of caches")
        return cls(
            KeptCache._load(place / _OWN, own, fingerprint, device),
            cross_cache(None)._load(place / _CROSS, cross, fingerprint, device, lends=False),
        )


def _layers(config: Any) -> tuple[ModelLayers, ModelLayers]:
    if not config.is_encoder_decoder:
        raise OptionError(
            f"{config.model_type} is no encoder-decoder; make its cache with KeptCache.from_config"
        )
    return ModelLayers.read_decoder(config), ModelLayers.read_cross(config)


@contextmanager
def _beside(place: Path) -> Iterator[Path]:
    """A new folder for a pair, whose files move to `place` once both are written. Raises CacheError
    where they cannot."""
    exists = os.path.isdir(place)
    for file in (place / _OWN, place / _CROSS):
        if os.path.exists(file) and not os.path.isfile(file):
            raise CacheError(f"{file} is no file, and in the way of one; name another folder")
    try:
        if not exists and os.path.lexists(place):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        # Within a folder that is there: nothing around it need be writable, or on the same disk.
        around = place if exists else place.parent
        around.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=".pair-", dir=around) as temporary:
            made = Path(temporary) / "pair"
            made.mkdir()  # with the rights of any other folder, which a temporary one has not
            yield made
            if not exists:
                made.rename(place)
                return
            # Two moves, with nothing between them that is known to fail.
            for name in (_OWN, _CROSS):
                os.replace(made / name, place / name)
    except OSError as error:
        raise CacheError(
            f"{place} cannot be made to save caches in ({error.strerror}); name a folder, or "
            "one in a folder that can be written to"
        ) from error
