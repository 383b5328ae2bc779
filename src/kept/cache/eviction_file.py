"""An evicting cache in a file: its rule as JSON, and which tokens its layers hold as tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from kept.cache.evicting import EvictionRule
from kept.cache.evicting_layer import EvictingLayer
from kept.cache.layout import lasting
from kept.cache.policy import SCORES, EvictionPolicy
from kept.errors import CacheError


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
    budget, grain = int(fields["budget"]), int(fields["grain"])
    if grain < 1:
        raise ValueError(grain)
    policy = EvictionPolicy(score, int(fields["sinks"]), int(fields["recent"]))
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
