"""A text is with its adapter what it is alone, and shares nothing with those of others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from thinning import examples

from kept import machine
from kept.batch import pack
from kept.cache import make_cache
from kept.engine import Completion, ContextRule, Engine, Request, make_group
from kept.models import Adapter, CausalLM
from kept.models.adapters import attach
from kept.models.layers import Linear
from kept.ops import LowRank, use_threads
from kept.ops.activations import Activations
from kept.sampling import SamplingParams
from kept.store import PrefixStore
from laws.planted import drafting_freely
from laws.tiny import VOCAB, pack_weight, plain_model

pytestmark = pytest.mark.skipif(
    not machine.NATIVE_AVAILABLE, reason="installed without a C++ compiler"
)
KINDS: tuple[tuple[str, str, Activations], ...] = (
    ("llama", "bf16", "bfloat16"),
    ("gpt2", "fp32", "bfloat16"),
    ("gemma3", "int8", "int8"),
    ("qwen2_moe", "int4", "bfloat16"),
)
LIKELY = {"temperature": 0.5, "do_sample": True, "top_k": 0}


class Ask(NamedTuple):
    """A prompt, the adapter that it goes through, -1: none, and the seed of its text."""

    prompt: list[int]
    adapter: int
    seed: int


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    use_threads(1)
    yield
    use_threads()


@cache
def adapted(name: str, format: str, activations: Activations = "bfloat16") -> CausalLM:
    """A model with three adapters of all linear layers but some; the last has the first's files."""
    dtype = torch.float32 if format == "fp32" else torch.bfloat16
    model = plain_model(name, dtype)
    model.pack(partial(pack_weight, format), activations=activations)
    homes = {
        home: layer.weight.shape
        for home, layer in model.named_modules()
        if isinstance(layer, Linear) and layer is not model.head and ".experts." not in home
    }
    attach(model, [_drawn(homes, number) for number in (0, 1, 0)])
    use_threads(1)  # a new program has set them to the default
    return model


def _drawn(homes: dict[str, Any], seed: int) -> Adapter:
    random = torch.Generator().manual_seed(seed)
    parts = {}
    for at, (home, (num_out, num_in)) in enumerate(homes.items()):
        if (at + seed) % 4 == 0:
            continue
        middle, rank, dtype = num_out // 2, 2 + 3 * seed, (torch.bfloat16, torch.float32)[seed]
        parts[home] = tuple(
            LowRank(
                start,
                stop,
                (torch.randn(rank, num_in, generator=random) / num_in**0.5).to(dtype),
                (torch.randn(stop - start, rank, generator=random) / 2).to(dtype),
                0.7,
            )
            for start, stop in ((0, middle), (middle, num_out))
        )
    return Adapter(f"adapter {seed}", f"digest {seed}", parts)


def engine_of(model: CausalLM, chunk: int = 40, store: PrefixStore | None = None) -> Engine:
    cache = make_cache(
        model.kv_shapes, "dynamic", dtype=model.dtype, num_slots=4, pool_bytes=1 << 22
    )
    return Engine(model, cache, ContextRule(400), prefill_chunk=chunk, store=store)


def texts(engine: Engine, asks: Sequence[Ask], drafts: int = 0) -> list[Completion]:
    """What comes of them, all at once."""
    groups = []
    for ask in asks:
        params = SamplingParams(
            max_new_tokens=30, logprobs=1, seed=ask.seed, prompt_lookup_num_tokens=drafts, **LIKELY
        )
        groups.append(make_group(ask.prompt, params.resolve(vocab_size=VOCAB), engine.rule))
        adapter = None if ask.adapter < 0 else engine.model.adapters[ask.adapter]
        engine.submit(Request(groups[-1], adapter=adapter))
    with drafting_freely(engine, len(asks)):
        while engine.has_work:  # also while files are read
            engine.step()
    return [c.completion() for group in groups for c in group.results]


