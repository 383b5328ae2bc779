"""What a text repeats, against a search through all of it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kept import machine

pytestmark = pytest.mark.skipif(
    not machine.NATIVE_AVAILABLE, reason="installed without a C++ compiler"
)
TEXTS = st.integers(1, 6).flatmap(lambda n: st.lists(st.integers(0, n - 1), max_size=60))


def ids(tokens: Sequence[int]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.array(tokens, dtype=np.int64)


def longest(text: Sequence[int], within: Sequence[int], most: int) -> tuple[int, list[int]]:
    """How many last tokens of a text, at most so many, stand in another, and where these end."""
    for length in range(min(most, len(text)), 0, -1):
        end = list(text[len(text) - length :])
        places = [i for i in range(length, len(within) + 1) if within[i - length : i] == end]
        if places:
            return length, places
    return 0, []


@given(text=TEXTS)
def test_the_longest_end_that_was_there_before_is_found(text: list[int]) -> None:
    from kept import _native

    automaton = _native.SuffixAutomaton()
    for count, token in enumerate(text, 1):
        automaton.add(ids([token]))
        found = text[:count]
        length, places = longest(found, found[:-1], count - 1)
        assert automaton.match()[0] == length
        assert not length or automaton.match()[1] in places
    assert automaton.tokens() == text
    again = _native.SuffixAutomaton()
    again.add(ids(text))
    assert again.match() == automaton.match()


@given(text=TEXTS, others=TEXTS, more=TEXTS)
def test_the_longest_end_that_another_text_has_is_found_while_that_grows(
    text: list[int], others: list[int], more: list[int]
) -> None:
    from kept import _native

    automaton = _native.SuffixAutomaton()
    automaton.add(ids([*others, -1]))
    repeats, held = _native.Repeats(automaton), [*others, -1]
    for count, token in enumerate(text, 1):
        repeats.draw(token)
        length, places = longest(text[:count], held, count)
        assert repeats.match_of_others()[0] == length
        assert not length or repeats.match_of_others()[1] in places
        if count % 3 == 0 and more:
            held.append(more[count % len(more)])
            automaton.add(ids(held[-1:]))
            # What grew behind may make a longer end known, which a cursor learns as it moves on.
            repeats, before = _native.Repeats(automaton), text[:count]
            for known in before:
                repeats.draw(known)


@given(text=TEXTS, others=TEXTS, growing=TEXTS)
@settings(max_examples=50)
def test_a_cursor_stays_at_what_it_has_found_while_the_other_text_grows(
    text: list[int], others: list[int], growing: list[int]
) -> None:
    from kept import _native

    automaton, held = _native.SuffixAutomaton(), [*others, -1]
    automaton.add(ids(held))
    repeats = _native.Repeats(automaton)
    for count, token in enumerate(text, 1):
        repeats.draw(token)
        if growing:
            held.append(growing[count % len(growing)])
            automaton.add(ids(held[-1:]))
        length, end = repeats.match_of_others()
        assert length <= count
        assert not length or held[end - length : end] == text[count - length : count]


def test_drafts_are_what_came_behind_the_same_tokens() -> None:
    from kept import _native

    repeats = _native.Repeats(_native.SuffixAutomaton())
    repeats.read(ids([1, 2, 3, 4, 5, 6, 9, 2, 3, 4]))
    tokens, chances = repeats.draft(3, 0.0)
    assert tokens == [5, 6, 9]
    assert 1 > chances[0] > chances[1] > chances[2] > 0
    assert chances[0] == repeats.chance()
    assert repeats.draft(3, chances[1]) == (tokens[:2], chances[:2])
    assert repeats.draft(0, 0.0) == ([], [])


def test_what_has_just_repeated_itself_is_drafted_on_and_on() -> None:
    from kept import _native

    repeats = _native.Repeats(_native.SuffixAutomaton())
    repeats.read(ids([7, 1, 2, 3, 1, 2, 3]))
    assert repeats.draft(8, 0.0)[0] == [1, 2, 3, 1, 2, 3, 1, 2]


def test_nothing_is_drafted_from_one_text_into_the_next() -> None:
    from kept import _native

    others = _native.SuffixAutomaton()
    others.add(ids([1, 2, 3, -1, 4, 5, -1]))
    repeats = _native.Repeats(others)
    for token in (8, 1, 2):
        repeats.draw(token)
    assert repeats.draft(9, 0.0)[0] == [3]
    repeats.draw(3)
    assert (repeats.chance(), repeats.draft(9, 0.0)) == (0.0, ([], []))


def test_chances_are_those_of_the_text() -> None:
    """A text that always goes on otherwise teaches that, and one that goes on the same does."""
    from kept import _native

    never, always = (_native.Repeats(_native.SuffixAutomaton()) for _ in range(2))
    for token in range(100):
        never.draw(0)
        never.draw(1 + token)
        never.draw(2000)
        always.draw(token % 7)
    assert never.draw(0) < 0.05
    assert always.draw(100 % 7) > 0.9
    read = _native.Repeats(_native.SuffixAutomaton())
    read.read(ids([token % 7 for token in range(101)]))
    assert read.chance() < always.chance()  # a prompt teaches nothing of what is drawn


@pytest.mark.parametrize("token", [-2, 2**31])
def test_what_is_no_token_is_refused(token: int) -> None:
    from kept import _native

    automaton = _native.SuffixAutomaton()
    with pytest.raises(ValueError, match="token"):
        automaton.add(ids([1, token]))
    assert automaton.num_tokens == 0
    repeats = _native.Repeats(automaton)
    with pytest.raises(ValueError, match="token"):
        repeats.draw(token)
    assert repeats.num_tokens == 0


def test_memory_is_in_proportion_to_the_text() -> None:
    from kept import _native

    draws = np.random.default_rng(0)
    for vocabulary in (2, 50, 50_000):
        automaton = _native.SuffixAutomaton()
        automaton.add(draws.integers(0, vocabulary, 5000))
        assert automaton.num_bytes < 5000 * 320
