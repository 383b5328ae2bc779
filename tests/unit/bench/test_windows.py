"""Windows: every token is scored once, after at least half a context where there is so much."""

from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import kept
from kept.bench.windows import Window, choose_windows, cut_windows, encode_documents
from kept.errors import OptionError
from kept.text import Tokenizer

BUNDLED = Path(kept.__file__).parent / "bundled"


@given(st.integers(0, 70), st.integers(1, 20))
def test_every_token_is_scored_once(length: int, context: int) -> None:
    document = list(range(length))
    windows = cut_windows(document, context)
    scored = [token for w in windows for token in w.tokens[-w.num_scored :]]
    assert scored == document[1:]
    for window in windows:
        first = window.tokens[-window.num_scored]
        assert len(window.tokens) <= context + 1
        assert window.tokens == tuple(range(window.tokens[0], window.tokens[-1] + 1))
        assert first - window.tokens[0] >= min(first, context - context // 2)


def test_a_window_is_cut_at_its_end() -> None:
    assert Window((3, 4, 5, 6, 7), 3).first(1) == Window((3, 4, 5), 1)
    assert Window((3, 4, 5, 6, 7), 3).first(3) == Window((3, 4, 5, 6, 7), 3)


@given(st.lists(st.integers(2, 40), min_size=1, max_size=30), st.integers(1, 400))
def test_as_many_tokens_as_wanted_are_chosen(lengths: list[int], num_tokens: int) -> None:
    windows = [w for n in lengths for w in cut_windows(range(n), 8)]
    chosen = choose_windows(windows, num_tokens)
    total = sum(window.num_scored for window in windows)
    assert sum(window.num_scored for window in chosen) == min(num_tokens, total)
    assert all(window.num_scored for window in chosen)


@pytest.mark.parametrize("count", [5, 20, 100])
def test_every_beginning_of_the_choice_is_spread_over_the_text(count: int) -> None:
    windows = [Window((i, i + 1), 1) for i in range(400)]
    places = sorted(window.tokens[0] for window in choose_windows(windows, count))
    gaps = [b - a for a, b in pairwise(places)]
    assert max(gaps) <= 3 * 400 / count
    assert places[0] <= 3 * 400 / count
    assert places[-1] >= 400 - 3 * 400 / count


@pytest.mark.parametrize("document", [[], [0]])
def test_a_text_without_tokens(document: list[int]) -> None:
    with pytest.raises(OptionError, match="no token that could be scored"):
        choose_windows(cut_windows(document, 8), 10)


def test_documents_begin_with_one_separator() -> None:
    tokenizer = Tokenizer.from_folder(BUNDLED)
    texts = ["def f():\n", "<|endoftext|>x = 1"]
    for text, ids in zip(texts, encode_documents(tokenizer, texts), strict=True):
        assert ids == [0, *(i for i in tokenizer.encode(text) if i != 0)]


@pytest.mark.parametrize(("bos", "eos", "expected"), [(None, 7, [7, 1, 2]), (None, None, [1, 2])])
def test_separators_of_other_tokenizers(
    bos: int | None, eos: int | None, expected: list[int]
) -> None:
    tokenizer: Any = SimpleNamespace(bos_token_id=bos, eos_token_id=eos, encode=lambda _: [1, 2])
    assert encode_documents(tokenizer, ["x"]) == [expected]
