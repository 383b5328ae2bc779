"""Random ways to compute the same tokens, each held bit for bit against one sequence alone.

A `Schedule` keeps a cache and the tokens that each of its slots holds. Whatever it does next, the
logits of a token must be those that its own prefix gives in a fresh cache, in one go, on one
thread.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random

import torch
from torch import Tensor

from kept.batch import Batch, pack
from kept.cache import Cache, load_cache, make_cache
from kept.errors import CacheError
from kept.models import CausalLM
from kept.ops import KVDtype, use_threads
from laws.tiny import VOCAB

THREADS = (1, 2, 3, 5)
MakeCache = Callable[[int], Cache]  # slots


class DifferentBitsError(AssertionError):
    """A token's logits depended on more than its prefix."""


class Alone:
    """What each prefix gives by itself. make: an empty cache; None: computed without one."""

    def __init__(self, model: CausalLM, make: MakeCache | None) -> None:
        self.model, self.make = model, make
        self._known: list[tuple[list[int], Tensor]] = []

    def logits(self, tokens: list[int]) -> Tensor:
        """Logits (T, V) of a sequence's tokens."""
        for known, logits in self._known:
            if known[: len(tokens)] == tokens:
                return logits[: len(tokens)]
        use_threads(1)
        cache = None if self.make is None else self.make(1)
        logits = self.model.run(pack([tokens]), cache)
        self._known.append((list(tokens), logits))
        return logits


