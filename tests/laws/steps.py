"""Steps of random keys, stored in a cache and in its model, and compared on the way."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from kept.batch import Batch, pack
from kept.blocks import BLOCK, Block
from kept.cache import Cache, LayerStore
from kept.cache.block_layer import BlockLayer
from kept.cache.block_layout import BlockLayout
from kept.cache.layout import Layout
from kept.ops import KVView, attend, attend_with_weights
from laws.kinds import Kind, Rows
from laws.kinds import random_rows as rows_of
from laws.plain import PlainCache, Token
from laws.rounding import sides

TOLERANCE = 1e-5  # fp32 against float64, outputs of order one


def batch_of(counts: Sequence[int], slots: Sequence[int]) -> Batch:
    """A step of so many new tokens in each of these slots."""
    return pack([[0] * count for count in counts], slots=slots)


def random_rows(kind: Kind, num_rows: int, generator: torch.Generator) -> Rows:
    """Keys and values of every layer but the cross layers."""
    return rows_of(kind.shapes, num_rows, generator)


def tokens_of(rows: Rows, counts: Sequence[int]) -> list[list[list[Token]]]:
    """Packed rows as the model takes them: per sequence and layer a list of tokens."""
    ends = list(accumulate(counts))
    return [
        [list(zip(k[a:b], v[a:b], strict=True)) for k, v in rows]
        for a, b in zip([0, *ends], ends, strict=False)
    ]


def step(
    cache: Cache,
    plain: PlainCache,
    counts: Sequence[int],
    slots: Sequence[int],
    generator: torch.Generator,
    share: int = 1,
    softcap: float | None = None,
) -> None:
    """Append random tokens to both, and hold every layer's view against the lists."""
    rows = random_rows(plain.kind, sum(counts), generator)
    plain.append(slots, tokens_of(rows, counts))
    with cache.step(batch_of(counts, slots)) as stores:
        for layer, (store, (k, v)) in enumerate(zip(storing(stores), rows, strict=True)):
            check_view(store.append(k, v), plain, layer, slots, counts, generator, share, softcap)
        readers = zip(
            stores[len(rows) :], (*plain.kind.readers, *crossing(plain.kind)), strict=True
        )
        for store, layer in readers:
            check_view(store.read(), plain, layer, slots, counts, generator, share, softcap)


def storing(stores: Sequence[LayerStore]) -> list[LayerStore]:
    """The stores of layers that store the step's own tokens."""
    return [store for store in stores if store.get is None]


def crossing(kind: Kind) -> range:
    """The cross layers, as the plain lists number them."""
    return range(len(kind.shapes), len(kind.apart))


def check_view(
    view: KVView,
    plain: PlainCache,
    layer: int,
    slots: Sequence[int],
    counts: Sequence[int],
    generator: torch.Generator,
    share: int,
    softcap: float | None,
) -> None:
    """What a view holds, and what attending it gives."""
    shape = plain.kind.apart[layer]
    size = sum(counts), shape.num_kv_heads * share, shape.head_dim
    q = torch.randn(size, generator=generator)
    check_attention(view, q, plain, layer, slots, counts, softcap)
    check_dense(view.dense(), plain, layer, slots, counts)


def check_attention(
    view: KVView,
    q: Tensor,
    plain: PlainCache,
    layer: int,
    slots: Sequence[int],
    counts: Sequence[int],
    softcap: float | None = None,
) -> None:
    """Both ways of attending the view equal attention over the lists."""
    spec = plain.kind.spec(layer, softcap)
    parts = zip(slots, q.split(list(counts)), strict=True)
    expected = torch.cat([plain.attend(slot, layer, part, spec) for slot, part in parts])
    written_out, weights = attend_with_weights(q, view, spec)
    for out in (attend(q, view, spec), written_out):
        torch.testing.assert_close(out.double(), expected, rtol=0, atol=TOLERANCE)
    for group in weights:
        torch.testing.assert_close(group.sum(-1), torch.ones(group.shape[:-1]))


def check_dense(
    dense: tuple[Tensor, Tensor],
    plain: PlainCache,
    layer: int,
    slots: Sequence[int],
    counts: Sequence[int],
) -> None:
    """A dense view holds the readable tokens in their order, and zeros after them."""
    rows = [plain.readable(slot, layer, count) for slot, count in zip(slots, counts, strict=True)]
    width = max(len(tokens) for tokens in rows)
    for which, found in enumerate(dense):
        assert found.shape[2] == width
        for row, tokens in zip(found, rows, strict=True):
            expected = torch.stack([token[which] for token in tokens], dim=1)
            assert torch.equal(row[:, : len(tokens)], expected.to(row.dtype))
            assert not row[:, len(tokens) :].any()


