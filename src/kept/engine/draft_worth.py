"""How many drafts a pass verifies, by the tokens a second that come of it.

    without drafts    rows / plain
    with n of them    (rows + chance of the 1st + ... + chance of the nth) / seconds of so many rows

What a step takes beside its pass, as it is packed anew and cut back, is measured on the steps
themselves. Chances may deceive, and so may a fit; so what drafts have cost is kept account of:

    a step without drafts    pays in a hundredth of the time it took
    a step with drafts       pays in what its tokens would have taken without, less what it took

and while there is nothing in the purse nothing is drafted. A text that repeats nothing is so held
up by about a hundredth at most, and one that repeats itself pays for its tries.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from kept.engine.passes import Work
from kept.engine.residual import LATE, Residual
from kept.engine.step_time import TICK, StepTime, attended_by

SHARE: Final = 0.01  # of the time of steps without drafts, which those with drafts may lose
MOST_SAVED: Final = 8.0  # steps without drafts whose time the purse holds
MARGIN: Final = 1.03  # times as many tokens a second, below which nothing is drafted
LEAST_CHANCE: Final = 0.05  # of a draft that is thought about
MOST_ROWS: Final = 64  # of drafts in a pass: each has logits of the whole vocabulary
FIRST_EXTRA: Final = 0.1  # of a step, which one with drafts takes longer before any was seen
TELLS: Final = 8  # of so many steps without drafts, but the first, one tells how long they take
OUTLIER: Final = 2.0  # times what was expected, beyond which a step tells of something else


SUFFIX: Final = "suffix"  # where drafts of what came behind the same tokens before come from
MODEL: Final = "model"  # where those of a draft model do


class Hope(NamedTuple):
    """Drafts of a sequence of this number. chances: of each, that it comes and all before it.
    source: who drafted them."""

    number: int
    tokens: Sequence[int]
    chances: Sequence[float]
    source: str = SUFFIX


class DraftWorth:
    """Chooses drafts, and learns from the steps that were taken. step_time: of their passes."""

    def __init__(self, step_time: StepTime) -> None:
        self._step_time = step_time
        self._plain = Residual(step_time)  # of steps without drafts
        self._drafted = Residual(step_time)  # of those with some
        self._purse = 0.0
        self._expected: tuple[float, float] | None = None  # of the last drafts: without, and with
        self._was_drafted = False
        self._count = 0
        self._num_unprepared = 0  # steps without drafts since one needed no preparing

    @property
    def may_try(self) -> bool:
        """Whether drafts may be tried at all."""
        return self._purse > 0.0 and self._plain.seconds is not None

    def plain(self, work: Sequence[Work]) -> float | None:
        """Seconds of a step without drafts; None: that is not known yet. work: its own."""
        beside = self._plain.seconds
        if beside is None:
            return None
        return max(self._step_time.predict(len(work), _attended(work)) + beside, TICK)

    def with_drafts(self, work: Sequence[Work]) -> float:
        """Seconds of such a step where it is prepared for drafts, before any row of them."""
        plain = self.plain(work) or TICK
        base = self._step_time.predict(len(work), _attended(work))
        return max(base + self._extra(plain), TICK)

    def row_seconds(self, work: Sequence[Work], count: int) -> float:
        """Seconds that each of so many rows of drafts adds to such a step."""
        rows, attended = len(work), _attended(work)
        more = self._step_time.predict(rows + count, attended + count * attended // rows)
        return max(0.0, more - self._step_time.predict(rows, attended)) / count

    def _extra(self, plain: float) -> float:
        seen, beside = self._drafted.seconds, self._plain.seconds
        assert beside is not None
        return beside + FIRST_EXTRA * plain if seen is None else seen

    def choose(self, work: Sequence[Work], hopes: Sequence[Hope]) -> dict[int, int]:
        """How many drafts of each number are worth while. work: one token of everyone."""
        plain = self.plain(work)
        if not hopes or plain is None:
            return {}
        rows, attended = len(work), _attended(work)
        extra = self._extra(plain)
        ranked = sorted(
            (-c, i, j) for i, hope in enumerate(hopes) for j, c in enumerate(hope.chances)
        )
        most, best, taken = MARGIN * rows / plain, 0, float(rows)
        expected = plain
        for n, (chance, i, _) in enumerate(ranked[:MOST_ROWS], 1):
            taken -= chance
            attended += work[hopes[i].number].continuation.num_computed
            seconds = max(self._step_time.predict(rows + n, attended) + extra, TICK)
            if taken / seconds > most:
                most, best, expected = taken / seconds, n, seconds
        self._expected = plain, expected
        counts: dict[int, int] = {}
        for _, i, _ in ranked[:best]:
            counts[hopes[i].number] = counts.get(hopes[i].number, 0) + 1
        return counts

    def took(
        self,
        work: Sequence[Work],
        seconds: float,
        num_drawn: int,
        *,
        again: bool,
        num_of_model: int = 0,
    ) -> float:
        """Learn from a step that gave everyone one token or more. To be called before another is
        planned. work: of its pass. seconds: without those of a draft model. again: whether that
        needed no preparing. num_of_model: tokens that its drafts have brought; returns the seconds
        that these have spared more than their rows took."""
        if any(item.drafts for item in work):
            assert self._expected is not None
            plain, expected = self._expected
            seconds = min(seconds, OUTLIER * expected)
            rows = sum(item.num_new for item in work)
            self._drafted.add(rows, _attended(work), seconds)
            self._was_drafted = True
            of_model = sum(len(item.drafts) for item in work if item.source == MODEL)
            share, each = of_model / (rows - len(work)), plain / len(work)
            others = num_drawn - len(work) - num_of_model
            self._earn(others * each - (1 - share) * (seconds - plain), plain)
            return num_of_model * each - share * (seconds - plain)
        if self._was_drafted and not again and self._expected is not None:
            plain = self._expected[0]  # what it took more, the drafts before it are to blame for
            self._earn(min(0.0, plain - min(seconds, OUTLIER * plain)), plain)
        else:
            self._earn(SHARE * seconds, seconds)
            self._num_unprepared = 0 if again else self._num_unprepared + 1
            # The first step that is prepared takes longer than those that only repeat it.
            is_usual = again or self._num_unprepared > TELLS
            if is_usual and (self._count < LATE or not self._count % TELLS):
                self._plain.add(len(work), _attended(work), seconds)
            self._count += is_usual
        self._was_drafted = False
        return 0.0

    def _earn(self, seconds: float, step: float) -> None:
        self._purse = min(max(self._purse + seconds, -step), MOST_SAVED * step)


def _attended(work: Sequence[Work]) -> int:
    # After a step the tokens that it computed count as past, which is no matter.
    return sum(attended_by(item.continuation.num_computed, item.num_new) for item in work)
