"""Which blocks of a sequence layers with a window still need.

window 100, after 330 tokens, which lie in blocks 0 to 5

block      0   1   2   3   4   5
needed             x   x   x   x       the next query sees tokens 231 to 330
kept           x   x   x   x   x       as the sequence may be truncated by 64 tokens, to 266
"""

from __future__ import annotations

from kept.blocks import BLOCK, blocks_of

SPARE = BLOCK  # tokens that a sequence can at least be truncated by, whatever it has let go


def first_needed(window: int, length: int) -> int:
    """The first of so many tokens that whoever goes on behind them needs. The last one always, as
    what comes may go into its block."""
    return max(0, min(length - window + 1, length - 1))


def num_gone(window: int, length: int) -> int:
    """How many first blocks a sequence of so many tokens lets go."""
    return first_needed(window, max(0, length - SPARE)) // BLOCK


def num_held(window: int | None, length: int) -> int:
    """How many blocks a sequence of so many tokens lies in between two steps. window: None: it lets
    nothing go."""
    most = blocks_of(length)
    return most if window is None else most - num_gone(window, length)


def most_blocks(window: int | None, length: int, step: int) -> int:
    """How many blocks a sequence that comes to so many tokens holds at most on its way.

    window: None: it lets nothing go. step: tokens that it takes at once at most.
    """
    most = blocks_of(length)
    if window is None:
        return most
    # What is let go is looked for between two passes, some of which take tokens under a lease.
    held = window + SPARE + max(step, 2 * BLOCK)
    return min(most, blocks_of(held) + 2)
