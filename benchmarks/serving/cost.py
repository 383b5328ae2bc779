"""What HTTP costs: the same requests to an engine in this process, and to a server."""

from __future__ import annotations

import asyncio
import random
import time
from argparse import Namespace
from typing import TYPE_CHECKING, Any

from client import ask, percentile
from serve.process import serving

if TYPE_CHECKING:
    from kept import LLM


def prompts_of(given: Namespace, run: int) -> list[list[int]]:
    draws = random.Random(run)
    return [[draws.randrange(4, 1000) for _ in range(given.prompt)] for _ in range(given.requests)]


def bare(given: Namespace, llm: LLM, interactive: bool) -> tuple[float, float]:
    """Tokens a second and the median time to a first token, of the best run. interactive: somebody
    reads along, as of a stream, so that reading prompts may not hold up texts for long."""
    from kept import SamplingParams

    params = SamplingParams(
        max_new_tokens=given.new, ignore_eos=True, temperature=0.0, top_k=None, seed=0
    )
    resolved, caching = llm.resolve(params, {})
    found = []
    for number in range(given.runs + 1):
        began = time.perf_counter()
        texts = [
            llm.begin_tokens(prompt, resolved, caching, interactive=interactive)
            for prompt in prompts_of(given, 2 * number + interactive)
        ]
        engine = texts[0].engine
        requests = [engine.submit(request) for text in texts for request in text.requests]
        while engine.has_work:
            engine.step()
        seconds = time.perf_counter() - began
        completions = [request.group.results[0].completion() for request in requests]
        first = percentile([c.time_to_first_token or 0.0 for c in completions], 0.5)
        found.append((sum(len(c.token_ids) for c in completions) / seconds, first))
    return max(found[1:])


async def over_http(given: Namespace) -> tuple[float, float]:
    """The same, of streams."""
    model = (given.model,) if given.model else ()
    options = ("--max-batch-size", str(given.requests), "--max-queue-time", "1e6")
    with serving(*model, *options, "--no-access-log", "--prefix-store", "off") as server:
        found = []
        for number in range(given.runs + 1):
            bodies = [
                {
                    "prompt": prompt,
                    "max_tokens": given.new,
                    "ignore_eos": True,
                    "temperature": 0,
                    "stream": True,
                    "stream_options": {"include_usage": True},
                }
                for prompt in prompts_of(given, number)
            ]
            began = time.perf_counter()
            told = await asyncio.gather(
                *(ask(server.address, body, reads_later=True) for body in bodies)
            )
            seconds = time.perf_counter() - began
            for each in told:
                each.read()
            assert all(each.is_whole for each in told), told[0].error
            tokens = sum(each.usage["completion_tokens"] for each in told)
            firsts = [each.at[0] for each in told if each.at]
            found.append((tokens / seconds, percentile(firsts, 0.5)))
    return max(found[1:])


async def run(given: Namespace) -> dict[str, Any]:
    """Both, and what lies between them; `engine_interactive` is what of it the engine gives up for
    those who read along, with HTTP or without."""
    from kept import LLM

    llm = LLM(given.model, max_batch_size=given.requests)
    ours, along = bare(given, llm, False), bare(given, llm, True)
    del llm
    theirs = await over_http(given)
    loss, later = 1 - theirs[0] / ours[0], theirs[1] - ours[1]
    return {
        "requests": given.requests,
        "prompt_tokens": given.prompt,
        "new_tokens": given.new,
        "engine_tokens_per_s": round(ours[0], 1),
        "engine_interactive_tokens_per_s": round(along[0], 1),
        "server_tokens_per_s": round(theirs[0], 1),
        "lost": round(loss, 4),
        "engine_first_token_s": round(ours[1], 4),
        "engine_interactive_first_token_s": round(along[1], 4),
        "server_first_token_s": round(theirs[1], 4),
        "first_token_later_ms": round(1e3 * later, 1),
        "passed": loss <= 0.03 and later <= 0.005,
    }
