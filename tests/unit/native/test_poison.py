"""Infinities and NaN reach only what sees them: no other sequence, and no earlier token."""

import pytest
import torch
from thinning import in_part

from kept.ops import AttentionSpec, HeadSpec, KVDtype

from .attending import Case, Held, seen
from .stores import CODECS

SPECS = (
    AttentionSpec(0.3),
    AttentionSpec(0.3, window=5),
    AttentionSpec(0.3, window=40, sinks=2, softcap=4.0),
)
# Lengths and new tokens of two sequences, and what their layout keeps.
STEPS = (
    ((70, 66), (70, 66), None),
    ((130, 9), (4, 9), None),
    ((65, 64), (1, 1), None),
    ((90, 140), (30, 3), (20, 0)),
    ((140, 30), (2, 30), (33, 3)),
)
DIMS = (16, 40, 5, 33, 64)
# Among queries, keys and values: which of them, and what is put there.
STRANGE = ((1, torch.nan), (1, torch.inf), (2, torch.nan), (2, -torch.inf))


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("spec", SPECS, ids=["causal", "window", "sinks"])
def test_only_rows_that_see_it_change(isa: str, codec: KVDtype, spec: AttentionSpec) -> None:
    """Of step, place and number any two meet."""
    for at, (dim, (lengths, counts, kept)) in enumerate(zip(DIMS, STEPS, strict=True)):
        held = Held.random(Case(HeadSpec(4, 2, dim), spec, lengths, counts, kept))
        _, clean, _ = held.attend(codec)
        places = (0, 3, lengths[0] - counts[0], lengths[0] - 2, lengths[0] - 1)
        for i, place in enumerate(places):
            for j, (which, strange) in enumerate(STRANGE):
                if not in_part(at, i, j, out_of=4):
                    continue
                x = held.parts[0][which]
                before = x[place].clone()
                x[place, 0, dim // 2] = strange
                _, found, _ = held.attend(codec)
                x[place] = before
                sees = seen(held.case, torch.arange(lengths[0] - counts[0], lengths[0]), lengths[0])
                others = torch.cat((~sees[:, place], torch.ones(counts[1], dtype=torch.bool)))
                assert torch.equal(found[others], clean[others])
                if which == 2:  # a weight may be zero, and a NaN times that is a NaN still
                    assert not found[~others][:, :2].isfinite().all(-1).any()
                assert torch.equal(found[:, 2:], clean[:, 2:])  # nor other key heads
