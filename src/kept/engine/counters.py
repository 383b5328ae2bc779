"""What an engine has done since it was made, counted as it goes."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from kept.blocks import Ages


@dataclass(slots=True)
class DraftCounts:
    """Drafts by where they came from ("suffix": what came behind the same tokens before, "model": a
    draft model): rows that were drafted, and accepted ones."""

    drafted: Counter[str] = field(default_factory=Counter)
    accepted: Counter[str] = field(default_factory=Counter)

    def add(self, source: str, num_drafted: int, num_accepted: int) -> None:
        """Count the drafts of a text in a step."""
        self.drafted[source] += num_drafted
        if num_accepted:
            self.accepted[source] += num_accepted


@dataclass(slots=True)
class Counters:
    """Of one engine; they only rise.

    requests: by how they ended ("stop", "length", "interrupted", "error"; a request whose texts
    ended differently counts as the first of them). computed_tokens: rows of the passes;
    generated_tokens: drawn; encoded_tokens: of inputs that an encoder has read. cached_tokens:
    prompt tokens that were not computed, by where their keys came from, see `Usage`. misses:
    requests of whose prompt something was computed, by why no more of it was found. parked: how
    often a request gave up its room. evicted_blocks: of texts that had ended; ages: how old they
    were, and how long after each other texts went on from a block. steps, step_seconds: of passes
    and all around them; repeated_steps: those that needed no preparing; drafted_steps: those that
    verified drafts. drafts: rows of these and accepted ones by where they came from;
    drafted_tokens, accepted_tokens: of all together, the latter of generated_tokens those that
    needed no step of their own, as a draft had foreseen what they go on from.
    """

    requests: Counter[str] = field(default_factory=Counter)
    computed_tokens: int = 0
    generated_tokens: int = 0
    encoded_tokens: int = 0
    cached_tokens: Counter[str] = field(default_factory=Counter)
    misses: Counter[str] = field(default_factory=Counter)
    parked: int = 0
    evicted_blocks: int = 0
    ages: Ages = field(default_factory=Ages)
    steps: int = 0
    repeated_steps: int = 0
    drafted_steps: int = 0
    drafts: DraftCounts = field(default_factory=DraftCounts)
    step_seconds: float = 0.0

    @property
    def drafted_tokens(self) -> int:
        """Rows of drafts."""
        return self.drafts.drafted.total()

    @property
    def accepted_tokens(self) -> int:
        """Tokens that needed no step of their own."""
        return self.drafts.accepted.total()


@dataclass(frozen=True, slots=True)
class PoolBlocks:
    """How the blocks of a pool are used, of all groups of layers together: `free` ones it may take,
    `findable` ones the prefix tree holds for texts that have ended, `held` ones sequences or leases
    need. They add up to all, where no other engine has what this one could take."""

    free: int
    findable: int
    held: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """An engine at one moment.

    counters: a copy. waiting, running: requests. blocks: of its pool; None where there is none.
    """

    counters: Counters
    waiting: int
    running: int
    blocks: PoolBlocks | None
