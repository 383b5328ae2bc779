"""What a cache needs to know of a transformers model, read from its config."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from kept.cache import KVShape
from kept.errors import OptionError
from kept.integrations.transformers.versions import WINDOWED, LayerKind, layer_kinds

ATTENTION = "kept"  # what the attention is registered as
SHARED = "dummy"  # a layer that stores nothing: it reads what another one stored
CROSS = "cross_attention"  # a layer that stores what an encoder of the model's made, once
# Of a config, what says nothing about the keys that a model computes.
_PASSING = (
    "_name_or_path", "architectures", "attn_implementation", "chunk_size_feed_forward", "dtype",
    "id2label", "label2id", "output_attentions", "output_hidden_states", "problem_type",
    "return_dict", "tie_word_embeddings", "torch_dtype", "transformers_version", "use_cache",
)  # fmt: skip


@dataclass(frozen=True)
class ModelLayers:
    """A decoder's config, and the kind of each of its layers."""

    config: Any
    kinds: tuple[LayerKind, ...]

    @classmethod
    def read(cls, config: Any) -> ModelLayers:
        """The layers that a model of this config asks a cache for.

        Raises OptionError for layers that no cache of kept can hold.
        """
        decoder = config.get_text_config(decoder=True)
        crossing = getattr(decoder, "cross_attention_layers", None) or ()  # Mllama's
        kinds = tuple(
            (CROSS, None) if index in crossing else kind
            for index, kind in enumerate(layer_kinds(decoder))
        )
        known = ("full_attention", *WINDOWED, SHARED, CROSS)
        for index, (kind, window) in enumerate(kinds):
            if kind not in known or (kind in WINDOWED and window is None):
                raise OptionError(
                    f"layer {index} of this {decoder.model_type} model is {kind!r}, and kept holds "
                    "keys and values of full and sliding attention only; use transformers' own "
                    "cache for it"
                )
        if all(kind in (SHARED, CROSS) for kind, _ in kinds):
            raise OptionError(f"this {decoder.model_type} model has no layers that store keys")
        return cls(decoder, kinds)

    @classmethod
    def read_cross(cls, config: Any) -> ModelLayers:
        """The layers' attention to the encoder: as many, and none with a window."""
        decoder = config.get_text_config(decoder=True)
        return cls(decoder, (("full_attention", None),) * _num_layers(decoder))

    @classmethod
    def read_decoder(cls, config: Any) -> ModelLayers:
        """`read` of the decoder in an encoder-decoder model, which may have its own depth."""
        found = cls.read(config)
        missing = _num_layers(found.config) - len(found.kinds)
        kinds = found.kinds[: _num_layers(found.config)] + (found.kinds[-1],) * missing
        return cls(found.config, kinds)

    @property
    def windows(self) -> tuple[int | None, ...]:
        """Of each layer that stores the model's own tokens."""
        return tuple(window for kind, window in self.kinds if kind not in (SHARED, CROSS))

    @property
    def num_cross(self) -> int:
        """How many layers store what an encoder made of its input."""
        return sum(kind == CROSS for kind, _ in self.kinds)

    def shapes(self, heads: int, width: int, value_width: int) -> list[KVShape]:
        """What layers store, own ones first, as far as a first layer tells: others `reshape`."""
        own = [KVShape(heads, width, window, value_dim=value_width) for window in self.windows]
        return own + [KVShape(heads, width, cross=True)] * self.num_cross

    @property
    def uses_kept_attention(self) -> bool:
        """Whether the model attends through kept, as its config says now."""
        return bool(self.config._attn_implementation == ATTENTION)

    @cached_property
    def fingerprint(self) -> str:
        """Of everything in the config that decides what keys and values a model computes."""
        fields = {k: v for k, v in self.config.to_dict().items() if k not in _PASSING}
        text = json.dumps([fields, self.kinds], sort_keys=True, default=str)
        digest = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
        return f"transformers {self.config.model_type} {digest}"

    def check_same(self, config: Any, layer: int) -> None:
        """Raise OptionError if a model's layer is not of the kind that the cache was made for."""
        if config is self.config or ModelLayers.read(config).kinds[layer] == self.kinds[layer]:
            return
        raise OptionError(
            f"this cache was made for a {self.config.model_type} model whose layer {layer} is "
            f"{self.kinds[layer]}, and the {config.model_type} model that uses it has another "
            "there; make the cache with from_config(model.config)"
        )


def _num_layers(decoder: Any) -> int:
    # T5 counts its decoder's layers apart; transformers gives other decoders' as their own.
    return int(getattr(decoder, "num_decoder_layers", None) or decoder.num_hidden_layers)
