"""Ctrl-C at any line of a prefix tree loses no block and no lease, and leaves no wrong count."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest
from interrupting import interrupted

from kept.blocks import Entry, Lease, Namespace, PrefixTree


class Held:
    """What stands for a block's keys and values."""


class Setting:
    """A tree in the middle of its life, and its leases."""

    def __init__(self) -> None:
        times = iter(range(10_000))
        namespace = Namespace("m", "i", "k", "c", (None,), 3)
        self.tree: PrefixTree[Held] = PrefixTree(namespace, clock=lambda: float(next(times)))
        self.blocks: weakref.WeakSet[Held] = weakref.WeakSet()
        self.long = self.insert(range(10), "a")
        self.short = self.insert([0, 1], "a")
        self.insert([0, 1, 2, 7, 8], "a").release()
        self.insert([0, 1, 2, 9], "a", retain=9.0).release()
        self.insert([5, 5, 5], "").release()
        self.dropped: Lease[Held] | None = self.insert([0, 1, 2, 3, 6], "a")
        self.tree.match([4], "b")

    def made(self, count: int) -> list[Held]:
        found = [Held() for _ in range(0, count, 3)]
        self.blocks.update(found)
        return found

    def insert(
        self,
        tokens: range | list[int],
        salt: str,
        lease: Lease[Held] | None = None,
        retain: float = 0.0,
    ) -> Lease[Held]:
        return self.tree.insert(tokens, self.made(len(tokens)), salt, lease, retain)

    def drop(self) -> None:
        self.dropped = None
        assert self.tree.evict(0) == 0


ACTS: dict[str, Callable[[Setting], object]] = {
    "match": lambda x: x.tree.match(range(20), "a"),
    "match that parts": lambda x: x.tree.match([0, 1, 2, 7, 9], "a"),
    "match of a new salt": lambda x: x.tree.match([0], "c"),
    "insert": lambda x: x.insert([0, 1, 2, 7, 8, 9, 1, 1], "a"),
    "insert under a new salt": lambda x: x.insert(range(7), "c"),
    "insert behind a lease": lambda x: x.insert(range(20), "a", x.long),
    "insert what is known": lambda x: x.insert(range(10), "a"),
    "release": lambda x: x.long.release(),
    "release of less": lambda x: x.short.release(),
    "drop": Setting.drop,
    "evict": lambda x: x.tree.evict(3),
    "clear": lambda x: x.tree.clear("a"),
    "clear all": lambda x: x.tree.clear(),
    "look": lambda x: (x.tree.entries(), x.tree.num_blocks, x.tree.num_evictable),
}


def places(entries: list[Entry]) -> set[str]:
    return {entry.key for entry in entries}


def interruptions(act: Callable[[Setting], object]) -> Iterator[Setting]:
    """The setting, with Ctrl-C before each line of an act."""
    setting = Setting()
    count = interrupted(lambda: act(setting), None, "blocks")
    for at in range(1, count + 1):
        setting = Setting()
        with suppress(KeyboardInterrupt):
            interrupted(lambda setting=setting: act(setting), at, "blocks")
            raise AssertionError("nothing was interrupted")
        yield setting


@pytest.mark.parametrize("name", ACTS)
def test_ctrl_c_at_any_line(name: str) -> None:
    act, whole = ACTS[name], Setting()
    before, may_go = places(whole.tree.entries()), name.startswith(("evict", "clear", "insert"))
    act(whole)
    after = places(whole.tree.entries())
    num_tried = 0
    for setting in interruptions(act):
        tree = setting.tree
        tree.check()
        found = places(tree.entries())
        assert before & after <= found <= before | after
        assert may_go or found >= before or name == "release of less"
        act(setting)
        tree.check()
        again = places(tree.entries())
        assert again == after or name == "evict"
        check_end(setting)
        num_tried += 1
    assert num_tried > 5, "nothing was tried"


def check_end(setting: Setting) -> None:
    """What leases hold cannot go; everything goes with the last of them."""
    tree = setting.tree
    tree.evict(1000)
    tree.check()
    assert tree.num_evictable == 0
    for lease in (setting.long, setting.short, setting.dropped):
        if lease is not None:
            lease.release()
    tree.evict(1000)
    tree.check()
    assert (tree.num_blocks, tree.entries(), len(setting.blocks)) == (0, [], 0)
