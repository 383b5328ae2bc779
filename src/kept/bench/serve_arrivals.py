"""When requests arrive: all at once, one after another, or at random at a rate."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from typing import Final, Literal

from kept.errors import OptionError

Process = Literal["burst", "closed", "poisson", "gamma"]


@dataclass(frozen=True, slots=True)
class Rate:
    """How many requests arrive a second: `value` of them, or that share of what was served a second
    when as many as could be were there at once."""

    value: float
    of_capacity: bool = False

    @property
    def words(self) -> str:
        """What it is, for a report."""
        return f"{self.value:.0%} of capacity" if self.of_capacity else f"{self.value:g} a second"

    def per_second(self, capacity: float | None) -> float:
        """Requests a second. capacity: the most that can be served, needed for a share of it."""
        if not self.of_capacity:
            return self.value
        assert capacity is not None
        return self.value * capacity


@dataclass(frozen=True, slots=True)
class Arrivals:
    """A process of arrivals.

    burst: all at the start. closed: each of `clients` sends its next request when its last one is
    answered. poisson: independent of each other, at a rate. gamma: the same, with gaps whose
    standard deviation is `variation` times their mean: above 1 they come in bursts.
    """

    process: Process
    clients: int = 1
    variation: float = 1.0

    @property
    def has_rate(self) -> bool:
        """Whether the process has a rate of its own."""
        return self.process in ("poisson", "gamma")

    def times(self, count: int, rate: float | None, generator: random.Random) -> list[float]:
        """(count,) seconds after the start, ascending; of a closed process all are 0.

        rate: requests a second, for a process that has one. Advances the generator.
        """
        if not self.has_rate:
            return [0.0] * count
        assert rate is not None
        shape = 1.0 if self.process == "poisson" else 1 / self.variation**2
        found, now = [], 0.0
        for _ in range(count):
            now += generator.gammavariate(shape, 1 / (shape * rate))
            found.append(now)
        return found

    def before(self, index: int) -> int | None:
        """The request that must be answered before this one is sent; None: none."""
        if self.process != "closed" or index < self.clients:
            return None
        return index - self.clients


_FORMS: Final = "burst, closed:CLIENTS, poisson or gamma:VARIATION, as closed:8 or gamma:2.5"


def parse_arrivals(text: str) -> Arrivals:
    """Read a process as the command line spells it. Raises OptionError."""
    name, _, number = text.partition(":")
    if text == "burst":
        return Arrivals("burst")
    if text == "poisson":
        return Arrivals("poisson")
    if name == "closed" and re.fullmatch(r"\d+", number) and int(number) >= 1:
        return Arrivals("closed", clients=int(number))
    if name == "gamma" and (variation := _positive(number)) is not None:
        return Arrivals("gamma", variation=variation)
    raise OptionError(f"arrivals={text!r}: give {_FORMS}")


def parse_rate(text: str) -> Rate:
    """Read "2.5" requests a second, or "70%" of what can be served. Raises OptionError."""
    value = _positive(text.removesuffix("%"))
    if value is None:
        raise OptionError(
            f"rate={text!r}: give requests a second above 0, as 2.5, or a share of what this "
            "machine can serve, as 70%"
        )
    return Rate(value / 100, of_capacity=True) if text.endswith("%") else Rate(value)


def _positive(text: str) -> float | None:
    """A number above 0; None where the text is none."""
    if not re.fullmatch(r"\d+(\.\d+)?", text):
        return None
    return float(text) or None
