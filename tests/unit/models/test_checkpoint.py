"""Opening checkpoints: folders, shards, JSON, and formats that are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import huggingface_hub
import huggingface_hub.errors
import pytest
import torch
from checkpoint_files import (
    CONFIG,
    INDEX,
    SHARD_1,
    SHARD_2,
    TENSORS,
    assert_holds_tensors,
    write_folder,
    write_shards,
)
from safetensors import safe_open

from kept.errors import (
    CheckpointError,
    CheckpointNotFoundError,
    OptionError,
    UnsupportedFormatError,
    UnsupportedModelError,
    WeightsError,
)
from kept.models.opening import open_checkpoint


def refuse_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **kwargs: Any) -> str:
        raise AssertionError("the hub was asked")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)


def test_a_folder_is_used_as_it_is(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_folder(tmp_path / "m"))
    assert checkpoint.folder == tmp_path / "m"
    assert checkpoint.config == CONFIG
    assert checkpoint.generation_config == {}
    assert_holds_tensors(checkpoint)


def test_a_string_names_a_folder_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(tmp_path / "org" / "name")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for source in ("org/name", "./org/name", "~/org/name", str(tmp_path / "org/name") + "/"):
        assert_holds_tensors(open_checkpoint(source))


def test_generation_config_is_read(tmp_path: Path) -> None:
    write_folder(tmp_path)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [1, 2]}')
    assert open_checkpoint(tmp_path).generation_config == {"eos_token_id": [1, 2]}


def test_shards(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_shards(tmp_path))
    assert_holds_tensors(checkpoint)
    assert checkpoint.tensors["b.weight"].file == tmp_path / SHARD_2


def test_one_file_of_another_name(tmp_path: Path) -> None:
    assert_holds_tensors(open_checkpoint(write_folder(tmp_path, name="weights.safetensors")))


def test_several_files_without_an_index(tmp_path: Path) -> None:
    write_folder(tmp_path, name="one.safetensors")
    write_folder(tmp_path, name="two.safetensors")
    with pytest.raises(WeightsError, match=r"one\.safetensors, two\.safetensors.*index"):
        open_checkpoint(tmp_path)


def test_the_single_file_goes_before_the_index(tmp_path: Path) -> None:
    write_shards(tmp_path)
    write_folder(tmp_path, {"only": torch.ones(1)})
    assert list(open_checkpoint(tmp_path).tensors) == ["only"]


def test_each_file_is_mapped_once_and_again_after_close(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []

    def counted(path: str, framework: str) -> Any:
        opened.append(Path(path).name)
        return safe_open(path, framework=framework)

    monkeypatch.setattr("kept.models.safetensors_file.safe_open", counted)
    checkpoint = open_checkpoint(write_shards(tmp_path))
    held = checkpoint.read("a.weight")
    checkpoint.read("b.weight")
    assert sorted(opened) == [SHARD_1, SHARD_2]
    checkpoint.close()
    assert torch.equal(held, TENSORS["a.weight"])
    assert torch.equal(checkpoint.read("b.weight"), TENSORS["b.weight"])
    assert opened.count(SHARD_2) == 2


def test_an_unknown_tensor(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no tensor named 'nonesuch'"):
        open_checkpoint(write_folder(tmp_path)).read("nonesuch")


# What the source names


@pytest.mark.parametrize(
    "source", ["./x", "/nonesuch/x", "~/nonesuch", "x/", "a/b/c", "..", "a\\b"]
)
def test_a_path_that_is_not_there(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    refuse_hub(monkeypatch)
    if source == "..":
        with pytest.raises(CheckpointNotFoundError, match=r"config\.json is not there"):
            open_checkpoint(source)
        return
    with pytest.raises(CheckpointNotFoundError, match="no folder") as caught:
        open_checkpoint(source)
    assert repr(source) in str(caught.value)


def test_a_path_object_is_never_a_hub_id(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    refuse_hub(monkeypatch)
    with pytest.raises(CheckpointNotFoundError, match="no folder 'org/name'"):
        open_checkpoint(Path("org/name"))


def test_a_file_is_not_a_folder(tmp_path: Path) -> None:
    write_folder(tmp_path)
    with pytest.raises(CheckpointNotFoundError, match="Pass the folder"):
        open_checkpoint(tmp_path / "model.safetensors")


@pytest.mark.parametrize("source", ["", "  "])
def test_an_empty_name(source: str) -> None:
    with pytest.raises(CheckpointNotFoundError, match="empty"):
        open_checkpoint(source)


def test_a_revision_is_for_the_hub(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="revision='main'"):
        open_checkpoint(write_folder(tmp_path), revision="main")


def test_the_bundled_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.resources.files", lambda package: tmp_path / package)
    with pytest.raises(CheckpointNotFoundError, match="no bundled model"):
        open_checkpoint(None)
    write_folder(tmp_path / "kept" / "bundled")
    assert_holds_tensors(open_checkpoint(None))


# JSON


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "not valid JSON.*line 1"),
        (b"[1]", "must hold a JSON object.*list"),
        (b"\xff\xfe", "not UTF-8"),
        (b"[" * 100_000, "cannot be read|can be read|not valid JSON"),
        (b'{"n": ' + b"9" * 5000 + b"}", "cannot be read: it holds a number of thousands"),
    ],
)
@pytest.mark.parametrize("name", ["config.json", "generation_config.json", INDEX])
def test_broken_json(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    write_shards(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        open_checkpoint(tmp_path)
    assert str(tmp_path / name) in str(caught.value)


def test_no_config(tmp_path: Path) -> None:
    write_folder(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(CheckpointNotFoundError, match=r"config\.json is not there"):
        open_checkpoint(tmp_path)


# Formats that are refused


def test_quantization_config(tmp_path: Path) -> None:
    config = {**CONFIG, "quantization_config": {"quant_method": "hqq", "bits": 4}}
    with pytest.raises(UnsupportedFormatError, match=r"'hqq'.*unquantized"):
        open_checkpoint(write_folder(tmp_path, config=config))


def test_quantization_config_null(tmp_path: Path) -> None:
    open_checkpoint(write_folder(tmp_path, config={**CONFIG, "quantization_config": None}))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("pytorch_model.bin", "is pickled.*Where you trust it, convert it"),
        ("model.pt", "is pickled.*Load a checkpoint of the model that has them"),
        ("consolidated.00.pth", "is pickled.*that has them"),
        ("x.ckpt", "is pickled.*that has them"),
        ("q4.gguf", r"of a GGUF file pass the file itself: .*q4\.gguf"),
        ("model.onnx", "in a format kept does not read.*exported from"),
        ("tf_model.h5", "in a format kept does not read.*exported from"),
    ],
)
@pytest.mark.parametrize("described", [True, False])
def test_weights_that_are_not_safetensors(
    name: str, message: str, described: bool, tmp_path: Path
) -> None:
    write_folder(tmp_path, None)
    if not described:
        (tmp_path / "config.json").unlink()
    (tmp_path / name).write_bytes(b"never opened")
    with pytest.raises(UnsupportedFormatError, match=f"(?s){message}") as caught:
        open_checkpoint(tmp_path)
    assert str(tmp_path / name) in str(caught.value)


def test_what_cannot_be_mended_is_named_first(tmp_path: Path) -> None:
    """The family, then the quantization, then the files."""
    hqq = {"quantization_config": {"quant_method": "hqq"}}
    write_folder(tmp_path, None, config={**CONFIG, **hqq, "model_type": "xlnet"})
    (tmp_path / "pytorch_model.bin").write_bytes(b"never opened")
    with pytest.raises(UnsupportedModelError, match="'xlnet', which kept does not know"):
        open_checkpoint(tmp_path)
    write_folder(tmp_path, None, config={**CONFIG, **hqq})
    with pytest.raises(UnsupportedFormatError, match="quant_method 'hqq'"):
        open_checkpoint(tmp_path)
    write_folder(tmp_path, None)
    with pytest.raises(UnsupportedFormatError, match="is pickled"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("names", "format"),
    [
        (["qweight", "qzeros", "scales", "g_idx"], r"\(GPTQ, as"),
        (["qweight", "qzeros", "scales"], "AWQ or GPTQ"),
        (["weight", "weight.absmax", "weight.quant_map"], "bitsandbytes, in 4 bits"),
        (["weight", "weight.quant_state.bitsandbytes__nf4"], "bitsandbytes, in 4 bits"),
        (["weight", "SCB"], "bitsandbytes, in 8 bits"),
        (["weight", "scales", "biases"], "MLX"),
        (["weight_packed", "weight_scale", "weight_shape"], "compressed-tensors"),
        (["weight", "weight_scale_inv"], "8-bit floats"),
        (["weight", "weight_scale"], "8-bit floats"),
    ],
)
def test_quantized_tensors_without_a_word_in_config_json(
    names: list[str], format: str, tmp_path: Path
) -> None:
    linear = "model.layers.0.mlp.up_proj"
    packed = torch.zeros(2, 2, dtype=torch.int32)
    write_folder(tmp_path, {f"{linear}.{name}": packed.clone() for name in names})
    with pytest.raises(UnsupportedFormatError, match=f"{format}.*quantizes itself") as caught:
        open_checkpoint(tmp_path)
    assert f"'{linear}." in str(caught.value)


def test_pickles_beside_safetensors_are_left_alone(tmp_path: Path) -> None:
    write_folder(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"never opened")
    assert_holds_tensors(open_checkpoint(tmp_path))


def test_no_weights(tmp_path: Path) -> None:
    write_folder(tmp_path, None)
    (tmp_path / "training_args.bin").write_bytes(b"no weights")
    with pytest.raises(CheckpointNotFoundError, match="holds no weights"):
        open_checkpoint(tmp_path)


def test_an_adapter(tmp_path: Path) -> None:
    write_folder(tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(UnsupportedFormatError, match=r"LLM\(model, adapters=.*--adapter name="):
        open_checkpoint(tmp_path)
