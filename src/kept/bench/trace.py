"""One generation, timed token by token."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from kept.engine import PREFILL_CHUNK, Room
from kept.llm import Generation
from kept.llm.engines import Engines
from kept.models import CausalLM
from kept.options import CacheOptions
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
    found = torch.randint(
        vocab_size, (length,), generator=generator, dtype=torch.int64, device="cpu"
    )
    return [int(token) for token in found.tolist()]


def greedy(
    model: CausalLM,
    prompts: Sequence[Sequence[int]],
    new_tokens: int,
    *,
    prefill_chunk: int = PREFILL_CHUNK,
    **options: Any,
) -> Generation:
    """A generation of `new_tokens` for each prompt that nothing ends early, ready to be stepped.

    All prompts run side by side. options: fields of CacheOptions. Raises OptionError.
    """
    params = SamplingParams(
        max_new_tokens=new_tokens,
        do_sample=False,
        ignore_eos=True,
        seed=0,  # greedy: nothing is drawn
    ).resolve(vocab_size=model.config.vocab_size)
    return Generation(
        model,
        None,
        prompts,
        params,
        CacheOptions(**options).resolve(),
        Engines(model, len(prompts), prefill_chunk, Room()),
    )


def timed_steps(generation: Generation) -> Iterator[float]:
    """Run a generation to its end; yields the seconds of each engine step after it."""
    engine = generation.engine
    generation.begin()
    while engine.has_work:
        start = time.perf_counter()
        engine.step()
        yield time.perf_counter() - start


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
    generation = greedy(
        model, [prompt], trace.new_tokens, prefill_chunk=prefill_chunk, use_cache=trace.use_cache
    )
    cache, [continuation] = generation.engine.cache, generation.continuations
    seconds = 0.0
    for step in timed_steps(generation):
        seconds += step
        if continuation.history.num_generated == len(trace.step_seconds):
            continue  # a chunk of the prompt, which draws no token
        trace.step_seconds.append(seconds)
        trace.token_ids.append(int(continuation.history.tokens[-1]))
        ended = continuation.finish_reason is not None  # and has let its blocks go
        held = 0 if cache is None else cache.num_bytes
        trace.cache_bytes.append(continuation.cache_bytes if ended else held)
        seconds = 0.0
        if on_token is not None:
            on_token()
