"""Which tokens stay in a cache of fixed size: the first, the last, and the best by a score.

    budget 8, two sinks, three recent, scores of the rest below the tokens:

        token    0  1 | 2   3   4   5   6 | 7  8  9
        score         | .1  .7  .2  .9  .3|               stay: 0 1   3 5 6   7 8 9

Each key/value head of a layer chooses for itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from kept.cache.indices import read_whole
from kept.errors import OptionError
from kept.ops import AttentionSpec


@dataclass(frozen=True, slots=True)
class Entries:
    """What a score may look at: the S entries of one layer and slot, oldest first.

    keys: (G, S, D) as their codec left them. tokens: (G, S) int64, which token each entry holds.
    attention: (G, S) fp32, see `Attention`; None unless the score reads queries.
    """

    keys: Tensor
    tokens: Tensor
    attention: Tensor | None = None


class Score(Protocol):
    """How much a token is worth keeping.

    name: what files and `EvictionPolicy.score` call it. decay: None, or, for a score that reads
    `Entries.attention`, what of it is left from one eviction to the next.
    """

    name: ClassVar[str]

    @property
    def decay(self) -> float | None: ...

    def __call__(self, entries: Entries) -> Tensor:
        """(G, S) numbers; the lowest leave, of equal ones the oldest. NaN counts as highest."""
        ...


@dataclass(frozen=True, slots=True)
class Newest:
    """The newest tokens stay: a window. With sinks it holds what a ring holds. Source: Xiao et al.
    2023, "Efficient Streaming Language Models with Attention Sinks"."""

    name: ClassVar[str] = "window"

    @property
    def decay(self) -> None:
        """It reads no queries."""
        return None

    def __call__(self, entries: Entries) -> Tensor:
        """See `Score`."""
        return entries.tokens.float()


@dataclass(frozen=True, slots=True)
class KeyNorm:
    """Tokens whose keys are short stay: they tend to be attended most. Costs a pass over the keys
    an eviction. Source: Devoto et al. 2024, "A Simple and Effective L2 Norm-Based Strategy for KV
    Cache Compression"."""

    name: ClassVar[str] = "key-norm"

    @property
    def decay(self) -> None:
        """It reads no queries."""
        return None

    def __call__(self, entries: Entries) -> Tensor:
        """See `Score`."""
        return -entries.keys.double().square().sum(-1).float()


@dataclass(frozen=True, slots=True)
class Attention:
    """Tokens that were attended most stay.

    At each eviction the attention that the queries since the last one (`grain` of them) paid a
    token is added to `decay` times what it had. With a decay of 1 these are the heavy hitters of
    Zhang et al. 2023 ("H2O"), with 0 the observation window of Li et al. 2024 ("SnapKV", without
    its pooling). Unlike H2O it counts from the last `grain` queries before the first eviction on:
    all the queries of a prompt would have to be kept, and would favour its oldest tokens.

    Costs the queries of `grain` tokens in memory, H * D * 4 bytes each, and at each eviction their
    attention over what is stored, computed anew in fp64.
    """

    name: ClassVar[str] = "attention"
    decay: float = 1.0

    def __call__(self, entries: Entries) -> Tensor:
        """See `Score`."""
        assert entries.attention is not None
        return entries.attention


@dataclass(frozen=True, slots=True)
class Observation(Attention):
    """`Attention` of the last queries alone."""

    name: ClassVar[str] = "observation"
    decay: float = 0.0


SCORES: Mapping[str, Score] = MappingProxyType(
    {score.name: score for score in (Newest(), KeyNorm(), Attention(), Observation())}
)


@dataclass(frozen=True, slots=True)
class EvictionPolicy:
    """Which tokens of a layer and slot stay when it has more than its budget.

    score: one of `SCORES` by name, or one of your own, which a file cannot name. sinks: the first
    tokens that always stay. recent: the last ones that do; None: half of what sinks leave of the
    budget, as H2O has it.

    Raises OptionError for a score that there is not, or a negative count.
    """

    score: Score | str = "attention"
    sinks: int = 4
    recent: int | None = None

    def __post_init__(self) -> None:
        if isinstance(self.score, str):
            object.__setattr__(self, "score", find_score(self.score))
        for name, count in (("sinks", self.sinks), ("recent", self.recent)):
            if count is not None and read_whole(count, name) < 0:
                raise OptionError(f"{name}={count} counts tokens; give at least 0")

    @property
    def scored_by(self) -> Score:
        """The score itself."""
        assert not isinstance(self.score, str)
        return self.score

    def within(self, budget: int) -> EvictionPolicy:
        """The same policy with `recent` decided. Raises OptionError for too small a budget."""
        recent = max(0, budget - self.sinks) // 2 if self.recent is None else self.recent
        if budget < max(1, self.sinks + recent):
            raise OptionError(
                f"a budget of {budget} tokens does not hold the {self.sinks} first and {recent} "
                f"last ones that always stay; give a budget of at least "
                f"{max(1, self.sinks + recent)}, or fewer sinks or recent ones"
            )
        return replace(self, recent=recent)

    def keep(self, entries: Entries, budget: int) -> Tensor:
        """(G, budget) int64, ascending: which of more than `budget` entries stay."""
        assert self.recent is not None, "a policy is bound to a budget by within()"
        score = self.scored_by(entries)
        num_heads, count = score.shape
        rest = torch.arange(self.sinks, count - self.recent, device=score.device)
        order = score[:, self.sinks : count - self.recent].argsort(dim=1, stable=True)
        stay = torch.ones(num_heads, count, dtype=torch.bool, device=score.device)
        stay.scatter_(1, rest[order[:, : count - budget]], False)
        return stay.nonzero()[:, 1].view(num_heads, budget)


def find_score(name: str) -> Score:
    """A score by name; raises OptionError for one that there is not."""
    found = SCORES.get(name)
    if found is None:
        raise OptionError(f"no eviction score is called {name!r}; there are {', '.join(SCORES)}")
    return found


def attention_paid(queries: Tensor, keys: Tensor, spec: AttentionSpec) -> Tensor:
    """How much attention the last T tokens have paid each stored one, (G, S) fp32.

    queries: (T, H, D), of the last T of the S entries. keys: (G, S, D). Summed over queries, and
    over the query heads that share a key. In fp64, so that the order in which a matrix product
    sums does not decide between two tokens.
    """
    count, num_stored = queries.shape[0], keys.shape[1]
    share = queries.shape[1] // keys.shape[0]
    later = torch.ones(count, num_stored, dtype=torch.bool, device=keys.device)
    later = later.triu(num_stored - count + 1)
    paid = []
    for head, of_head in enumerate(keys.double()):  # one after the other: scores are large
        rows = queries[:, head * share : (head + 1) * share].double().transpose(0, 1)
        scores = rows @ of_head.T * spec.scale  # (H / G, T, S)
        if spec.softcap is not None:
            scores = spec.softcap * torch.tanh(scores / spec.softcap)
        paid.append(scores.masked_fill(later, -torch.inf).softmax(-1).sum((0, 1)))
    return torch.stack(paid).float()
