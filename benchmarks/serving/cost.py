"""What HTTP costs: the same requests to an engine in this process, and to a server.

Both are there all the time and take turns, so that what else the machine does meets both alike; of
each turn the ratio counts, and of all turns the median.
"""

from __future__ import annotations

import math
import random
import time
from argparse import Namespace
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

from client import percentile
from lean import Client, made, read
from serve.process import serving

if TYPE_CHECKING:
    from kept import LLM


class Taken(NamedTuple):
    """rate: tokens a second. first: the median time to a first token, in seconds."""

    rate: float
    first: float


def prompts_of(given: Namespace, run: int, count: int) -> list[list[int]]:
    draws = random.Random(run)
    return [[draws.randrange(4, 1000) for _ in range(given.prompt)] for _ in range(count)]


def bare(given: Namespace, llm: LLM, prompts: list[list[int]], interactive: bool) -> Taken:
    """By an engine alone. interactive: somebody reads along, as of a stream, so that reading
    prompts may not hold up texts for long."""
    from kept import SamplingParams

    params = SamplingParams(
        max_new_tokens=given.new, ignore_eos=True, temperature=0.0, top_k=None, seed=0
    )
    resolved, caching = llm.resolve(params, {})
    began = time.perf_counter()
    texts = [
        llm.begin_tokens(prompt, resolved, caching, interactive=interactive) for prompt in prompts
    ]
    engine = texts[0].engine
    requests = [engine.submit(request) for text in texts for request in text.requests]
    while engine.has_work:
        engine.step()
    seconds = time.perf_counter() - began
    completions = [request.group.results[0].completion() for request in requests]
    first = percentile([c.time_to_first_token or 0.0 for c in completions], 0.5)
    return Taken(sum(len(c.token_ids) for c in completions) / seconds, first)


def bodies_of(given: Namespace, prompts: list[list[int]]) -> list[bytes]:
    """Requests for a greedy stream of each prompt, of `--new` tokens."""
    return [
        made(
            {
                "prompt": prompt,
                "max_tokens": given.new,
                "ignore_eos": True,
                "temperature": 0,
                "stream": True,
                "stream_options": {"include_usage": True},
            }
        )
        for prompt in prompts
    ]


def over_http(given: Namespace, address: tuple[str, int], prompts: list[list[int]]) -> Taken:
    """The same, of streams."""
    requests = bodies_of(given, prompts)
    client, began = Client(address), time.perf_counter()
    told = [client.ask(data) for data in requests]
    client.hear(math.inf)
    seconds = time.perf_counter() - began
    for each in told:
        read(each)
    assert all(each.is_whole for each in told), told[0].error
    tokens = sum(each.usage["completion_tokens"] for each in told)
    firsts = [each.at[0] for each in told if each.at]
    return Taken(tokens / seconds, percentile(firsts, 0.5))


async def run(given: Namespace) -> dict[str, Any]:
    """Many at once, and one alone. `engine_interactive` is what the engine gives up for those who
    read along, with HTTP or without."""
    from kept import LLM

    llm = LLM(given.model, max_batch_size=given.requests)
    model = (given.model,) if given.model else ()
    options = ("--max-batch-size", str(given.requests), "--max-queue-time", "1e6")
    many: list[tuple[Taken, Taken, Taken]] = []
    alone: list[tuple[Taken, Taken]] = []
    with serving(*model, *options, "--no-access-log", "--prefix-store", "off") as server:
        for turn in range(given.runs + 1):
            new = (prompts_of(given, 6 * turn + i, given.requests) for i in range(3))
            one = (prompts_of(given, 6 * turn + 3 + i, 1) for i in range(2))
            theirs = over_http(given, server.address, next(new))
            ours, along = (
                bare(given, llm, next(new), interactive) for interactive in (False, True)
            )
            lone = over_http(given, server.address, next(one))
            many.append((ours, along, theirs))
            alone.append((bare(given, llm, next(one), False), lone))
    del many[0], alone[0]  # memory was new, and nothing known of how long passes take
    kept = median(theirs.rate / ours.rate for ours, _, theirs in many)
    later = median(theirs.first - ours.first for ours, _, theirs in many)
    later_alone = median(theirs.first - ours.first for ours, theirs in alone)
    return {
        "requests": given.requests,
        "prompt_tokens": given.prompt,
        "new_tokens": given.new,
        "turns": given.runs,
        "engine_tokens_per_s": round(median(ours.rate for ours, _, _ in many), 1),
        "server_tokens_per_s": round(median(theirs.rate for _, _, theirs in many), 1),
        "of_engine": round(kept, 4),
        "engine_interactive_of_engine": round(median(a.rate / o.rate for o, a, _ in many), 4),
        "engine_first_token_s": round(median(ours.first for ours, _, _ in many), 4),
        "engine_interactive_first_token_s": round(median(a.first for _, a, _ in many), 4),
        "server_first_token_s": round(median(theirs.first for _, _, theirs in many), 4),
        "first_token_later_ms": round(1e3 * later, 1),
        "first_token_later_alone_ms": round(1e3 * later_alone, 1),
        "passed": kept >= 0.97 and later <= 0.005,
    }
