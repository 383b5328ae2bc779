"""Ctrl-C at any line of a step: the next one goes on, and no bit tells."""

from __future__ import annotations

import contextlib
import threading
from threading import Event, Thread
from typing import Any

import pytest
import torch
from interrupting import interrupted, some_of
from thinning import examples
from torch import Tensor

from kept.batch import Batch
from kept.cache import Cache
from kept.engine import Engine, Request, make_group

from .requests import expected, make_engine, outcome, pooled, resolved
from .test_sharing import RULE, check_blocks, check_nothing_is_left, story
from .toy import Toy

PROMPTS = [story(70), story(70), [*story(66), 1, 2], story(9, 1)]
OPTIONS: tuple[dict[str, Any], ...] = (
    {"max_new_tokens": 7},
    {"max_new_tokens": 5, "do_sample": True, "num_return_sequences": 2},
    {"max_new_tokens": 6, "do_sample": True, "seed": 5},
    {"max_new_tokens": 4, "num_beams": 2},
)


def begun(kind: str) -> tuple[Engine, list[Request]]:
    model = Toy(512)
    if kind == "pool":
        engine = pooled(model, slots=4, blocks=9, chunk=40)
    else:
        engine = make_engine(model, slots=4, kind=None if kind == "none" else kind, chunk=40)
    groups = [make_group(p, resolved(**o), RULE) for p, o in zip(PROMPTS, OPTIONS, strict=True)]
    return engine, [engine.submit(Request(group)) for group in groups]


def finish(engine: Engine) -> None:
    for _ in range(500):
        if not engine.has_work:
            return
        engine.step()


def test_what_is_ended_after_ctrl_c_is_no_error() -> None:
    """Also the text whose tokens were just being taken."""
    engine, _ = begun("pool")
    count = interrupted(lambda: finish(engine), None, "engine")
    for at in some_of(count, examples(60, 400), "ended"):
        engine, requests = begun("pool")
        with pytest.raises(KeyboardInterrupt):
            interrupted(lambda: finish(engine), at, "engine")  # noqa: B023
        engine.end(requests)
        reasons = {c.finish_reason for one in requests for c in one.group.results}
        assert reasons <= {"interrupted", "length"}


def test_the_thread_computes_gradients_as_before() -> None:
    """A step without them that ends in the middle leaves none of its modes behind."""

    def begun_alone() -> Engine:
        engine = pooled(Toy(512), slots=4, blocks=9)
        engine.submit(Request(make_group(story(9), resolved(max_new_tokens=2), RULE)))
        return engine

    first = begun_alone()
    count = interrupted(lambda: finish(first), None, "engine/changing")
    for at in range(1, count + 1):
        engine = begun_alone()
        with contextlib.suppress(KeyboardInterrupt):
            interrupted(lambda: finish(engine), at, "engine/changing")  # noqa: B023
        assert not torch.is_inference_mode_enabled()


def test_a_lone_request_goes_on_from_any_line_of_its_start() -> None:
    """Also from where it is neither among those that wait nor among those that run."""

    def admitted(at: int | None) -> int:
        engine = pooled(Toy(512), slots=4, blocks=9)
        request = engine.submit(Request(make_group(story(9), resolved(max_new_tokens=1), RULE)))
        with contextlib.suppress(KeyboardInterrupt):
            return interrupted(engine.step, at, "engine/scheduler", "engine/waiting")
        finish(engine)
        assert outcome(request.group) == expected(story(9), request.group.params, RULE)
        check_nothing_is_left(engine)
        return 0

    count = admitted(None)
    assert count
    for at in range(1, count + 1):
        admitted(at)


