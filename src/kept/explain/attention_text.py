"""Rows of attention and sets of tokens as lines of characters, a token a character.

14  ▂·▁▃▁····█··▁▂|▃   0.31 item, 0.12 ␣in      cached | computed in this step
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.cells import cell_len
from rich.text import Text

from kept.explain.explanation import Explanation, Policy

_LEVELS = "\u2581\u2582\u2583\u2584\u2585\u2586\u2587\u2588"  # eighths of a block
_NEXT_TO_NOTHING = 0.01  # of a row's largest weight
_NOTHING = "\u00b7"
_CACHED, _NEW = "cyan", "yellow"
_SHOWN = 3  # the largest weights that are told in numbers


def attention_lines(found: Explanation, width: int) -> Iterator[Text]:
    """A line for each step: the row of its new token, and the tokens it attends most."""
    steps = found.recording.steps
    longest = steps[-1].end + 1
    drawn = 4 + longest + 2 <= width
    yield Text.assemble(
        "Each step's new token over the tokens ",
        ("from the cache", _CACHED),
        " | ",
        ("computed in the step", _NEW),
        ". A full block is the largest weight of the row.",
    )
    for index, step in enumerate(steps):
        row = found.shown.rows[step.end - 1]
        line = Text(f"{index:>3} ", no_wrap=True, overflow="ellipsis")
        if drawn:
            blocks = _blocks(row)
            line.append(blocks[: step.start], _CACHED).append("|")
            line.append(blocks[step.start :], _NEW)
            line.append(" " * (longest - step.end + 1))
        room = width - line.cell_len
        yield line.append(_largest(row, found.texts, room))


def kept_lines(policy: Policy, width: int) -> Iterator[Text]:
    """A line for each step: the mass that is lost, and which tokens are kept."""
    longest = max(step.kept[-1] for step in policy.steps) + 1
    for index, step in enumerate(policy.steps):
        kept = set(step.kept)
        line = "".join("#" if j in kept else "." for j in range(step.kept[-1] + 1))
        if 11 + longest > width:
            line = ranges(step.kept)
        yield Text(f"{index:>3} {100 * step.lost:5.1f}% {line}")


def _blocks(row: Sequence[float]) -> str:
    top = max(row)
    return "".join(
        _NOTHING if w < _NEXT_TO_NOTHING * top else _LEVELS[min(7, int(8 * w / top))] for w in row
    )


def _largest(row: Sequence[float], texts: Sequence[str], room: int) -> str:
    """The largest weights and their tokens, as many as there is room for."""
    order = sorted(range(len(row)), key=lambda j: -row[j])[:_SHOWN]
    parts = [f"{row[j]:.2f} {texts[j]}" for j in order]
    while parts and cell_len(", ".join(parts)) > room:
        parts.pop()
    return ", ".join(parts)


def ranges(kept: Sequence[int]) -> str:
    """[0, 1, 5] -> "0-1, 5"."""
    found: list[list[int]] = []
    for token in kept:
        if found and found[-1][1] == token - 1:
            found[-1][1] = token
        else:
            found.append([token, token])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in found)
