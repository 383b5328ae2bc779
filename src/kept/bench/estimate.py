"""How long an experiment will take, from a few steps at three lengths."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

from kept.bench.trace import Trace, random_prompt, time_generation
from kept.models import CausalLM

_PROBE_TOKENS = 4


@dataclass(frozen=True, slots=True)
class StepCost:
    """Seconds of a step against the length it attends, as a parabola through a few points.

    A parabola because that is what a pass over n tokens costs: n rows, and n^2 / 2 attended pairs.
    """

    points: tuple[tuple[int, float], ...]

    def at(self, length: int) -> float:
        """Seconds of a step at this length; never less than half the cheapest one seen."""
        found = 0.0
        for here, seconds in self.points:
            weight = 1.0
            for there, _ in self.points:
                if there != here:
                    weight *= (length - there) / (here - there)
            found += weight * seconds
        return max(found, min(seconds for _, seconds in self.points) / 2)


@dataclass(frozen=True, slots=True)
class Estimate:
    """What the steps of a run are likely to take, with and without the cache."""

    prompt_tokens: int
    new_tokens: int
    with_cache: StepCost
    without_cache: StepCost

    def step_seconds(self, use_cache: bool, index: int) -> float:
        """What the new token of this index is likely to take; the first reads the prompt."""
        cost = self.with_cache if use_cache and index else self.without_cache
        return cost.at(self.prompt_tokens + index)

    def run_seconds(self, use_cache: bool) -> float:
        """What a whole run is likely to take."""
        return sum(self.step_seconds(use_cache, i) for i in range(self.new_tokens))


def estimate(model: CausalLM, prompt_tokens: int, new_tokens: int, seed: int) -> Estimate:
    """Time a few steps at the beginning, the middle and the end of a run; it warms up, too.

    A probe reads n tokens at once, which is what a step at length n does without a cache, and then
    goes on with the cache for a few steps.
    """
    last = max(prompt_tokens, prompt_tokens + new_tokens - _PROBE_TOKENS)
    lengths = sorted({prompt_tokens, (prompt_tokens + last) // 2, last})
    _probe(model, lengths[0], seed)  # the first of all is slower: threads, pages, packed weights
    probes = [(length, _probe(model, length, seed)) for length in lengths]
    return Estimate(
        prompt_tokens,
        new_tokens,
        # Past the end of the context a probe is cut short, and its prompt may be all there is.
        with_cache=StepCost(tuple((n, median(steps[1:] or steps)) for n, steps in probes)),
        without_cache=StepCost(tuple((n, steps[0]) for n, steps in probes)),
    )


def _probe(model: CausalLM, length: int, seed: int) -> list[float]:
    """Seconds of reading `length` tokens at once, and of a few cached steps after that."""
    trace = Trace(True, length, _PROBE_TOKENS)
    prompt = random_prompt(model.config.vocab_size, length, seed)
    time_generation(model, prompt, trace, prefill_chunk=length)
    return trace.step_seconds
