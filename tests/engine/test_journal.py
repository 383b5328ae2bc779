"""The log tells each turn in the life of a request, and nothing to who does not listen."""

from __future__ import annotations

import logging

import pytest

from kept.engine import Event

from .requests import pooled
from .test_sharing import request, run, story
from .toy import Toy


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "kept.engine"]


def test_a_story_is_told_from_its_coming_to_its_end(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "kept.engine")
    engine = pooled(Toy(512), slots=2, blocks=20, chunk=64)
    first, second = (request(story(130), max_new_tokens=3) for _ in range(2))
    second.tenant, second.priority = "b", -1
    run(engine, [first, second])
    told = "\n".join(lines(caplog))
    for line in (
        "request 0 arrives: 130 prompt tokens, at most 3 new",
        "request 1 of 'b' arrives: 130 prompt tokens, at most 3 new, priority -1",
        "request 1 waits for request 0 to read the 129 tokens that both begin with",
        "130 prompt tokens, cached: none; nothing known begins like it",
        "130 prompt tokens, cached: 129 running",
        "0 decode, prompts: 64 of request 0; 1 wait; blocks: ",
        ": length, 3 tokens, the first after ",
    ):
        assert line in told, line


def test_who_makes_room_and_who_fails_is_told(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "kept.engine")
    engine = pooled(Toy(512), slots=2, blocks=5, chunk=64)
    run(engine, [request(story(100, i), max_new_tokens=100) for i in range(2)])
    failing = request(story(9), max_new_tokens=9)

    def fail(event: Event) -> None:
        raise ValueError("nobody reads this")

    failing.on_event = fail
    run(engine, [failing])
    told = "\n".join(lines(caplog))
    assert "request 1 is parked with " in told
    assert "request 1 goes on, " in told
    assert "request 2 ends after " in told
    assert "error, 1 tokens, the first after" in told
    assert "nobody reads this" in told


def test_nothing_is_told_to_who_does_not_listen(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "kept.engine")
    run(pooled(Toy(512), slots=2, blocks=20), [request(story(9), max_new_tokens=2)])
    assert lines(caplog) == []
