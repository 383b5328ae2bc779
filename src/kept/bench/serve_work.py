"""What arrives at an engine: requests with their times, their prompts and how long answers are."""

from __future__ import annotations

import random
import re
from bisect import bisect_left, insort
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from kept.bench.experiment import check_context, check_count
from kept.bench.serve_arrivals import Arrivals, Rate
from kept.bench.serve_lengths import Lengths, fit
from kept.errors import OptionError

MOST_SHARED = 0.9  # a prompt keeps something of its own


@dataclass(frozen=True, slots=True)
class Text:
    """The first `length` tokens of a random text; a key always names the same text."""

    key: int
    length: int


@dataclass(frozen=True, slots=True)
class Answer:
    """The `length` tokens that were drawn for an earlier request."""

    of: int
    length: int


Parts = tuple[Text | Answer, ...]


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request.

    at: seconds after the start, or after request `after` is answered, where that is not None.
    prompt: what it is made of, one part after the other. new_tokens: drawn, whatever they are.
    """

    at: float
    prompt: Parts
    new_tokens: int
    after: int | None = None
    tenant: str = ""

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the whole prompt."""
        return sum(part.length for part in self.prompt)


class Workload(Protocol):
    """What can be planned; equal seeds give equal plans."""

    @property
    def words(self) -> str:
        """What it is, for a report."""

    def trial(self, seed: int, context: int) -> list[Arrival] | None:
        """What is served all at once to learn the capacity; None where no plan depends on it."""

    def plan(self, seed: int, context: int, capacity: float | None) -> list[Arrival]:
        """Every request, each behind those it comes after.

        capacity: requests a second that can be served, given where there is a trial. Raises
        ContextLengthError for a request that does not fit.
        """


@dataclass(frozen=True, slots=True)
class Traffic:
    """Requests that differ in nothing but their lengths.

    rate: of a process of arrivals that has one. shared: which share of all prompt tokens continues
    an earlier prompt's beginning, as far as it was read before, 0 to 0.9.
    """

    arrivals: Arrivals
    rate: Rate | None
    prompt: Lengths
    output: Lengths
    num_requests: int
    shared: float = 0.0

    def __post_init__(self) -> None:
        check_count("requests", self.num_requests)
        if not 0 <= self.shared <= MOST_SHARED:
            raise OptionError(f"shared={self.shared}: give a share from 0 to {MOST_SHARED:.0%}")
        process = self.arrivals.process
        if self.arrivals.has_rate and self.rate is None:
            raise OptionError(f"arrivals={process!r} need a rate; give one, as 2.5 or 70%")
        if not self.arrivals.has_rate and self.rate is not None:
            raise OptionError(
                f"arrivals={process!r} have no rate: it follows from how fast requests are "
                "answered; leave the rate out, or take poisson or gamma"
            )

    @property
    def words(self) -> str:
        """See `Workload.words`."""
        arrivals, rate = self.arrivals, "" if self.rate is None else f" at {self.rate.words}"
        how = {
            "burst": "all at once",
            "closed": f"of {arrivals.clients} clients in turn",
            "poisson": "at random",
            "gamma": f"in bursts (variation {arrivals.variation:g})",
        }[arrivals.process]
        shared = f", {self.shared:.0%} of prompt tokens seen before" if self.shared else ""
        return (
            f"{self.num_requests} requests {how}{rate}: prompts of {self.prompt.words} tokens, "
            f"answers of {self.output.words}{shared}"
        )

    def trial(self, seed: int, context: int) -> list[Arrival] | None:
        """See `Workload.trial`."""
        if self.rate is None or not self.rate.of_capacity:
            return None
        return [Arrival(0.0, a.prompt, a.new_tokens) for a in self._plan(seed, context, 1.0)]

    def plan(self, seed: int, context: int, capacity: float | None) -> list[Arrival]:
        """See `Workload.plan`."""
        rate = None if self.rate is None else self.rate.per_second(capacity)
        return self._plan(seed, context, rate)

    def _plan(self, seed: int, context: int, rate: float | None) -> list[Arrival]:
        # Apart from each other, so that another rate changes no length.
        lengths, times = (random.Random(f"{what} {seed}") for what in ("lengths", "times"))
        prompt, output = fit(self.prompt, self.output, context)
        each = [(prompt.draw(lengths), output.draw(lengths)) for _ in range(self.num_requests)]
        prompts = sharing([length for length, _ in each], self.shared, lengths)
        at = self.arrivals.times(self.num_requests, rate, times)
        found = [
            Arrival(at[i], prompts[i], new_tokens, self.arrivals.before(i))
            for i, (_, new_tokens) in enumerate(each)
        ]
        check_fits(found, context)
        return found


def sharing(lengths: Sequence[int], share: float, generator: random.Random) -> list[Parts]:
    """Prompts of these lengths; that share of all their tokens begins an earlier prompt, too.

    A prompt takes at least half of itself from an earlier one, or nothing: traffic has questions
    that go on and questions that are new (Qin et al., 2024, "Mooncake"). Advances the generator.
    """
    found: list[Parts] = []
    by_length: list[tuple[int, int]] = []  # (length, index) of prompts, ascending
    seen = total = 0
    for index, length in enumerate(lengths):
        total += length
        least = max(length // 2, int(share * length))
        taken = generator.randint(min(least, length - 1), length - 1)
        prompt: Parts = ()
        if by_length and seen + taken <= share * total:
            first = min(bisect_left(by_length, (taken, 0)), len(by_length) - 1)
            other = by_length[generator.randrange(first, len(by_length))][1]
            prompt = beginning(found[other], taken)
            taken = sum(part.length for part in prompt)
            seen += taken
        own = length - sum(part.length for part in prompt)
        found.append((*prompt, Text(index, own)))
        insort(by_length, (length, index))
    return found


def beginning(prompt: Parts, length: int) -> Parts:
    """The parts of a prompt's first `length` tokens, or of all where it is shorter."""
    found: list[Text | Answer] = []
    for part in prompt:
        kept = min(part.length, length)
        if kept == 0:
            break
        found.append(replace(part, length=kept))
        length -= kept
    return tuple(found)


def parse_share(text: str) -> float:
    """Read "37%". Raises OptionError."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)%", text)
    if found is None:
        raise OptionError(f"shared={text!r}: give a percentage up to {MOST_SHARED:.0%}, as 37%")
    return float(found[1]) / 100


def check_fits(plan: Iterable[Arrival], context: int) -> None:
    """Raise ContextLengthError for the first request that goes past a model's context."""
    for arrival in plan:
        check_context(arrival.prompt_tokens, arrival.new_tokens, context)


class Texts:
    """The token ids behind a plan's prompts: drawn from a seed, evenly from a vocabulary."""

    def __init__(self, plan: Iterable[Arrival], vocab_size: int, seed: int) -> None:
        """Draws all of them, so that none is drawn while time is taken."""
        longest: dict[int, int] = {}
        for arrival in plan:
            for part in arrival.prompt:
                if isinstance(part, Text):
                    longest[part.key] = max(longest.get(part.key, 0), part.length)
        ids = range(vocab_size)
        self._tokens = {
            key: random.Random(f"text {seed} {key}").choices(ids, k=length)
            for key, length in longest.items()
        }

    def prompt(self, arrival: Arrival, answers: Mapping[int, Sequence[int]]) -> list[int]:
        """The ids of a prompt. answers: what was drawn for the requests it goes on from."""
        found: list[int] = []
        for part in arrival.prompt:
            whole = self._tokens[part.key] if isinstance(part, Text) else answers[part.of]
            found += whole[: part.length]
        return found
