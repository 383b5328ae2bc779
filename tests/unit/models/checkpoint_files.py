"""Small checkpoints for the tests of this folder, written to disk."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from kept.models.checkpoint import Checkpoint

CONFIG = {
    "model_type": "llama",
    "vocab_size": 8,
    "hidden_size": 4,
    "intermediate_size": 4,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "max_position_embeddings": 8,
    "rms_norm_eps": 1e-6,
    "hidden_act": "silu",
}
TENSORS = {
    "a.weight": torch.arange(6.0).reshape(2, 3),
    "b.weight": torch.arange(8, dtype=torch.bfloat16).reshape(4, 2),
    "empty": torch.empty(0, 3),
}
SHARD_1, SHARD_2 = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
INDEX = "model.safetensors.index.json"


def write_folder(
    folder: Path,
    tensors: Mapping[str, Tensor] | None = TENSORS,
    *,
    config: Any = CONFIG,
    name: str = "model.safetensors",
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    if tensors is not None:
        save_file(dict(tensors), folder / name)
    return folder


def write_shards(folder: Path, weight_map: Mapping[str, str] | None = None) -> Path:
    write_folder(folder, None)
    save_file({"a.weight": TENSORS["a.weight"], "empty": TENSORS["empty"]}, folder / SHARD_1)
    save_file({"b.weight": TENSORS["b.weight"]}, folder / SHARD_2)
    right = {"a.weight": SHARD_1, "empty": SHARD_1, "b.weight": SHARD_2}
    index = {"metadata": {}, "weight_map": right if weight_map is None else weight_map}
    (folder / INDEX).write_text(json.dumps(index))
    return folder


def assert_holds_tensors(checkpoint: Checkpoint) -> None:
    assert checkpoint.tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        info = checkpoint.tensors[name]
        assert (info.dtype, info.shape) == (tensor.dtype, tuple(tensor.shape))
        assert info.num_bytes == tensor.nbytes
        read = checkpoint.read(name)
        assert read.dtype == tensor.dtype
        assert torch.equal(read, tensor)
    assert checkpoint.stored_dtype == torch.float32
