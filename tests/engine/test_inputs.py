"""Encoder inputs are found whole or not at all, and go when room is needed."""

from __future__ import annotations

import gc

import pytest

from kept.blocks import Reason
from kept.cache import EncodedInput
from kept.engine import Inputs, Room
from kept.engine.inputs import KeptInput
from kept.errors import CacheFullError
from kept.ops import find_kv_codec

WHOLE, INT8 = find_kv_codec("float32"), find_kv_codec("int8")


def put(inputs: Inputs, room: Room, tokens: list[int], salt: str = "") -> EncodedInput:
    """One of ten bytes a token, which nobody attends any more."""
    encoded = EncodedInput(len(tokens), ())
    kept = KeptInput(encoded, room.budget.reserve(10 * len(tokens)))
    inputs.put(tokens, WHOLE, salt, kept).lease.release()
    return encoded


def why(inputs: Inputs, tokens: list[int], salt: str = "") -> Reason:
    found, reason = inputs.find(tokens, WHOLE, salt)
    if found is not None:
        found.lease.release()
    return reason


def test_only_the_very_same_tokens_are_found() -> None:
    room = Room(10_000)
    inputs = Inputs(room)
    texts = [[1, 2, 3], [1, 2], [1, 2, 3, 4], [3], [*range(200)]]
    encoded = [put(inputs, room, text) for text in texts]
    for text, expected in zip(texts, encoded, strict=True):
        found, reason = inputs.find(text, WHOLE, "")
        assert reason is Reason.WHOLE
        assert found is not None
        assert found.kept.encoded is expected
    for text in ([1], [2], [1, 2, 4], [3, 1, 2, 3], [*range(199)], [*range(201)]):
        assert why(inputs, text) is Reason.UNKNOWN
    assert why(inputs, [1, 2], "other") is Reason.OTHER_SALT
    assert inputs.find([1, 2], INT8, "") == (None, Reason.UNKNOWN)
    inputs.forget()
    assert why(inputs, [1, 2]) is Reason.UNKNOWN


def test_what_nobody_attends_goes_the_oldest_first() -> None:
    room = Room(100)
    inputs = Inputs(room)
    for first in range(3):
        put(inputs, room, [first, 0, 0])
    held, _ = inputs.find([0, 0, 0], WHOLE, "")
    assert held is not None
    assert why(inputs, [1, 0, 0]) is Reason.WHOLE  # a use
    assert (room.budget.taken, inputs.returnable) == (90, 60)
    assert room.make(lambda: 40 - room.budget.free, inputs)
    found = [why(inputs, [first, 0, 0]) for first in range(3)]
    assert found == [Reason.WHOLE, Reason.WHOLE, Reason.EVICTED]
    assert not room.make(lambda: 90 - room.budget.free, inputs), "one is attended"
    assert room.budget.taken == 30
    with pytest.raises(CacheFullError):
        room.budget.reserve(71)
    inputs.forget()
    assert room.budget.taken == 30
    held.lease.release()
    del held
    gc.collect()
    assert room.budget.taken == 0
