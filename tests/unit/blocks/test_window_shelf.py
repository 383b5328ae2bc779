"""Which blocks of windows go first, how many there are, and that Ctrl-C loses none."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from interrupting import interrupted, some_of

from kept.blocks import BlockPool, Budget, Stack, WindowShelf

NOBODY: list[set[int]] = [set(), set()]


class Setting:
    """A shelf of one group without a window and one with, and the stacks of a tree."""

    def __init__(self) -> None:
        self.now = 0.0
        budget = Budget(1 << 20)
        self.whole, self.windowed = BlockPool(900, 7, budget), BlockPool(900, 10, budget)
        self.shelf = WindowShelf([None, 10], clock=lambda: self.now)
        self.stacks: list[Stack] = []

    def add(self, count: int) -> list[Stack]:
        """So many new stacks."""
        new = [Stack((*self.whole.take(1), *self.windowed.take(1))) for _ in range(count)]
        self.stacks += new
        return new

    def windows(self) -> list[int]:
        """Which stacks hold a block of the group with a window."""
        return [i for i, stack in enumerate(self.stacks) if stack.blocks[1] is not None]

    def check(self) -> None:
        """What the shelf counts is what there is."""
        there = {*self.shelf._spare, *self.shelf._wanted}
        held = [stack.blocks[1] for stack in self.stacks if stack.ticket in there]
        ids = {block.id for block in held if block is not None}
        assert self.shelf.num_bytes(NOBODY) == 10 * len(ids)


def test_spare_ones_go_first_then_wanted_ones_by_their_use() -> None:
    of = Setting()
    of.shelf.put(of.add(4), wanted=False)
    of.now = 5.0
    of.shelf.put(of.stacks[1:2], wanted=True)
    of.now = 6.0
    of.shelf.put(of.stacks[3:4], wanted=True)
    assert of.shelf.oldest(NOBODY, wanted=True) == 5.0
    gone = []
    for wanted in (False, False, True, True):
        before = of.windows()
        assert of.shelf.evict(NOBODY, wanted=wanted)
        gone += set(before) - set(of.windows())
        of.check()
    assert gone == [0, 2, 1, 3]
    assert not of.shelf.evict(NOBODY, wanted=False)
    assert not of.shelf.evict(NOBODY, wanted=True)
    assert of.shelf.oldest(NOBODY, wanted=True) is None
    assert (of.whole.num_used, of.windowed.num_used) == (4, 0)


def test_retained_ones_go_last_while_they_are() -> None:
    of = Setting()
    of.shelf.put(of.add(2)[:1], wanted=True, retain=9.0)
    of.now = 5.0
    of.shelf.put(of.stacks[1:], wanted=True)
    of.shelf.put(of.stacks[:1], wanted=True)  # a use takes no wish back
    assert of.shelf.oldest(NOBODY, wanted=True) == 5.0
    assert of.shelf.evict(NOBODY, wanted=True)
    assert of.windows() == [0]
    assert of.shelf.oldest(NOBODY, wanted=True) == 9.0
    of.shelf.put(of.add(1), wanted=True)
    of.now = 20.0
    of.shelf.put(of.add(1), wanted=True)
    assert of.shelf.evict(NOBODY, wanted=True)
    assert of.shelf.evict(NOBODY, wanted=True)
    assert of.windows() == [3]
    assert of.shelf.evict(NOBODY, wanted=True), "a wish is no pin"
    of.check()


def test_what_a_slot_has_is_not_let_go_and_not_counted() -> None:
    of = Setting()
    first, second = of.add(2)
    of.shelf.put([first, second], wanted=False)
    assert first.blocks[1] is not None
    held: list[set[int]] = [set(), {first.blocks[1].id, 77}]
    assert of.shelf.num_bytes(held) == 10
    assert of.shelf.evict(held, wanted=False)
    assert of.windows() == [0]
    assert not of.shelf.evict(held, wanted=False)
    assert of.shelf.evict(NOBODY, wanted=False)


def test_two_stacks_of_one_block_count_once() -> None:
    of = Setting()
    [stack] = of.add(1)
    twin = Stack(stack.blocks)
    of.shelf.put([stack, twin], wanted=False)
    assert of.shelf.num_bytes(NOBODY) == 10
    del twin
    assert of.shelf.num_bytes(NOBODY) == 10
    of.stacks.clear()
    del stack
    assert of.shelf.num_bytes(NOBODY) == 0
    assert of.windowed.num_used == 0


def test_a_gap_is_filled_by_what_comes_again() -> None:
    of = Setting()
    [stack], [other] = of.add(1), of.add(1)
    of.shelf.put([stack], wanted=False)
    of.shelf.evict(NOBODY, wanted=False)
    before = stack.blocks[0]
    stack.take_in(other)
    assert stack.blocks == (before, other.blocks[1])
    of.shelf.put([stack], wanted=True)
    assert of.shelf.num_bytes(NOBODY) == 10


def act(of: Setting, seed: int) -> None:
    """Some of everything."""
    random = Random(seed)
    for _ in range(25):
        of.now += 1
        match random.randrange(5):
            case 0 | 1:
                of.shelf.put(of.add(3), wanted=False)
            case 2 if of.stacks:
                of.shelf.put(random.sample(of.stacks, 1), wanted=True)
            case 3 if of.stacks:
                of.stacks.pop(random.randrange(len(of.stacks)))
            case 4:
                of.shelf.evict(NOBODY, wanted=random.random() < 0.5)


def test_ctrl_c_at_any_line() -> None:
    first = Setting()
    count = interrupted(lambda: act(first, 1), None, "blocks")
    for at in some_of(count, 300, "shelf"):
        of = Setting()
        with pytest.raises(KeyboardInterrupt):
            interrupted(lambda: act(of, 1), at, "blocks")  # noqa: B023
        of.check()
        act(of, 2)
        of.check()
        for wanted in (False, True):
            while of.shelf.evict(NOBODY, wanted=wanted):
                pass  # until nothing may go
        assert of.shelf.num_bytes(NOBODY) == 0
        of.shelf.put(of.add(2), wanted=False)  # as whoever was interrupted does
        of.shelf.put(of.stacks, wanted=False)
        of.check()
        assert of.shelf.num_bytes(NOBODY) == 10 * of.windowed.num_used


def test_that_law_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    def forgetful(shelf: Any, ids: Any, by: int) -> None:
        shelf._counts[1].update({id: by for id in ids if id is not None and by > 0})

    def play() -> None:
        of = Setting()
        for seed in range(5):
            act(of, seed)
            of.check()

    play()
    monkeypatch.setattr(WindowShelf, "_count", forgetful)
    with pytest.raises(AssertionError):
        play()
