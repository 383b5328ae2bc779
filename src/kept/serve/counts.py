"""What a text has taken so far, told in the time of a token however long the text is."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from kept.engine import Continuation
from kept.serve.tenants import own_reason


@dataclass(frozen=True, slots=True)
class Count:
    """The counts and times of a `Completion`, by the same names, without all of its text.

    num_tokens: drawn. reasoning_tokens: those of them with which the reasoning has ended, its marks
    included.
    """

    prompt_index: int
    prompt_tokens: int
    cached_from: Mapping[str, int]
    computed_tokens: int
    miss_reason: str | None
    queue_time: float | None
    time_to_first_token: float | None
    total_time: float
    num_tokens: int
    reasoning_tokens: int
    drafted_tokens: int
    accepted_tokens: int

    @property
    def cached_tokens(self) -> int:
        """Of the prompt, wherever they were found."""
        return sum(self.cached_from.values())


def count_of(text: Continuation, prompt_index: int, reasoned: int) -> Count:
    """The count of a text as it is now, of whose characters so many are reasoning."""
    usage, first = text.usage, text.first_token_at
    return Count(
        prompt_index=prompt_index,
        prompt_tokens=text.history.num_prompt if text.source is None else len(text.source),
        cached_from=dict(usage.cached),
        computed_tokens=usage.num_computed,
        miss_reason=own_reason(usage.miss),
        queue_time=None if usage.admitted is None else usage.admitted - usage.arrived,
        time_to_first_token=None if first is None else first - usage.arrived,
        total_time=(text.last_token_at or time.perf_counter()) - usage.arrived,
        num_tokens=text.history.num_generated,
        reasoning_tokens=text.tokens_of(reasoned),
        drafted_tokens=text.num_drafted,
        accepted_tokens=text.num_accepted,
    )
