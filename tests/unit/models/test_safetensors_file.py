"""Safetensors files that are cut short, damaged or not safetensors at all."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
import torch
from checkpoint_files import (
    TENSORS,
    write_folder,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save, save_file

from kept.errors import (
    CheckpointNotFoundError,
    KeptError,
    UnsupportedFormatError,
    WeightsError,
)
from kept.models.checkpoint import Checkpoint
from kept.models.opening import open_checkpoint


def damage(folder: Path, content: bytes) -> str:
    write_folder(folder)
    path = folder / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match="download the checkpoint again") as caught:
        open_checkpoint(folder)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_damaged_files_say_what_is_wrong(tmp_path: Path) -> None:
    whole = save(TENSORS)
    size = len(whole)
    assert "empty (0 bytes)" in damage(tmp_path, b"")
    assert "expected at least 8 bytes, found 3" in damage(tmp_path, whole[:3])
    assert "header: expected at least" in damage(tmp_path, whole[:40])
    text = damage(tmp_path, whole[:-5])
    assert f"cut short: the header describes {size} bytes, found {size - 5}" in text
    assert f"describes {size} bytes, found {size + 1}" in damage(tmp_path, whole + b"x")
    assert "not a safetensors file" in damage(tmp_path, b"PK\x03\x04" + b"\xff" * 300)
    assert "header is damaged" in damage(tmp_path, whole[:8] + b"#" + whole[9:])
    assert "Git LFS" in damage(tmp_path, b"version https://git-lfs.github.com/spec/v1\noid sha256:")


def test_a_link_to_nothing(tmp_path: Path) -> None:
    write_folder(tmp_path, None)
    (tmp_path / "model.safetensors").symlink_to(tmp_path / "gone")
    with pytest.raises(CheckpointNotFoundError, match="link"):
        open_checkpoint(tmp_path)


def test_a_folder_in_place_of_the_file(tmp_path: Path) -> None:
    write_folder(tmp_path, None)
    (tmp_path / "model.safetensors").mkdir()
    with pytest.raises(WeightsError, match="is a folder"):
        open_checkpoint(tmp_path)


def test_a_dtype_torch_lacks(tmp_path: Path) -> None:
    header = json.dumps({"a": {"dtype": "F6_E2M3", "shape": [4], "data_offsets": [0, 3]}}).encode()
    write_folder(tmp_path, None)
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + b"abc")
    with pytest.raises(UnsupportedFormatError, match="'a' is stored as F6_E2M3"):
        open_checkpoint(tmp_path)


def test_a_file_that_changes_after_it_was_opened(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_folder(tmp_path))
    checkpoint.close()
    save_file({"other": torch.ones(1)}, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match=r"model\.safetensors cannot be read"):
        checkpoint.read("a.weight")


WHOLE = save(TENSORS)
HEADER_BYTES = 8 + struct.unpack("<Q", WHOLE[:8])[0]


def open_bytes(folder: Path, content: bytes) -> Checkpoint:
    # A new file each time: writing over one that is mapped would pull the data from under it.
    path = write_folder(folder, None) / "model.safetensors"
    path.unlink(missing_ok=True)
    path.write_bytes(content)
    return open_checkpoint(folder)


@settings(deadline=None, max_examples=200)
@given(length=st.integers(0, len(WHOLE) - 1))
def test_fuzz_truncation(length: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    with pytest.raises(WeightsError):
        open_bytes(tmp_path_factory.getbasetemp() / "truncated", WHOLE[:length])


@settings(deadline=None, max_examples=300)
@given(at=st.integers(0, HEADER_BYTES - 1), byte=st.integers(0, 255))
def test_fuzz_header(at: int, byte: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    content = WHOLE[:at] + bytes([byte]) + WHOLE[at + 1 :]
    try:
        checkpoint = open_bytes(tmp_path_factory.getbasetemp() / "flipped", content)
        read = {name: checkpoint.read(name) for name in checkpoint.tensors}
    except KeptError:
        return
    # What still opens has other names or dtypes for the model to refuse, or is what it was.
    for name, tensor in read.items():
        if name in TENSORS and tensor.dtype == TENSORS[name].dtype:
            assert torch.equal(tensor, TENSORS[name])
