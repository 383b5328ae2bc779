"""What a process or thread has set for torch changes no bit and no size of what kept computes."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import LlamaConfig, LlamaForCausalLM, T5Config, T5ForConditionalGeneration

from kept import LLM, load_cache, machine, make_cache, quantize_checkpoint
from kept.cache import KVShape
from kept.integrations.transformers import KeptCache
from kept.integrations.transformers.attention import kept_attention
from kept.models import build_model
from kept.ops.quantize import dequantize, quantize

from .tiny import CONFIGS, plain_model

BACKENDS = ("auto", "reference") if machine.NATIVE_AVAILABLE else ("reference",)


@contextmanager
def setting(get: Callable[[], Any], put: Callable[[Any], Any], value: Any) -> Iterator[None]:
    before = get()
    put(value)
    try:
        yield
    finally:
        put(before)


@contextmanager
def filled() -> Iterator[None]:
    """Memory that is not written to holds NaN."""
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


@contextmanager
def flushed() -> Iterator[None]:
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def meddled(found: Any) -> Any:
    return found + 1 if isinstance(found, Tensor) and found.is_floating_point() else found


class MeddlingFunctions(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return meddled(func(*args, **(kwargs or {})))


class MeddlingDispatch(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return meddled(func(*args, **(kwargs or {})))


default_dtype = partial(setting, torch.get_default_dtype, torch.set_default_dtype)
threads = partial(setting, torch.get_num_threads, torch.set_num_threads)
STATES: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "default bfloat16": partial(default_dtype, torch.bfloat16),
    "default float16": partial(default_dtype, torch.float16),
    "default float64": partial(default_dtype, torch.float64),
    "default meta": partial(torch.device, "meta"),
    "inference mode": torch.inference_mode,
    "no gradients": torch.no_grad,
    "gradients": torch.enable_grad,
    "autocast": partial(torch.autocast, "cpu", torch.bfloat16),
    "filled memory": filled,
    "no subnormal numbers": flushed,
    "two threads": partial(threads, 2),
    "three threads": partial(threads, 3),
    "function mode": MeddlingFunctions,
    "dispatch mode": MeddlingDispatch,
}

SIZES = {
    "vocab_size": 97,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}


@dataclass
class World:
    """Models, and what they are given; made before any state is entered."""

    llm: LLM
    t5: LLM
    trained: Any
    attention: torch.nn.Module
    ids: Tensor
    q: Tensor
    kv: tuple[Tensor, Tensor]
    more: tuple[Tensor, Tensor]
    matrix: Tensor
    folder: Path


@pytest.fixture(scope="module", params=BACKENDS)
def world(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("ambient")
    torch.manual_seed(0)
    config = LlamaConfig(**SIZES, head_dim=24)
    theirs = LlamaForCausalLM(config)
    theirs.save_pretrained(folder / "llama")
    theirs.set_attn_implementation("kept")
    sizes = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
    t5 = T5Config(vocab_size=97, decoder_start_token_id=0, **sizes)
    T5ForConditionalGeneration(t5).save_pretrained(folder / "t5")
    kv = torch.randn(2, 2, 2, 20, 24)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KEPT_OPS", request.param)
        yield World(
            llm=LLM(folder / "llama"),
            t5=LLM(folder / "t5"),
            trained=plain_model("llama", torch.float32),
            attention=theirs.model.layers[0].self_attn,
            ids=torch.randint(97, (2, 7)),
            q=torch.randn(2, 4, 20, 24),
            kv=(kv[0], kv[1]),
            more=(kv[0, :1, :, :1].repeat(9, 1, 1, 1), kv[1, :1, :, :1].repeat(9, 1, 1, 1)),
            matrix=torch.randn(8, 70),
            folder=folder,
        )


def generated(world: World) -> Any:
    ask = partial(world.llm.generate, max_new_tokens=3, seed=1, logprobs=3)
    found = ask([1, 2, 3]) + ask([[4, 5], [6]] * 8)
    found += ask([7, 8], do_sample=True, top_k=30, top_p=0.9, repetition_penalty=1.2)
    found += ask([7, 8], do_sample=True, top_k=0, min_p=0.02, temperature=0.7)
    found += ask([9, 10], num_beams=3, num_return_sequences=2)
    found += ask([[3, 4]], kv_dtype="int4", cache_implementation="sliding", sliding_window=4)
    found += ask([[3, 4]], use_cache=False)
    return [(x.token_ids, x.logprobs, x.score) for x in found]


def streamed(world: World) -> Any:
    stream = world.llm.stream([3, 4, 5], max_new_tokens=4, do_sample=True, seed=2)
    for _ in stream:
        continue
    return stream.completion.token_ids


def called(world: World) -> Any:
    return [*passes(world.llm.model, world.ids)]


def called_on_torch(world: World) -> Any:
    """As torch adds up, by the number of its threads."""
    read = world.t5.model(world.ids, decoder_input_ids=world.ids[:, :3])
    found = world.t5.generate([[5, 6, 7], [8, 9]], max_new_tokens=3, num_beams=2)
    texts = [(x.token_ids, x.score) for x in found]
    return [texts, *passes(world.trained, world.ids), read.logits, read.encoder_last_hidden_state]


def passes(model: Any, ids: Tensor) -> Iterator[Tensor]:
    whole = model(ids, output_hidden_states=True, output_attentions=True)
    later = model(ids[:, :2], cache=whole.cache)
    yield from (whole.logits, *whole.hidden_states, *whole.attentions, later.logits)


def attended(world: World) -> Any:
    """As a model of transformers has it."""
    found = []
    for options in ({}, {"kv_dtype": "int8"}, {"kv_dtype": "int4"}):
        cache = KeptCache.from_config(world.attention.config, **options)
        for layer in cache.layers:
            keys, values = layer.update(*world.kv)
            with torch.no_grad():
                found.append(kept_attention(world.attention, world.q, keys, values, None)[0])
        cache.crop(-1)
        cache.batch_select_indices([1, 0])
        found += [x for layer in cache.layers for x in (layer.keys, layer.values)]
    return found


def stored(world: World) -> Any:
    found: list[Any] = []
    shapes = [KVShape(2, 24)]
    for kind, options in (
        ("dynamic", {"kv_dtype": "int4"}),
        ("static", {"max_cache_len": 70, "kv_dtype": "int8"}),
        ("sliding", {"sliding_window": 8, "num_sinks": 1}),
    ):
        cache = make_cache(shapes, kind, num_slots=2, **options)
        found += cache.update(*world.kv, 0)
        cache.select([1, 0, 1])
        cache.truncate(19)
        twin = cache.fork()
        twin.reorder([2, 2, 0])
        twin.repeat(2)
        joined = cache.concatenate([twin])
        joined.save(world.folder / kind)
        loaded = load_cache(world.folder / kind, shapes)
        found += loaded.update(*world.more, 0)
        found += [cache.num_bytes, loaded.num_bytes, loaded.lengths, cache.layer(0, 12)]
    return found


def made(world: World) -> Any:
    rounded = quantize(world.matrix, "int4"), quantize(world.matrix, "int8")
    target = world.folder / "quantized"
    quantize_checkpoint(world.folder / "llama", target, "int4", force=True)
    meta = build_model(CONFIGS["llama"]).parameters()
    return [
        *(x for y in rounded for x in (y.codes, y.scales, dequantize(y))),
        [path.read_bytes() for path in sorted(target.glob("*.safetensors"))],
        [(str(p.dtype), str(p.device)) for p in meta],
    ]


FACES = (generated, streamed, called, called_on_torch, attended, stored, made)


def plain(found: Any) -> list[Any]:
    """In one row, and tensors as their dtype and bits."""
    if isinstance(found, Tensor):
        bits = found.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes()
        return [str(found.dtype), tuple(found.shape), bits]
    if isinstance(found, list | tuple):
        return [x for y in found for x in plain(y)]
    return [found]


@pytest.fixture(scope="module")
def usual(world: World) -> dict[object, list[Any]]:
    return {face: plain(face(world)) for face in FACES}


@pytest.mark.parametrize("state", STATES)
def test_no_bit_is_another(world: World, usual: dict[object, list[Any]], state: str) -> None:
    wrong, on_torch = [], world.llm.model.native is None
    for face in FACES:
        if "threads" in state and (on_torch or face is called_on_torch):
            continue
        if state == "dispatch mode" and face in (called, called_on_torch):
            continue  # with such modes torch's tools count what a model computes
        with STATES[state]():
            found = face(world)
        if plain(found) != usual[face]:
            wrong.append(face.__name__)
    assert not wrong


@pytest.mark.parametrize("state", STATES)
def test_what_is_loaded_under_a_state_is_as_any(world: World, state: str) -> None:
    for folder, options in (("llama", {"quantize": "int8"}), ("llama", {}), ("t5", {})):
        with STATES[state]():
            model = LLM(world.folder / folder, **options).model
        same = LLM(world.folder / folder, **options).model
        given = {"decoder_input_ids": world.ids} if folder == "t5" else {}
        expected = same(world.ids, use_cache=False, **given).logits
        found = model(world.ids, use_cache=False, **given).logits
        assert torch.equal(found, expected)
        if model.native is None:  # it can be trained
            found.square().sum().backward()
            assert model.embedding.weight.grad is not None


def test_a_thread_that_moves_the_default_changes_no_bit(
    world: World, usual: dict[object, list[Any]]
) -> None:
    """As transformers' from_pretrained(dtype=...) does while it loads."""
    done = threading.Event()

    def toggle() -> None:
        for dtype in cycle((torch.bfloat16, torch.float32)):
            torch.set_default_dtype(dtype)
            if done.wait(1e-4):
                return

    interval = sys.getswitchinterval()
    thread = threading.Thread(target=toggle)
    thread.start()
    sys.setswitchinterval(1e-5)
    try:
        found = [(face, plain(face(world))) for _ in range(4) for face in (generated, called)]
    finally:
        sys.setswitchinterval(interval)
        done.set()
        thread.join()
        torch.set_default_dtype(torch.float32)
    assert all(x == usual[face] for face, x in found)
