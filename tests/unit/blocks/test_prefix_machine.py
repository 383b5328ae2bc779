"""Any sequence of calls leaves a prefix tree equal to a dict of all prefixes."""

from __future__ import annotations

import weakref

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from plain_tree import Place, PlainLease, PlainTree, Text

from kept.blocks import Lease, Match, Namespace, PrefixTree, Reason

SALTS = ("", "a", "b")
UNKNOWN = ("c", "d", "e", "f", "g", "h")  # so that most calls clear nothing
SALT = st.sampled_from(("", "", "a", "b"))
HELD = st.sampled_from((False, False, True))
TEXTS = st.lists(st.integers(0, 1), min_size=3, max_size=9).map(tuple) | st.just(())
RETAINED = (0.0, 0.0, 2.5, 7.75)  # no sum of one and whole seconds equals another
SETTINGS = settings(
    max_examples=30, stateful_step_count=40, suppress_health_check=list(HealthCheck)
)


class Held:
    """What stands for a block's keys and values."""


class TreeMachine(RuleBasedStateMachine):
    """A tree, what it is to be, and the leases of both."""

    @initialize(size=st.integers(1, 4))
    def start(self, size: int) -> None:
        self.now = 0.0
        self.tree: PrefixTree[Held] = PrefixTree(
            Namespace("model", "isa", "kernels", "codec", (None,), size),
            longest_retain=RETAINED[-1],
            clock=lambda: self.now,
        )
        self.plain = PlainTree(size)
        self.pairs: list[tuple[Lease[Held], PlainLease]] = []
        self.blocks: weakref.WeakSet[Held] = weakref.WeakSet()

    def tick(self) -> float:
        self.now += 1.0
        return self.now

    def made(self, text: Text) -> list[Held]:
        found = [Held() for _ in range(0, len(text), self.plain.size)]
        self.blocks.update(found)
        return found

    def keep(self, lease: Lease[Held], plain: PlainLease, held: bool) -> None:
        self.plain.leases.append(plain)
        if held:
            self.pairs.append((lease, plain))
        else:
            lease.release()
            self.plain.release(plain, self.now)

    @rule(text=TEXTS, salt=SALT, retain=st.sampled_from(RETAINED), held=HELD)
    def insert(self, text: Text, salt: str, retain: float, held: bool) -> None:
        now, blocks, plain = self.tick(), self.made(text), PlainLease(salt, ())
        lease = self.tree.insert(text, blocks, salt, retain=retain)
        self.plain.insert(plain, text, blocks, now, now + retain)
        self.keep(lease, plain, held)

    @precondition(lambda self: self.pairs)
    @rule(data=st.data(), more=TEXTS)
    def extend(self, data: st.DataObject, more: Text) -> None:
        lease, plain = self.pairs[data.draw(st.integers(0, len(self.pairs) - 1))]
        text, now = plain.text + more, self.tick()
        blocks = self.made(text)
        assert self.tree.insert(text, blocks, lease.salt, lease) is lease
        self.plain.insert(plain, text, blocks, now, now)
        assert lease.num_tokens == len(plain.text)

    @rule(text=TEXTS, salt=SALT, held=HELD)
    def match(self, text: Text, salt: str, held: bool) -> None:
        self.tick()
        found = self.tree.match(text, salt)
        count = self.plain.longest(text, salt)
        assert found.num_tokens == found.lease.num_tokens == found.miss.token == count
        places = self.places(found, text, salt)
        self.check_miss(found, text, salt)
        self.plain.use(places[-1] if places else None, self.now)
        last = places[-1] if places else None
        self.keep(found.lease, PlainLease(salt, text[:count], last), held)

    def places(self, found: Match[Held], text: Text, salt: str) -> list[Place]:
        """Where the blocks that were found stand, which is on the text's way."""
        of = {id(known.block): place for place, known in self.plain.known.items()}
        places = [of[id(block)] for block in found.blocks]
        for index, (of_salt, known) in enumerate(places):
            end = min(found.num_tokens, (index + 1) * self.plain.size)
            assert (of_salt, known[:end]) == (salt, text[:end])
        assert len(places) == -(-found.num_tokens // self.plain.size)
        return places

    def check_miss(self, found: Match[Held], text: Text, salt: str) -> None:
        count, size, known = found.num_tokens, self.plain.size, self.plain.known
        next_block = text[: count // size * size + size]
        elsewhere = [p for p in known if p[1] == next_block and p[0] != salt]
        reason, asked = found.miss.reason, text[count : count + 1]
        others = {
            p[1][count] for p in known if p[0] == salt and p[1][:count] == text[:count] < p[1]
        }
        if not text:
            assert reason is Reason.TOO_SHORT
        elif count == len(text):
            assert reason is Reason.WHOLE
        elif (salt, next_block) in self.plain.evicted:
            assert reason is Reason.EVICTED
        elif reason is Reason.EVICTED:
            gone = [p[1] for p in self.plain.evicted if p[0] == salt]
            assert any(len(p) > count and p == text[: len(p)] for p in gone)
        elif elsewhere:
            assert reason is Reason.OTHER_SALT
        elif count == 0:
            assert reason is Reason.UNKNOWN
        elif reason is Reason.DIVERGED:
            assert (found.miss.asked,) == asked
            assert found.miss.was in others - set(asked)
        else:
            assert reason is Reason.ENDED
            assert any(p == (salt, text[:count]) for p in known)

    @precondition(lambda self: self.pairs)
    @rule(data=st.data(), dropped=st.booleans())
    def release(self, data: st.DataObject, dropped: bool) -> None:
        index = data.draw(st.integers(0, len(self.pairs) - 1))
        lease, plain = self.pairs.pop(index)
        now = self.tick()
        if not dropped:
            lease.release()
            lease.release()
        del lease  # which is enough
        self.tree.evict(0)
        self.plain.release(plain, now)

    @rule(count=st.integers(1, 3))
    def evict(self, count: int) -> None:
        assert self.tree.evict(count) == self.plain.evict(count)

    @rule(salt=st.sampled_from((*SALTS, None, *UNKNOWN)))
    def clear(self, salt: str | None) -> None:
        self.tree.clear(salt)
        self.plain.clear(salt)

    @invariant()
    def is_as_it_should_be(self) -> None:
        if not hasattr(self, "tree"):
            return
        self.tree.check()
        assert self.tree.num_blocks == len(self.plain.known)
        assert self.tree.num_evictable == len(self.plain.known.keys() - self.plain.held())
        salts = {self.tree.namespace.root(salt).hex()[:12]: salt for salt in SALTS}
        texts: dict[str, Text] = dict.fromkeys(salts, ())
        for entry in self.tree.entries():
            texts[entry.key] = text = texts[entry.after] + entry.tokens
            place = salts[entry.salt], text
            known = self.plain.known[place]
            assert entry.start == len(text) - len(entry.tokens)
            assert entry.last_use == known.used
            assert entry.num_leases == self.plain.num_leases(place)

    def teardown(self) -> None:
        """Blocks go with the last lease, at once."""
        if hasattr(self, "tree"):
            self.plain.known.clear()
            self.tree.clear()
            self.pairs.clear()
            self.tree.check()
            assert not self.blocks


def test_a_prefix_tree_is_a_dict_of_prefixes() -> None:
    run_state_machine_as_test(TreeMachine, settings=SETTINGS)
