"""Sharded checkpoints, and indexes that contradict their shards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from checkpoint_files import (
    SHARD_1,
    SHARD_2,
    TENSORS,
    write_shards,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from thinning import examples

from kept.errors import (
    CheckpointNotFoundError,
    KeptError,
    WeightsError,
)
from kept.models.opening import open_checkpoint


def test_a_missing_shard(tmp_path: Path) -> None:
    write_shards(tmp_path)
    (tmp_path / SHARD_2).unlink()
    with pytest.raises(
        CheckpointNotFoundError, match=f"names 2 shards.*1 are not there: {SHARD_2}"
    ):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    "weight_map",
    [
        {"a.weight": SHARD_1, "empty": SHARD_1, "b.weight": SHARD_2, "c": SHARD_2},
        {"a.weight": SHARD_1, "b.weight": SHARD_2},
        {"a.weight": SHARD_1, "empty": SHARD_2, "b.weight": SHARD_2},
    ],
)
def test_an_index_that_contradicts_its_shards(weight_map: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"contradicts its shards.*tensor '(c|empty)'"):
        open_checkpoint(write_shards(tmp_path, weight_map))


def test_a_tensor_in_two_shards(tmp_path: Path) -> None:
    write_shards(tmp_path)
    save_file(
        {"b.weight": TENSORS["b.weight"], "a.weight": TENSORS["a.weight"]}, tmp_path / SHARD_2
    )
    with pytest.raises(WeightsError, match=f"'a.weight' is both in .*{SHARD_1} and in {SHARD_2}"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    "shard", ["../x.safetensors", "/x.safetensors", "x.bin", 3, "\0.safetensors"]
)
def test_an_index_that_leads_elsewhere(shard: Any, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"'a\.weight' is in"):
        open_checkpoint(write_shards(tmp_path, {"a.weight": shard}))


@pytest.mark.parametrize("weight_map", [[], {}, "x"])
def test_an_index_without_a_map(weight_map: Any, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="weight_map"):
        open_checkpoint(write_shards(tmp_path, weight_map))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)


@settings(deadline=None, max_examples=examples(30, 150))
@given(
    weight_map=JSON.filter(lambda value: value is not None)
    | st.dictionaries(st.sampled_from(list(TENSORS)), JSON)
)
def test_fuzz_index(weight_map: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    with pytest.raises(KeptError):
        open_checkpoint(write_shards(tmp_path_factory.getbasetemp() / "index", weight_map))
