"""Attention on matrix tiles: the same bits for a query however many share the call.

Up to 16 queries take a tile's keys as the left operand, more as the right one. Where tiles are not
whole, what lies behind a turn's rows belongs to others.
"""

from itertools import pairwise

import pytest
import torch

from kept import machine
from kept.ops import AttentionSpec, HeadSpec, KVDtype

from .attending import Case, Held, check
from .driving import LayerBuffers
from .stores import CODECS

if not machine.NATIVE_AVAILABLE:
    pytest.skip("installed without a C++ compiler", allow_module_level=True)
from kept import _native

NAMES = [*(name for name in _native.isa_names() if name == "amx"), "amx_emulated"]
codecs = pytest.mark.parametrize("codec", CODECS)
# (H, G, D): heads that share keys, and elements that are whole tiles, codes' groups, or neither.
HEADS = [(7, 1, 64), (3, 1, 96), (1, 1, 128), (16, 1, 32), (17, 1, 33)]


@pytest.fixture(autouse=True, params=NAMES)
def tiles(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """An instruction set with tiles, which the programs of the test run on."""
    name: str = request.param
    monkeypatch.setenv("KEPT_ISA", name)
    return name


def held(heads: tuple[int, int, int], length: int, count: int, **spec: object) -> Held:
    """Random tokens of one sequence, the last of which are new."""
    given = AttentionSpec(heads[2] ** -0.5, **spec)  # type: ignore[arg-type]
    return Held.random(Case(HeadSpec(*heads), given, (length,), (count,)))


@codecs
@pytest.mark.parametrize("heads", HEADS)
def test_few_queries_and_many(codec: KVDtype, heads: tuple[int, int, int]) -> None:
    some = held(heads, 200, 40)
    whole = check(some, codec)
    layer: LayerBuffers = some.layer(codec)
    for begin, end in pairwise((0, 1, 3, 5, 10, 15, 31, 40)):
        part = some.last((end - begin,), drop=40 - end)
        _, found, layer = part.attend(codec, layer=layer)
        assert torch.equal(found, whole[begin:end])


@codecs
def test_what_not_all_queries_of_a_turn_see(codec: KVDtype) -> None:
    """Windows and caps take another way to the weights, and rows beside them must not tell."""
    for spec in ({"window": 70}, {"softcap": 5.0}, {"window": 1}):
        some = held((2, 1, 64), 190, 70, **spec)
        whole = check(some, codec)
        layer: LayerBuffers = some.layer(codec)
        for begin, end in pairwise((0, 1, 8, 9, 40, 70)):
            part = some.last((end - begin,), drop=70 - end)
            _, found, layer = part.attend(codec, layer=layer)
            assert torch.equal(found, whole[begin:end])


@codecs
def test_sequences_side_by_side(codec: KVDtype) -> None:
    """Turns that are not whole leave the sums of the sequence behind them alone."""
    heads, lengths, counts = HeadSpec(7, 1, 64), (130, 66, 300, 64), (1, 3, 2, 5)
    spec = AttentionSpec(0.125)
    some = Held.random(Case(heads, spec, lengths, counts))
    together, first = check(some, codec), 0
    for part, length, count in zip(some.parts, lengths, counts, strict=True):
        alone = Held(Case(heads, spec, (length,), (count,)), [part])
        assert torch.equal(alone.attend(codec)[1], together[first : first + count])
        first += count