def check_content(cache: Cache, plain: PlainCache) -> None:
    """Lengths, sizes and every token that has to be there, bit for bit."""
    assert cache.lengths == plain.lengths
    assert cache.codec.pair == sides(plain.kind.codec)
    check_readers(cache, plain.kind)
    sizes = [
        entries_in_blocks(cache, plain, index) if lies else layer.num_slots * layer.capacity
        for index, (layer, lies) in enumerate(zip(cache.layers, plain.kind.blocks, strict=True))
    ]
    tokens = sum(n * plain.kind.token_bytes(i) for i, n in enumerate(sizes))
    assert cache.num_bytes == tokens + plain.input_bytes()
    check_inputs(cache, plain)
    for layer, window in enumerate(plain.kind.windows):
        if plain.kind.limit is not None:
            assert cache.layers[layer].capacity == plain.kind.limit
        starts = [slot.kept_from[layer] for slot in plain.slots]
        if window is not None:
            starts = [0 if kept <= window.sunk else kept for kept in starts]
        kept = cache.layer(layer, max(starts))
        for slot, (keys, values) in zip(plain.slots, kept, strict=True):
            tokens = slot.layers[layer][max(starts) :]
            assert keys.shape[1] == values.shape[1] == len(tokens)
            if tokens:
                for found, expected in zip((keys, values), zip(*tokens, strict=True), strict=True):
                    assert torch.equal(found, torch.stack(expected, dim=1).to(found.dtype))


def entries_in_blocks(cache: Cache, plain: PlainCache, layer: int) -> int:
    """Of all the blocks that slots lie in, in one layer: enough for each, and no more than each by
    itself needs and room for a few tokens to come."""
    found = held_blocks(cache.layouts[layer])
    window, pairs = plain.kind.windows[layer], []
    for slot in plain.slots:
        gone = slot.kept_from[layer] - (0 if window is None else window.sunk)
        pairs.append((len(slot.layers[layer]), max(0, gone)))
    needed = [-(-length // BLOCK) - gone // BLOCK for length, gone in pairs]
    assert max(needed) <= len(found) <= sum(needed) + len(needed)
    assert len(found) <= sum(pool.num_used for pool in cache.pools)
    return BLOCK * len(found)


def held_blocks(layout: Layout) -> set[Block]:
    """All blocks in the tables of a layout."""
    assert isinstance(layout, BlockLayout)
    return {block for table in layout.tables for block in table.blocks if block is not None}


def check_inputs(cache: Cache, plain: PlainCache) -> None:
    """Every token of every slot's encoder input, bit for bit."""
    for layer in range(len(plain.kind.cross)):
        held = cache.layer(cache.num_layers + layer)
        for slot, pair in zip(plain.slots, held, strict=True):
            for found, expected in zip(pair, zip(*slot.input[layer], strict=True), strict=True):
                assert torch.equal(found, torch.stack(expected, dim=1).to(found.dtype))


def check_readers(cache: Cache, kind: Kind) -> None:
    """Layers that share hold what the layers that store do, and cost nothing."""
    assert cache.num_layers == len(kind.shapes) + len(kind.readers)
    for reader, layer in enumerate(kind.readers, start=len(kind.shapes)):
        begin = max(0, max(cache.lengths) - 1)
        pairs = zip(cache.layer(reader, begin), cache.layer(layer, begin), strict=True)
        for found, expected in pairs:
            assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def generator() -> torch.Generator:
    """The same numbers every time."""
    return torch.Generator().manual_seed(1)


_HELD: set[str] = set()  # names of kinds whose steps of `filled` were held against the lists


def filled(kind: Kind) -> tuple[Cache, PlainCache]:
    """Two slots of 11 and 9 tokens, and their model. The steps are the same each time, and are held
    against the lists the first time."""
    cache, plain = kind.make(2), PlainCache.empty(kind, 2)
    for counts in ([9, 7], [2, 2]):
        if kind.name in _HELD:
            store(cache, plain, counts, [0, 1], generator())
        else:
            step(cache, plain, counts, [0, 1], generator())
    _HELD.add(kind.name)
    return cache, plain


def store(
    cache: Cache,
    plain: PlainCache,
    counts: Sequence[int],
    slots: Sequence[int],
    generator: torch.Generator,
) -> None:
    """Append random tokens to both."""
    rows = random_rows(plain.kind, sum(counts), generator)
    plain.append(slots, tokens_of(rows, counts))
    with cache.step(batch_of(counts, slots)) as stores:
        for into, (k, v) in zip(storing(stores), rows, strict=True):
            into.append(k, v)


def addresses(cache: Cache) -> list[int]:
    """Where every buffer of keys and values begins, but those in files of blocks, which move as
    whoever has some of them takes more."""
    stay = [
        layer
        for layer in cache.layers
        if not (isinstance(layer, BlockLayer) and cache.place.budget is not None)
    ]
    return [x.data_ptr() for layer in stay for x in layer.buffers]