@pytest.mark.parametrize("kind", ["pool", "static", "sliding", "none"])
def test_the_next_step_goes_on(kind: str) -> None:
    engine, requests = begun(kind)
    finish(engine)
    whole = [outcome(one.group) for one in requests]
    for (prompt, options), found in zip(zip(PROMPTS, OPTIONS, strict=True), whole, strict=True):
        if "num_beams" not in options:
            assert found == expected(prompt, resolved(**options), RULE)
    engine, _ = begun(kind)
    count = interrupted(lambda: finish(engine), None, "engine")
    for at in some_of(count, examples(12, 25), kind):
        engine, requests = begun(kind)
        with pytest.raises(KeyboardInterrupt):
            interrupted(lambda: finish(engine), at, "engine")  # noqa: B023
        finish(engine)
        assert not engine.has_work, at
        ended = [i for i, one in enumerate(requests) if outcome(one.group) != whole[i]]
        # Whose tokens were just being taken cannot be told from one half done.
        assert len(ended) <= 1, at
        for i in ended:
            errors = [str(c.error) for c in requests[i].group.results if c.error is not None]
            assert errors, at
            assert all("was interrupted half way" in error for error in errors), at
        if kind == "pool":
            check_blocks(engine)
            check_nothing_is_left(engine)


@pytest.mark.parametrize("file", [contextlib.__file__, threading.__file__])
def test_other_threads_go_on_while_somebody_keeps_the_exception(file: str) -> None:
    """Ctrl-C may come in the library's own lines, between a lock and the `with` that frees it."""
    engine, _ = begun("pool")
    count = interrupted(lambda: engine.advance(lambda: False), None, file)
    for at in some_of(count, examples(25, 300), file):
        engine, requests = begun("pool")
        with pytest.raises(KeyboardInterrupt) as kept:  # with all of its frames
            interrupted(lambda: engine.advance(lambda: False), at, file)  # noqa: B023

        def go_on(engine: Engine = engine, requests: list[Request] = requests) -> None:
            while not all(request.finished for request in requests):
                engine.advance(lambda: False)

        thread = Thread(target=go_on, daemon=True)
        thread.start()
        thread.join(20)
        assert not thread.is_alive(), (at, kept)


class Gated(Toy):
    """Stands still in its third pass until it is let go on."""

    def __init__(self) -> None:
        super().__init__(512)
        self.stands, self.goes_on = Event(), Event()
        self.was_let_go = False

    def run(self, batch: Batch, cache: Cache | None = None, record: object = None) -> Tensor:
        if len(self.rows) == 2:
            self.stands.set()
            self.was_let_go = self.goes_on.wait(20)
        return super().run(batch, cache, record)


def test_a_caller_that_ends_its_requests_waits_for_no_step() -> None:
    """As at Ctrl-C in one thread, while another is in a long pass."""
    model = Gated()
    engine = pooled(model, slots=2, blocks=20)
    params = resolved(max_new_tokens=9)
    one, other = (Request(make_group(prompt, params, RULE)) for prompt in (PROMPTS[0], PROMPTS[3]))
    for each in (one, other):
        engine.submit(each)
    engine.step()
    engine.step()
    thread = Thread(target=engine.step)
    thread.start()
    assert model.stands.wait(20)
    engine.end([one])
    [(tokens, _)] = expected(PROMPTS[0], params, RULE)
    sofar = one.group.results[0].completion()
    assert (sofar.token_ids, sofar.finish_reason) == (tokens[:2], "interrupted")
    assert not one.finished
    model.goes_on.set()
    thread.join()
    assert model.was_let_go
    engine.step()
    assert outcome(one.group) == [(tokens[:3], "interrupted")]
    finish(engine)
    assert outcome(other.group) == expected(PROMPTS[3], params, RULE)
    check_nothing_is_left(engine)


def test_what_it_ends_beside_no_step_has_ended_then() -> None:
    engine, requests = begun("pool")
    engine.step()
    engine.end(requests)
    assert all(one.finished for one in requests)
    check_nothing_is_left(engine)


def test_what_ends_a_beam_search_is_there_once() -> None:
    engine, requests = begun("none")
    finish(engine)
    whole = outcome(requests[-1].group)
    engine, _ = begun("none")
    count = interrupted(lambda: finish(engine), None, "engine/beams.py")
    for at in range(count - 24, count + 1):
        engine, requests = begun("none")
        with pytest.raises(KeyboardInterrupt):
            interrupted(lambda: finish(engine), at, "engine/beams.py")  # noqa: B023
        finish(engine)
        [(tokens, reason)] = outcome(requests[-1].group)
        assert reason == "error" or [(tokens, reason)] == whole, at
        assert len(tokens) <= len(whole[0][0]), at
