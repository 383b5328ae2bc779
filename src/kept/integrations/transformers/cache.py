"""The cache that transformers takes as `past_key_values`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import count
from os import PathLike
from typing import Any, Self

import torch
from torch import Tensor
from transformers.cache_utils import Cache as TransformersCache
from transformers.cache_utils import DynamicCache

from kept.cache import Cache, load_cache, make_cache, saved_shapes
from kept.errors import CacheError, OptionError
from kept.integrations.transformers.forgets import Forgets, forgets_of
from kept.integrations.transformers.gradient import followed, grows_a_graph
from kept.integrations.transformers.held import Held
from kept.integrations.transformers.layer import KeptCrossLayer, KeptLayer
from kept.integrations.transformers.model import CROSS, SHARED, ModelLayers
from kept.integrations.transformers.moves import Moves
from kept.integrations.transformers.versions import shared_layer
from kept.ops import CrossView, KVDtype, plain_torch


class KeptCache(Moves, DynamicCache):
    """Keys and values of a decoder in a cache of kept: every layout, codec and operation.

    Made by `from_config`. A DynamicCache by name, which transformers asks for in places. Lengths
    advance once every layer of a pass has stored; a pass that fails is dropped by `abandon`, or by
    any operation but `update`. Gradients reach the keys and values of a pass, not those that
    earlier ones stored; where they would have to, `backward` raises. A deep copy is a fork: it
    shares what is stored until either writes. A pickle holds all that is stored.
    """

    def __init__(
        self,
        model: ModelLayers,
        make: Callable[..., Cache],
        forgets: Sequence[Forgets],
        *,
        capacity: int | None = None,
        stored: Cache | None = None,
        lends: bool = True,
    ) -> None:
        """See `from_config`. make: of shapes, slots, dtype and device. forgets: (window, sinks) of
        each layer that keeps less than the model attends. capacity: tokens that a sequence can have
        at most. lends: whether kept's attention may read it in place."""
        self._model, self._make, self._forgets, self._lends = model, make, tuple(forgets), lends
        self._stored, self.capacity = stored, capacity
        self._dtypes = None
        self._records = False
        self._graphed = None
        windows = iter(zip(range(len(self._forgets)), self._forgets, strict=True))
        crossing = count(len(self._forgets))
        layers: list[Any] = []
        for number, (kind, window) in enumerate(model.kinds):
            if kind == SHARED:
                layers.append(shared_layer())
            elif kind == CROSS:
                layers.append(KeptCrossLayer(self, number, next(crossing)))
            else:
                layers.append(KeptLayer(self, number, *next(windows), window))
        TransformersCache.__init__(self, layers=layers)

    @classmethod
    def from_config(
        cls,
        config: Any,
        *,
        layout: str = "dynamic",
        kv_dtype: KVDtype | None = None,
        max_cache_len: int | None = None,
        sliding_window: int | None = None,
        num_sinks: int = 0,
    ) -> Self:
        """An empty cache for models of this config; `model.config` of a decoder.

        layout, kv_dtype and what follows: as `kept.make_cache` takes them (`kind` is `layout`). It
        learns heads, head size, batch, dtype and device from the first keys it is given. Fewer
        tokens than the model attends (`sliding_window`, `num_sinks`) need a model with
        attn_implementation="kept". Raises OptionError for what cannot be had.
        """
        if config.is_encoder_decoder:
            raise OptionError(
                f"{config.model_type} is an encoder-decoder; make its pair of caches with "
                "KeptEncoderDecoderCache.from_config"
            )
        options = {
            "kind": layout,
            "kv_dtype": kv_dtype,
            "max_cache_len": max_cache_len,
            "sliding_window": sliding_window,
            "num_sinks": num_sinks,
            "in_blocks": False,  # so that masked tokens can be left out in place
        }
        return cls._of(ModelLayers.read(config), options)

    @classmethod
    def _of(cls, model: ModelLayers, options: dict[str, Any], *, lends: bool = True) -> Self:
        if options["kind"] == "evicting":
            raise OptionError(
                "transformers gives a whole prompt in one step and masks by position, which an "
                "evicting cache does not follow; use layout='sliding', or generate with kept.LLM"
            )
        make: Callable[..., Cache] = partial(make_cache, **options)
        # One that stores next to nothing: options are refused now rather than in the first pass.
        trial = make(model.shapes(1, 1, 1))
        forgets = forgets_of(model, trial)
        return cls._made(model, make, forgets, capacity=trial.max_length, lends=lends)

    @classmethod
    def _made(cls, *args: Any, **kwargs: Any) -> Self:
        cache = cls.__new__(cls)
        KeptCache.__init__(cache, *args, **kwargs)  # a class of caches may be made by less
        return cache

    # Storing

    @plain_torch()
    def store(self, k: Tensor, v: Tensor, layer: KeptLayer) -> tuple[Tensor, Tensor]:
        """Append one layer's new keys and values (B, G, T, D); what `update` comes down to.

        Returns what the new tokens may attend, (B, G, S, D) in the dtypes given, as views of what
        is stored where that is possible; read them before the next operation. For a model with
        attn_implementation="kept" they stand for what is stored and are expanded only if looked at.
        """
        cache = self._cache_for(k, v, layer)
        num_tokens = layer.num_tokens(k.shape[2])
        if self._records and layer.index == 0:
            self._keep_for_crop(cache)
        past, dtypes = self.num_tokens, (k.dtype, v.dtype)
        view = cache.put(k, v, layer.index)
        self._dtypes = dtypes
        if isinstance(view, CrossView):
            keys, values = (x.to(of) for x, of in zip(view.dense(), dtypes, strict=True))
            return self._followed((keys, values), (k, v), 0)
        held = Held(view, self._model, layer.number, num_tokens, layer.forgets, dtypes)
        if grows_a_graph(k, v):
            return self._followed(held.dense, (k, v), past)
        if self._lends and self._model.uses_kept_attention:
            return held.tensors()
        return held.dense

    def _followed(
        self, dense: tuple[Tensor, Tensor], new: tuple[Tensor, Tensor], past: int
    ) -> tuple[Tensor, Tensor]:
        """What is handed out under autograd, after `past` tokens."""
        if not grows_a_graph(*new):
            return dense
        assert self._stored is not None
        codec, earlier = self._stored.codec, self._graphed is not None and self._graphed < past
        if not earlier:
            self._graphed = past
        keys = followed(dense[0], new[0], codec.keys, earlier=earlier)
        return keys, followed(dense[1], new[1], codec.values, earlier=earlier)

    def _cache_for(self, k: Tensor, v: Tensor, layer: KeptLayer) -> Cache:
        """What stores a layer's keys and values: made by the first of them, and each layer's shape
        told by its own first."""
        cache, sizes = self._stored, (k.shape[1], k.shape[3], v.shape[3])
        if cache is None:
            shapes = self._model.shapes(*sizes)
            cache = self._stored = self._make(
                shapes, num_slots=k.shape[0], dtype=k.dtype, device=k.device
            )
        if k.device != cache.device:
            raise CacheError(
                f"layer {layer.number} brings keys on {k.device} and this cache is on "
                f"{cache.device}; kept keeps a cache on one device, so put the model on one"
            )
        shape = cache.shapes[layer.index]
        wanted = replace(shape, num_kv_heads=k.shape[1], head_dim=k.shape[3], value_dim=v.shape[3])
        if shape != wanted and not self.num_tokens:
            cache.reshape(layer.index, wanted)
        return cache

    # Copies

    @classmethod
    def from_legacy_cache(cls, *args: Any, **kwargs: Any) -> Self:
        """Refuse to be made of tuples, which DynamicCache of transformers 4.57 is."""
        raise OptionError(
            "a kept cache needs the model's config, which tuples of keys and values do not have; "
            "make it with from_config(model.config), and update() each layer with its pair"
        )

    def fork(self) -> Self:
        """An independent cache with the same content; what is stored is copied when written to."""
        stored = None if self._stored is None else self._stored.fork()
        twin = self._made(
            self._model,
            self._make,
            self._forgets,
            capacity=self.capacity,
            stored=stored,
            lends=self._lends,
        )
        twin._dtypes, twin._records = self._dtypes, self._records
        twin._graphed = self._graphed
        return twin

    def __deepcopy__(self, memo: Any) -> Self:
        return self.fork()

    # Files

    def save(self, path: str | PathLike[str], *, fingerprint: str = "") -> None:
        """Write what it holds to a file of kept's own format, marked with the model's config.

        fingerprint: what `load` has to name as well, such as a checkpoint's name and revision: the
        config does not tell weights apart. Raises CacheError if there is nothing to save, or it
        cannot be written.
        """
        self.to_save().save(path, fingerprint=f"{self._model.fingerprint} {fingerprint}")

    def to_save(self) -> Cache:
        """What `save` writes. Raises CacheError if there is nothing."""
        if self._stored is None:
            raise CacheError("this cache has never held a token; run a model before saving it")
        return self._stored

    @classmethod
    def load(
        cls,
        path: str | PathLike[str],
        config: Any,
        *,
        fingerprint: str = "",
        device: torch.device | str = "cpu",
    ) -> Self:
        """The cache that `save` wrote; it goes on with the very same bits.

        config: the model's. Raises CacheError for a damaged file, another model's config or another
        fingerprint.
        """
        return cls._load(path, ModelLayers.read(config), fingerprint, device)

    @classmethod
    def _load(
        cls,
        path: str | PathLike[str],
        model: ModelLayers,
        fingerprint: str,
        device: torch.device | str,
        *,
        lends: bool = True,
    ) -> Self:
        mark = f"{model.fingerprint} {fingerprint}"
        shapes = saved_shapes(path)
        stored = load_cache(path, shapes, fingerprint=mark, device=device, in_blocks=False)
        return cls._made(
            model,
            partial(make_cache, in_blocks=False),
            forgets_of(model, stored),
            capacity=stored.max_length,
            stored=stored,
            lends=lends,
        )
