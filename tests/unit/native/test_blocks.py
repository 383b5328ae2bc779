"""Attention over tokens in blocks, permuted at random and shared between sequences, against the
same tokens in one run each: bit for bit."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from thinning import in_part
from torch import Tensor

from kept.ops import AttentionSpec, HeadSpec, KVDtype

from .attending import Case, Held
from .driving import LayerBuffers
from .stores import CODECS, same_bits

BLOCK = 64
codecs = pytest.mark.parametrize("codec", CODECS)


def in_blocks(
    held: Held, layer: LayerBuffers, common: int, seed: int
) -> tuple[LayerBuffers, NDArray[np.int32]]:
    """What lies in slots, in blocks in random order; the first `common` blocks are one for all."""
    lengths, slots = held.case.lengths, held.case.slots
    columns = max(-(-length // BLOCK) for length in lengths)
    order = random.Random(seed).sample(range(len(lengths) * columns + 3), len(lengths) * columns)
    table = np.array(order, dtype=np.int32).reshape(len(lengths), columns)
    table[:, :common] = table[0, :common]

    def moved(buffer: Tensor) -> Tensor:
        new = torch.zeros(len(order) + 3, buffer.shape[1], BLOCK, buffer.shape[3]).to(buffer.dtype)
        for row, slot, length in zip(table, slots, lengths, strict=True):
            for column, block in enumerate(row[: -(-length // BLOCK)]):
                tokens = buffer[slot, :, column * BLOCK : min(length, (column + 1) * BLOCK)]
                new[block, :, : tokens.shape[1]] = tokens
        return new

    keys, values = tuple(map(moved, layer.keys)), tuple(map(moved, layer.values))
    placement = replace(held.case.placement, block=BLOCK)
    return LayerBuffers(layer.codec, keys, values, placement), table


def with_common(case: Case, tokens: int) -> Held:
    """Random sequences that begin with the same tokens."""
    held = Held.random(case)
    for part in held.parts[1:]:
        for x, first in zip(part, held.parts[0], strict=True):
            x[:tokens] = first[:tokens]
    return held


def check(held: Held, codec: KVDtype, common: int, threads: int) -> None:
    """One step over blocks gives the bits of one over slots, and stores the same."""
    slots, blocks = held.layer(codec), held.layer(codec)
    _, expected, after = held.attend(codec, layer=slots)
    paged, table = in_blocks(held, blocks, common, seed=len(held.case.lengths))
    _, found, paged = held.attend(codec, threads, paged, table)
    assert torch.equal(found, expected)
    stored, _ = in_blocks(held, after, common, seed=len(held.case.lengths))
    assert same_bits((*paged.keys, *paged.values), (*stored.keys, *stored.values))


def case(
    heads: tuple[int, int, int], lengths: tuple[int, ...], counts: tuple[int, ...], **spec: object
) -> Case:
    return Case(
        HeadSpec(*heads),
        AttentionSpec(heads[2] ** -0.5, **spec),  # type: ignore[arg-type]
        lengths,
        counts,
    )


@codecs
@pytest.mark.parametrize("threads", [1, 3])
def test_blocks_in_any_order(isa: str, codec: KVDtype, threads: int) -> None:
    cases = (
        case((2, 1, 16), (64, 65, 1), (1, 65, 1)),
        case((4, 2, 33), (300, 128), (7, 128), window=70, sinks=3),
        case((3, 1, 40), (1100, 90, 64), (2, 1, 64), softcap=9.0),
    )
    for number, some in enumerate(cases):
        if in_part(CODECS.index(codec), threads // 2, number, out_of=2):
            check(Held.random(some), codec, 0, threads)


@codecs
@pytest.mark.parametrize("threads", [1, 3])
def test_blocks_that_sequences_share(isa: str, codec: KVDtype, threads: int) -> None:
    """Their tiles are read once for all; nobody's bits say so. Of case, codec and threads any two
    meet on each instruction set."""
    places = CODECS.index(codec), threads // 2
    cases = (
        (case((2, 1, 16), (130, 131, 129, 200), (1, 1, 1, 1)), 2),
        (case((4, 2, 20), (1200, 1030, 1100), (1, 2, 1)), 16),  # a chunk in common, then none
        (case((2, 2, 8), (1100, 1100, 1153), (1, 1, 1), window=90), 17),
        (case((6, 1, 24), (700,) * 20, (1,) * 20), 10),  # more than one unit takes
        (case((2, 1, 40), (2200, 2190, 100), (3, 40, 2), softcap=5.0, window=1500, sinks=2), 1),
    )
    for number, (some, common) in enumerate(cases):
        if not in_part(*places, number, out_of=2):
            continue
        check(with_common(some, common * BLOCK), codec, common, threads)


def test_what_some_must_not_see_may_be_infinite(isa: str) -> None:
    """A block in common, parts of which are behind the window of one and not of another."""
    some = case((2, 1, 16), (140, 180, 150), (1, 1, 1), window=64)
    held = with_common(some, 2 * BLOCK)
    for part in held.parts:
        part[2][90] = torch.inf
    check(held, "float32", 2, 1)
    check(held, "bfloat16", 2, 2)


@codecs
@pytest.mark.parametrize("threads", [1, 3])
def test_blocks_that_are_gone_are_never_read(isa: str, codec: KVDtype, threads: int) -> None:
    """Between the sinks and the window a table says nothing: here, a block of no numbers."""
    for window, sinks, lengths, counts in (
        (70, 3, (1300, 400, 90), (9, 1, 5)),
        (1, 65, (1100, 300), (1, 1)),
        (130, 0, (2200, 500), (40, 200)),
    ):
        some = replace(case((4, 2, 20), lengths, counts), kept=(window, sinks))
        held = Held.random(some)
        layer = held.layer(codec)
        paged, table = in_blocks(held, layer, 0, seed=window)
        _, expected, _ = held.attend(codec, layer=layer)
        strange = len(paged.keys[0])
        for row, length, count in zip(table, lengths, counts, strict=True):
            sunk, first = -(-sinks // BLOCK), max(0, length - count - window + 1) // BLOCK
            row[sunk : max(sunk, first)] = strange

        def beside(buffer: Tensor) -> Tensor:
            number = torch.nan if buffer.is_floating_point() else 99
            return torch.cat((buffer, torch.full_like(buffer[:1], number)))

        keys, values = (tuple(map(beside, x)) for x in (paged.keys, paged.values))
        paged = replace(paged, keys=keys, values=values)
        assert torch.equal(held.attend(codec, threads, paged, table)[1], expected)
