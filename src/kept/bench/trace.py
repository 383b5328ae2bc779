"""One generation, timed token by token."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from kept.engine import PREFILL_CHUNK
from kept.llm import Generation
from kept.models import CausalLM
from kept.sampling import SamplingParams


@dataclass(slots=True)
class Trace:
    """What a generation took. Filled as it runs, so that an interrupted one keeps what it has.

    use_cache: with or without keys and values kept. prompt_tokens, new_tokens: what was asked.
    step_seconds: (new,) what each token took; the first includes reading the prompt. token_ids:
    (new,). cache_bytes: (new,) that the cache's buffers took after each token, 0 without.
    """

    use_cache: bool
    prompt_tokens: int
    new_tokens: int
    step_seconds: list[float] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    cache_bytes: list[int] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether every token asked for was drawn."""
        return len(self.step_seconds) == self.new_tokens

    @property
    def seconds(self) -> float:
        """All steps together."""
        return sum(self.step_seconds)


def random_prompt(vocab_size: int, length: int, seed: int) -> list[int]:
    """Token ids drawn evenly from the vocabulary; a seed always draws the same ones."""
    generator = torch.Generator().manual_seed(seed)
    found: list[int] = torch.randint(vocab_size, (length,), generator=generator).tolist()
    return found


def time_generation(
    model: CausalLM,
    prompt: Sequence[int],
    trace: Trace,
    on_token: Callable[[], None] | None = None,
    prefill_chunk: int = PREFILL_CHUNK,
) -> None:
    """Generate `trace.new_tokens` greedily, with nothing that ends the text early, into `trace`.

    on_token: called, outside the timed part, after each token.
    """
    params = SamplingParams(
        max_new_tokens=trace.new_tokens,
        do_sample=False,
        ignore_eos=True,
        use_cache=trace.use_cache,
        seed=0,  # greedy: nothing is drawn
    ).resolve(vocab_size=model.config.vocab_size)
    generation = Generation(model, None, [prompt], params, max_slots=1, prefill_chunk=prefill_chunk)
    engine, [continuation] = generation.engine, generation.continuations
    seconds = 0.0
    while engine.has_work:
        start = time.perf_counter()
        engine.step()
        seconds += time.perf_counter() - start
        if continuation.history.num_generated == len(trace.step_seconds):
            continue  # a chunk of the prompt, which draws no token
        trace.step_seconds.append(seconds)
        trace.token_ids.append(int(continuation.history.tokens[-1]))
        trace.cache_bytes.append(0 if engine.cache is None else engine.cache.num_bytes)
        seconds = 0.0
        if on_token is not None:
            on_token()