class Schedule:
    """One cache on its way. limit: most tokens a slot may take. story: what slots hold at first
    and go on with; the tokens after that are drawn."""

    def __init__(
        self, alone: Alone, make: MakeCache, random: Random, limit: int, story: Sequence[int] = ()
    ) -> None:
        self.alone, self.make, self.random, self.limit = alone, make, random, limit
        num_slots = random.randint(1, 4)
        self.cache = make(num_slots)
        self.held: list[list[int]] = [[] for _ in range(num_slots)]
        self.story = list(story)
        self.num_threads = random.choice(THREADS)

    def threads(self) -> None:
        """Compute on another number of threads from here on."""
        self.num_threads = self.random.choice(THREADS)

    def feed(self) -> None:
        """New tokens for some slots, a few of one and many of another."""
        slots = self.random.sample(range(len(self.held)), self.random.randint(1, len(self.held)))
        self._step(
            {slot: self._next(slot, self.random.choice((1, 1, 2, 3, 8, 30))) for slot in slots}
        )

    def decode(self) -> None:
        """Every slot takes one token, several times."""
        for _ in range(self.random.randint(1, 5)):
            self._step({slot: self._next(slot, 1) for slot in range(len(self.held))})

    def draft(self) -> None:
        """Some tokens are verified at once, and the last of them dropped again."""
        slot, count = self.random.randrange(len(self.held)), self.random.randint(2, 5)
        guesses = [self.random.randrange(VOCAB) for _ in range(count)]
        self._step({slot: guesses[: self.limit - len(self.held[slot])]})
        self._truncate(slot, len(self.held[slot]) - self.random.randint(1, count))

    def truncate(self) -> None:
        """A slot goes back, where its cache still can."""
        slot = self.random.randrange(len(self.held))
        self._truncate(slot, self.random.randint(0, len(self.held[slot])))

    def select(self) -> None:
        """Slots are copied, moved and dropped, as beams are."""
        count = self.random.choice((len(self.held), self.random.randint(1, 4)))
        order = [self.random.randrange(len(self.held)) for _ in range(count)]
        self.cache.select(order)
        self.held = [list(self.held[i]) for i in order]

    def reorder(self) -> None:
        """Slots change places."""
        order = self.random.sample(range(len(self.held)), len(self.held))
        self.cache.reorder(order)
        self.held = [self.held[i] for i in order]

    def fork(self) -> None:
        """A twin computes something else, and one of the two goes on."""
        mine, held = self.cache, [list(tokens) for tokens in self.held]
        self.cache = mine.fork()
        self.feed()
        if self.random.random() < 0.5:
            self.cache, self.held = mine, held

    def concatenate(self) -> None:
        """A sequence computed in a cache of its own joins the others."""
        if len(self.held) < 5:
            mine, held = self.cache, self.held
            self.cache, self.held = self.make(1), [[]]
            self.feed()
            self.cache, self.held = mine.concatenate([self.cache]), held + self.held

    def reload(self, folder: Path) -> None:
        """The cache is saved and read back."""
        self.cache.save(folder / "cache")
        self.cache = load_cache(folder / "cache", self.alone.model.kv_shapes)

    def compute_anew(self) -> None:
        """All that is held in one batch, without a cache, where that is what `alone` does too."""
        rows = [tokens for tokens in self.held if tokens]
        if self.alone.make is None and rows:
            self._compare(rows, [len(tokens) for tokens in rows], pack(rows), None)

    def _next(self, slot: int, count: int) -> list[int]:
        held = self.held[slot]
        count = min(count, self.limit - len(held))
        told = self.story[len(held) : len(held) + count] if self._is_told(held) else []
        return [*told, *(self.random.randrange(VOCAB) for _ in range(count - len(told)))]

    def _is_told(self, held: list[int]) -> bool:
        return held == self.story[: len(held)]

    def _step(self, new: dict[int, list[int]]) -> None:
        new = {slot: tokens for slot, tokens in new.items() if tokens}
        if not new:
            return
        past = [len(self.held[slot]) for slot in new]
        wanted = [self.random.random() < 0.7 for _ in new] if self.random.random() < 0.3 else None
        batch = pack(list(new.values()), past=past, slots=list(new), last_of=wanted)
        for slot, tokens in new.items():
            self.held[slot] = [*self.held[slot], *tokens]
        counts = [len(tokens) for tokens in new.values()]
        if wanted is not None:
            counts = [int(want) for want in wanted]
        self._compare([self.held[slot] for slot in new], counts, batch, self.cache)

    def _compare(
        self, rows: list[list[int]], counts: list[int], batch: Batch, cache: Cache | None
    ) -> None:
        use_threads(self.num_threads)
        found = self.alone.model.run(batch, cache)
        parts = [
            self.alone.logits(tokens)[len(tokens) - n :]
            for tokens, n in zip(rows, counts, strict=True)
        ]
        if not torch.equal(found.view(torch.int32), torch.cat(parts).view(torch.int32)):
            raise DifferentBitsError(f"{batch} on {self.num_threads} threads with {cache}")

    def _truncate(self, slot: int, length: int) -> None:
        lengths = [len(tokens) for tokens in self.held]
        lengths[slot] = max(length, 0)
        try:
            self.cache.truncate(lengths)
        except CacheError:  # a window has let go of what it would need; all stays as it was
            return
        self.held[slot] = self.held[slot][: lengths[slot]]


ACTIONS = (
    "feed", "feed", "decode", "draft", "truncate", "select", "reorder", "fork", "reload",
    "concatenate", "compute_anew", "threads",
)  # fmt: skip


def play(schedule: Schedule, actions: Sequence[str], folder: Path) -> None:
    """Carry out actions by name, after the story has been fed in chunks."""
    while schedule.story and len(schedule.held[0]) < len(schedule.story):
        schedule._step({0: schedule._next(0, schedule.random.choice((1, 7, 64, 300, 800)))})
        schedule.threads()
    for action in actions:
        if action == "reload":
            schedule.reload(folder)
        else:
            getattr(schedule, action)()


def caches(model: CausalLM, kind: str, codec: KVDtype, limit: int) -> MakeCache:
    """Makes caches of a kind; "window" is a sliding one that forgets what the model itself does."""
    options: dict[str, object] = {}
    if kind == "static":
        options["max_cache_len"] = limit
    if kind == "sliding":
        own = any(shape.window is not None for shape in model.kv_shapes)
        options = {"sliding_window": 13, "num_sinks": 0 if own else 2}
    name = "sliding" if kind == "window" else kind
    return lambda slots: make_cache(
        model.kv_shapes,
        name,
        num_slots=slots,
        kv_dtype=codec,
        **options,  # type: ignore[arg-type]
    )