def same(found: Sequence[Completion], expected: Sequence[Completion]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert (one.token_ids, one.logprobs, one.error) == (other.token_ids, other.logprobs, None)


def asks_of(seed: int, count: int) -> list[Ask]:
    """Some of them begin alike, under the same adapter or another."""
    draws = Random(seed)
    shared = [draws.randrange(VOCAB - 1) for _ in range(150)]
    return [
        Ask(
            [*shared[: draws.choice([1, 70, 130])], draws.randrange(VOCAB - 1)],
            draws.choice([-1, 0, 1, 2]),
            draws.randrange(100),
        )
        for _ in range(count)
    ]


@settings(max_examples=examples(4, 60), deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    seed=st.integers(0, 999),
    count=st.integers(2, 6),
    chunk=st.sampled_from([7, 64, 200]),
    drafts=st.sampled_from([0, 16]),
    threads=st.integers(1, 3),
)
def test_a_text_is_what_it_is_alone(
    kind: tuple[str, str, Activations],
    seed: int, count: int, chunk: int, drafts: int, threads: int,
) -> None:  # fmt: skip
    """Beside any others, however prompts are cut, computed or found, drafted or not, and again out
    of files."""
    model, asks = adapted(*kind), asks_of(seed, count)
    use_threads(1)
    expected = [texts(engine_of(model), [ask])[0] for ask in asks]
    use_threads(threads)
    with TemporaryDirectory() as folder:
        for _ in range(2):
            store = PrefixStore(Path(folder), 4 << 20)
            store.identify("model", "isa", "test")
            engine = engine_of(model, chunk, store)
            for _ in range(2):
                same(texts(engine, asks, drafts), expected)
            assert store.flush(300)


def test_adapters_change_what_is_written() -> None:
    for kind in KINDS:
        asks = [Ask([3, 4, 5], adapter, 1) for adapter in (-1, 0, 1)]
        found = texts(engine_of(adapted(*kind)), asks)
        assert len({text.token_ids for text in found}) == 3, kind


def test_what_one_has_computed_no_other_finds() -> None:
    """But for adapters of the same files, which are the same."""
    engine = engine_of(adapted("llama", "bf16"))
    prompt = [i % 90 for i in range(130)]
    for adapter, expected in ((-1, 0), (0, 0), (1, 0), (-1, 129), (0, 129), (1, 129), (2, 129)):
        [found] = texts(engine, [Ask(prompt, adapter, 1)])
        assert found.cached_tokens == expected, adapter
    found = texts(engine_of(adapted("llama", "bf16")), [Ask(prompt, a, 1) for a in (-1, 0, 1)])
    assert [text.cached_tokens for text in found] == [0, 0, 0]


def test_no_salt_is_that_of_an_adapter() -> None:
    model = adapted("llama", "bf16")
    group = make_group([1], SamplingParams().resolve(vocab_size=VOCAB), ContextRule(400))
    for adapter in model.adapters:
        for salt in ("", "s"):
            key = Request(group, salt=salt, adapter=adapter).key_salt
            assert Request(group, salt=key).key_salt != key
    assert Request(group, salt="\0\0").key_salt != Request(group, salt="\0").key_salt
    assert Request(group, salt="s").key_salt == "s"


def test_decoding_is_repeated_with_adapters() -> None:
    engine = engine_of(adapted("llama", "bf16"))
    texts(engine, [Ask([3, 4], adapter, 1) for adapter in (-1, 0, 1)])
    assert engine.snapshot().counters.repeated_steps > 20


@pytest.mark.parametrize("kind", KINDS)
def test_rows_without_one_have_the_bits_of_a_model_without(
    kind: tuple[str, str, Activations],
) -> None:
    model = adapted(*kind)
    plain = plain_model(kind[0], torch.float32 if kind[1] == "fp32" else torch.bfloat16)
    plain.pack(partial(pack_weight, kind[1]), activations=kind[2])
    ids = [[5, 6, 7], list(range(40)), [9]]
    found = model.run(pack(ids, adapters=(0, -1, 1)))
    assert torch.equal(found[3:43], plain.run(pack(ids))[3:43])
    assert torch.equal(model.run(pack(ids)), plain.run(pack(ids)))
