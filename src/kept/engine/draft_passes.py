"""The passes of a draft model, and how long they take."""

from __future__ import annotations

import time
from collections.abc import Sequence

from kept.batch import pack
from kept.engine.draft_keys import DraftKeys, DraftSlot
from kept.engine.draft_model import DraftModel
from kept.engine.step_time import attended_by
from kept.models import NextLogits, RepeatedStep


class DraftPasses:
    """Reads tokens behind what slots hold. Every pass mutates the cache of the keys, and counts
    towards what is known of the model's speed."""

    def __init__(self, draft: DraftModel, keys: DraftKeys) -> None:
        self._model, self._keys, self._times = draft.model, keys, draft.worth.step_time

    def run(
        self, slots: Sequence[DraftSlot], tokens: Sequence[Sequence[int]], top_k: int = 0
    ) -> NextLogits:
        """Read tokens behind what slots hold; mutates the cache. top_k: 0: nothing is drawn."""
        begin = time.perf_counter()
        past = [slot.num + len(slot.fed) for slot in slots]
        batch = pack(
            tokens,
            past=past,
            slots=[slot.number for slot in slots],
            last_of=[int(top_k > 0)] * len(slots),
            device=self._model.device,
        )
        found = self._model.next_logits(batch, self._keys.cache, top_k)
        if not top_k:
            for slot, new in zip(slots, tokens, strict=True):
                slot.num += len(new)
        attended = sum(attended_by(p, len(new)) for p, new in zip(past, tokens, strict=True))
        rows = sum(map(len, tokens))
        self._times.observe(rows, attended, time.perf_counter() - begin)
        return found

    def run_again(
        self, slots: Sequence[DraftSlot], tokens: list[int], again: RepeatedStep | None, top_k: int
    ) -> NextLogits:
        """Read one token more of each slot."""
        if again is None:
            found = self.run(slots, [[token] for token in tokens], top_k)
        else:
            begin = time.perf_counter()
            found = again.run(tokens)
            attended = sum(slot.num + len(slot.fed) + 1 for slot in slots)
            self._times.observe(len(slots), attended, time.perf_counter() - begin)
        for slot, token in zip(slots, tokens, strict=True):
            slot.fed.append(token)
        return found
