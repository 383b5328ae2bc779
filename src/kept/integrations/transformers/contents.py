"""What a kept cache holds, as transformers asks for it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kept.cache import BlockLayout, Cache
from kept.integrations.transformers.forgets import Forgets
from kept.integrations.transformers.gradient import EARLIER, refused
from kept.integrations.transformers.held import whole
from kept.ops import plain_torch


class Contents:
    """The side of a `KeptCache` that is read.

    _stored: None until the first keys come. _forgets: of each layer with tokens of the model's own.
    _dtypes: of the keys and values that came. _graphed: the first token that was stored under
    autograd.
    """

    layers: list[Any]
    _stored: Cache | None
    _forgets: tuple[Forgets, ...]
    _dtypes: tuple[torch.dtype, torch.dtype] | None
    _graphed: int | None

    def __repr__(self) -> str:
        held = "empty" if self._stored is None else repr(self._stored)
        return f"<{type(self).__name__} of {len(self.layers)} layers: {held}>"

    @property
    def num_tokens(self) -> int:
        """How many tokens of each sequence were stored, by every layer."""
        return 0 if self._stored is None else self._stored.lengths[0]

    @property
    def num_cross_tokens(self) -> int:
        """Of an encoder's output that cross layers hold, 0: none."""
        return 0 if self._stored is None else self._stored.input_lengths[0]

    @property
    def dtype(self) -> torch.dtype | None:
        """That of the keys it was given, None: none yet."""
        return None if self._dtypes is None else self._dtypes[0]

    @property
    def device(self) -> torch.device | None:
        """Where they lie, None: there are none yet."""
        return None if self._stored is None else self._stored.device

    @property
    def num_sequences(self) -> int | None:
        """B, None: nothing is stored yet."""
        return None if self._stored is None else self._stored.num_slots

    @property
    def num_bytes(self) -> int:
        """Bytes that its buffers take, unused capacity included."""
        return 0 if self._stored is None else self._stored.num_bytes

    @property
    def is_initialized(self) -> bool:
        """Whether anything is stored."""
        return self.num_tokens > 0

    @plain_torch()
    def contents(self, index: int) -> tuple[Tensor, Tensor] | tuple[None, None]:
        """Keys and values (B, G, S, D) of a layer, those of its window where it has one."""
        cache = self._stored
        crossing = index >= len(self._forgets)
        if cache is None or not (self.num_cross_tokens if crossing else self.num_tokens):
            return None, None
        layout = None if crossing else cache.layouts[index]
        if layout is None or isinstance(layout, BlockLayout):
            begin = 0 if layout is None else max(0, self.num_tokens - (layout.window or 0) + 1)
            keys, values = (torch.stack(x) for x in zip(*cache.layer(index, begin), strict=True))
        else:
            keys, values = whole(cache.layers[index], self.num_tokens, cache.device).stored()
        dtypes = self._dtypes or (keys.dtype, values.dtype)
        keys, values = keys.to(dtypes[0]), values.to(dtypes[1])
        if self._graphed is not None and torch.is_grad_enabled():
            return refused(keys, EARLIER), refused(values, EARLIER)
        return keys, values
