"""Filling modules from checkpoints: fused, transposed and tied parameters."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from toy_module import CPU, E, F, Toy, checkpoint_of, load, load_weights, toy_map, toy_tensors

from kept.errors import WeightsError
from kept.models.weight_map import Placement, WeightMap


def assert_filled(module: Toy, tensors: dict[str, Tensor], dtype: torch.dtype) -> None:
    want = {name: tensor.to(dtype) for name, tensor in tensors.items()}
    embedding = want.get("model.embed.weight", want.get("lm_head.weight"))
    assert embedding is not None
    head = want.get("lm_head.weight", embedding)
    fused = torch.cat((want["model.gate.weight"], want["model.up.weight"]))
    bias = torch.cat((want["model.gate.bias"], want["model.up.bias"]))
    pairs = [
        (module.embedding.weight, embedding),
        (module.gate_up.weight, fused),
        (module.gate_up.bias, bias),
        (module.down.weight, want["model.down.weight"].T),
        (module.head.weight, head),
    ]
    for parameter, tensor in pairs:
        assert isinstance(parameter, nn.Parameter)
        assert parameter.dtype == dtype
        assert parameter.is_contiguous()
        assert torch.equal(parameter, tensor)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_every_tensor_finds_its_place(
    stored: torch.dtype, dtype: torch.dtype, tmp_path: Path
) -> None:
    tensors = toy_tensors(stored)
    assert_filled(load(tmp_path, tensors, dtype=dtype), tensors, dtype)


def test_prefixes_come_and_go(tmp_path: Path) -> None:
    tensors = toy_tensors()
    bare = {name.removeprefix("model."): tensor for name, tensor in tensors.items()}
    assert_filled(load(tmp_path / "bare", bare), tensors, torch.float32)
    full = {f"model.{name.removeprefix('model.')}": tensor for name, tensor in tensors.items()}
    assert_filled(load(tmp_path / "full", full), tensors, torch.float32)


def test_one_tensor_under_two_names(tmp_path: Path) -> None:
    tensors = toy_tensors()
    tensors["up.bias"] = tensors["model.up.bias"].clone()
    with pytest.raises(WeightsError, match=r"two names, '(model\.)?up\.bias' and"):
        load(tmp_path, tensors)


def test_what_is_ignored_may_be_of_any_dtype(tmp_path: Path) -> None:
    tensors = toy_tensors()
    extra = {"model.mask": torch.ones(3, dtype=torch.bool), "rope.inv_freq": torch.ones(2)}
    assert_filled(load(tmp_path, tensors | extra), tensors, torch.float32)


# Tied parameters


def test_tied_and_stored_once(tmp_path: Path) -> None:
    tensors = toy_tensors(tied=True)
    module = load(tmp_path, tensors, tied=True)
    assert_filled(module, tensors, torch.float32)
    assert module.head.weight is module.embedding.weight


def test_tied_and_stored_only_as_the_head(tmp_path: Path) -> None:
    tensors = toy_tensors()
    del tensors["model.embed.weight"]
    module = load(tmp_path, tensors, tied=True)
    assert_filled(module, tensors, torch.float32)
    assert module.head.weight is module.embedding.weight


def test_tied_and_stored_twice_alike(tmp_path: Path) -> None:
    tensors = toy_tensors(tied=True)
    tensors["lm_head.weight"] = tensors["model.embed.weight"].double()
    module = load(tmp_path, tensors, tied=True)
    assert_filled(module, tensors, torch.float32)
    assert module.head.weight is module.embedding.weight


def test_tied_but_stored_differently_is_untied(tmp_path: Path) -> None:
    tensors = toy_tensors()
    with pytest.warns(UserWarning, match=r"lm_head.*different values.*tie_word_embeddings"):
        module = load(tmp_path, tensors, tied=True)
    assert_filled(module, tensors, torch.float32)


def test_tied_and_a_row_far_down_differs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kept.models.weight_plan._COMPARED_AT_ONCE", 3 * E)
    tensors = toy_tensors(tied=True)
    tensors["lm_head.weight"] = tensors["model.embed.weight"].clone()
    tensors["lm_head.weight"][-1, -1] += 1
    with pytest.warns(UserWarning, match="different values"):
        module = load(tmp_path, tensors, tied=True)
    assert_filled(module, tensors, torch.float32)


def test_two_tensors_for_one_parameter(tmp_path: Path) -> None:
    """A map may send both to one parameter; then they cannot differ."""
    placements = {**toy_map().placements, "alias": Placement("gate_up.bias", slice(0, F))}
    weight_map = WeightMap(placements, optional=frozenset({"alias"}))
    tensors = toy_tensors()
    assert_filled(load(tmp_path, tensors, weight_map=weight_map), tensors, torch.float32)
    alike = {**tensors, "alias": tensors["model.gate.bias"].clone()}
    assert_filled(load(tmp_path, alike, weight_map=weight_map), tensors, torch.float32)
    with pytest.raises(WeightsError, match="different values for one parameter"):
        load(tmp_path, {**tensors, "alias": torch.zeros(F)}, weight_map=weight_map)


@settings(deadline=None, max_examples=60)
@given(
    sizes=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    transpose=st.lists(st.booleans(), min_size=4, max_size=4),
    prefixed=st.booleans(),
)
def test_fuzz_fused_rows(
    sizes: list[int],
    transpose: list[bool],
    prefixed: bool,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Any pieces, stored either way round, end up one below the other."""
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    whole = torch.arange(float(ends[-1] * 3)).reshape(ends[-1], 3)
    placements, tensors = {}, {}
    for i, (size, end) in enumerate(zip(sizes, ends, strict=True)):
        rows = slice(end - size, end)
        placements[f"t.{i}"] = Placement("weight", rows, transpose[i])
        name = f"t.{i}" if prefixed else str(i)
        tensors[name] = whole[rows].T.contiguous() if transpose[i] else whole[rows].clone()
    with torch.device("meta"):
        module = nn.Linear(3, ends[-1], bias=False)
    folder = tmp_path_factory.getbasetemp() / "fused"
    (folder / "model.safetensors").unlink(missing_ok=True)
    weight_map = WeightMap(placements, prefixes=("t.",))
    load_weights(
        module, checkpoint_of(folder, tensors), weight_map, dtype=torch.float32, device=CPU
    )
    assert torch.equal(module.weight, whole)
