"""A repeated step: the bits of a step prepared anew, and a cache that stays right around it."""

from collections.abc import Sequence
from random import Random

import pytest
import torch
from thinning import cells

from kept import machine
from kept.batch import Batch, pack
from kept.cache import Cache, make_cache
from kept.errors import CacheError, CacheFullError
from kept.models import CausalLM, RepeatedStep
from laws.kinds import POOL_BYTES
from laws.tiny import CONFIGS, FORMATS, VOCAB, native_model, plain_model

pytestmark = pytest.mark.skipif(
    not machine.NATIVE_AVAILABLE, reason="installed without a C++ compiler"
)
CODECS = ("float32", "bfloat16", "int8", "int4")


def story(count: int, seed: int = 0) -> list[int]:
    random = Random(seed)
    return [random.randrange(VOCAB) for _ in range(count)]


def filled(model: CausalLM, prompts: Sequence[list[int]], codec: str = "bfloat16") -> Cache:
    cache = make_cache(
        model.kv_shapes, num_slots=len(prompts), kv_dtype=codec, pool_bytes=POOL_BYTES
    )
    model.next_logits(pack(prompts, last_of=[True] * len(prompts)), cache)
    return cache


def decode_batch(cache: Cache, tokens: Sequence[int], slots: Sequence[int]) -> Batch:
    return pack(
        [[token] for token in tokens],
        past=[cache.lengths[slot] for slot in slots],
        slots=slots,
        last_of=[True] * len(slots),
    )


def repeated(model: CausalLM, cache: Cache, slots: Sequence[int]) -> RepeatedStep:
    found = model.repeat(tuple(slots), cache)
    assert found is not None
    return found


# Of model, format and codec any two meet.
CASES = cells([*CONFIGS, "deepseek_v3"], FORMATS, CODECS, out_of=4)


@pytest.mark.parametrize(("name", "format", "codec"), CASES)
def test_the_same_bits_as_steps_prepared_anew(name: str, format: str, codec: str) -> None:
    model = native_model(name, format)
    prompts = [story(n, n) for n in (5, 30, 61)]
    one, other = filled(model, prompts, codec), filled(model, prompts, codec)
    slots = (2, 0)  # not all of them, nor in order
    run = repeated(model, one, slots)
    for step in range(run.room):
        tokens = [step % VOCAB, 3 * step % VOCAB]
        found = run.run(tokens)
        expected = model.next_logits(decode_batch(other, tokens, slots), other)
        assert found.best == expected.best
        assert torch.equal(found.logits, expected.logits)
        assert one.lengths == other.lengths
    for layer in range(one.num_layers):
        for a, b in zip(one.layer(layer), other.layer(layer), strict=True):
            assert torch.equal(a[0], b[0])
            assert torch.equal(a[1], b[1])


def test_room_ends_with_the_buffer() -> None:
    model = native_model("llama", "bf16")
    cache = filled(model, [story(60)])
    run = repeated(model, cache, (0,))
    assert run.room == 128 - 60  # the block of the last token, and one more
    for token in range(run.room):
        run.run([token])
    batch = decode_batch(cache, [5], (0,))
    assert cache.lengths == (128,)
    assert run.room == 0
    model.next_logits(batch, cache)  # takes a block
    assert model.repeat((0,), cache) is not None


def test_a_lease_takes_what_room_there_is() -> None:
    """None to spare in a full pool, and of the last block what it has."""
    model = native_model("llama", "bf16")
    cache = filled(model, [story(60)])
    assert cache.pools
    others = cache.pools[0].take(cache.pools[0].num_free)
    run = repeated(model, cache, (0,))
    assert run.room == 64 - 60
    for token in range(run.room):
        run.run([token])
    batch = decode_batch(cache, [5], (0,))
    with pytest.raises(CacheFullError, match="0 of"):
        model.next_logits(batch, cache)
    assert cache.lengths == (64,)
    del others
    model.next_logits(batch, cache)


@pytest.mark.parametrize(
    "disturb",
    [
        lambda cache: cache.truncate(3),
        lambda cache: cache.fork(),
        lambda cache: cache.reorder([1, 0]),
        lambda cache: cache.repeat(2),
        lambda cache: cache.abandon(),
        lambda cache: cache.update(*[torch.zeros(2, 2, 1, 12)] * 2, layer=0),
    ],
    ids=["truncate", "fork", "reorder", "repeat", "abandon", "update"],
)
def test_any_other_operation_ends_it(disturb) -> None:  # type: ignore[no-untyped-def]
    model = native_model("llama", "bf16")
    cache = filled(model, [story(9), story(4)])
    run = repeated(model, cache, (0, 1))
    run.run([7, 8])
    disturb(cache)
    lengths = cache.lengths
    with pytest.raises(CacheError, match="another operation on this cache ended the lease"):
        run.run([7, 8])
    assert cache.lengths == lengths
    assert run.room == 0


def test_a_fork_keeps_its_own_keys() -> None:
    model = native_model("gpt2", "fp32")
    cache = filled(model, [story(9)], "float32")
    repeated(model, cache, (0,)).run([7])
    twin = cache.fork()
    held = twin.layer(0)[0][0].clone()
    run = repeated(model, cache, (0,))
    run.run([11])
    cache.truncate(2)
    repeated(model, cache, (0,)).run([12])
    assert torch.equal(twin.layer(0)[0][0], held)


def test_a_step_that_raises_leaves_the_cache_as_it_was() -> None:
    model = native_model("gpt2", "fp32")
    cache = filled(model, [story(9)], "float32")
    run = repeated(model, cache, (0,))
    run.run([7])
    before = [x.clone() for layer in cache.layers for x in layer.buffers]
    with pytest.raises(IndexError, match=f"token {VOCAB} does not exist"):
        run.run([VOCAB])
    assert cache.lengths == (10,)
    assert run.room == 0
    assert all(
        torch.equal(a, b)
        for a, b in zip(before, [x for layer in cache.layers for x in layer.buffers], strict=True)
    )
    with pytest.raises(ValueError, match="one token a sequence"):
        repeated(model, cache, (0,)).run([1, 2])


def test_none_where_it_cannot_be_had() -> None:
    model = native_model("llama", "bf16")
    evicting = make_cache(model.kv_shapes, "evicting", num_slots=1, budget=9)
    model.next_logits(pack([[1]]), evicting)
    assert model.repeat((0,), evicting) is None
    cache = make_cache(model.kv_shapes, num_slots=2)
    model.next_logits(pack([[1, 2]], slots=[1]), cache)
    assert model.repeat((0, 1), cache) is None
    assert model.repeat((1,), cache) is not None
    reference = plain_model("llama", torch.float32)
    cache = make_cache(reference.kv_shapes, num_slots=1)
    reference.next_logits(pack([[1]]), cache)
    assert reference.repeat((0,), cache) is None
