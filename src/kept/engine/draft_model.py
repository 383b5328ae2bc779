"""A draft model, and what is known of its speed and its guesses."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Final

from kept.batch import pack
from kept.cache import make_cache
from kept.engine.model_worth import ModelWorth
from kept.engine.step_time import MANY_ROWS, attended_by
from kept.models import CausalLM

TIMES: Final = 3  # that each is measured; the first touches new memory


@dataclass(frozen=True, slots=True)
class DraftModel:
    """A smaller decoder of the same vocabulary as the model whose texts it drafts. worth: what all
    engines that ask it have learned, each in the turn of that model."""

    model: CausalLM
    worth: ModelWorth = field(default_factory=ModelWorth)

    @classmethod
    def measured(cls, model: CausalLM) -> DraftModel:
        """One that has run on a few tokens, so that its time is known before a text pays for it."""
        found = cls(model)
        found._measure()
        return found

    def _measure(self) -> None:
        cache = make_cache(self.model.kv_shapes, dtype=self.model.dtype)
        count = min(MANY_ROWS, self.model.config.context - TIMES)
        with self.model.running():
            for rows in (*(count,) * TIMES, *(1,) * TIMES):
                if rows > 1:
                    cache.truncate(0)
                [past] = cache.lengths
                begin = time.perf_counter()
                batch = pack([[0] * rows], past=[past], last_of=[1])
                self.model.next_logits(batch, cache, 2)
                seconds = time.perf_counter() - begin
                self.worth.step_time.observe(rows, attended_by(past, rows), seconds)
