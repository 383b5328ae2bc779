"""The cache that transformers takes as `past_key_values`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from os import PathLike
from typing import Any, Self

import torch
from torch import Tensor
from transformers.cache_utils import Cache as TransformersCache
from transformers.cache_utils import DynamicCache

from kept.cache import SLACK, Cache, KVShape, RingLayout, load_cache, make_cache, saved_shapes
from kept.errors import CacheError, OptionError
from kept.integrations.transformers.held import Held, whole
from kept.integrations.transformers.layer import KeptLayer
from kept.integrations.transformers.model import ATTENTION, SHARED, ModelLayers
from kept.integrations.transformers.versions import length_after_crop, shared_layer
from kept.ops import CrossView, plain_torch

Forgets = tuple[int, int] | None


class KeptCache(DynamicCache):
    """Keys and values of a decoder in a cache of kept: every layout, codec and operation.

    Made by `from_config`. A DynamicCache by name, which transformers asks for in places. Lengths
    advance once every layer of a pass has stored; a pass that fails is dropped by `abandon`, or by
    any operation but `update`. No gradient flows through what is stored. A deep copy is a fork: it
    shares what is stored until either writes.
    """

    layers: list[Any]

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
        self._dtypes: tuple[torch.dtype, torch.dtype] | None = None
        self._records, self._slack = False, 0
        windows = iter(zip(range(len(self._forgets)), self._forgets, strict=True))
        layers: list[Any] = []
        for number, (kind, window) in enumerate(model.kinds):
            if kind == SHARED:
                layers.append(shared_layer())
            else:
                layers.append(KeptLayer(self, number, *next(windows), window))
        TransformersCache.__init__(self, layers=layers)

    @classmethod
    def from_config(
        cls,
        config: Any,
        *,
        layout: str = "dynamic",
        kv_dtype: str | None = None,
        max_cache_len: int | None = None,
        sliding_window: int | None = None,
        num_sinks: int = 0,
        slack: int = SLACK,
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
            "slack": slack,
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
        trial = make([KVShape(1, 1, window) for window in model.windows])
        return cls(model, make, _forgets(model, trial), capacity=trial.max_length, lends=lends)

    def __repr__(self) -> str:
        held = "empty" if self._stored is None else repr(self._stored)
        return f"<{type(self).__name__} of {len(self.layers)} layers: {held}>"

    @property
    def num_tokens(self) -> int:
        """How many tokens of each sequence were stored, by every layer."""
        return 0 if self._stored is None else self._stored.lengths[0]

    @property
    def num_bytes(self) -> int:
        """Bytes that its buffers take, unused capacity included."""
        return 0 if self._stored is None else self._stored.num_bytes

    @property
    def is_initialized(self) -> bool:
        """Whether anything is stored."""
        return self.num_tokens > 0

    # Storing

    @plain_torch()
    def store(self, k: Tensor, v: Tensor, layer: KeptLayer) -> tuple[Tensor, Tensor]:
        """Append one layer's new keys and values (B, G, T, D); what `update` comes down to.

        Returns what the new tokens may attend, (B, G, S, D) in the dtypes given, as views of what
        is stored where that is possible; read them before the next operation. For a model with
        attn_implementation="kept" they stand for what is stored and are expanded only if looked at.
        """
        cache = self._stored
        if cache is None:
            shape = k.shape[1], k.shape[3]
            shapes = [KVShape(*shape, window) for window in self._model.windows]
            cache = self._stored = self._make(
                shapes, num_slots=k.shape[0], dtype=k.dtype, device=k.device
            )
        if k.device != cache.device:
            raise CacheError(
                f"layer {layer.number} brings keys on {k.device} and this cache is on "
                f"{cache.device}; kept keeps a cache on one device, so put the model on one"
            )
        num_tokens = layer.num_tokens(k.shape[2])
        if self._records:
            self._keep_for_crop(cache, k.shape[2])
        view = cache.put(k, v, layer.index)
        assert not isinstance(view, CrossView), "an encoder's keys have a cache of their own"
        self._dtypes = k.dtype, v.dtype
        held = Held(view, self._model, layer.number, num_tokens, layer.forgets, self._dtypes)
        if self._lends and self._model.uses_kept_attention:
            return held.tensors()
        return held.dense

    def abandon(self) -> None:
        """Drop a pass that not every layer has taken part in."""
        if self._stored is not None:
            self._stored.abandon()

    # Moving

    def activate_past_recording(self) -> None:
        """From now on rings keep what a `crop` of the last pass needs, until there is one."""
        self._records = True

    def _keep_for_crop(self, cache: Cache, num_new: int) -> None:
        for ring in _rings(cache):
            self._slack = self._slack or ring.slack
            ring.slack = max(self._slack, num_new)

    def _end_recording(self) -> None:
        if self._stored is not None and self._slack:
            for ring in _rings(self._stored):
                ring.slack = self._slack
        self._slack = 0

    def crop(self, tokens_to_remove: int) -> None:
        """Remove tokens from the end: a negative number of them (in transformers 4.57 also: a
        positive number is the length to keep).

        Raises CacheError, changing nothing, where a ring has dropped what it would need.
        """
        if self._stored is not None:
            after = length_after_crop(self.num_tokens, int(tokens_to_remove))
            self._stored.truncate(after)
            self._end_recording()

    def reset(self) -> None:
        """Forget every token; buffers stay allocated."""
        if self._stored is not None:
            self._stored.reset()

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Sequence i becomes a copy of what sequence beam_idx[i] was."""
        self.batch_select_indices(beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat each sequence in place: 0, 0, 1, 1, ... for 2."""
        if self._stored is not None and self.num_tokens:
            self._stored.repeat(repeats)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these sequences only, in this order. indices: numbers, or a mask over them."""
        if self._stored is not None and self.num_tokens:
            every = torch.arange(self._stored.num_slots, dtype=torch.int64, device="cpu")
            self._stored.select(every[torch.as_tensor(indices, device="cpu")].tolist())

    def fork(self) -> Self:
        """An independent cache with the same content; what is stored is copied when written to."""
        stored = None if self._stored is None else self._stored.fork()
        twin = type(self)(
            self._model,
            self._make,
            self._forgets,
            capacity=self.capacity,
            stored=stored,
            lends=self._lends,
        )
        twin._dtypes, twin._records, twin._slack = self._dtypes, self._records, self._slack
        return twin

    def __deepcopy__(self, memo: Any) -> Self:
        return self.fork()

    # Reading

    @plain_torch()
    def contents(self, index: int) -> tuple[Tensor, Tensor] | tuple[None, None]:
        """Keys and values (B, G, S, D) of a layer, of which a ring gives its window."""
        cache = self._stored
        if cache is None or not self.num_tokens:
            return None, None
        layout = cache.layouts[index]
        if isinstance(layout, RingLayout):
            pairs = cache.layer(index, max(0, self.num_tokens - layout.window + 1))
            keys, values = (torch.stack(x) for x in zip(*pairs, strict=True))
        else:
            keys, values = whole(cache.layers[index], self.num_tokens, cache.device).stored()
        dtypes = self._dtypes or (keys.dtype, values.dtype)
        return keys.to(dtypes[0]), values.to(dtypes[1])

    def save(self, path: str | PathLike[str], *, fingerprint: str = "") -> None:
        """Write what it holds to a file of kept's own format, marked with the model's config.

        fingerprint: what `load` has to name as well, such as a checkpoint's name and revision: the
        config does not tell weights apart. Raises CacheError if there is nothing to save, or it
        cannot be written.
        """
        if self._stored is None:
            raise CacheError("this cache has never held a token; run a model before saving it")
        self._end_recording()
        self._stored.save(path, fingerprint=f"{self._model.fingerprint} {fingerprint}")

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
        stored = load_cache(path, saved_shapes(path), fingerprint=mark, device=device)
        return cls(
            model,
            make_cache,
            _forgets(model, stored),
            capacity=stored.max_length,
            stored=stored,
            lends=lends,
        )


def _rings(cache: Cache) -> list[RingLayout]:
    return [layout for layout in dict.fromkeys(cache.layouts) if isinstance(layout, RingLayout)]


def _forgets(model: ModelLayers, cache: Cache) -> list[Forgets]:
    """(window, sinks) of each layer of a cache that keeps less than the model attends.

    Raises OptionError if there are any, and the model does not attend through kept.
    """
    found: list[Forgets] = []
    for window, layout in zip(model.windows, cache.layouts, strict=True):
        less = isinstance(layout, RingLayout) and (layout.window != window or layout.sinks > 0)
        found.append((layout.window, layout.sinks) if less else None)  # type: ignore[attr-defined]
    if any(found) and not model.uses_kept_attention:
        raise OptionError(
            "with this sliding_window and num_sinks the cache forgets tokens that the "
            f"{model.config.model_type} model's own masks show, which only kept's attention can "
            f"honour; load the model with attn_implementation={ATTENTION!r}, or leave them out"
        )
    return found
