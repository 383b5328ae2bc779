"""Named mixes of requests, each for one thing that an engine must be good at."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

from kept.bench.serve_arrivals import Arrivals, Rate
from kept.bench.serve_lengths import Between
from kept.bench.serve_work import Answer, Arrival, Parts, Text, Traffic, Workload, check_fits
from kept.errors import OptionError

_MIXED: Final = Traffic(Arrivals("burst"), None, Between(80, 240), Between(32, 96), 64)
_LOAD: Final = 0.7  # of capacity
_LONG, _EVERY = 4096, 10.0  # tokens of a long prompt, and seconds between two of them
_TURNS, _CHATS = 8, 8


@dataclass(frozen=True, slots=True)
class Scenario:
    """A plan that depends on nothing but the seed."""

    words: str
    make: Callable[[random.Random], list[Arrival]]

    def trial(self, seed: int, context: int) -> list[Arrival] | None:
        """See `Workload.trial`."""
        return None

    def plan(self, seed: int, context: int, capacity: float | None) -> list[Arrival]:
        """See `Workload.plan`."""
        found = self.make(random.Random(f"scenario {seed}"))
        check_fits(found, context)
        return found


@dataclass(frozen=True, slots=True)
class LongPrompts:
    """Requests below capacity, and a long prompt every few seconds until the last has come."""

    words: str = (
        f"64 requests at {_LOAD:.0%} of capacity, and a prompt of {_LONG:,} every {_EVERY:g} s"
    )

    def trial(self, seed: int, context: int) -> list[Arrival] | None:
        """See `Workload.trial`."""
        return self._short().trial(seed, context)

    def plan(self, seed: int, context: int, capacity: float | None) -> list[Arrival]:
        """See `Workload.plan`."""
        found = self._short().plan(seed, context, capacity)
        first, last = len(found), max(arrival.at for arrival in found)
        for index in range(max(int(last / _EVERY), 1)):
            # The first comes among others: halfway between two.
            at = min((index + 0.5) * _EVERY, last)
            found.append(Arrival(at, (Text(first + index, _LONG),), 32, tenant="long"))
        check_fits(found, context)
        return found

    def _short(self) -> Traffic:
        return replace(_MIXED, arrivals=Arrivals("poisson"), rate=Rate(_LOAD, of_capacity=True))


def _questions(_: random.Random) -> list[Arrival]:
    return [Arrival(0.0, (Text(-1, 1800), Text(i, 80)), 32) for i in range(16)]


def _same_prompt(_: random.Random) -> list[Arrival]:
    return [Arrival(0.0, (Text(0, 1800),), 32) for _ in range(16)]


def _common_prefix(_: random.Random) -> list[Arrival]:
    return [Arrival(0.0, (Text(-1, 8192), Text(i, 16)), 64) for i in range(16)]


def _chats(generator: random.Random) -> list[Arrival]:
    """One chat alone, then several that take turns, then one of them from a turn that is edited."""
    found: list[Arrival] = []
    turns: dict[tuple[int, int], Parts] = {}  # everything said by a chat before its turn

    def say(chat: int, turn: int, key: int) -> None:
        length = 200 if turn == 0 else generator.randint(20, 60)
        prompt = (*turns.get((chat, turn), ()), Text(key, length))
        index = len(found)
        found.append(Arrival(0.0, prompt, 48, after=index - 1 if index else None))
        turns[chat, turn + 1] = (*prompt, Answer(index, 48))

    for turn in range(_TURNS):
        say(-1, turn, len(found))
    for turn in range(_TURNS):
        for chat in range(_CHATS):
            say(chat, turn, len(found))
    for turn in range(_TURNS // 2, _TURNS):
        say(0, turn, len(found))
    return found


def _tenants(generator: random.Random) -> list[Arrival]:
    """One tenant asks short questions one after another, another has sent long ones all at once."""
    flood = [Arrival(0.0, (Text(i, _LONG),), 32, tenant="flood") for i in range(12)]
    first = len(flood)
    quiet = [
        Arrival(
            0.25,
            (Text(first + i, generator.randint(80, 240)),),
            generator.randint(32, 96),
            after=first + i - 4 if i >= 4 else None,
            tenant="quiet",
        )
        for i in range(32)
    ]
    return flood + quiet


SCENARIOS: Final[Mapping[str, Workload]] = MappingProxyType(
    {
        "mixed": _MIXED,
        "long-prompt": LongPrompts(),
        "questions": Scenario("16 questions of 80 tokens after one prefix of 1,800", _questions),
        "same-prompt": Scenario("16 equal prompts of 1,800 tokens at once", _same_prompt),
        "common-prefix": Scenario("16 sequences after a common prefix of 8,192", _common_prefix),
        "chats": Scenario(
            f"chats of {_TURNS} turns: one alone, {_CHATS} taking turns, one edited in the middle",
            _chats,
        ),
        "tenants": Scenario(
            "a tenant with short questions beside one that sends prompts of 4,096", _tenants
        ),
    }
)


def find_scenario(name: str) -> Workload:
    """A scenario by its name. Raises OptionError that lists them."""
    if name not in SCENARIOS:
        raise OptionError(f"no scenario is called {name!r}; there are {', '.join(SCENARIOS)}")
    return SCENARIOS[name]
