"""Whether a draft model is asked what comes next, and how far ahead.

    without drafts        rows / plain                                       tokens a second
    k tokens ahead of b   (rows + b (m + ... + m^k)) / (plain + k draft + b k rows verified)

m is how often a draft of it has come that all before it had led to; how sure the draft model was
says more of a single one. What its passes take is taken from an account, into which goes

    a share              of the time of steps without it, of which a text may have its own ahead
    what its drafts won  the time that the tokens they brought would have taken without

and nobody asks it while there is nothing there. A model that guesses badly so costs that share,
and once what was had ahead.
"""

from __future__ import annotations

from typing import Final

from kept.engine.draft_worth import MARGIN
from kept.engine.step_time import TICK, StepTime

SHARE: Final = 0.015  # of the time of steps without it, which it may cost
MOST_SAVED: Final = 64.0  # steps without drafts whose time the account holds
FIRST_MEAN: Final = 0.7  # how often a draft comes, before any did or did not
PRIOR: Final = 4.0  # drafts that count as much as that
KEEPS: Final = 63 / 64  # what a draft leaves of the weight of those before it
FULL: Final = 0.9  # of what the account holds, from where on a try is due in any case
TRIES: Final = 2  # tokens ahead, to learn whether drafts come by now
EDGES: Final = (0.25, 0.5, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0)  # by how much the likeliest leads

Sureness = tuple[bool, int]  # whether it was drawn other than as the likeliest, and its lead


def sureness(is_likeliest: bool, lead: float) -> Sureness:
    """How sure a model was of a draft. lead: of its likeliest token's score before the next."""
    return not is_likeliest, sum(lead >= edge for edge in EDGES)


class ModelWorth:
    """Decides by what is measured of draft model and drafts. step_time: of its passes."""

    def __init__(self) -> None:
        self.step_time = StepTime()
        self.balance = 0.0  # seconds
        self._drawing = 0.0  # seconds beside a pass
        self._seen: dict[Sureness, tuple[float, float]] = {}  # drafts verified, of them come
        self._all = 0.0, 0.0

    @property
    def mean(self) -> float:
        """How often a draft comes whose forerunners have."""
        tried, came = self._all
        return (came + PRIOR * FIRST_MEAN) / (tried + PRIOR)

    def chance(self, how: Sureness) -> float:
        """How often such a draft comes whose forerunners have."""
        tried, came = self._seen.get(how, (0.0, 0.0))
        return (came + PRIOR * self.mean) / (tried + PRIOR)

    def verified(self, how: Sureness, came: bool) -> None:
        """Learn of a draft whose forerunners have come."""
        tried, hits = self._seen.get(how, (0.0, 0.0))
        self._seen[how] = KEEPS * tried + 1.0, KEEPS * hits + came
        tried, hits = self._all
        self._all = KEEPS * tried + 1.0, KEEPS * hits + came

    def drew(self, seconds: float) -> None:
        """Learn what drawing the drafts of a pass takes."""
        self._drawing = seconds if not self._drawing else _mean(self._drawing, seconds)

    def draft_seconds(self, rows: int, attended: int) -> float:
        """What drafting one token more of so many sequences takes."""
        return self.step_time.predict(rows, attended) + self._drawing

    def spare(self, plain: float, num_left: int) -> float:
        """Seconds that it may spend. plain: of a step without drafts; num_left: steps that a text
        may go on for, which has its share of them ahead."""
        return self.balance + SHARE * plain * num_left

    def earn(self, seconds: float, plain: float) -> None:
        """Put into the account, or take out where negative. plain: seconds of a step."""
        self.balance = min(self.balance + seconds, MOST_SAVED * plain)

    def depth(
        self,
        rows: int,
        num_drafting: int,
        most: int,
        plain: float,
        with_drafts: float,
        draft: float,
        row: float,
    ) -> int:
        """How many tokens ahead seem worth while, 0: none.

        rows: of the step without drafts. plain, with_drafts, draft, row: seconds of it, of one that
        is prepared for drafts, of drafting a token of everyone who does, and of verifying one.
        """
        mean, best, found = self.mean, MARGIN * rows / max(plain, TICK), 0
        tokens, seconds, chance = float(rows), with_drafts, 1.0
        for count in range(1, most + 1):
            chance *= mean
            tokens += num_drafting * chance
            seconds += draft + num_drafting * row
            if tokens / max(seconds, TICK) > best:
                best, found = tokens / seconds, count
        if not found and self.balance > FULL * MOST_SAVED * plain:
            return min(TRIES, most)
        return found


def _mean(before: float, seen: float) -> float:
    return KEEPS * before + (1 - KEEPS) * seen
