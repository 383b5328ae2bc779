"""What loading costs in memory, how it reports progress, and what it leaves alone."""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from toy_module import CPU, Toy, checkpoint_of, load_weights, toy_map, toy_tensors

from kept.bench.random_weights import random_model, save_checkpoint
from kept.bench.work import stored_bytes
from kept.machine import NATIVE_AVAILABLE
from kept.models import load_model, quantize_checkpoint
from kept.models.checkpoint import Checkpoint
from kept.models.opening import open_checkpoint
from kept.models.weight_map import Placement, WeightMap
from kept.ops.quantize import QUANTIZED_FORMATS


class Allocations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of every storage an operation makes."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.num_bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        storages = {
            value.untyped_storage().data_ptr()
            for value in (*args, *(kwargs or {}).values())
            if isinstance(value, Tensor)
        }
        if isinstance(out, Tensor) and out.untyped_storage().data_ptr() not in storages:
            self.num_bytes += out.untyped_storage().nbytes()
        return out


class WatchedCheckpoint(Checkpoint):
    """Sees to it that of the tensors it returns one at a time is alive."""

    def read(self, name: str) -> Tensor:
        alive = self.__dict__.setdefault("alive", [])
        assert all(reference() is None for reference in alive)
        with torch.utils._python_dispatch._disable_current_modes():
            tensor = super().read(name)
        alive.append(weakref.ref(tensor))
        return tensor

    def pieces(self, name: str) -> Iterator[tuple[slice, Tensor]]:
        yield slice(None), self.read(name)


def watched(checkpoint: Checkpoint) -> WatchedCheckpoint:
    return WatchedCheckpoint(
        checkpoint.folder,
        checkpoint.config,
        checkpoint.generation_config,
        checkpoint.tensors,
        checkpoint.files,
    )


def test_only_casting_and_transposing_at_once_takes_another_copy(tmp_path: Path) -> None:
    checkpoint = watched(checkpoint_of(tmp_path, toy_tensors()))
    module = Toy(tied=False)
    with Allocations() as made:
        load_weights(module, checkpoint, toy_map(), dtype=torch.bfloat16, device=CPU)
    scalars = 16  # the least and the greatest of a tensor
    wanted = sum(parameter.nbytes for parameter in module.parameters()) + module.down.weight.nbytes
    assert wanted <= made.num_bytes <= wanted + scalars * len(checkpoint.tensors)
    assert len(checkpoint.__dict__["alive"]) == len(checkpoint.tensors)


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads Linux's /proc")
def test_at_most_one_extra_tensor_is_resident(tmp_path: Path) -> None:
    """16 tensors of 8 MB, cast to 4 MB each: mapped pages count too, and must not pile up."""
    num, rows, width, mb = 16, 1024, 2048, 1 << 20
    tensors = {f"{i:02}": torch.full((rows, width), float(i)) for i in range(num)}
    checkpoint = checkpoint_of(tmp_path, tensors)
    del tensors
    module = nn.Module()
    for i in range(num):
        module.register_parameter(f"p{i:02}", nn.Parameter(torch.empty(rows, width, device="meta")))
    placements = {f"{i:02}": Placement(f"p{i:02}") for i in range(num)}
    before, over = resident_bytes(), []

    def watch(done: int, total: int) -> None:
        assert total == 8 * num * mb
        over.append(resident_bytes() - before - done // 2)

    load_weights(
        module,
        checkpoint,
        WeightMap(placements),
        dtype=torch.bfloat16,
        device=CPU,
        progress=watch,
    )
    assert len(over) == num + 1
    assert max(over) < 8 * mb + 4 * mb, over
    assert all(bool((module.get_parameter(f"p{i:02}") == i).all()) for i in range(num))


def test_progress(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    checkpoint = checkpoint_of(tmp_path, toy_tensors())
    load_weights(
        Toy(tied=False),
        checkpoint,
        toy_map(),
        dtype=torch.float32,
        device=CPU,
        progress=lambda done, total: calls.append((done, total)),
    )
    total = sum(info.num_bytes for info in checkpoint.tensors.values())
    assert calls[0] == (0, total)
    assert calls[-1] == (total, total)
    assert calls == sorted(calls)
    assert len(calls) == 1 + len(checkpoint.tensors)


def test_buffers_and_requires_grad_are_left_alone(tmp_path: Path) -> None:
    module = Toy(tied=True)
    module.register_buffer("table", torch.arange(3.0))
    module.requires_grad_(False)
    tensors = toy_tensors(tied=True)
    load_weights(
        module, checkpoint_of(tmp_path, tensors), toy_map(True), dtype=torch.float32, device=CPU
    )
    assert not any(parameter.requires_grad for parameter in module.parameters())
    assert torch.equal(module.get_buffer("table"), torch.arange(3.0))


def own_bytes() -> int:
    """What is resident and lies in no file: mapped pages are the system's to take back."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) << 10
    raise AssertionError("no RssAnon")


SHAPE = {
    "model_type": "llama",
    "vocab_size": 8192,
    "hidden_size": 512,
    "intermediate_size": 1536,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-6,
    "hidden_act": "silu",
    "tie_word_embeddings": True,
}


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """45 million weights in float16, 90 MB."""
    folder = tmp_path_factory.mktemp("large")
    save_checkpoint(random_model(SHAPE, torch.float16, seed=0), SHAPE, folder)
    return folder


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")
@pytest.mark.skipif(not NATIVE_AVAILABLE, reason="the native module packs")
@pytest.mark.parametrize("written", [False, True])
@pytest.mark.parametrize("format", [None, *QUANTIZED_FORMATS])
def test_beside_the_model_there_is_one_matrix(
    format: str | None, written: bool, large: Path, tmp_path: Path
) -> None:
    """Whatever the format, and where it is written nothing else remains of the model."""
    if written and format is None:
        pytest.skip("nothing is written unquantized")
    load_model(open_checkpoint(None), quantize=format)  # threads, and what a first use allocates
    before, most = own_bytes(), 0

    def watch(done: int, total: int) -> None:
        nonlocal most
        most = max(most, own_bytes() - before)

    checkpoint = open_checkpoint(large)
    largest = max(info.num_bytes for info in checkpoint.tensors.values())
    if written:
        assert format is not None
        quantize_checkpoint(large, tmp_path / "out", format, loading=watch, quantizing=watch)
        finished = 0
    else:
        model = load_model(checkpoint, quantize=format, progress=watch, packing=watch)
        finished = stored_bytes(model)
        assert own_bytes() - before < finished + (3 << 20)
    packed = largest  # at most
    spare = 32 << 20  # what the C library has not given back yet
    assert most < finished + largest + packed + spare, (most >> 20, finished >> 20)
