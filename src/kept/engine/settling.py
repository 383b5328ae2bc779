"""What a pass has found becomes tokens, and sequences move on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from kept.engine.continuation import Continuation
from kept.engine.counters import Counters
from kept.engine.drawing import Row, draw, together
from kept.engine.group import Draw, Drawn, Move
from kept.engine.passes import Work
from kept.engine.request import Event, Request
from kept.grammar import Ahead
from kept.models import NextLogits


class Settling:
    """Draws for all groups at once, and has each take what was drawn for it.

    What fails in a group's draws or texts ends that group, or the one text, and no other.
    """

    def __init__(self, counters: Counters, use_torch: Callable[[], None]) -> None:
        """use_torch: to be called before torch is asked for anything."""
        self._counters, self._use_torch = counters, use_torch
        # Of those whose group is not ready yet too: what a pass found, and their row of it.
        self._rows: dict[Continuation, Row] = {}
        # How many of its drafts a continuation went on from in this step.
        self.accepted: dict[Continuation, int] = {}
        # Whose group an exception may have left half done, and who lives on from whose keys in the
        # groups of the step, where that changes, until the slots have these keys.
        self.taking: Request | None = None
        self._ahead = Ahead()
        self.changed: list[tuple[Request, list[Move]]] = []

    def forget(self, continuations: Sequence[Continuation] | None = None) -> None:
        """Forget what was found for some continuations, None: for all."""
        for continuation in list(self._rows) if continuations is None else continuations:
            self._rows.pop(continuation, None)

    def note(self, work: Sequence[Work], found: NextLogits) -> None:
        """Count what a pass has computed, and keep the rows of its logits."""
        self.accepted = {}
        row = 0
        for item in work:
            continuation = item.continuation
            if item.num_known == continuation.num_pending:
                self._rows[continuation] = found, row
                row += 1
            continuation.num_computed += item.num_known
            continuation.usage.num_computed += item.num_new

    def settle(
        self, running: Sequence[Request], work: Sequence[Work], found: NextLogits
    ) -> list[Event]:
        """Draw for every group that has all of its rows, and on for those whose drafts were drawn;
        `changed` says whose slots have to change.

        work: of the pass that found these. Returns events of the texts that have a token more.
        `found` may be written to afterwards.
        """
        rows = self._rows
        ready: list[Request] = []
        draws: list[Draw] = []
        ends = []
        for request in running:
            live = request.group.live
            if live and rows.keys() >= set(live):
                ready.append(request)
                draws += request.group.draws()
                ends.append(len(draws))
        drawn = self._draw(draws)
        self._foresee(draws, drawn)
        events: list[Event] = []
        begin = 0
        for request, end in zip(ready, ends, strict=True):
            before = request.group.live
            self._take(request, drawn[begin:end])
            for continuation, _ in draws[begin:end]:
                events.append(Event(request, continuation))
            begin = end
            for continuation in before:
                rows.pop(continuation, None)
        drafted = [item for item in work if item.drafts]
        if drafted:
            events += self._verify(drafted, len(work), found)
        self._counters.generated_tokens += len(events)
        for continuation, (of, index) in rows.items():
            if of is found:  # the next pass may write where these lie
                self._use_torch()
                rows[continuation] = of.row(index), 0
        return events

    def _verify(self, drafted: Sequence[Work], num_rows: int, found: NextLogits) -> list[Event]:
        """Draw behind drafts, for as long as these are what was drawn. num_rows: of the logits,
        before those behind drafts."""
        counters, events = self._counters, list[Event]()
        counters.drafted_steps += 1
        going, depth = list(drafted), 0
        while going:
            behind = [item for item in drafted if depth < len(item.drafts)]
            rows = {item.continuation: num_rows + i for i, item in enumerate(behind)}
            num_rows, going = (
                num_rows + len(behind),
                [
                    item
                    for item in going
                    if depth < len(item.drafts)
                    and item.continuation.finish_reason is None
                    and item.continuation.history.last == item.drafts[depth]
                ],
            )
            for item in going:
                continuation = item.continuation
                self._rows[continuation] = found, rows[continuation]
                self.accepted[continuation] = depth + 1
                continuation.num_computed += 1
            draws = [Draw(item.continuation, item.continuation) for item in going]
            drawn = self._draw(draws)
            self._foresee(draws, drawn)
            for item, token in zip(going, drawn, strict=True):
                self._take_more(item, token)
                events.append(Event(item.request, item.continuation))
            depth += 1
        for item in drafted:
            num_accepted = self.accepted.get(item.continuation, 0)
            for count in (item.continuation.drafts, counters.drafts):
                count.add(item.source, len(item.drafts), num_accepted)
            self._rows.pop(item.continuation, None)
        return events

    def _take_more(self, item: Work, drawn: Drawn) -> None:
        request, group = item.request, item.request.group
        self.taking = request
        item.continuation.is_foreseen = True
        group.take_more(item.continuation, drawn)
        item.continuation.is_foreseen = False
        if item.continuation.finish_reason is not None:
            moves = [Move(continuation, continuation) for continuation in group.live]
            others = [entry for entry in self.changed if entry[0] is not request]
            self.changed = [*others, (request, moves)]
        self.taking = None

    def _draw(self, draws: Sequence[Draw]) -> list[Drawn]:
        try:
            return draw(draws, self._rows, self._use_torch)
        except Exception as error:  # of all of them, who may not have been at fault
            return [error] * len(draws)

    def _foresee(self, draws: Sequence[Draw], drawn: Sequence[Drawn]) -> None:
        """Begin to find out what grammars allow behind what was drawn, while texts take that and
        the next pass is computed."""
        rows = []
        for (continuation, _), found in zip(draws, drawn, strict=True):
            constraint = continuation.history.constraint
            if constraint is None or isinstance(found, Exception):
                continue
            if found[0] not in continuation.params.eos_token_ids:
                constraint.take(found[0])
                rows.append(constraint)
        if rows:
            self._ahead.start(rows)

    def _take(self, request: Request, drawn: Sequence[Drawn]) -> None:
        self.taking = request
        before = request.group.live
        try:
            moves = request.group.settle(
                drawn, partial(_logits_of, self._rows, before, self._use_torch)
            )
        except Exception as error:
            request.group.fail(error)
            moves = []
        stays = len(moves) == len(before)
        for continuation, parent in moves:
            stays = stays and continuation is parent
        if not stays:
            self.changed.append((request, moves))
        self.taking = None


def _logits_of(
    rows: dict[Continuation, Row], live: Sequence[Continuation], use_torch: Callable[[], None]
) -> NextLogits:
    use_torch()
    return together([rows[continuation] for continuation in live])
