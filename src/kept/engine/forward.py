"""The passes of the model: what is due, or one token more of every sequence."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from kept.batch import Batch, pack
from kept.engine.passes import Work
from kept.engine.residents import Residents
from kept.models import CausalLM, NextLogits, RepeatedStep


class Forward:
    """Runs work over one model and the cache of its residents."""

    def __init__(
        self, model: CausalLM, residents: Residents, use_torch: Callable[[], None]
    ) -> None:
        """use_torch: to be called before torch is asked for anything."""
        self._model, self._residents, self._use_torch = model, residents, use_torch
        # One token more of every sequence, for as long as none comes, goes or moves.
        self._repeated: tuple[list[Work], RepeatedStep] | None = None

    @property
    def is_prepared(self) -> bool:
        """Whether the next pass, if it gives one token to every sequence, is a single call."""
        return self._repeated is not None and self._repeated[1].room > 0

    @property
    def prepared(self) -> list[Work]:
        """What that pass does, where it `is_prepared`."""
        assert self._repeated is not None
        return self._repeated[0]

    def forget(self) -> None:
        """Prepare the next pass anew: sequences have come, gone or moved."""
        self._repeated = None

    def run(self, work: list[Work], top_k: int, is_decode: bool) -> NextLogits:
        """Compute what is due; mutates the cache. top_k: see `CausalLM.next_logits`.

        is_decode: this is one token of every sequence, so the next passes may be the same.
        """
        self.forget()
        cache = self._residents.cache
        if is_decode and cache is not None and self._model.native is not None:
            slots = [slot for item in work if (slot := item.continuation.slot) is not None]
            repeated = self._model.repeat(tuple(slots), cache, top_k, self._adapters(work))
            if repeated is not None:
                found = self._run(work, repeated)
                # A prompt's last token may have been among these, and is not in what follows.
                self._repeated = [item._replace(is_prompt=False) for item in work], repeated
                return found
        self._use_torch()
        return self._model.next_logits(self._batch(work), cache, top_k)

    def repeat(self) -> tuple[list[Work], NextLogits]:
        """What the last pass did, one token on, where it `is_prepared`."""
        assert self._repeated is not None
        work, repeated = self._repeated
        self._repeated = None  # until that is done
        return work, self._run(work, repeated)

    def _run(self, work: list[Work], repeated: RepeatedStep) -> NextLogits:
        found = repeated.run([item.continuation.history.last for item in work])
        self._repeated = work, repeated
        return found

    def _batch(self, work: Sequence[Work]) -> Batch:
        has_slots = self._residents.cache is not None  # which hold what they attend
        tokens, past, totals, wanted, sources, slots = [], [], [], [], [], []
        for item in work:
            c = item.continuation
            begin, count = c.offset + c.num_computed, item.num_known
            is_last = begin + count == len(c.history)
            new = c.history.tokens[begin : begin + count].tolist
            known = [c.history.last] if is_last and count == 1 else new()
            tokens.append([*known, *item.drafts])
            past.append(c.num_computed)
            totals.append(len(c.history) - c.offset)
            wanted.append(1 + len(item.drafts) if is_last else 0)
            sources.append(None if has_slots else c.source)
            slots.append(c.slot)
        return pack(
            tokens,
            past=past,
            totals=totals,
            slots=[slot for slot in slots if slot is not None] if has_slots else None,
            last_of=wanted,
            sources=sources,
            adapters=self._adapters(work),
            device=self._model.device,
        )

    def _adapters(self, work: Sequence[Work]) -> tuple[int, ...]:
        """Which of the model's adapters each sequence goes through; empty: none does."""
        asked = [item.request.adapter for item in work]
        if not any(asked):
            return ()
        known = self._model.adapters
        return tuple(-1 if each is None else known.index(each) for each in asked)
