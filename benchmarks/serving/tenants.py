"""Whether the time to a first token tells one tenant what another has asked."""

from __future__ import annotations

import math
import random
from argparse import Namespace
from typing import Any

from client import ask, percentile
from serve.process import serving

KEYS = ("alice:0123456789abcdef", "bob:fedcba9876543210")
PREFIX = 1024  # tokens


async def run(given: Namespace) -> dict[str, Any]:
    """Pairs of first-token times of Bob: of a prompt that Alice has just had read, and of a new
    one; by Kolmogorov and Smirnov they are of one distribution. And of one that Bob himself has had
    read, which must be seen to differ: else the test sees nothing."""
    draws = random.Random(0)
    alice, bob = (key.partition(":")[2] for key in KEYS)
    model = (given.model,) if given.model else ()
    keys = [part for key in KEYS for part in ("--api-key", key)]
    with serving(*model, *keys, "--no-access-log", "--prefix-store", "off") as server:

        async def first(prompt: list[int], key: str) -> float:
            body = {"prompt": prompt, "max_tokens": 2, "stream": True, "temperature": 0}
            told = await ask(server.address, body, key)
            assert told.is_whole, told.error
            return told.at[0] if told.at else told.seconds

        def new() -> list[int]:
            return [draws.randrange(4, 1000) for _ in range(PREFIX)]

        await first(new(), bob)
        hers, others, own = list[float](), list[float](), list[float]()
        for _ in range(given.requests):
            known = new()
            await first(known, alice)
            pair = [(hers, known), (others, new())]
            draws.shuffle(pair)  # so that no drift of the machine has a side
            for times, prompt in pair:
                times.append(await first(prompt, bob))
            own.append(await first(known, bob))
    p, p_own = smirnov(hers, others), smirnov(own, others)
    return {
        "pairs": given.requests,
        "median_ms": {
            "read_by_another": round(1e3 * percentile(hers, 0.5), 2),
            "new": round(1e3 * percentile(others, 0.5), 2),
            "read_by_oneself": round(1e3 * percentile(own, 0.5), 2),
        },
        "p": round(p, 4),
        "p_of_ones_own": float(f"{p_own:.2g}"),
        "passed": p > 0.05 and p_own < 0.05,
    }


def smirnov(a: list[float], b: list[float]) -> float:
    """The two-sided p of two samples of equal size being of one distribution, asymptotic with
    Stephens' correction (1970)."""
    n, m = len(a), len(b)
    distance = max(
        abs(sum(x <= at for x in a) / n - sum(x <= at for x in b) / m) for at in (*a, *b)
    )
    size = math.sqrt(n * m / (n + m))
    at = (size + 0.12 + 0.11 / size) * distance
    if at < 0.2:
        return 1.0
    terms = (2 * (-1) ** (k - 1) * math.exp(-2 * k * k * at * at) for k in range(1, 101))
    return min(max(sum(terms), 0.0), 1.0)
