"""How long prompts and answers are: a fixed number, a range, or published statistics of traffic."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal, Protocol

from kept.errors import OptionError


class Lengths(Protocol):
    """A distribution of lengths in tokens."""

    @property
    def words(self) -> str:
        """What it is, for a report."""

    @property
    def longest(self) -> float:
        """No draw is longer."""

    @property
    def given(self) -> bool:
        """Whether these very numbers are meant, whatever the model's context."""

    def draw(self, generator: random.Random) -> int:
        """A length, at least 1. Advances the generator."""

    def scaled(self, factor: float) -> Lengths:
        """The same distribution with every length times `factor`."""


@dataclass(frozen=True, slots=True)
class Between:
    """Every length from low to high as likely as another, both of them among these."""

    low: int
    high: int

    @property
    def words(self) -> str:
        """See `Lengths.words`."""
        return f"{self.low}" if self.low == self.high else f"{self.low}-{self.high}"

    @property
    def longest(self) -> float:
        """See `Lengths.longest`."""
        return self.high

    @property
    def given(self) -> bool:
        """See `Lengths.given`."""
        return True

    def draw(self, generator: random.Random) -> int:
        """See `Lengths.draw`."""
        return generator.randint(self.low, self.high)

    def scaled(self, factor: float) -> Between:
        """See `Lengths.scaled`."""
        return Between(max(round(factor * self.low), 1), max(round(factor * self.high), 1))


@dataclass(frozen=True, slots=True)
class Quantiles:
    """Lengths of which half, nine tenths and all but a hundredth are at most p50, p90 and p99.

    The logarithm of a length is linear in the share of those below it between these three, goes on
    past p99 as it came there, and begins as far below p50 as p90 is above. source: whose they are.
    """

    source: str
    p50: float
    p90: float
    p99: float

    @property
    def words(self) -> str:
        """See `Lengths.words`."""
        return f"{self.source} (median {self.p50:.0f})"

    @property
    def longest(self) -> float:
        """See `Lengths.longest`."""
        return self.at(1.0)

    @property
    def given(self) -> bool:
        """See `Lengths.given`."""
        return False

    def draw(self, generator: random.Random) -> int:
        """See `Lengths.draw`."""
        found = round(self.at(generator.random()))
        return max(min(found, math.floor(self.longest)), 1)

    def scaled(self, factor: float) -> Quantiles:
        """See `Lengths.scaled`."""
        some = (factor * length for length in (self.p50, self.p90, self.p99))
        return Quantiles(self.source, *some)

    def at(self, share: float) -> float:
        """The length that this share of all is below; share: 0 to 1."""
        low = self.p50 * self.p50 / self.p90
        if share <= 0.5:
            return _between(0.0, low, 0.5, self.p50, share)
        if share <= 0.9:
            return _between(0.5, self.p50, 0.9, self.p90, share)
        return _between(0.9, self.p90, 0.99, self.p99, share)


def _between(x: float, y: float, other_x: float, other_y: float, at: float) -> float:
    """The exponential curve through two points."""
    return y * math.exp((at - x) / (other_x - x) * math.log(other_y / y))


Side = Literal["prompt", "output"]

# Of the Azure LLM inference traces of 2023 (Patel et al., 2024, "Splitwise";
# https://github.com/Azure/AzurePublicDataset), an hour of two services.
PUBLISHED: Final[Mapping[str, Mapping[Side, Quantiles]]] = MappingProxyType(
    {
        "azure-conversation": {
            "prompt": Quantiles("azure-conversation", 1020, 2735, 4142),
            "output": Quantiles("azure-conversation", 129, 424, 601),
        },
        "azure-code": {
            "prompt": Quantiles("azure-code", 1469, 5194, 7436),
            "output": Quantiles("azure-code", 13, 55, 252),
        },
    }
)


def parse_lengths(text: str, side: Side, name: str) -> Lengths:
    """Read "200", "80-240" or the name of published statistics.

    side: which of the statistics' lengths are meant. name: of the option, for errors. Raises
    OptionError.
    """
    if text in PUBLISHED:
        return PUBLISHED[text][side]
    found = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+))?\s*", text)
    if found is None:
        raise OptionError(
            f"{name}={text!r} is no length; give a number of tokens, a range as 80-240, or one of "
            f"{', '.join(PUBLISHED)}"
        )
    low = int(found[1])
    high = low if found[2] is None else int(found[2])
    if not 1 <= low <= high:
        raise OptionError(
            f"{name}={text!r}: a length is at least 1, and a range goes from the shorter to the "
            "longer, as 80-240"
        )
    return Between(low, high)


def fit(prompt: Lengths, output: Lengths, context: int) -> tuple[Lengths, Lengths]:
    """Published lengths scaled down so that the longest prompt and answer fit the context together.

    Lengths given as numbers are left as they are, and may not fit.
    """
    sides = (prompt, output)
    # The last token is drawn and never read.
    room = context + 1 - sum(side.longest for side in sides if side.given)
    taken = sum(side.longest for side in sides if not side.given)
    if taken <= max(room, 0):
        return sides
    factor = max(room, 1) / taken
    prompt, output = (side if side.given else side.scaled(factor) for side in sides)
    return prompt, output
