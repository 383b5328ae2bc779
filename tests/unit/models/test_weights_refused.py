"""Weights that do not fit their module, refused before anything is allocated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from toy_module import CPU, E, F, Toy, V, checkpoint_of, load, load_weights, toy_map, toy_tensors

from kept.errors import UnsupportedFormatError, WeightsError
from kept.models.weight_map import Placement, WeightMap


def refused(
    folder: Path,
    tensors: dict[str, Tensor],
    monkeypatch: pytest.MonkeyPatch,
    kind: type[Exception] = WeightsError,
    **config: Any,
) -> str:
    def fail(*args: Any, **kwargs: Any) -> Tensor:
        raise AssertionError("something was allocated")

    module = Toy(tied=False)
    checkpoint = checkpoint_of(folder, tensors, **config)
    with monkeypatch.context() as patch:
        patch.setattr(torch, "empty", fail)
        with pytest.raises(kind) as caught:
            load_weights(module, checkpoint, toy_map(), dtype=torch.float32, device=CPU)
    assert all(parameter.is_meta for parameter in module.parameters())
    return str(caught.value)


def test_missing_and_unexpected_tensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = toy_tensors()
    del tensors["model.up.bias"], tensors["model.down.weight"]
    tensors["model.k_norm.weight"] = torch.ones(2)
    text = refused(tmp_path, tensors, monkeypatch)
    assert "Missing tensors: model.up.bias, model.down.weight." in text
    assert "Unexpected tensors: model.k_norm.weight." in text
    assert "Is the download complete" in text
    assert "architecture" in text


def test_an_untied_head_must_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = refused(tmp_path, toy_tensors(tied=True), monkeypatch)
    assert "Missing tensors: lm_head.weight." in text


def test_tied_and_both_missing(tmp_path: Path) -> None:
    tensors = toy_tensors(tied=True)
    del tensors["model.embed.weight"]
    with pytest.raises(WeightsError, match=r"Missing tensors: model\.embed\.weight, lm_head"):
        load(tmp_path, tensors, tied=True)


def test_many_names_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    extra = {f"x.{i:02}": torch.ones(1) for i in range(30)}
    text = refused(tmp_path, toy_tensors() | extra, monkeypatch)
    assert "x.07 and 22 more." in text
    assert "x.08" not in text


def test_misshapen_tensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = toy_tensors()
    tensors["model.embed.weight"] = torch.ones(V + 1, E)
    tensors["model.down.weight"] = tensors["model.down.weight"].T.contiguous()
    tensors["model.up.bias"] = torch.ones(F, 1)
    text = refused(tmp_path, tensors, monkeypatch, vocab_size=V, hidden_size=E)
    assert f"config.json (vocab_size={V}, hidden_size={E}) contradicts the weights" in text
    assert f"model.embed.weight is ({V + 1}, {E}) and should be ({V}, {E})" in text
    assert f"model.down.weight is ({E}, {F}) and should be ({F}, {E})" in text
    assert f"model.up.bias is ({F}, 1) and should be ({F},)" in text


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.bool, torch.float8_e4m3fn])
def test_integer_and_8_bit_weights(
    dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = toy_tensors()
    tensors["model.up.weight"] = torch.ones(F, E).to(dtype)
    text = refused(tmp_path, tensors, monkeypatch, UnsupportedFormatError)
    assert f"model.up.weight ({str(dtype).removeprefix('torch.')})" in text
    assert "bfloat16" in text


@pytest.mark.parametrize(
    ("value", "stored", "dtype", "message"),
    [
        (7e4, torch.float32, torch.float16, "beyond 65504.* Load it as float32 or bfloat16[.]"),
        (3.4e38, torch.float32, torch.bfloat16, "beyond 3.38953e.38.* Load it as float32[.]"),
        (1e300, torch.float64, torch.bfloat16, "Load it as float32, if that holds them[.]"),
        (1e300, torch.float64, torch.float32, "beyond 3.40282e.38.*in no wider one"),
    ],
)
def test_values_beyond_the_dtype(
    value: float, stored: torch.dtype, dtype: torch.dtype, message: str, tmp_path: Path
) -> None:
    tensors = toy_tensors()
    tensors["model.up.bias"] = tensors["model.up.bias"].to(stored)
    tensors["model.up.bias"][3] = value
    module = Toy(tied=False)
    checkpoint = checkpoint_of(tmp_path, tensors)
    with pytest.raises(WeightsError, match=rf"'model\.up\.bias'.*{message}"):
        load_weights(module, checkpoint, toy_map(), dtype=dtype, device=CPU)
    assert all(parameter.is_meta for parameter in module.parameters())


def without(name: str) -> dict[str, Placement]:
    return {key: place for key, place in toy_map().placements.items() if key != name}


@pytest.mark.parametrize(
    "placements",
    [
        without("model.down.weight"),
        without("model.up.bias"),
        {**without(""), "model.up.bias": Placement("gate_up.bias", slice(F, 2 * F - 1))},
        {**without(""), "model.up.bias": Placement("gate_up.bias", slice(F - 1, 2 * F))},
        {**without(""), "model.up.bias": Placement("nonesuch", slice(F, 2 * F))},
        {**without(""), "model.up.bias": Placement("gate_up.bias", slice(F, None))},
    ],
)
def test_a_map_that_does_not_fit_is_a_bug(placements: dict[str, Placement], tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        load(tmp_path, toy_tensors(), weight_map=WeightMap(placements))
