"""What a pass has found becomes tokens, and sequences move on."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from kept.engine.continuation import Continuation
from kept.engine.counters import Counters
from kept.engine.drawing import Row, draw, together
from kept.engine.group import Draw, Drawn, Move
from kept.engine.passes import Work
from kept.engine.request import Event, Request
from kept.models import NextLogits


class Settling:
    """Draws for all groups at once, and has each take what was drawn for it.

    What fails in a group's draws or texts ends that group, or the one text, and no other.
    """

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        # Of those whose group is not ready yet too: what a pass found, and their row of it.
        self._rows: dict[Continuation, Row] = {}
        # Whose group an exception may have left half done, and who lives on from whose keys in the
        # groups of the step, where that changes, until the slots have these keys.
        self.taking: Request | None = None
        self.changed: list[tuple[Request, list[Move]]] = []

    def forget(self, continuations: Sequence[Continuation] | None = None) -> None:
        """Forget what was found for some continuations, None: for all."""
        for continuation in list(self._rows) if continuations is None else continuations:
            self._rows.pop(continuation, None)

    def note(self, work: Sequence[Work], found: NextLogits) -> None:
        """Count what a pass has computed, and keep the rows of its logits."""
        row = 0
        for item in work:
            continuation, num_new = item.continuation, item.num_new
            if num_new == continuation.num_pending:
                self._rows[continuation] = found, row
                row += 1
            continuation.num_computed += num_new
            continuation.usage.num_computed += num_new

    def settle(self, running: Sequence[Request], found: NextLogits) -> list[Event]:
        """Draw for every group that has all of its rows; `changed` says whose slots have to change.

        Returns events of the texts that have a token more. `found` may be written to afterwards.
        """
        rows = self._rows
        ready = [r for r in running if r.group.live and all(c in rows for c in r.group.live)]
        draws = [request.group.draws() for request in ready]
        drawn = self._draw([d for each in draws for d in each])
        events: list[Event] = []
        begin = 0
        for request, each in zip(ready, draws, strict=True):
            end = begin + len(each)
            before = request.group.live
            self._take(request, drawn[begin:end])
            begin = end
            events += [Event(request, d.continuation) for d in each]
            for continuation in before:
                rows.pop(continuation, None)
        self._counters.generated_tokens += len(events)
        for continuation, (of, index) in rows.items():
            if of is found:  # the next pass may write where these lie
                rows[continuation] = of.row(index), 0
        return events

    def _draw(self, draws: Sequence[Draw]) -> list[Drawn]:
        try:
            return draw(draws, self._rows)
        except Exception as error:  # of all of them, who may not have been at fault
            return [error] * len(draws)

    def _take(self, request: Request, drawn: Sequence[Drawn]) -> None:
        self.taking = request
        before = request.group.live
        try:
            moves = request.group.settle(drawn, partial(_logits_of, self._rows, before))
        except Exception as error:
            request.group.fail(error)
            moves = []
        if len(moves) != len(before) or any(m.continuation is not m.parent for m in moves):
            self.changed.append((request, moves))
        self.taking = None


def _logits_of(rows: dict[Continuation, Row], live: Sequence[Continuation]) -> NextLogits:
    return together([rows[continuation] for continuation in live])
