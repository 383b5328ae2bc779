"""What grammars cost a step: texts held to 300 JSON schemas, and as many that are held to none.

The engine alone, as many texts at a time as it has slots, both ways in turn. No text can end: each
schema asks for more than is drawn. So steps of both ways compute as many rows behind as many
tokens, and what they differ by are the masks. Compiling schemas is timed apart.
"""

from __future__ import annotations

import random
import time
from argparse import Namespace
from statistics import median
from typing import TYPE_CHECKING, Any

from client import percentile

if TYPE_CHECKING:
    from kept import LLM

SCHEMAS = 300
NAMES = ("id", "name", "kind", "size", "tags", "when", "owner", "notes", "place", "state", "unit")


def schema_of(number: int) -> dict[str, Any]:
    """A list of objects, different for each number, longer than any text that is drawn."""
    draws = random.Random(number)

    def value(depth: int) -> dict[str, Any]:
        kinds = ("integer", "number", "boolean", "string", "short", "enum", "list", "object")
        match draws.choice(kinds[: None if depth else -2]):
            case "short":
                return {"type": "string", "maxLength": draws.randrange(3, 40)}
            case "enum":
                return {"enum": [f"{draws.choice(NAMES)}{i}" for i in range(draws.randrange(2, 9))]}
            case "list":
                return {"type": "array", "items": value(depth - 1), "maxItems": 9}
            case "object":
                return of(depth - 1)
            case kind:
                return {"type": kind}

    def of(depth: int) -> dict[str, Any]:
        names = [f"{name}_{number}" for name in draws.sample(NAMES, draws.randrange(2, 6))]
        return {
            "type": "object",
            "properties": {name: value(depth) for name in names},
            "required": names,
            "additionalProperties": False,
        }

    return {"type": "array", "items": of(2), "minItems": 1000}


def steps_of(
    given: Namespace, llm: LLM, numbers: range, *, held: bool
) -> tuple[list[float], float]:
    """Seconds of each step in which every text draws a token behind its first, and those before
    the first step."""
    from kept import SamplingParams

    began, texts = time.perf_counter(), []
    for number in numbers:
        draws = random.Random(number)
        prompt = [draws.randrange(4, 1000) for _ in range(32)]
        params = SamplingParams(
            max_new_tokens=given.new,
            temperature=0.0,
            top_k=None,
            seed=0,
            ignore_eos=not held,
            json_schema=schema_of(number) if held else None,
        )
        resolved, caching = llm.resolve(params, {})
        texts.append(llm.begin_tokens(prompt, resolved, caching))
    before = time.perf_counter() - began
    engine = texts[0].engine
    requests = [engine.submit(request) for text in texts for request in text.requests]
    found = []
    while engine.has_work:
        drawn = [r.group.results[0].history.num_generated for r in requests]
        began = time.perf_counter()
        engine.step()
        if min(drawn) > 1 and max(drawn) < given.new - 1:
            found.append(time.perf_counter() - began)
    for request in requests:
        text = request.group.results[0]
        assert text.error is None, text.error
        assert text.history.num_generated == given.new, "a text has ended"
    return found, before


async def run(given: Namespace) -> dict[str, Any]:
    """All schemas, `--streams` at a time; of each batch the ratio counts, and of all the median."""
    from kept import LLM

    slots = min(given.streams, 64)
    llm = LLM(given.model, max_batch_size=slots)
    ratios, whole, late = list[float](), list[float](), list[float]()
    free, held, compiling = list[float](), list[float](), list[float]()
    steps_of(given, llm, range(slots), held=True)  # memory is new, and modules are imported
    for turn, begin in enumerate(range(0, SCHEMAS, slots)):
        numbers = range(SCHEMAS + begin, SCHEMAS + min(begin + slots, SCHEMAS))
        taken = {}
        for is_held in (True, False) if turn % 2 else (False, True):
            taken[is_held], before = steps_of(given, llm, numbers, held=is_held)
            if is_held:
                compiling.append(before / len(numbers))
        free += taken[False]
        held += taken[True]
        ratios.append(median(taken[True]) / median(taken[False]))
        whole.append(sum(taken[True]) / sum(taken[False]))
        late.append(percentile(taken[True], 0.99) / percentile(taken[False], 0.99))
    return {
        "schemas": SCHEMAS,
        "at_a_time": slots,
        "new_tokens": given.new,
        "free_step_ms": round(1e3 * median(free), 3),
        "held_step_ms": round(1e3 * median(held), 3),
        "held_of_free": round(median(ratios), 4),
        "held_of_free_all_steps": round(median(whole), 4),
        "held_of_free_p99": round(median(late), 4),
        "begun_ms": round(1e3 * median(compiling), 2),
        "passed": median(ratios) <= 1.03,
    }
