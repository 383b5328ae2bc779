"""What was seen of requests that were served: when each token came, and how full the engine was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from kept.bench.limits import Limits
from kept.bench.serve_work import Arrival
from kept.bench.subject import Subject
from kept.options import KVDtypeName


@dataclass(frozen=True, slots=True)
class Drawn:
    """A step drew a token for a request."""

    index: int
    token_id: int


@dataclass(frozen=True, slots=True)
class Given:
    """What a request waited for and was given.

    queue_seconds: from its submission until it was admitted, None where it never was. cached:
    prompt tokens that were not computed for it, by where they came from; miss: why there were no
    more of them, None where nothing was missing or nobody looked. num_computed: tokens that went
    through the model for it. num_parked: how often it had to make room for another and wait again.
    """

    queue_seconds: float | None = None
    cached: Mapping[str, int] = field(default_factory=dict)
    miss: str | None = None
    num_computed: int = 0
    num_parked: int = 0


@dataclass(frozen=True, slots=True)
class Ended:
    """A request will draw no more. error: why, where that is not its length."""

    index: int
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Load:
    """How full an engine is.

    running, waiting: requests. used_blocks: of its pool, that running requests hold.
    findable_blocks: that none of them holds and a prefix can still be found in.
    """

    running: int
    waiting: int
    used_blocks: int = 0
    findable_blocks: int = 0


class Server(Protocol):
    """Whoever serves requests."""

    @property
    def num_blocks(self) -> int:
        """Blocks of its pool; 0 where it has none."""

    @property
    def has_work(self) -> bool:
        """Whether any request is unfinished."""

    def submit(self, index: int, arrival: Arrival, prompt: Sequence[int]) -> None:
        """Take a request. Raises KeptError where it can never be served."""

    def step(self) -> Sequence[Drawn | Ended]:
        """Compute one pass; what it brought, in order."""

    def given(self, index: int) -> Given:
        """What a request that was taken has waited for and been given by now."""

    def load(self) -> Load:
        """How full it is."""

    def clear(self) -> None:
        """Forget every request and prefix."""


@dataclass(slots=True)
class Served:
    """A request and what became of it. Times in seconds from the start.

    due: when it arrived; sent: when it was submitted, later where that was in the middle of a step.
    token_ids: of the prompt and, behind it, drawn. token_times: when each of these was there.
    ended: None while it is not. given: as it was at the end.
    """

    arrival: Arrival
    due: float
    sent: float
    token_ids: list[int]
    token_times: list[float] = field(default_factory=list)
    ended: float | None = None
    error: str | None = None
    given: Given = field(default_factory=Given)

    @property
    def answer(self) -> list[int]:
        """The tokens drawn for it."""
        return self.token_ids[len(self.token_ids) - len(self.token_times) :]

    @property
    def done(self) -> bool:
        """Whether it drew every token it asked for."""
        return self.ended is not None and self.error is None


@dataclass(frozen=True, slots=True)
class PassTime:
    """A step of the engine: when it began, how long it took, and the model's kernels within it."""

    at: float
    seconds: float
    model_seconds: float


@dataclass(frozen=True, slots=True)
class Moment:
    """How things stood after a step. resident: bytes of the process in memory, where known."""

    at: float
    load: Load
    resident: int | None


@dataclass(slots=True)
class Record:
    """Everything seen of one plan, filled as it is served."""

    served: dict[int, Served] = field(default_factory=dict)
    passes: list[PassTime] = field(default_factory=list)
    moments: list[Moment] = field(default_factory=list)
    num_blocks: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Bound:
    """The most seconds that a figure of a request may come to for it to count as well served."""

    figure: str
    seconds: float


@dataclass(frozen=True, slots=True)
class ServeSettings:
    """How it is served.

    workload: in words. max_batch_size: sequences side by side. kv_memory: bytes of keys and
    values, None for half of what is free. max_step_time: seconds of a step that reads prompts while
    somebody waits for tokens, None for the engine's own. duration: seconds after which no request
    is sent, None for no such bound. bounds: what a well served request stays within.
    """

    workload: str
    max_batch_size: int
    kv_memory: int | None = None
    kv_dtype: KVDtypeName | None = None
    max_step_time: float | None = None
    duration: float | None = None
    bounds: tuple[Bound, ...] = ()
    seed: int = 0
    threads: int | None = None


@dataclass(slots=True)
class ServeResult:
    """What was measured, also of a measurement cut short.

    capacity: requests a second, where the plan needed to know. limits: of the machine, before and
    after.
    """

    subject: Subject
    settings: ServeSettings
    num_threads: int = 0
    capacity: float | None = None
    record: Record = field(default_factory=Record)
    limits: Limits = field(default_factory=Limits)
    interrupted: bool = False

    @property
    def measured(self) -> bool:
        """Whether any token was drawn."""
        return any(found.token_times for found in self.record.served.values())
