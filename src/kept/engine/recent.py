"""What an engine has done last: its steps and the requests that have ended, some of each."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from typing import Final

from kept.engine.passes import Work
from kept.engine.request import Phase, Request
from kept.engine.view import RequestNote, StepNote

STEPS: Final = 1024  # remembered
REQUESTS: Final = 256


class Recent:
    """Notes of the last steps and requests. Written in the model's turn, and read there."""

    def __init__(self) -> None:
        self.steps: deque[StepNote] = deque(maxlen=STEPS)
        self.ended: deque[RequestNote] = deque(maxlen=REQUESTS)

    def stepped(
        self,
        number: int,
        num_running: int,
        seconds: float,
        work: Sequence[Work],
        num_drawn: int,
        *,
        is_repeated: bool,
    ) -> None:
        """Note a step that computed `work`. is_repeated: everyone's next token and nothing else."""
        decoded, read, drafted = len(work), 0, 0
        if not is_repeated:
            decoded = 0
            for item in work:
                if item.is_prompt:
                    read += item.num_new
                else:
                    decoded += item.num_known
                    drafted += len(item.drafts)
        self.steps.append(
            StepNote(
                number, time.monotonic(), seconds, read, decoded, drafted, num_drawn, num_running
            )
        )

    def over(self, request: Request) -> None:
        """Note a request that has ended."""
        reason = request.group.results[0].finish_reason or "interrupted"
        self.ended.append(note_of(request, reason, time.monotonic()))


def note_of(request: Request, state: str, ended: float | None = None) -> RequestNote:
    """A request as it stands."""
    texts = request.group.results if ended is not None else request.group.members
    first = texts[0]
    usage, now = first.usage, time.perf_counter()
    at = first.first_token_at
    return RequestNote(
        number=request.number,
        tenant=request.tenant,
        priority=request.priority,
        state=state,
        waits_for=_lacks(request) if state == "waiting" else None,
        age=now - usage.arrived,
        prompt_tokens=first.history.num_prompt if first.source is None else len(first.source),
        cached_from=dict(usage.cached),
        miss_reason=usage.miss_reason,
        miss=usage.miss,
        computed_tokens=usage.num_computed,
        generated_tokens=sum(c.history.num_generated for c in texts),
        drafted_tokens=sum(c.num_drafted for c in texts),
        accepted_tokens=sum(c.num_accepted for c in texts),
        queue_time=None if usage.admitted is None else usage.admitted - usage.arrived,
        time_to_first_token=None if at is None else at - usage.arrived,
        ended=ended,
    )


def _lacks(request: Request) -> str:
    if request.phase is Phase.HELD:
        return "prefix"
    return "memory" if request.refused_with is not None else "slots"
