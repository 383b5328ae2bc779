"""Attention over every codec and layout against its definition, and against itself in pieces."""

from collections.abc import Sequence
from itertools import pairwise

import pytest
import torch
from thinning import FULL, in_part

from kept.ops import AttentionSpec, HeadSpec, KVDtype

from .attending import Case, Held, check
from .conftest import NAMES
from .stores import CODECS

codecs = pytest.mark.parametrize("codec", CODECS)


def case(
    heads: tuple[int, int, int],
    lengths: tuple[int, ...],
    counts: tuple[int, ...],
    kept: tuple[int, int] | None = None,
    size: float = 1.0,
    scale: float | None = None,
    slopes: tuple[float, ...] = (),
    **spec: object,
) -> Case:
    dim = heads[2]
    return Case(
        HeadSpec(*heads),
        AttentionSpec(dim**-0.5 if scale is None else scale, **spec),  # type: ignore[arg-type]
        lengths, counts, kept, size, slopes,
    )  # fmt: skip


# (H, G, D), lengths, new tokens of each.
CASES = (
    case((1, 1, 1), (1, 2, 9), (1, 2, 3)),
    case((2, 2, 3), (63, 64, 65), (1, 1, 1)),
    case((3, 1, 5), (64, 65, 66), (64, 2, 66)),
    case((4, 2, 16), (129, 128, 127), (3, 1, 127)),
    case((5, 1, 17), (70,), (70,)),
    case((7, 1, 20), (130, 3), (66, 2), softcap=3.0),
    case((8, 1, 31), (90, 64), (30, 64), window=17),
    case((2, 1, 32), (200, 130), (140, 5), window=64, sinks=3),
    case((3, 3, 33), (150,), (150,), window=1),
    case((6, 2, 40), (100, 99), (1, 99), causal=False),
    case((2, 1, 48), (300,), (40,), (100, 0)),
    case((4, 1, 63), (500, 10), (3, 10), (70, 5)),
    case((2, 2, 64), (180, 181), (64, 1), (64, 2), window=90),
    case((8, 1, 64), (190,), (25,), scale=1.0, softcap=50.0),  # more rows than one unit takes
    case((1, 1, 65), (67,), (5,), (1, 1)),
    case((4, 4, 80), (96, 33), (96, 33)),
    case((2, 1, 96), (128, 1), (1, 1), window=40),
    case((2, 1, 127), (65,), (65,), softcap=20.0, window=30),
    case((8, 2, 128), (130, 70), (2, 70)),
    case((2, 1, 130), (64,), (64,), causal=False, softcap=1.0),
    case((2, 1, 256), (80,), (20,), size=0.5),
    case((2, 1, 320), (70,), (2,)),
    case((4, 2, 40), (200, 65), (70, 1), slopes=(0.5, 0.1, 0.01, 2.0)),
    case((2, 1, 64), (150,), (2,), window=90, slopes=(0.25, 0.003)),
)
LONG = (
    case((2, 1, 16), (1023, 1024, 1025), (1, 1, 1)),
    case((2, 1, 16), (2049, 1030), (3, 8), window=1100),
    case((1, 1, 40), (2060,), (50,)),
    case((2, 2, 8), (2200,), (70,), (1030, 4)),
    case((2, 1, 16), (2100,), (20,), slopes=(0.004, 0.0001)),
    case((4, 1, 12), (3100,), (2,), window=1000, sinks=2),
    case((1, 1, 3), (1090,), (1090,), softcap=2.0),
)


def some_of(cases: Sequence[Case], isa: str, codec: KVDtype) -> list[Case]:
    """A part of them, so that of case, instruction set and codec any two meet."""
    places = NAMES.index(isa), CODECS.index(codec)
    return [case for at, case in enumerate(cases) if in_part(at, *places, out_of=2)]


@codecs
def test_any_attention_equals_the_definition(isa: str, codec: KVDtype) -> None:
    for some in some_of(CASES, isa, codec):
        check(Held.random(some), codec)


@codecs
def test_long_sequences_on_one_and_more_threads(isa: str, codec: KVDtype) -> None:
    """With threads to spare the chunks of a sequence are shared, and merged to the same bits."""
    for some in some_of(LONG, isa, codec):
        held = Held.random(some)
        expected = check(held, codec)
        for threads in (2, 5):
            assert torch.equal(held.attend(codec, threads)[1], expected)


@codecs
@pytest.mark.parametrize("size", [4.0, 12.0, 60.0])
def test_large_scores(isa: str, codec: KVDtype, size: float) -> None:
    """Scores of +-80 and beyond, where all but the largest weights vanish."""
    for softcap in (None, 90.0):
        for dim in (16, 40, 64):
            some = case((2, 1, dim), (150, 40), (9, 40), size=size, softcap=softcap)
            check(Held.random(some), codec)


@codecs
def test_scores_that_fall_and_rise(isa: str, codec: KVDtype) -> None:
    """The peak moves at every tile, or never; and all scores are equal."""
    for slope in (-1.0, 1.0, 0.0):
        held = Held.random(case((2, 1, 16), (400,), (2,), scale=1.0))
        q, k, _ = held.parts[0]
        q[:], k[:] = 1.0, slope * torch.arange(400.0)[:, None, None] / 64
        check(held, codec)


def cut(count: int, tokens_before: int, size: int) -> list[int]:
    """How many rows to take at a time: `size` all the way, or only where tiles and all rows begin
    and end, and what lies between in one go."""
    if FULL or size > 2:
        return [min(size, count - done) for done in range(0, count, size)]
    near = [
        row
        for row in range(count)
        if row < 2 * size or row >= count - 2 * size or (tokens_before + row) % 64 in (62, 63, 0, 1)
    ]
    ends = sorted({0, count, *near, *(min(row + size, count) for row in near)})
    return [b - a for a, b in pairwise(ends)]


@codecs
def test_rows_in_one_go_or_a_few_at_a_time(isa: str, codec: KVDtype) -> None:
    cases = (
        case((2, 1, 40), (200,), (200,)),
        case((8, 2, 33), (90,), (90,), window=20),
        case((3, 1, 16), (140,), (140,), (50, 3)),
        case((1, 1, 5), (1060,), (60,), softcap=4.0),
        case((2, 1, 24), (150,), (90,), slopes=(0.3, 0.02)),
    )
    for some in some_of(cases, isa, codec):
        held = Held.random(some)
        count = some.counts[0]
        _, whole, _ = held.attend(codec)
        for size in (1, 7, 64) if count > 100 else (1, 2, 7):
            layer, done = held.layer(codec), 0
            for new in cut(count, some.lengths[0] - count, size):
                part = held.last((new,), drop=count - done - new)
                _, found, layer = part.attend(codec, 1 + done % 3, layer)
                assert torch.equal(found, whole[done : done + new])
                done += new


@codecs
def test_a_sequence_is_the_same_among_any_others(isa: str, codec: KVDtype) -> None:
    some = case((4, 2, 20), (100, 70, 1100, 3), (100, 1, 5, 2))
    held = Held.random(some)
    _, together, _ = held.attend(codec, 3)
    first = 0
    for part, length, count in zip(held.parts, some.lengths, some.counts, strict=True):
        alone = Held(case((4, 2, 20), (length,), (count,)), [part])
        assert torch.equal(alone.attend(codec)[1], together[first : first + count])
        first += count
