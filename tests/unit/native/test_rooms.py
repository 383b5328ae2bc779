"""Kernels stay within the buffers they are handed: what does not fit is refused before it runs."""

from dataclasses import replace

import pytest
import torch

from kept.ops import AttentionSpec, HeadSpec, Placement

from .driving import LayerBuffers, Rig
from .stores import CODECS, empty

HEADS = HeadSpec(2, 1, 8)
SMALL = Placement(8)
ROWS = 3


def run(layer: LayerBuffers, slots: tuple[int, ...], length: int, attends: bool) -> None:
    """Place three rows, or attend with them, in each of the slots."""
    rig, count = Rig(), ROWS * len(slots)
    width = HEADS.num_heads * HEADS.head_dim
    if attends:
        queries = rig.place(rig.rows(torch.zeros(count, width)), replace(HEADS, num_kv_heads=0))
        rig.attend(queries, HEADS, AttentionSpec(1.0))
    else:
        rig.place(rig.rows(torch.zeros(count, width + 16)), HEADS)
    starts = tuple(range(0, count + 1, ROWS))
    rig.run(count, layers=[layer], starts=starts, slots=slots, lengths=(length,) * len(slots))


@pytest.mark.parametrize("attends", [False, True], ids=["place", "attend"])
@pytest.mark.parametrize("codec", CODECS, ids=str)
def test_what_does_not_fit(codec: str, attends: bool) -> None:
    layer = empty(codec, SMALL, 2, HEADS.num_kv_heads, HEADS.head_dim)
    run(layer, (1, 0), 8, attends)
    for other, slots, length, message in (
        (layer, (0, 2), 8, "slot lies behind the last"),
        (layer, (-1,), 8, "slot is below zero"),
        (layer, (0,), 9, "longer than its layout"),
        (replace(layer, placement=Placement(16)), (0,), 8, "another capacity than its"),
        (empty(codec, SMALL, 2, 3, HEADS.head_dim), (0,), 8, "of other heads than the program"),
    ):
        with pytest.raises(ValueError, match=message):
            run(other, slots, length, attends)


def test_entries_that_are_left_out() -> None:
    """A view that begins later has the capacity of what it is a view of, and fewer entries."""
    whole = empty("float32", SMALL, 2, HEADS.num_kv_heads, HEADS.head_dim)
    cut = replace(whole, keys=(whole.keys[0][:, :, 2:],), values=(whole.values[0][:, :, 2:],))
    run(cut, (1,), 6, attends=True)
    with pytest.raises(ValueError, match="another capacity than its"):
        run(cut, (1,), 7, attends=True)
