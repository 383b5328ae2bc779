"""StopChecker against a search through the whole text."""

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from kept.text import StopChecker

LETTERS = st.text("ab🙂", max_size=30)
STOPS = st.lists(st.text("ab🙂", min_size=1, max_size=5), max_size=4)


def pieces_of(text: str, cuts: list[int]) -> list[str]:
    bounds = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    return [text[a:b] for a, b in pairwise(bounds)]


def naive_start(text: str, stops: list[str]) -> int | None:
    return min((text.find(stop) for stop in stops if stop in text), default=None)


@settings(max_examples=500, deadline=None, derandomize=True)
@given(text=LETTERS, stops=STOPS, cuts=st.lists(st.integers(0, 30), max_size=30))
def test_equals_a_search_through_the_whole_text(
    text: str, stops: list[str], cuts: list[int]
) -> None:
    checker = StopChecker(tuple(stops))
    expected = naive_start(text, stops)
    fed = shown = ""
    for piece in pieces_of(text, cuts):
        shown += checker.add(piece)
        fed += piece
        assert shown == text[: len(shown)]
        # Nothing shown may begin a stop string that what was fed leaves open.
        starts = range(len(shown))
        assert not any(stop.startswith(fed[start:]) for start in starts for stop in stops)
        if expected is not None:
            assert len(shown) <= expected
        if checker.stopped:
            assert len(shown) == expected
    shown += checker.finish()
    assert shown == text[:expected]
    assert checker.stopped == (expected is not None)
    if expected is not None:
        begin_there = [stop for stop in stops if text.startswith(stop, expected)]
        assert checker.found == min(begin_there, key=len)


def feed(checker: StopChecker, *pieces: str) -> list[str]:
    return [checker.add(piece) for piece in pieces]


def test_a_stop_string_split_over_pieces() -> None:
    checker = StopChecker(("</s>",))
    assert feed(checker, "one <", "/s", "> two", "three") == ["one ", "", "", ""]
    assert checker.stopped
    assert checker.finish() == ""


def test_a_beginning_that_comes_to_nothing_is_shown() -> None:
    checker = StopChecker(("</s>",))
    assert feed(checker, "a <", "/", "b <", "/s") == ["a ", "", "</b ", ""]
    assert checker.finish() == "</s"
    assert not checker.stopped


def test_the_earliest_start_wins_whatever_the_pieces() -> None:
    for pieces in (["abcd"], ["abc", "d"], ["a", "b", "c", "d"]):
        checker = StopChecker(("bc", "abcd"))
        assert "".join(feed(checker, *pieces)) == ""
        assert checker.stopped
    checker = StopChecker(("bc", "abcd"))
    assert feed(checker, "abc", "x") == ["", "a"]
    assert checker.stopped
    checker = StopChecker(("bc", "abcd"))
    assert checker.add("abc") + checker.finish() == "a"
    assert checker.stopped


def test_two_that_start_together() -> None:
    checker = StopChecker(("abc", "ab"))
    assert checker.add("xabc") == "x"
    assert checker.stopped


def test_no_stop_strings_pass_everything_on() -> None:
    checker = StopChecker(())
    assert feed(checker, "a", "b") == ["a", "b"]
    assert checker.finish() == ""
