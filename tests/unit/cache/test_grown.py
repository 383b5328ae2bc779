"""How much room a growing cache takes."""

from itertools import accumulate, pairwise, repeat

from hypothesis import given
from hypothesis import strategies as st

from kept.cache import grown


@given(st.integers(0, 10**7))
def test_room_is_enough_and_little_more(length: int) -> None:
    room = grown(length)
    assert length <= room <= max(64, length + 63, length * 9 / 8)
    assert room % 64 == 0
    assert grown(room) == room


def test_growing_token_by_token_copies_a_fixed_share() -> None:
    rooms = list(accumulate(repeat(None, 200), lambda room, _: grown(room + 1), initial=64))
    ample = [(a, b) for a, b in pairwise(rooms) if a >= 1024]
    assert all(a * 17 / 16 <= b for a, b in ample)
