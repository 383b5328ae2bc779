"""An evicting cache against plain lists of tokens, and against itself in other steps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from kept.batch import pack
from kept.cache import SCORES, Cache, EvictionPolicy, KVShape, Offloaded, load_cache, make_cache
from kept.cache.policy import Entries
from kept.errors import CacheError, OptionError
from kept.ops import AttentionSpec

SHAPES = (KVShape(1, 3), KVShape(2, 4))
MIXED = (KVShape(1, 3, window=5), KVShape(2, 4))
LENGTH = 41
# budget, grain, score, sinks, recent
RULES = [
    (6, 4, "key-norm", 1, 2),
    (6, 4, "window", 2, 0),
    (8, 4, "key-norm", 0, 0),
    (7, 1, "key-norm", 4, 3),
    (1, 3, "key-norm", 0, 0),
    (5, 16, "key-norm", 2, 1),
    (70, 8, "key-norm", 4, None),
    (6, 4, "attention", 1, 2),
    (11, 4, "attention", 0, None),
    (7, 1, "attention", 4, 2),
    (5, 16, "attention", 0, 0),
    (6, 4, "expected-attention", 1, 2),
    (11, 4, "expected-attention", 0, None),
    (5, 16, "expected-attention", 2, 1),
]
OBSERVING = [rule for rule in RULES if "attention" in rule[2]]
SPEC = AttentionSpec(0.7, softcap=3.0)
SHARE = 2  # query heads that share a key head
RULE = RULES[0]
Rule = tuple[int, int, str, int, int | None]


def make(rule: Rule, num_slots: int = 1, shapes: Sequence[KVShape] = SHAPES, **more: str) -> Cache:
    budget, grain, score, sinks, recent = rule
    policy = EvictionPolicy(score, sinks, recent)
    return make_cache(
        shapes, "evicting", num_slots=num_slots, budget=budget, grain=grain, policy=policy, **more
    )


def tokens(seed: int, layer: int, length: int = LENGTH) -> tuple[Tensor, Tensor]:
    """Keys and values (length, G, D) of a sequence in one layer."""
    generator = torch.Generator().manual_seed(100 * seed + layer)
    shape = SHAPES[layer]
    size = 2, length, shape.num_kv_heads, shape.head_dim
    keys, values = torch.randn(size, generator=generator)
    return keys, values


def queries(seed: int, layer: int) -> Tensor:
    """(LENGTH, G * SHARE, D) of a sequence in one layer."""
    generator = torch.Generator().manual_seed(100 * seed + layer + 50)
    shape = SHAPES[layer]
    size = LENGTH, shape.num_kv_heads * SHARE, shape.head_dim
    return 2 * torch.randn(size, generator=generator)


def feed(cache: Cache, seeds: Sequence[int], counts: Sequence[int]) -> list[list[Tensor]]:
    """Bring so many further tokens to each slot in one step; what each layer attends, by layer."""
    slots = [slot for slot, count in enumerate(counts) if count]
    past = [cache.lengths[slot] for slot in slots]
    taken = [counts[slot] for slot in slots]
    batch = pack([[0] * n for n in taken], past=past, slots=slots)
    seen = []
    with cache.step(batch) as stores:
        for layer, store in enumerate(stores):
            rows = [
                [x[begin : begin + n] for x in tokens(seeds[slot], layer)]
                for slot, begin, n in zip(slots, past, taken, strict=True)
            ]
            k, v = (torch.cat(side) for side in zip(*rows, strict=True))
            seen.append([x.clone() for x in store.append(k, v).dense()])
            asked = [
                queries(seeds[slot], layer)[begin : begin + n]
                for slot, begin, n in zip(slots, past, taken, strict=True)
            ]
            store.observe(torch.cat(asked), SPEC)
    return seen


def run(cache: Cache, seeds: Sequence[int], length: int, parts: Iterator[int]) -> None:
    """Bring all slots to a length, in steps of `parts`, cut where the cache asks for it."""
    while min(cache.lengths) < length:
        part = next(parts)
        counts = [min(part, length - n, cache.max_step(s)) for s, n in enumerate(cache.lengths)]
        feed(cache, seeds, counts)


def draws(seed: int) -> Iterator[int]:
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield int(torch.randint(1, 20, (1,), generator=generator))


def ones() -> Iterator[int]:
    while True:
        yield 1


def expected(rule: Rule, seed: int, layer: int, head: int, length: int) -> list[int]:
    """Which tokens the rule leaves of a sequence, over plain lists."""
    budget, grain, score, sinks, recent = rule
    recent = max(0, budget - sinks) // 2 if recent is None else recent
    keys, values = (x[:, head].double() for x in tokens(seed, layer))
    asked = queries(seed, layer).double()[:, head * SHARE : (head + 1) * SHARE]
    logits = 3 * torch.tanh(torch.einsum("thd,sd->hts", asked, keys) * 0.7 / 3)
    received = [0.0] * LENGTH
    held: list[int] = []
    for token in range(length):
        held.append(token)
        for of_head in logits[:, token, held].softmax(-1).tolist():
            for j, weight in zip(held, of_head, strict=True):
                received[j] += weight
        if (token + 1) % grain == 0 and token + 1 > budget:
            last = logits[:, token + 1 - grain : token + 1, held]
            to_come = (last.mean(1) + last.var(1, correction=0) / 2).softmax(-1).mean(0)
            to_come *= values[held].norm(dim=-1)
            worth = {
                "window": [float(j) for j in held],
                "key-norm": (-keys[held].norm(dim=-1)).tolist(),
                "attention": [received[j] for j in held],
                "expected-attention": to_come.tolist(),
            }
            of_token = dict(zip(held, worth[score], strict=True))
            middle = held[sinks : len(held) - recent]
            gone = set(sorted(middle, key=of_token.__getitem__)[: len(held) - budget])
            held = [t for t in held if t not in gone]
    return held


def assert_holds(cache: Cache, rule: Rule, seeds: Sequence[int]) -> None:
    """Each slot holds the expected tokens, and their very keys and values."""
    for layer, shape in enumerate(SHAPES):
        for slot, (held, length) in enumerate(zip(cache.held(layer), cache.lengths, strict=True)):
            buffers = cache.layers[layer].keys[0][slot], cache.layers[layer].values[0][slot]
            for head in range(shape.num_kv_heads):
                want = expected(rule, seeds[slot], layer, head, length)
                assert held[head].tolist() == want
                for buffer, x in zip(buffers, tokens(seeds[slot], layer), strict=True):
                    assert torch.equal(buffer[head, : len(want)], x[want, head])
                    assert not buffer[head, len(want) :].any()


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_what_is_held_is_what_the_policy_leaves_of_plain_lists(rule: Rule) -> None:
    cache = make(rule)
    for _ in range(LENGTH):
        feed(cache, [1], [1])
        assert_holds(cache, rule, [1])


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_how_tokens_are_cut_into_steps_does_not_matter(rule: Rule) -> None:
    seeds = [1, 2, 3]
    caches = [make(rule, 3) for _ in range(4)]
    for cache, parts in zip(caches, [ones(), draws(0), draws(1), draws(2)], strict=True):
        run(cache, seeds, LENGTH, parts)
        assert_holds(cache, rule, seeds)


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_the_budget_holds_at_each_boundary_and_a_grain_more_between(rule: Rule) -> None:
    budget, grain, _, sinks, recent = rule
    cache = make(rule)
    recent = max(0, budget - sinks) // 2 if recent is None else recent
    for length in range(1, LENGTH + 1):
        feed(cache, [5], [1])
        [held] = cache.held(1)
        assert held.shape[1] <= (budget if length % grain == 0 else budget + grain - 1)
        assert cache.layers[1].capacity <= budget + grain
        always = {*range(min(sinks, length)), *range(max(0, length - recent), length)}
        assert all(always <= set(of_head) for of_head in held.tolist())


def test_attention_sees_what_is_stored_and_nothing_else() -> None:
    cache = make(RULE)
    for length in range(LENGTH):
        before = [x[0] for x in (cache.held(0), cache.held(1))]
        seen = feed(cache, [4], [1])
        for layer, (keys, values) in enumerate(seen):
            for head, of_head in enumerate(before[layer].tolist()):
                want = [*of_head, length]
                for dense, x in zip((keys, values), tokens(4, layer), strict=True):
                    assert torch.equal(dense[0, head], x[want, head])


def test_a_step_over_a_boundary_is_refused_and_changes_nothing() -> None:
    cache = make(RULE, 2)
    feed(cache, [1, 2], [7, 3])
    with pytest.raises(CacheError, match=r"brings 2 tokens to a sequence of 7.*at most 1,"):
        feed(cache, [1, 2], [2, 1])
    assert cache.lengths == (7, 3)
    assert [cache.max_step(slot) for slot in (0, 1)] == [1, 5]
    with pytest.raises(CacheError, match=r"\[2\] are not distinct slots"):
        cache.max_step(2)
    run(cache, [1, 2], LENGTH, draws(3))
    assert_holds(cache, RULE, [1, 2])


def test_a_step_that_fails_leaves_the_cache_as_it_was() -> None:
    class Fails:
        name = "fails"
        looks_at = "entries"

        def __call__(self, entries: Entries) -> Tensor:
            raise ArithmeticError("no score")

    cache = make_cache(SHAPES, "evicting", budget=6, grain=4, policy=EvictionPolicy(Fails(), 0, 0))
    feed(cache, [1], [7])
    assert cache.concatenate([cache]).lengths == (7, 7)
    with pytest.raises(ArithmeticError):
        feed(cache, [1], [1])
    assert cache.lengths == (7,)
    assert not cache.layers[0].keys[0][0, :, 7:].any()
    with pytest.raises(CacheError, match="not one that a file can name"):
        cache.save("never-written")


@pytest.mark.parametrize("length", [0, 16, 17, 18, 19])
def test_truncating_to_what_is_still_whole_goes_on_as_if_nothing_had_been(length: int) -> None:
    cache = make(RULE, 2)
    run(cache, [1, 2], 19, draws(1))
    cache.truncate([length, 19])
    assert cache.lengths == (length, 19)
    assert_holds(cache, RULE, [1, 2])
    run(cache, [1, 2], LENGTH, draws(2))
    assert_holds(cache, RULE, [1, 2])


@pytest.mark.parametrize("length", [1, 6, 8, 15])
def test_truncating_to_what_is_gone_is_refused_and_changes_nothing(length: int) -> None:
    cache = make(RULE, 2)
    run(cache, [1, 2], 19, draws(1))
    with pytest.raises(CacheError, match=f"cannot go back to {length} tokens.*had 16"):
        cache.truncate([18, length])
    assert cache.lengths == (19, 19)
    assert_holds(cache, RULE, [1, 2])


def test_reading_tokens_that_may_be_gone_is_refused() -> None:
    cache = make(RULE)
    run(cache, [1], 19, draws(1))
    with pytest.raises(CacheError, match="no longer holds all of tokens 0 to 19"):
        cache.layer(1)
    [(keys, values)] = cache.layer(1, begin=16)
    for found, x in zip((keys, values), tokens(1, 1), strict=True):
        assert torch.equal(found, x[16:19].transpose(0, 1))


def test_slots_move_with_the_tokens_that_they_hold() -> None:
    cache = make(RULE, 3)
    seeds = [1, 2, 3]
    run(cache, seeds, 18, draws(1))
    cache.reorder([2, 0, 0])
    seeds = [3, 1, 1]
    assert_holds(cache, RULE, seeds)
    feed(cache, seeds, [1, 2, 1])
    cache.select([1, 0])
    cache.repeat(2)
    seeds = [1, 1, 3, 3]
    assert_holds(cache, RULE, seeds)
    run(cache, seeds, LENGTH, draws(2))
    assert_holds(cache, RULE, seeds)
    cache.reset()
    run(cache, [4, 5, 6, 7], LENGTH, draws(3))
    assert_holds(cache, RULE, [4, 5, 6, 7])


@pytest.mark.parametrize("length", [7, 18])
def test_a_fork_and_its_origin_go_on_apart(length: int) -> None:
    cache = make(RULE)
    run(cache, [1], length, draws(1))
    twin = cache.fork()
    run(cache, [1], 30, draws(2))
    assert_holds(twin, RULE, [1])
    twin.reset()
    run(twin, [2], LENGTH, draws(3))
    assert_holds(cache, RULE, [1])
    assert_holds(twin, RULE, [2])


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("lengths", [(5, 18, 32), (32, 0, 7)])
def test_caches_made_one_go_on_as_each_would(rule: Rule, lengths: tuple[int, int, int]) -> None:
    caches = [make(rule, 2), make(rule), make(rule)]
    seeds = [1, 2, 3, 4]
    for cache, of, length in zip(caches, ([1, 2], [3], [4]), lengths, strict=True):
        run(cache, of, length, draws(length))
    joined = caches[0].concatenate(caches[1:])
    assert joined.lengths == (lengths[0], *lengths)
    assert_holds(joined, rule, seeds)
    run(joined, seeds, LENGTH, draws(2))
    assert_holds(joined, rule, seeds)
    for cache, of in zip(caches, ([1, 2], [3], [4]), strict=True):
        assert_holds(cache, rule, of)
        run(cache, of, LENGTH, draws(3))
        assert_holds(cache, rule, of)


def test_caches_of_other_rules_are_not_made_one() -> None:
    for other in (RULES[1], (6, 4, "key-norm", 1, 1), (6, 5, "key-norm", 1, 2)):
        with pytest.raises(CacheError, match=r"is laid out as .*EvictionRule"):
            make(RULE).concatenate([make(other)])
    joined = make(RULE, 1, MIXED).concatenate([make(RULE, 2, MIXED)])
    run(joined, [1, 2, 3], LENGTH, draws(1))
    for slot, held in enumerate(joined.held(1)):
        assert held.tolist() == [expected(RULE, slot + 1, 1, head, LENGTH) for head in range(2)]


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("length", [5, 18, 32])
def test_a_file_gives_back_what_goes_on_alike(tmp_path: Path, rule: Rule, length: int) -> None:
    cache = make(rule, 2)
    run(cache, [1, 2], length, draws(1))
    cache.save(tmp_path / "cache")
    loaded = load_cache(tmp_path / "cache", SHAPES)
    assert_holds(loaded, rule, [1, 2])
    assert loaded.max_step(0) == cache.max_step(0)
    run(loaded, [1, 2], LENGTH, draws(2))
    assert_holds(loaded, rule, [1, 2])


def test_bytes_are_those_of_budget_and_grain_however_long_the_text() -> None:
    cache = make(RULE)
    run(cache, [1], 16, draws(1))
    entries = 6 + 4
    labels = 6 * 8 * (1 + 2)
    assert cache.num_bytes == entries * 2 * 4 * (1 * 3 + 2 * 4) + labels
    before = cache.num_bytes
    run(cache, [1], LENGTH, draws(2))
    assert cache.num_bytes == before


@pytest.mark.parametrize("codec", ["bfloat16", "int8", "int4", "k8v4"])
def test_other_codecs_move_their_codes_and_stay_deterministic(codec: str, tmp_path: Path) -> None:
    caches = [make(RULE, 2, kv_dtype=codec) for _ in range(2)]
    for cache, parts in zip(caches, (ones(), draws(1)), strict=True):
        run(cache, [1, 2], 29, parts)
    caches[0].save(tmp_path / "cache")
    caches.append(load_cache(tmp_path / "cache", SHAPES))
    for layer in range(2):
        held = [cache.held(layer) for cache in caches]
        assert all(torch.equal(a, b) for one in held for a, b in zip(one, held[0], strict=True))
        for cache in caches[1:]:
            pairs = zip(cache.layers[layer].buffers, caches[0].layers[layer].buffers, strict=True)
            assert all(torch.equal(a[:, :, :7], b[:, :, :7]) for a, b in pairs)


def test_layers_with_a_window_of_their_own_keep_it() -> None:
    cache = make(RULE, 1, MIXED)
    run(cache, [1], LENGTH, draws(1))
    last, held = cache.held(0)[0], cache.held(1)[0]
    assert last[0].tolist()[-5:] == list(range(LENGTH - 5, LENGTH))
    want = [expected(RULE, 1, 1, head, LENGTH) for head in range(2)]
    assert held.tolist() == want
    with cache.lend(pack([[0]], past=[LENGTH])) as lent:
        assert lent.lengths == [(LENGTH + 1,), (len(want[0]) + 1,)]


def test_layers_that_share_read_what_their_owner_holds() -> None:
    shapes = (*SHAPES, KVShape(2, 4, shares=1))
    cache = make(RULE, 1, shapes)
    for begin in range(0, 24, 4):
        with cache.step(pack([[0] * 4], past=[begin])) as stores:
            for layer in range(2):
                stores[layer].append(*(x[begin : begin + 4] for x in tokens(1, layer)))
            shared = stores[2].read().dense()
        assert shared[0].shape[2] == min(begin, 6 if begin >= 8 else begin) + 4
    assert torch.equal(cache.held(2)[0], cache.held(1)[0])


@pytest.mark.parametrize("rule", OBSERVING, ids=str)
def test_what_was_observed_goes_where_its_tokens_go(rule: Rule, tmp_path: Path) -> None:
    cache = make(rule, 3)
    seeds = [1, 2, 3]
    run(cache, seeds, 18, draws(1))
    cache.select([2, 0, 0])
    seeds = [3, 1, 1]
    twin = cache.fork()
    feed(cache, [4, 4, 4], [1, 1, 1])
    run(twin, seeds, 30, draws(2))
    twin.save(tmp_path / "cache")
    loaded = load_cache(tmp_path / "cache", SHAPES)
    loaded.reorder([1, 0, 2])
    run(loaded, [1, 3, 1], LENGTH, draws(3))
    assert_holds(loaded, rule, [1, 3, 1])
    loaded.reset()
    run(loaded, [2, 3, 4], LENGTH, ones())
    assert_holds(loaded, rule, [2, 3, 4])


@pytest.mark.parametrize("rule", OBSERVING, ids=str)
def test_what_was_observed_can_be_gone_back_to_and_no_further(rule: Rule) -> None:
    grain = rule[1]
    cache = make(rule)
    last = 32
    run(cache, [1], last, draws(1))
    feed(cache, [2], [min(3, cache.max_step(0) or 0)])
    assert cache.max_step(0) == (grain - (cache.lengths[0] % grain))
    if grain > 1:
        with pytest.raises(CacheError, match=f"to {last - 1} tokens: it added up .* had {last}"):
            cache.truncate(last - 1)
        cache.truncate(last)
        run(cache, [1], LENGTH, draws(2))
        assert_holds(cache, rule, [1])


def test_queries_that_are_not_shown_are_missed() -> None:
    cache = make(OBSERVING[0])
    feed(cache, [1], [3])
    with pytest.raises(CacheError, match=r"layer 0 .*not shown .*'attention'"):
        cache.update(torch.zeros(1, 1, 1, 3), torch.zeros(1, 1, 1, 3), 0)

    def shows_one_layer_alone() -> None:
        with cache.step(pack([[0]], past=[3])) as stores:
            for shape, store in zip(SHAPES, stores, strict=True):
                rows = torch.ones(1, shape.num_kv_heads, shape.head_dim)
                store.append(rows, rows)
            with pytest.raises(CacheError, match=r"queries \(1, 2, 5\) do not fit"):
                stores[0].observe(torch.zeros(1, 2, 5), SPEC)
            stores[0].observe(torch.zeros(1, 2, 3), SPEC)

    with pytest.raises(CacheError, match="layer 1 of this"):
        shows_one_layer_alone()
    assert cache.lengths == (3,)
    run(cache, [1], LENGTH, draws(1))
    assert_holds(cache, OBSERVING[0], [1])


@pytest.mark.parametrize("score", SCORES)
def test_each_layer_keeps_to_a_budget_of_its_own(score: str, tmp_path: Path) -> None:
    rules = [(12, 4, score, 1, 2), (6, 4, score, 1, 2)]
    policy = EvictionPolicy(score, 1, 2)
    cache = make_cache(SHAPES, "evicting", num_slots=2, budget=[12, 6], grain=4, policy=policy)
    expects_stop = 4 if SCORES[score].looks_at != "entries" else 8
    assert cache.max_step(0) == expects_stop
    run(cache, [1, 2], 30, draws(1))
    cache.save(tmp_path / "cache")
    loaded = load_cache(tmp_path / "cache", SHAPES)
    cache.truncate(28)
    for one in (cache, loaded):
        run(one, [1, 2], LENGTH, draws(2))
        for layer, rule in enumerate(rules):
            for slot, held in enumerate(one.held(layer)):
                for head, of_head in enumerate(held.tolist()):
                    assert of_head == expected(rule, slot + 1, layer, head, LENGTH)
        assert [layer.capacity <= 16 for layer in one.layers] == [True, True]
    assert [layout.rule.budget for layout in cache.layouts] == [12, 6]  # type: ignore[attr-defined]


def test_a_plain_caches_tokens_are_all_held() -> None:
    cache = make_cache(SHAPES)
    feed(cache, [1], [9])
    assert [x.tolist() for x in cache.held(1)] == [[list(range(9))] * 2]


BAD = [
    ({}, "needs budget=N"),
    ({"budget": 0}, "a budget of 0 tokens"),
    ({"budget": 3}, "a budget of 3 tokens does not hold the 4 first"),
    ({"budget": 8, "grain": 0}, "grain=0"),
    ({"budget": 8, "policy": "luck"}, "no eviction score is called 'luck'"),
    ({"budget": 8, "policy": 3}, "policy is 3"),
    ({"budget": 8.5}, "budget"),
    ({"budget": "8"}, "budget"),
    ({"budget": [8]}, "lists 1 numbers of tokens, and 2 layers"),
    ({"budget": [8, 3]}, "a budget of 3 tokens does not hold the 4 first"),
    ({"budget": [8, 9.5]}, "a layer's budget is 9.5"),
    ({"budget": 8, "place": Offloaded(Path(), 1 << 20)}, "lies in memory"),
    ({"budget": 8, "max_cache_len": 9}, "max_cache_len=9 is for static"),
]


@pytest.mark.parametrize(("options", "message"), BAD)
def test_options_that_make_no_evicting_cache_are_refused(
    options: dict[str, object], message: str
) -> None:
    with pytest.raises(OptionError, match=message):
        make_cache(SHAPES, "evicting", **options)  # type: ignore[arg-type]


def test_its_options_are_refused_for_other_kinds_and_for_windows_alone() -> None:
    with pytest.raises(OptionError, match="are for evicting caches"):
        make_cache(SHAPES, "dynamic", budget=9)
    with pytest.raises(OptionError, match="nothing to choose"):
        make_cache([KVShape(1, 3, window=5)], "evicting", budget=9)
    with pytest.raises(OptionError, match="sinks=-1"):
        EvictionPolicy("window", -1)
