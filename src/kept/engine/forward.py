"""The passes of the model: what is due, or the last pass once more with the next tokens."""

from __future__ import annotations

from collections.abc import Sequence

from kept.batch import Batch, pack
from kept.engine.passes import Work
from kept.engine.residents import Residents
from kept.models import CausalLM, NextLogits, RepeatedStep


class Forward:
    """Runs work over one model and the cache of its residents."""

    def __init__(self, model: CausalLM, residents: Residents) -> None:
        self._model, self._residents = model, residents
        # Where the last pass gave every sequence one token, the next may be like it.
        self._last: tuple[list[Work], Batch] | None = None
        self._repeated: RepeatedStep | None = None

    @property
    def may_repeat(self) -> bool:
        """Whether the last pass gave every sequence one token, and none has come or gone since."""
        return self._last is not None

    @property
    def is_prepared(self) -> bool:
        """Whether the next pass, if it is like the last, is a single call."""
        return self._repeated is not None and self._repeated.room > 0

    @property
    def num_sequences(self) -> int:
        """Of the last pass, if the next may be like it."""
        return 0 if self._last is None else len(self._last[0])

    def forget(self) -> None:
        """Prepare the next pass anew: sequences have come, gone or moved."""
        self._last = self._repeated = None

    def run(self, work: list[Work], top_k: int, repeatable: bool) -> NextLogits:
        """Compute what is due; mutates the cache. top_k: see `CausalLM.next_logits`.

        repeatable: this is one token of every sequence, so the next pass may be the same.
        """
        self.forget()
        batch = self._batch(work)
        found = self._model.next_logits(batch, self._residents.cache, top_k)
        # No lease is granted on a cache with inputs, so nothing is to be evicted for one.
        may = self._model.native is not None and not self._model.is_encoder_decoder
        if repeatable and self._residents.cache is not None and may:
            self._last = work, batch
        return found

    def repeat(self, top_k: int) -> tuple[list[Work], NextLogits] | None:
        """What the last pass did, one token on; None where it cannot be had."""
        (last, repeated), self._last, self._repeated = (self._last, self._repeated), None, None
        if last is None or self._residents.cache is None:
            return None
        work, batch = last
        if repeated is None:
            repeated = self._model.repeat(batch, self._residents.cache, top_k)
        if repeated is None or not repeated.room:
            return None
        found = repeated.run([item.continuation.history.last for item in work])
        self._last, self._repeated = last, repeated
        return work, found

    def _batch(self, work: Sequence[Work]) -> Batch:
        has_slots = self._residents.cache is not None  # which hold what they attend
        tokens, past, totals, wanted, sources, slots = [], [], [], [], [], []
        for item in work:
            c = item.continuation
            begin, count = c.offset + c.num_computed, item.num_new
            is_last = begin + count == len(c.history)
            new = c.history.tokens[begin : begin + count].tolist
            tokens.append([c.history.last] if is_last and count == 1 else new())
            past.append(c.num_computed)
            totals.append(len(c.history) - c.offset)
            wanted.append(is_last)
            sources.append(None if has_slots else c.source)
            slots.append(c.slot)
        return pack(
            tokens,
            past=past,
            totals=totals,
            slots=[slot for slot in slots if slot is not None] if has_slots else None,
            last_of=wanted,
            sources=sources,
            device=self._model.device,
        )
