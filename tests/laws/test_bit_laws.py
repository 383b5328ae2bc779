"""The same bits: a token's logits depend on its own prefix and on nothing else.

Not on what else is in the batch, how a prompt is cut into chunks, where the prefix lies or comes
from, whether tokens were drafted, or how many threads compute. On every instruction set, for every
format of weights, kind of cache and codec; on the torch reference this does not hold.
"""

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from random import Random

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from thinning import cells, examples, in_part

from kept import machine
from kept.batch import pack
from kept.models import CausalLM
from kept.models.packing import prepare
from kept.ops import KVDtype, use_threads
from kept.ops.activations import Activations
from kept.ops.quantize import QUANTIZED_FORMATS
from laws.schedules import ACTIONS, Alone, DifferentBitsError, Schedule, caches, play
from laws.tiny import (
    CONFIGS,
    FAMILIES,
    FORMATS,
    VOCAB,
    codec_for,
    native_model,
    plain_model,
)

KINDS = ("dynamic", "static", "sliding", "window")
CODECS: tuple[KVDtype, ...] = (
    "float32", "bfloat16", "int8", "k8v4", "int4", ("int4", "float32"),
)  # fmt: skip
LIMIT = 120
CASES = [*product(CONFIGS, FORMATS)]
ISAS = []
if machine.NATIVE_AVAILABLE:
    from kept import _native

    ISAS = _native.isa_names()

needs_native = pytest.mark.skipif(
    not machine.NATIVE_AVAILABLE, reason="installed without a C++ compiler"
)
every_format = pytest.mark.parametrize("format", FORMATS)
some_schedule = given(
    kind=st.sampled_from(KINDS),
    codec=st.sampled_from(CODECS),
    actions=st.lists(st.sampled_from(ACTIONS), min_size=4, max_size=12),
    cached=st.booleans(),
    seed=st.integers(0, 2**32),
)
# The folder of a test's saved caches is written anew by each example.
folders = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    yield
    if machine.NATIVE_AVAILABLE:
        use_threads()


def check(
    model: CausalLM,
    kind: str,
    codec: KVDtype,
    actions: list[str],
    cached: bool,
    seed: int,
    folder: Path,
    story: int = 0,
) -> None:
    """story: how many tokens the first slot begins with."""
    windowed = any(shape.window is not None for shape in model.kv_shapes)
    if kind == "window" and not windowed:
        kind = "sliding"
    codec = codec_for(model, codec) or codec
    random, limit = Random(seed), LIMIT + story
    make = caches(model, kind, codec, limit)
    # What the model's own window hides may be forgotten or kept; so may the cache itself.
    plain = "sliding" if kind == "sliding" else "dynamic"
    alone = Alone(model, caches(model, plain, codec, limit))
    own = codec == str(model.dtype).removeprefix("torch.")
    if kind != "sliding" and own and not cached:
        alone = Alone(model, None)
    told = [random.randrange(VOCAB) for _ in range(story)]
    play(Schedule(alone, make, random, limit, told), actions, folder)


