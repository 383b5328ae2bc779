"""StopChecker against a search through the whole text."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kept.errors import OptionError
from kept.text import StopChecker, StopMatch, check_stop_strings

LETTERS = st.text("ab🙂", max_size=30)
STOPS = st.lists(st.text("ab🙂", min_size=1, max_size=5), max_size=4)


def pieces_of(text: str, cuts: list[int]) -> list[str]:
    bounds = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    return [text[a:b] for a, b in pairwise(bounds)]


def naive_match(text: str, stops: list[str]) -> StopMatch | None:
    hits = [(text.find(stop), len(stop), stop) for stop in stops if stop in text]
    return StopMatch(min(hits)[2], min(hits)[0], sum(min(hits)[:2])) if hits else None


@settings(max_examples=500, deadline=None, derandomize=True)
@given(text=LETTERS, stops=STOPS, cuts=st.lists(st.integers(0, 30), max_size=30))
def test_equals_a_search_through_the_whole_text(
    text: str, stops: list[str], cuts: list[int]
) -> None:
    checker = StopChecker(stops)
    expected = naive_match(text, stops)
    fed = shown = ""
    for piece in pieces_of(text, cuts):
        shown += checker.add(piece)
        fed += piece
        assert len(shown) == checker.num_shown
        assert shown == text[: len(shown)]
        # Nothing shown may begin a stop string that what was fed leaves open.
        starts = range(len(shown))
        assert not any(stop.startswith(fed[start:]) for start in starts for stop in stops)
        if expected:
            assert len(shown) <= expected.start
        if checker.stopped:
            assert checker.match == expected
    shown += checker.finish()
    assert shown == (text[: expected.start] if expected else text)
    assert checker.match == expected
    assert checker.stopped == (expected is not None)


def feed(checker: StopChecker, *pieces: str) -> list[str]:
    return [checker.add(piece) for piece in pieces]


def test_a_stop_string_split_over_pieces() -> None:
    checker = StopChecker("</s>")
    assert feed(checker, "one <", "/s", "> two", "three") == ["one ", "", "", ""]
    assert checker.match == StopMatch("</s>", 4, 8)
    assert checker.finish() == ""
    assert checker.num_shown == 4


def test_a_beginning_that_comes_to_nothing_is_shown() -> None:
    checker = StopChecker(["</s>"])
    assert feed(checker, "a <", "/", "b <", "/s") == ["a ", "", "</b ", ""]
    assert checker.finish() == "</s"
    assert not checker.stopped


def test_the_earliest_start_wins_whatever_the_pieces() -> None:
    for pieces in (["abcd"], ["abc", "d"], ["a", "b", "c", "d"]):
        checker = StopChecker(["bc", "abcd"])
        assert "".join(feed(checker, *pieces)) == ""
        assert checker.match == StopMatch("abcd", 0, 4)
    checker = StopChecker(["bc", "abcd"])
    assert feed(checker, "abc", "x") == ["", "a"]
    assert checker.match == StopMatch("bc", 1, 3)
    checker = StopChecker(["bc", "abcd"])
    assert checker.add("abc") + checker.finish() == "a"
    assert checker.match == StopMatch("bc", 1, 3)


def test_of_two_with_one_start_the_shorter_is_reported() -> None:
    checker = StopChecker(["abc", "ab"])
    assert checker.add("xabc") == "x"
    assert checker.match == StopMatch("ab", 1, 3)


def test_no_stop_strings_pass_everything_on() -> None:
    checker = StopChecker([])
    assert feed(checker, "a", "b") == ["a", "b"]
    assert checker.finish() == ""


def test_stop_strings_are_checked() -> None:
    assert check_stop_strings("ab") == ("ab",)
    assert check_stop_strings(["a", "b"]) == ("a", "b")
    with pytest.raises(OptionError, match="empty string"):
        StopChecker(["a", ""])
    with pytest.raises(OptionError, match="empty string"):
        StopChecker("")
    with pytest.raises(OptionError, match="7 of type int"):
        check_stop_strings([7])  # type: ignore[list-item]
