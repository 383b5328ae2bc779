"""Which blocks of a sequence layers with a window still need.

window 100, after 330 tokens, which lie in blocks 0 to 5

block      0   1   2   3   4   5
needed                 x   x   x       the next query sees tokens 231 to 330
kept               x   x   x   x       as the sequence may be truncated by 64 tokens, to 266

with 4 sinks, after 400 tokens, which lie in blocks 0 to 6

kept       x           x   x   x   x   what lies between the block of the sinks and the window goes
"""

from __future__ import annotations

from kept.blocks import BLOCK, blocks_of

SPARE = BLOCK  # tokens that a sequence can at least be truncated by, whatever it has let go


def first_needed(window: int | None, length: int) -> int:
    """The first of so many tokens, sinks aside, that whoever goes on behind them needs. The last
    one always, as what comes may go into its block. window: None: all are needed."""
    return 0 if window is None else max(0, min(length - window + 1, length - 1))


def passed_blocks(window: int | None, length: int, sinks: int = 0) -> range:
    """Which blocks a sequence of so many tokens lets go."""
    sunk = blocks_of(sinks)
    return range(sunk, max(sunk, first_needed(window, max(0, length - SPARE)) // BLOCK))


def num_held(window: int | None, length: int, sinks: int = 0) -> int:
    """How many blocks a sequence of so many tokens lies in between two steps. window: None: it lets
    nothing go."""
    return blocks_of(length) - len(passed_blocks(window, length, sinks))


def most_blocks(window: int | None, length: int, step: int, sinks: int = 0) -> int:
    """How many blocks a sequence that comes to so many tokens holds at most on its way.

    window: None: it lets nothing go. step: tokens that it takes at once at most.
    """
    most = blocks_of(length)
    if window is None:
        return most
    # What is let go is looked for between two passes, some of which take tokens under a lease.
    held = window + SPARE + max(step, 2 * BLOCK)
    return min(most, blocks_of(sinks) + blocks_of(held) + 2)
