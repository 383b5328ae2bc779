"""Layers that attend what another layer stores, and store nothing: a model of such layers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from random import Random

import pytest
import torch
from thinning import in_part
from torch import Tensor, nn

from kept import machine
from kept.batch import pack
from kept.cache import KVShape, LayerStore, make_cache, stores
from kept.errors import CacheError, OptionError
from kept.models import read_config
from kept.models.layers import Linear, RMSNorm, attend, attend_shared
from kept.models.llama import Llama, LlamaConfig
from kept.models.record import Record
from kept.ops import AttentionSpec, HeadSpec, Rope, find_kv_codec, split_heads, split_queries
from laws.schedules import ACTIONS, Alone, Schedule, caches, play
from laws.tiny import CONFIGS, FORMATS, VOCAB, pack_weight

needs_native = pytest.mark.skipif(
    not machine.NATIVE_AVAILABLE, reason="installed without a C++ compiler"
)
KINDS = ("dynamic", "static", "sliding", "window")
SHARES = (None, None, 1, 0)  # the first layer sees everything, the second a window of 9


@dataclass(frozen=True)
class SharingConfig(LlamaConfig):
    """Of a Llama whose last layers share what earlier ones store."""

    @property
    def kv_shapes(self) -> tuple[KVShape, ...]:
        """See `LlamaConfig`."""
        own = super().kv_shapes
        return tuple(replace(x, shares=s) for x, s in zip(own, SHARES, strict=True))


class SharingAttention(nn.Module):
    """Queries alone."""

    def __init__(self, config: LlamaConfig, layer: int) -> None:
        super().__init__()
        heads, width = config.num_heads, config.head_dim
        self.heads = HeadSpec(heads, config.num_kv_heads, width, config.norm_eps)
        self.spec = AttentionSpec(width**-0.5, window=config.windows[layer])
        self.q = Linear(config.hidden_size, heads * width, bias=False)
        self.q_norm = RMSNorm(width, config.norm_eps)
        self.out = Linear(heads * width, config.hidden_size, bias=False)

    def forward(self, x: Tensor, rope: Rope, store: LayerStore, record: Record) -> Tensor:
        q = split_queries(self.q(x), self.heads, rope, self.q_norm.weight)
        out: Tensor = self.out(attend_shared(q, store, self.spec, record))
        return out


class SharingLlama(Llama):
    def __init__(self, config: LlamaConfig) -> None:
        super().__init__(config)
        for layer, shares in enumerate(SHARES):
            if shares is not None:
                self.blocks[layer].attention = SharingAttention(config, layer)


def sharing_model(dtype: torch.dtype = torch.float32) -> SharingLlama:
    config = read_config({**CONFIGS["llama"], "num_hidden_layers": len(SHARES)})
    assert isinstance(config, LlamaConfig)
    windows = (None, 9, 9, None)
    fields = {**vars(config), "windows": windows}
    model = SharingLlama(SharingConfig(**fields)).to_empty(device="cpu").eval()
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            centre = 1.0 if "norm" in name else 0.0
            parameter.copy_(centre + 0.25 * torch.randn(parameter.shape, generator=generator))
    return model.to(dtype)


def packed(format: str) -> SharingLlama:
    model = sharing_model(torch.float32 if format == "fp32" else torch.bfloat16)
    model.pack(partial(pack_weight, format))
    return model


@torch.no_grad()
def by_projecting_again(model: SharingLlama, tokens: list[int]) -> Tensor:
    """The logits, with keys and values that are shared made anew from what their layer read."""
    batch, record = pack([tokens]), Record()
    x, rope = model.embed(batch)
    own = [replace(shape, shares=None) for shape in model.kv_shapes]
    inputs = []
    with stores(None, batch, own) as found:
        for block, store, shares in zip(model.blocks, found, SHARES, strict=True):
            inputs.append(x)
            if shares is None:
                x = block(x, rope, store, record)
                continue
            owner, mine = model.blocks[shares], block.attention
            qkv = owner.attention.qkv(owner.attention_norm(inputs[shares]))
            _, k, v = split_heads(qkv, owner.attention.heads, rope)
            q = split_queries(mine.q(block.attention_norm(x)), mine.heads, rope, mine.q_norm.weight)
            x = x + mine.out(attend(q, k, v, store, mine.spec, record))
            x = x + block.mlp(block.mlp_norm(x))
    return model.project(model.norm(x)).float()


def drawn(count: int) -> list[int]:
    random = Random(count)
    return [random.randrange(VOCAB) for _ in range(count)]


@pytest.mark.parametrize("native", [False, pytest.param(True, marks=needs_native)])
@torch.no_grad()
def test_logits_are_those_of_keys_projected_again(native: bool) -> None:
    tokens = drawn(40)
    expected = by_projecting_again(sharing_model(), tokens)
    model = packed("fp32") if native else sharing_model()
    for kind in (None, *KINDS):
        cache = None if kind is None else caches(model, kind, "float32", 50)(1)
        if kind == "sliding":
            cache = make_cache(model.kv_shapes, "sliding", sliding_window=45)
        found, done = [], 0
        for count in [40] if cache is None else [1, 17, 2, 20]:
            batch = pack([tokens[done : done + count]], past=[done])
            found.append(model.run(batch, cache))
            done += count
        torch.testing.assert_close(torch.cat(found), expected, rtol=0, atol=1e-4)


@needs_native
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_same_bits(kind: str, format: str, tmp_path: Path) -> None:
    """Of kind, format and codec any two meet."""
    model = packed(format)
    plain = "sliding" if kind == "sliding" else "dynamic"
    places = KINDS.index(kind), FORMATS.index(format)
    for seed, codec in enumerate(("float32", "bfloat16", "int8", "int4")):
        if not in_part(*places, seed, out_of=2):
            continue
        random = Random(seed)
        make = caches(model, kind, codec, 120)
        alone = Alone(model, caches(model, plain, codec, 120))
        play(Schedule(alone, make, random, 120), random.sample(ACTIONS, 9), tmp_path)


@pytest.mark.parametrize("native", [False, pytest.param(True, marks=needs_native)])
@torch.no_grad()
def test_attention_and_hidden_states(native: bool) -> None:
    model = packed("fp32") if native else sharing_model()
    out = model(torch.tensor([drawn(9)]), output_attentions=True, output_hidden_states=True)
    other = sharing_model()(torch.tensor([drawn(9)]), output_attentions=True)
    assert out.attentions is not None
    assert other.attentions is not None
    assert out.hidden_states is not None
    assert (len(out.attentions), len(out.hidden_states)) == (len(SHARES), len(SHARES) + 1)
    for found, expected in zip(out.attentions, other.attentions, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_bytes_count_once() -> None:
    shapes = sharing_model().kv_shapes
    alike = [replace(shape, shares=None) for shape in shapes]
    assert [shape.numel > 0 for shape in shapes] == [True, True, False, False]
    for kind, options in (("dynamic", {}), ("static", {"max_cache_len": 9}), ("sliding", {})):
        shared, whole = (make_cache(s, kind, **options) for s in (shapes, alike))  # type: ignore[arg-type]
        for cache in (shared, whole):
            for layer in range(len(cache.layers)):
                new = torch.zeros(1, 2, 9, 12)
                cache.update(new, new, layer)
        assert shared.lengths == whole.lengths == (9,)
        assert (shared.num_layers, len(shared.layers)) == (4, 2)
        stored = [
            sum(x.num_bytes(y) for x, y in zip(cache.layers, cache.layouts, strict=True))
            for cache in (shared, whole)
        ]
        assert 2 * stored[0] == stored[1] > 0
    codec = find_kv_codec("int8")
    assert sum(s.num_bytes(codec) for s in shapes) * 2 == sum(s.num_bytes(codec) for s in alike)
    assert [s.num_bytes_read(codec) for s in shapes] == [s.num_bytes(codec) for s in alike]


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ([KVShape(2, 4, shares=0)], "share one of the 0"),
        ([KVShape(2, 4), KVShape(2, 4, shares=1)], "share one of the 1"),
        ([KVShape(2, 4), KVShape(2, 4, shares=0), KVShape(2, 4)], "layers that store come first"),
        ([KVShape(2, 4), KVShape(2, 4, shares=0), KVShape(2, 4, shares=1)], "share one of the 1"),
        ([KVShape(2, 4), KVShape(1, 4, shares=0)], "cannot share what layer 0 stores"),
        ([KVShape(2, 4, 5), KVShape(2, 4, 6, shares=0)], "heads, head size and window"),
    ],
)
def test_what_cannot_be_shared(shapes: list[KVShape], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        make_cache(shapes)


@pytest.mark.parametrize("cached", [True, False])
def test_stores_are_used_as_they_are_meant(cached: bool) -> None:
    shapes = [KVShape(1, 4), KVShape(1, 4, shares=0)]
    cache = make_cache(shapes) if cached else None
    new = torch.zeros(2, 1, 4)
    with stores(cache, pack([[1, 2]]), shapes) as (own, shared):
        with pytest.raises(CacheError, match="layer 0 has not stored"):
            shared.read()
        with pytest.raises(CacheError, match=r"shares the keys.*call read\(\)"):
            shared.append(new, new)
        with pytest.raises(CacheError, match=r"append\(\) them"):
            own.read()
        own.append(new + 1, new)
        assert shared.read().stored()[0].sum() == new.numel()
    if cache is not None:
        with pytest.raises(CacheError, match="layer 1 shares the keys and values of layer 0"):
            cache.update(new[None], new[None], 1)
