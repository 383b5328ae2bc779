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
from typing import ClassVar, Literal, Protocol

import torch
from torch import Tensor

from kept.cache.indices import read_whole
from kept.cache.observer import Observed
from kept.errors import OptionError


@dataclass(frozen=True, slots=True)
class Entries:
    """What a score may look at: the S entries of one layer and slot, oldest first.

    keys, values: (G, S, D) as their codec left them. tokens: (G, S) int64, which token each entry
    holds. observed: the queries of the last `grain` tokens, for a score that looks at queries.
    received: (G, S) fp32, the attention that each entry has received since it was stored, added
    over queries and the heads that share its keys, for a score that looks at received attention.
    """

    keys: Tensor
    values: Tensor
    tokens: Tensor
    observed: Observed | None = None
    received: Tensor | None = None


LooksAt = Literal["entries", "queries", "received"]


class Score(Protocol):
    """How much a token is worth keeping.

    name: what files and `EvictionPolicy.score` call it. looks_at: at what is stored alone, or
    beside it at the last queries, or at them and what each entry has received. Where it looks at
    queries, a cache keeps those of the last `grain` tokens, and is not truncated past a multiple of
    `grain`.
    """

    name: ClassVar[str]
    looks_at: ClassVar[LooksAt]

    def __call__(self, entries: Entries) -> Tensor:
        """(G, S) numbers; the lowest leave, of equal ones the oldest. NaN counts as highest."""
        ...


@dataclass(frozen=True, slots=True)
class Newest:
    """The newest tokens stay: a window. With sinks it attends what a sliding cache does. Source:
    Xiao et al. 2023, "Efficient Streaming Language Models with Attention Sinks"."""

    name: ClassVar[str] = "window"
    looks_at: ClassVar[LooksAt] = "entries"

    def __call__(self, entries: Entries) -> Tensor:
        """See `Score`."""
        return entries.tokens.float()


@dataclass(frozen=True, slots=True)
class KeyNorm:
    """Tokens whose keys are short stay: they tend to be attended most. Costs a pass over the keys
    an eviction. Source: Devoto et al. 2024, "A Simple and Effective L2 Norm-Based Strategy for KV
    Cache Compression"."""

    name: ClassVar[str] = "key-norm"
    looks_at: ClassVar[LooksAt] = "entries"

    def __call__(self, entries: Entries) -> Tensor:
        """See `Score`."""
        return -entries.keys.double().square().sum(-1).float()


@dataclass(frozen=True, slots=True)
class Attention:
    """Tokens that have received most attention stay, of all queries since they were read. It costs
    the scores of attention once more. Source: Zhang et al. 2023, "H2O: Heavy-Hitter Oracle for
    Efficient Generative Inference of Large Language Models", without its eviction at each token."""

    name: ClassVar[str] = "attention"
    looks_at: ClassVar[LooksAt] = "received"

    def __call__(self, entries: Entries) -> Tensor:
        """See `Score`."""
        assert entries.received is not None
        return entries.received


@dataclass(frozen=True, slots=True)
class ExpectedAttention:
    """Tokens stay that queries to come are expected to attend, times the length of their values.

    These queries are taken to be distributed normally, as the last `grain` ones were. Of a key k
    the mean of exp(scale q k) is then exp(m + v / 2), where m and v are the mean and the variance
    of scale q k over the last queries. Source: Devoto et al. 2025, "Expected Attention: KV Cache
    Compression by Estimating Attention from Future Queries Distribution", which turns queries to
    the positions to come, where these stay at their own.
    """

    name: ClassVar[str] = "expected-attention"
    looks_at: ClassVar[LooksAt] = "queries"

    def __call__(self, entries: Entries) -> Tensor:
        """See `Score`."""
        assert entries.observed is not None
        scores = entries.observed.scores(entries.keys)  # (G, R, W, S)
        variance, mean = torch.var_mean(scores, dim=2, correction=0)
        expected = (mean + variance / 2).softmax(-1).mean(1)
        lengths: Tensor = entries.values.float().norm(dim=-1)
        return expected * lengths


SCORES: Mapping[str, Score] = MappingProxyType(
    {score.name: score for score in (Newest(), KeyNorm(), Attention(), ExpectedAttention())}
)


@dataclass(frozen=True, slots=True)
class EvictionPolicy:
    """Which tokens of a layer and slot stay when it has more than its budget.

    score: one of `SCORES` by name, or one of your own, which a file cannot name. sinks: the first
    tokens that always stay. recent: the last ones that do; None: half of what sinks leave of the
    budget.

    Raises OptionError for a score that there is not, or a negative count.
    """

    score: Score | str = "key-norm"
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
        rest = torch.arange(self.sinks, count - self.recent, dtype=torch.int64, device=score.device)
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
