"""Packing token lists into rows."""

import pytest

from kept.batch import pack
from kept.errors import OptionError


def test_rows_lie_end_to_end() -> None:
    batch = pack([[5, 6, 7], [8], [9, 10]], past=[0, 4, 2], slots=[2, 0, 1])
    assert batch.tokens.tolist() == [5, 6, 7, 8, 9, 10]
    assert batch.positions.tolist() == [0, 1, 2, 4, 2, 3]
    assert (batch.starts, batch.slots, batch.totals) == ((0, 3, 4, 6), (2, 0, 1), (3, 5, 4))
    assert (batch.num_rows, batch.num_sequences, batch.counts) == (6, 3, (3, 1, 2))
    assert batch.wanted is None


def test_only_the_last_row_of_some_is_wanted() -> None:
    wanted = pack([[1, 2], [3], [4, 5, 6]], last_of=[True, False, True]).wanted
    assert wanted is not None
    assert wanted.tolist() == [1, 5]


@pytest.mark.parametrize("tokens", [[], [[1], []]])
def test_nothing_to_compute(tokens: list[list[int]]) -> None:
    with pytest.raises(OptionError, match="at least one new token"):
        pack(tokens)


@pytest.mark.parametrize("lists", [{"past": [0]}, {"slots": [0, 1, 2]}])
def test_lists_that_disagree(lists: dict[str, list[int]]) -> None:
    with pytest.raises(OptionError, match="2 token lists came with"):
        pack([[1], [2]], **lists)
