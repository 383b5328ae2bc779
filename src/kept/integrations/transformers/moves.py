"""How a kept cache is cut and moved, as transformers asks for it."""

from __future__ import annotations

import torch
from torch import Tensor

from kept.cache import Cache
from kept.integrations.transformers.contents import Contents
from kept.integrations.transformers.model import ModelLayers
from kept.integrations.transformers.versions import length_after_crop


class Moves(Contents):
    """The side of a `KeptCache` that changes what it holds without a pass.

    _records: whether a `crop` may take back the last pass.
    """

    _model: ModelLayers
    _records: bool

    def abandon(self) -> None:
        """Drop a pass that not every layer has taken part in."""
        if self._stored is not None:
            self._stored.abandon()

    def activate_past_recording(self) -> None:
        """From now on windows keep what a `crop` of the last pass needs."""
        self._records = True

    def _keep_for_crop(self, cache: Cache) -> None:
        """Let go of what passes before this one have left, and of nothing in it."""
        cache.let_go()
        cache.lets_go = False

    def crop(self, tokens_to_remove: int) -> None:
        """Remove tokens from the end: a negative number of them (in transformers 4.57 also: a
        positive number is the length to keep).

        Raises CacheError, changing nothing, where a window has let go of what it would need.
        """
        if self._stored is not None:
            after = length_after_crop(self.num_tokens, int(tokens_to_remove))
            self._stored.truncate(after)
            if self._graphed is not None and self._graphed >= after:
                self._graphed = None

    def reset(self) -> None:
        """Forget every token; buffers stay allocated."""
        if self._model.num_cross:
            self._stored = None  # an encoder's output stays with a cache of kept's when it is reset
        if self._stored is not None:
            self._stored.reset()
        self._graphed = None

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