def model_on(isa: str, format: str, seed: int, activations: Activations = "bfloat16") -> CausalLM:
    """One of the models on an instruction set, by the seed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KEPT_ISA", isa)
        return native_model(sorted(CONFIGS)[seed % len(CONFIGS)], format, isa, activations)


@needs_native
@every_format
@pytest.mark.parametrize("name", CONFIGS)
@settings(folders, max_examples=examples(4, 20))
@some_schedule
def test_logits_depend_on_the_prefix_alone(
    name: str, format: str, tmp_path: Path, kind: str, codec: KVDtype,
    actions: list[str], cached: bool, seed: int,
) -> None:  # fmt: skip
    check(native_model(name, format), kind, codec, actions, cached, seed, tmp_path)


@needs_native
@every_format
@pytest.mark.parametrize("name", CONFIGS)
@settings(folders, max_examples=examples(1, 3))
@some_schedule
def test_and_so_in_long_sequences(
    name: str, format: str, tmp_path: Path, kind: str, codec: KVDtype,
    actions: list[str], cached: bool, seed: int,
) -> None:  # fmt: skip
    """Beyond the 1,024 tokens after which attention starts its sums afresh, and threads share."""
    story = 1000 + seed % 150
    check(native_model(name, format), kind, codec, actions[:5], cached, seed, tmp_path, story)


@needs_native
@every_format
@pytest.mark.parametrize("isa", ISAS[1:])
@settings(folders, max_examples=examples(1, 8))
@some_schedule
def test_on_every_instruction_set(
    isa: str, format: str, tmp_path: Path, kind: str, codec: KVDtype,
    actions: list[str], cached: bool, seed: int,
) -> None:  # fmt: skip
    model = model_on(isa, format, seed)
    check(model, kind, codec, actions, cached, seed, tmp_path)


@needs_native
@pytest.mark.parametrize(("name", "format"), cells([*FAMILIES], FORMATS, out_of=2))
@settings(folders, max_examples=examples(4, 20))
@some_schedule
def test_and_so_in_other_families(
    name: str, format: str, tmp_path: Path, kind: str, codec: KVDtype,
    actions: list[str], cached: bool, seed: int,
) -> None:  # fmt: skip
    """Some of them beyond the 1,024 tokens, whatever instruction set their seed names."""
    isa = ISAS[seed % len(ISAS)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KEPT_ISA", isa)
        model = native_model(name, format, isa)
    story = 1000 + seed % 150 if seed % 5 == 0 else 0
    check(model, kind, codec, actions[: 5 if story else 12], cached, seed, tmp_path, story)


@needs_native
@pytest.mark.parametrize("format", QUANTIZED_FORMATS)
@pytest.mark.parametrize("isa", ISAS)
@settings(folders, max_examples=examples(1, 8))
@some_schedule
def test_and_so_with_activations_of_int8(
    isa: str, format: str, tmp_path: Path, kind: str, codec: KVDtype,
    actions: list[str], cached: bool, seed: int,
) -> None:  # fmt: skip
    model = model_on(isa, format, seed, "int8")
    check(model, kind, codec, actions, cached, seed, tmp_path)


@needs_native
@every_format
@pytest.mark.parametrize("name", CONFIGS)
def test_a_prompt_in_two_pieces_wherever_it_is_cut(name: str, format: str) -> None:
    """At the ends of tiles for each model, and at any other token for some of them."""
    model = native_model(name, format)
    tokens = [Random(1).randrange(VOCAB) for _ in range(75)]
    make = caches(model, "dynamic", "bfloat16", 75)
    alone = Alone(model, make)
    expected = alone.logits(tokens)
    for cut in range(1, 75):
        at_an_edge = cut in (1, 63, 64, 65, 74)
        if not (at_an_edge or in_part(cut, CASES.index((name, format)), out_of=4)):
            continue
        cache = make(2)
        schedule = Schedule(alone, lambda _, c=cache: c, Random(cut), 75, tokens)
        schedule.held = [[], []]
        schedule._step({1: tokens[:cut]})
        schedule._step({1: tokens[cut:], 0: tokens[: cut // 2 + 1]})
    assert expected.isfinite().all()


@needs_native
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", ["mistral", "qwen3"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("strange", [torch.nan, torch.inf])
def test_a_strange_token_reaches_nothing_before_it(
    name: str, isa: str, dtype: torch.dtype, strange: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor anything beside it; what comes after it and sees it is lost."""
    monkeypatch.setenv("KEPT_ISA", isa)
    model = plain_model(name, dtype)
    with torch.no_grad():
        model.embedding.weight[VOCAB - 1] = strange
    prepare(model)
    tokens = [Random(2).randrange(VOCAB - 1) for _ in range(90)]
    for codec in CODECS:
        make = caches(model, "dynamic", codec, 0)
        expected = Alone(model, make).logits(tokens)
        for place in (0, 1, 63, 64, 88):
            poisoned = [*tokens[:place], VOCAB - 1, *tokens[place + 1 :]]
            found = model.run(pack([poisoned, tokens]), make(2))
            assert torch.equal(found[:place], expected[:place])
            assert torch.equal(found[90:], expected)
            assert not found[place].isfinite().any()


@needs_native
@pytest.mark.parametrize("name", CONFIGS)
def test_the_reference_fails_this_law(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """So the law can fail: torch's matrix products sum one row in another order than several."""
    monkeypatch.setenv("KEPT_OPS", "reference")
    model = plain_model(name, torch.float32)

    def some_seeds() -> None:
        for seed in range(20):
            check(model, "dynamic", "float32", ["feed"] * 6, True, seed, tmp_path)

    with torch.inference_mode(), pytest.raises(DifferentBitsError):
        some_seeds()
