"""Attention over a view, with every spec a layer can have, equals the definition."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kept.batch import pack
from kept.cache import KVShape, make_cache, stores
from kept.ops import AttentionSpec, attend, attend_with_weights
from laws.kinds import Kind, Window
from laws.plain import PlainCache, plain_attention, sees
from laws.steps import TOLERANCE, batch_of, random_rows, tokens_of

SPECS = st.builds(
    AttentionSpec,
    scale=st.sampled_from((0.3, 1.0)),
    causal=st.sampled_from((True, True, True, False)),
    window=st.sampled_from((None, 1, 2, 3, 5)),
    sinks=st.sampled_from((0, 0, 0, 1, 2)),
    softcap=st.sampled_from((None, 1.5)),
)
COUNTS = st.lists(st.integers(1, 7), min_size=1, max_size=3)
LAYOUTS = {"none": None, "contiguous": None, "window": Window(4, 1)}


def kind_of(layout: str, num_kv_heads: int, head_dim: int, codec: str = "float32") -> Kind:
    shape = (KVShape(num_kv_heads, head_dim),)
    window = LAYOUTS[layout]
    if layout == "none":
        return Kind(layout, shape, "dynamic", (None,))
    if window is None:
        return Kind(layout, shape, "dynamic", (None,), codec=codec)
    options = {"sliding_window": window.size, "num_sinks": window.sinks}
    return Kind(layout, shape, "sliding", (window,), options=options, codec=codec)


@pytest.mark.parametrize("layout", LAYOUTS)
@settings(max_examples=40)
@given(
    spec=SPECS,
    steps=st.lists(COUNTS, min_size=1, max_size=3),
    num_kv_heads=st.sampled_from((1, 2)),
    share=st.sampled_from((1, 2, 4)),
    head_dim=st.sampled_from((1, 3, 8, 33)),
    codec=st.sampled_from(("float32", "float32", "bfloat16", "int8", "k8v4", "int4")),
)
def test_any_spec_equals_the_definition(
    layout: str,
    spec: AttentionSpec,
    steps: list[list[int]],
    num_kv_heads: int,
    share: int,
    head_dim: int,
    codec: str,
) -> None:
    kind = kind_of(layout, num_kv_heads, head_dim, codec)
    window = kind.windows[0]
    if window is not None and not spec.causal:
        return  # what is to come cannot be seen, and what was may be gone
    generator = torch.Generator().manual_seed(3)
    cache = kind.make(3) if layout != "none" else None
    plain = PlainCache.empty(kind, 3)
    for counts in steps if cache is not None else steps[:1]:
        slots = list(range(len(counts)))
        rows = random_rows(kind, sum(counts), generator)
        q = torch.randn(sum(counts), num_kv_heads * share, head_dim, generator=generator)
        plain.append(slots, tokens_of(rows, counts))
        with stores(cache, batch_of(counts, slots), kind.shapes) as found:
            view = found[0].append(*rows[0])
            results = [attend(q, view, spec), attend_with_weights(q, view, spec)[0]]
        parts = q.split(counts)
        tokens = [plain.slots[slot].layers[0] for slot in slots]
        pairs = zip(parts, tokens, strict=True)
        expected = torch.cat([plain_attention(part, of, spec, window) for part, of in pairs])
        for result in results:
            torch.testing.assert_close(result.double(), expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_weights_are_zero_where_nothing_is_seen(layout: str) -> None:
    """`attend_with_weights` gives the weight of each stored entry, over the span's whole width."""
    kind = kind_of(layout, 2, 3)
    spec = AttentionSpec(1.0, window=3)
    cache = kind.make(2) if layout != "none" else None
    rows = random_rows(kind, 8, torch.Generator().manual_seed(4))
    counts = [6, 2]
    with stores(cache, batch_of(counts, [0, 1]), kind.shapes) as found:
        view = found[0].append(*rows[0])
        _, groups = attend_with_weights(torch.randn(8, 4, 3), view, spec)
    for group, weights in zip(view.span.groups, groups, strict=True):
        for member, of_member in zip(group.members, weights, strict=True):
            for query in range(counts[member]):
                for token in range(view.span.width):
                    seen = sees(query, token, spec, kind.windows[0])
                    assert bool((of_member[:, query, token] > 0).all()) == seen
                    assert bool((of_member[:, query, token] != 0).any()) == seen


def test_layers_of_a_step_share_their_masks() -> None:
    cache = make_cache([KVShape(1, 2)] * 3)
    batch = pack([[1, 2, 3]], slots=[0])
    with cache.step(batch) as found:
        for store in found:
            attend(torch.ones(3, 1, 2), store.append(*[torch.ones(3, 1, 2)] * 2), AttentionSpec(1))
        assert len({id(store.span) for store in found}) == 1
        assert len(found[0].span.memo) == 2  # the mask, and the table of blocks
