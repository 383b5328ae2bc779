"""One layer of a kept cache, as transformers asks it for its sizes and contents."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import Tensor
from transformers.cache_utils import CacheLayerMixin

from kept.errors import CacheError
from kept.integrations.transformers.versions import query_length

if TYPE_CHECKING:
    from kept.integrations.transformers.cache import KeptCache


class KeptLayer(CacheLayerMixin):
    """A face of one layer; what it holds lies in its cache, with that of all other layers.

    number: the model's of the layer. index: among the layers that store something. forgets:
    (window, sinks) of the cache where it keeps less than the model attends. window: what the model
    lets a query see, None: everything.
    """

    is_compileable = False
    is_croppable = True

    def __init__(
        self,
        cache: KeptCache,
        number: int,
        index: int,
        forgets: tuple[int, int] | None,
        window: int | None,
    ) -> None:
        self._cache, self.number, self.index = cache, number, index
        self.forgets, self.window = forgets, window
        self.is_sliding = window is not None

    def __repr__(self) -> str:
        return f"<layer {self.number}: {self.get_seq_length()} tokens, window {self.window}>"

    @property
    def keys(self) -> Tensor | None:  # type: ignore[override]  # nobody else may set it
        """(B, G, S, D) what is stored, None: nothing; decoded anew each time it is asked for."""
        return self._cache.contents(self.index)[0]

    @property
    def values(self) -> Tensor | None:  # type: ignore[override]
        """See `keys`."""
        return self._cache.contents(self.index)[1]

    @property
    def is_initialized(self) -> bool:  # type: ignore[override]
        """Whether anything is stored."""
        return self.get_seq_length() > 0

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """See `KeptCache.store`; what else transformers hands over says nothing that it needs."""
        return self._cache.store(key_states, value_states, self)

    @property
    def dtype(self) -> torch.dtype | None:
        """That of the keys it was given, None: nothing yet."""
        return self._cache.dtype

    @property
    def device(self) -> torch.device | None:
        """Where they lie, None: nothing yet."""
        return self._cache.device

    @property
    def max_batch_size(self) -> int | None:
        """How many sequences it holds, None: nothing yet."""
        return self._cache.num_sequences

    def num_tokens(self, num_new: int) -> int:
        """How many tokens the model is handed once `num_new` more are stored: those that the
        first of these sees, and these."""
        past = self.get_seq_length()
        window, sinks = self.forgets or (self.window, 0)
        if window is None or past - window + 1 <= sinks:
            return past + num_new
        return sinks + window - 1 + num_new

    def get_mask_sizes(self, query: int | Tensor) -> tuple[int, int]:
        """(S, number of the first) of the tokens that `update` will hand out for this pass."""
        num_new = query_length(query)
        count = self.num_tokens(num_new)
        return count, self.get_seq_length() + num_new - count

    def get_seq_length(self) -> int:
        """How many tokens were stored, those that have left a window included."""
        return self._cache.num_tokens

    def get_max_length(self) -> int:
        """How many it can hold; -1: any number."""
        return self._cache.capacity or -1

    get_max_cache_shape = get_max_length  # its name in transformers 4.57

    def lazy_initialization(self, *args: Any) -> NoReturn:
        """Refuse to be made ahead of the first keys, as exporting and compiling would."""
        raise CacheError(
            "a cache of kept is made by its first update, and can be neither exported nor "
            "compiled; use transformers' StaticCache for that"
        )

    def _refuse(self, *args: Any) -> NoReturn:
        raise CacheError(
            "the layers of a kept cache move together; call the cache's own method of that name"
        )

    crop = batch_repeat_interleave = batch_select_indices = _refuse
    reset = reorder_cache = offload = prefetch = _refuse  # type: ignore[assignment]


class KeptCrossLayer(KeptLayer):
    """A layer that stores an encoder's output, as Mllama's do, in the pass that brings it."""

    def __init__(self, cache: KeptCache, number: int, index: int) -> None:
        super().__init__(cache, number, index, None, None)

    def get_seq_length(self) -> int:
        """How many tokens of an encoder's output are stored."""
        return self._cache.num_cross_tokens

    def num_tokens(self, num_new: int) -> int:
        """What `update` hands out is what it was given."""
        return num_new
