"""Files that are no files, or claim more than any model has: a quick error that names the size."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from checkpoint_files import INDEX, SHARD_1, write_shards

from kept.errors import CheckpointError, WeightsError
from kept.models.opening import open_checkpoint
from kept.models.registry import build_model
from kept.text import Tokenizer

FILES = ("config.json", "generation_config.json", INDEX, SHARD_1)


def pipe(path: Path) -> None:
    os.mkfifo(path)


def listening(path: Path) -> None:
    # The name of a socket is short, and a test's folder is not.
    here = os.open(path.parent, os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as found:
        found.bind(f"/proc/self/fd/{here}/{path.name}")
    os.close(here)


KINDS: dict[str, Callable[[Path], None]] = {
    "a folder": lambda path: path.mkdir(),
    "a pipe": pipe,
    "a socket": listening,
    "a device": lambda path: path.symlink_to("/dev/zero"),
}


@pytest.mark.skipif(os.name != "posix", reason="pipes and devices are files there")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", FILES)
def test_what_is_no_regular_file_is_not_read(name: str, kind: str, tmp_path: Path) -> None:
    write_shards(tmp_path)
    (tmp_path / name).unlink(missing_ok=True)
    KINDS[kind](tmp_path / name)
    with pytest.raises(CheckpointError, match=rf"{name} is {kind}, not a file"):
        open_checkpoint(tmp_path)


@pytest.mark.skipif(os.name != "posix", reason="pipes and devices are files there")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_a_tokenizer_that_is_no_file_is_not_read(name: str, kind: str, tmp_path: Path) -> None:
    KINDS[kind](tmp_path / name)
    with pytest.raises(CheckpointError, match=rf"{name} is {kind}, not a file"):
        Tokenizer.from_folder(tmp_path)


@pytest.mark.parametrize("name", FILES[:3])
def test_a_file_is_not_read_beyond_its_limit(name: str, tmp_path: Path) -> None:
    write_shards(tmp_path)
    with (tmp_path / name).open("ab") as file:
        file.truncate(1 << 40)  # of a hole, which takes no room
    with pytest.raises(CheckpointError, match=rf"{name} has 1,099,511,627,776 bytes, and the lim"):
        open_checkpoint(tmp_path)


def test_a_tokenizer_is_not_read_beyond_its_limit(tmp_path: Path) -> None:
    with (tmp_path / "tokenizer.json").open("ab") as file:
        file.truncate(1 << 40)
    with pytest.raises(CheckpointError, match=r"tokenizer\.json has 1,099,511,627,776 bytes"):
        Tokenizer.from_folder(tmp_path)


def test_an_index_of_more_tensors_than_any_model_has(tmp_path: Path) -> None:
    write_shards(tmp_path)
    entries = {f"model.layers.0.mlp.experts.{i}": SHARD_1 for i in range(1 << 18)}
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": {**entries, "a.weight": SHARD_1}}))
    with pytest.raises(WeightsError, match="names 262,145 tensors, and the limit is 262,144"):
        open_checkpoint(tmp_path)


LLAMA = {"model_type": "llama", "hidden_size": 8, "num_attention_heads": 2, "vocab_size": 9}
DEEP = {
    "num_hidden_layers": {**LLAMA, "intermediate_size": 8},
    "n_layer": {"model_type": "gpt2"},
    "num_layers": {"model_type": "t5"},
    "num_decoder_layers": {"model_type": "t5"},
}


@pytest.mark.parametrize("name", DEEP)
def test_more_layers_than_any_model_has(name: str) -> None:
    config = {**DEEP[name], name: 10_000}
    with pytest.raises(CheckpointError, match=f"{name} = 10000, which must be .* at most 1024"):
        build_model(config)
