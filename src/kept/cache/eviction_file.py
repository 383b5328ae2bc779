"""An evicting cache in a file: its rule as JSON, and which tokens its layers hold as tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from torch import Tensor

from kept.cache.evicting import EvictionRule
from kept.cache.evicting_layer import EvictingLayer
from kept.cache.layout import lasting
from kept.cache.policy import SCORES, EvictionPolicy
from kept.errors import CacheError

MAX_COUNT: Final = 2**48  # of anything in a file: as many tokens or bytes as no machine holds


def read_count(value: object, *, least: int = 0) -> int:
    """A count as JSON spells it. Raises ValueError for anything else, or more than `MAX_COUNT`."""
    if type(value) is not int or not least <= value <= MAX_COUNT:
        raise ValueError(value)
    return value


def write_rule(rule: EvictionRule) -> dict[str, Any]:
    """A rule's numbers. Raises CacheError for a score of one's own, which a file cannot name."""
    score = rule.policy.scored_by
    if type(score) is not type(SCORES.get(score.name)):
        raise CacheError(
            f"the eviction score {score!r} is not one that a file can name, so that this cache "
            f"could not go on when it is loaded; there are {', '.join(SCORES)}"
        )
    return {
        "budget": rule.budget,
        "grain": rule.grain,
        "score": score.name,
        "sinks": rule.policy.sinks,
        "recent": rule.policy.recent,
    }


def read_rule(fields: Mapping[str, Any]) -> EvictionRule:
    """The rule that `write_rule` wrote. Raises ValueError, TypeError or LookupError for no rule."""
    score = SCORES[fields["score"]]
    budget, grain = read_count(fields["budget"], least=1), read_count(fields["grain"])
    if grain < 1:
        raise ValueError(grain)
    policy = EvictionPolicy(score, read_count(fields["sinks"]), read_count(fields["recent"]))
    return EvictionRule(budget, grain, policy.within(budget))


def restore_held(index: int, layer: EvictingLayer, held: Tensor, lengths: Sequence[int]) -> None:
    """Tell a layer which tokens it holds. Raises CacheError for what no such layer can hold."""
    for labels, length in zip(held, lengths, strict=True):
        last = layer.rule.last(length)
        rising = bool((labels.diff(dim=1) > 0).all())
        if last and not (rising and int(labels.min()) >= 0 and int(labels.max()) < last):
            raise CacheError(
                f"layer {index} of the file cannot hold tokens {labels.tolist()} of the first "
                f"{last}; make the cache anew"
            )
    with lasting():
        layer.held = held.to(layer.held.device)
