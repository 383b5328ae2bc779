"""Encoder inputs in an engine: who attends them, whatever Ctrl-C ends, and when they go."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
import torch

from kept import SamplingParams
from kept.cache import Cache, make_cache
from kept.engine import ContextRule, Engine, Request, make_group
from laws.test_encoder_laws import t5
from laws.tiny import VOCAB

RULE = ContextRule(100)


def begun(kind: str) -> tuple[Engine, list[Request]]:
    """Two slots for two samples of one input, behind which two others wait."""
    model, fields = t5(None, False), {"static": {"max_cache_len": 100}}
    cache = make_cache(model.kv_shapes, kind, num_slots=2, **fields.get(kind, {}))
    engine, random = Engine(model, cache, RULE), Random(3)
    requests = []
    for count in (2, 1, 1):
        options: dict[str, Any] = {"do_sample": count > 1, "num_return_sequences": count}
        params = SamplingParams(max_new_tokens=3, seed=1, logprobs=1, **options)
        source = tuple(random.randrange(VOCAB) for _ in range(20))
        group = make_group([1], params.resolve(vocab_size=VOCAB), RULE, source=source)
        requests.append(engine.submit(Request(group)))
    return engine, requests


def finish(engine: Engine) -> None:
    with torch.no_grad():
        while engine.has_work:
            engine.step()


def outcome(request: Request) -> list[object]:
    found = [continuation.completion() for continuation in request.group.results]
    return [(one.token_ids, one.logprobs, one.finish_reason) for one in found]


@pytest.mark.parametrize("kind", ["dynamic", "static"])
@pytest.mark.parametrize("at", ["attend", "reorder"])
def test_who_comes_to_a_slot_attends_its_own_input(
    kind: str, at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, requests = begun(kind)
    finish(engine)
    whole = [outcome(one) for one in requests]
    assert whole[1] != whole[2]
    engine, requests = begun(kind)
    act = getattr(Cache, at)

    def interrupted(cache: Cache, *of: Any) -> None:
        """As it begins to leave a slot, or has moved slots, for the first time."""
        if at == "reorder" or of[1] is None:
            monkeypatch.undo()
            if at == "reorder":
                act(cache, *of)
            raise KeyboardInterrupt
        act(cache, *of)

    monkeypatch.setattr(Cache, at, interrupted)
    with pytest.raises(KeyboardInterrupt):
        finish(engine)
    if at == "reorder":
        engine.cancel(requests[0])
    finish(engine)
    assert [outcome(one) for one in requests[1:]] == whole[1:]


def test_an_engine_forgets_its_own_inputs() -> None:
    engine, _ = begun("static")
    finish(engine)
    assert engine.room.budget.taken
    engine.forget()
    assert not engine.room.budget.taken
