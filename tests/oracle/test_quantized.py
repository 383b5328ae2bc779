"""A quantized checkpoint is the one quantized at load, bit for bit, and used where it lies."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from thinning import cells
from torch import Tensor

import kept
from kept import LLM, machine, quantize_checkpoint
from kept.models import quantized_sizes, quantized_writer
from kept.models.native import matrices
from kept.ops import PackedMatrix
from kept.ops.quantize import QUANTIZED_FORMATS

from .conftest import BACKENDS
from .zoo import VOCAB, make_hf

pytestmark = pytest.mark.skipif(
    not machine.NATIVE_AVAILABLE, reason="the native module packs what is written"
)
NAMES = (
    "gemma2",
    "gemma3",
    "gemma3n",
    "gemma4",
    "gpt2",
    "gpt2 untied",
    "gpt2 inner",
    "gpt_neox",
    "olmo2",
    "llama",
    "llama tied",
    "llama mlp bias",
    "qwen2 tied",
    "qwen3",
)
formats = pytest.mark.parametrize("format", QUANTIZED_FORMATS)


@pytest.fixture(scope="session")
def original(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in made:
            made[name] = tmp_path_factory.mktemp("original")
            make_hf(name).save_pretrained(made[name])
        return made[name]

    return folder


@pytest.fixture
def quantized(original: Callable[[str], Path], tmp_path: Path) -> Path:
    return quantize_checkpoint(original("llama tied"), tmp_path / "out", "int4")


def logits(llm: LLM) -> Tensor:
    ids = torch.randint(VOCAB, (2, 15), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return llm.model(ids).logits


def edit(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("name", "dtype", "format", "backend"),
    cells(NAMES, ["float32", "bfloat16"], QUANTIZED_FORMATS, BACKENDS, out_of=2),
    indirect=["backend"],
)
def test_the_same_bits(
    name: str,
    dtype: str,
    format: str,
    backend: str,
    original: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    folder = original(name)
    out = quantize_checkpoint(folder, tmp_path / "out", format, dtype=dtype)
    at_load, stored = LLM(folder, dtype=dtype, quantize=format), LLM(out)
    assert torch.equal(logits(stored), logits(at_load))
    assert stored.model.num_parameters == at_load.model.num_parameters
    assert stored.model.dtype == at_load.model.dtype
    assert (stored.model.native is None) == (backend == "reference")


@formats
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/maps")
def test_matrices_lie_in_the_mapped_file(
    format: str, original: Callable[[str], Path], tmp_path: Path
) -> None:
    out = quantize_checkpoint(original("llama tied"), tmp_path / "out", format)
    model = LLM(out).model
    file = str((out / "kept.safetensors").resolve())
    mapped = []
    for line in Path("/proc/self/maps").read_text().splitlines():
        if line.endswith(file):
            start, end = line.split()[0].split("-")
            mapped.append((int(start, 16), int(end, 16)))
    packed = [modules[0].weight for modules in matrices(model)]
    assert len(packed) == 2 * 4 + 1  # embedding and head are one
    for matrix in packed:
        assert isinstance(matrix, PackedMatrix)
        for part in (matrix.data, matrix.channel_scales, matrix.group_scales):
            if part is not None:
                address = part.data_ptr()
                assert address % 64 == 0
                assert any(a <= address and address + part.nbytes <= b for a, b in mapped)


@formats
@pytest.mark.parametrize("name", NAMES)
def test_sizes_are_known_beforehand(
    name: str, format: str, original: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = original(name)
    out = quantize_checkpoint(folder, tmp_path / "out", format)
    stored = load_file(out / "kept.safetensors")
    model = LLM(folder, quantize=format).model
    config = json.loads((folder / "config.json").read_text())
    sizes = quantized_sizes(kept.models.build_model(config), torch.float32)
    assert sizes[format] == sum(x.nbytes for x in stored.values())
    weights = [modules[0].weight for modules in matrices(model)]
    # Norms have biases too, so those of matrices cannot be told by name.
    packed = sum(w.num_bytes - (0 if w.bias is None else w.bias.nbytes) for w in weights)
    parts = (".data", ".channel_scales", ".group_scales")
    assert packed == sum(x.nbytes for name, x in stored.items() if name.endswith(parts))


def test_tensors_the_file_held_apart_stay_apart(
    original: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = tmp_path / "apart"
    folder.mkdir()
    for file in original("llama").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    edit(folder, lambda config: config.update(tie_word_embeddings=True))
    with pytest.warns(kept.KeptWarning, match="hold different values"):
        out = quantize_checkpoint(folder, tmp_path / "out")
    with pytest.warns(kept.KeptWarning, match="hold different values"):
        expected = logits(LLM(folder, quantize="int8"))
    assert torch.equal(logits(LLM(out)), expected)


def test_what_is_beside_the_weights_is_copied(
    original: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for file in original("gpt2").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    for name in ("tokenizer_config.json", "generation_config.json", "chat_template.jinja"):
        (folder / name).write_text("{}")
    (folder / "notes.bin").write_text("no")
    out = quantize_checkpoint(folder, tmp_path / "out")
    assert {file.name for file in out.iterdir()} == {
        "config.json",
        "kept.safetensors",
        "tokenizer_config.json",
        "generation_config.json",
        "chat_template.jinja",
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "of version 2, and this kept reads version 1; update kept, or quantize"),
        ({"version": "1"}, "must be an object with a version"),
        ({"format": "int3"}, "names the format 'int3', which is not one of int8, int4"),
        ({"layout": None}, "another layout than this kept's kernels read"),
        ({"layout": {"version": 9}}, "version 9 instead of 1; panel None instead of 32"),
        ({"fingerprint": "0"}, "does not carry the kept_quantization entry of config.json"),
        ({"format": "int8"}, "lacks tensors that config.json calls for: .*channel_scales"),
    ],
)
def test_an_entry_that_cannot_be_used(
    quantized: Path, change: dict[str, Any], message: str
) -> None:
    edit(quantized, lambda config: config["kept_quantization"].update(change))
    with pytest.raises(kept.CheckpointError, match=message):
        LLM(quantized)


@pytest.mark.parametrize("levels", [[*range(-8, 8)]])
def test_another_codebook_is_named(quantized: Path, levels: list[int]) -> None:
    edit(quantized, lambda c: c["kept_quantization"]["layout"].update(int4_levels=levels))
    with pytest.raises(kept.UnsupportedFormatError, match=r"int4_levels \[-8, .* instead of"):
        LLM(quantized)


def test_files_that_do_not_belong_together(quantized: Path) -> None:
    weights = quantized / "kept.safetensors"
    tensors = load_file(weights)
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1])
    with pytest.raises(kept.WeightsError, match=r"cut short.*Delete it and quantize the original"):
        LLM(quantized)
    weights.write_bytes(whole)
    edit(quantized, lambda config: config.update(intermediate_size=96))
    with pytest.raises(kept.WeightsError, match=r"contradicts config.json: .* should be"):
        LLM(quantized)
    edit(quantized, lambda config: config.update(intermediate_size=80))
    save_file(tensors, weights)
    with pytest.raises(kept.CheckpointError, match="does not carry"):
        LLM(quantized)
    weights.write_bytes(whole)
    edit(quantized, lambda config: config.pop("kept_quantization"))
    with pytest.raises(kept.UnsupportedFormatError, match=r"Put back the config\.json"):
        LLM(quantized)
    edit(quantized, lambda config: config.update(kept_quantization={"version": 1}))
    weights.unlink()
    with pytest.raises(kept.CheckpointNotFoundError, match=r"is not there.*; quantize the"):
        LLM(quantized)
    edit(quantized, lambda config: config.update(kept_quantization=5))
    with pytest.raises(kept.CheckpointError, match="kept_quantization must be an object, and is 5"):
        LLM(quantized)


def test_quantizing_twice(quantized: Path, tmp_path: Path) -> None:
    with pytest.raises(kept.OptionError, match="is quantized to int4 already; leave it out"):
        LLM(quantized, quantize="int4")
    with pytest.raises(kept.OptionError, match="is quantized to int4 already; quantize the"):
        quantize_checkpoint(quantized, tmp_path / "twice")


def test_a_big_endian_machine(quantized: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "byteorder", "big")
    with pytest.raises(kept.UnsupportedFormatError, match="this machine is big-endian"):
        LLM(quantized)


def test_where_not_to_write(
    original: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = original("llama")
    here, home = tmp_path / "here", tmp_path / "home"
    here.mkdir()
    home.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("HOME", str(home))
    targets: list[tuple[Any, str]] = [
        (folder, "is the checkpoint itself"),
        (folder.parent, "holds the checkpoint itself"),
        (tmp_path / "no" / "out", "lies in a folder that does not exist"),
        (folder / "config.json", "is a file"),
        ("", "the name of the folder to write is empty"),
        (" ", "the name of the folder to write is empty"),
        (".", "is the current directory"),
        (here, "is the current directory"),
        ("~", "is the home directory"),
        ("/dev", "is a whole file system"),
        (None, "named by None, a NoneType"),
    ]
    for target, message in targets:
        for force in (False, True):
            with pytest.raises(kept.OptionError, match=message):
                quantize_checkpoint(folder, target, force=force)
    for name in ("a\0b", "~nobody-of-this-name/out", "x" * 300):
        with pytest.raises(kept.CheckpointError, match="cannot be looked at"):
            quantize_checkpoint(folder, name)
    assert here.is_dir()
    assert home.is_dir()


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["inner/x"], "holds the folder inner, which no checkpoint does"),
        (["config.json", "model.safetensors", "inner/x"], "holds the folder inner"),
        (["config.json", "model.safetensors", "thesis.odt"], "holds thesis.odt, which no"),
        (["config.json", "model.safetensors", "train.py"], "holds train.py, which no"),
        (["notes.txt", "data.json"], "is no checkpoint, as it holds no config.json"),
        (["config.json", "package.json", "README.md"], "it holds no weights"),
    ],
)
def test_only_a_checkpoint_is_replaced(
    files: list[str], message: str, original: Callable[[str], Path], tmp_path: Path
) -> None:
    for name in files:
        (tmp_path / "held" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "held" / name).write_text("mine")
    with pytest.raises(kept.OptionError, match=r"is not empty .* pass force \(--force\)"):
        quantize_checkpoint(original("llama"), tmp_path / "held")
    with pytest.raises(kept.OptionError, match=f"{message}.*so it is not replaced; name another"):
        quantize_checkpoint(original("llama"), tmp_path / "held", force=True)
    assert all((tmp_path / "held" / name).read_text() == "mine" for name in files)


@pytest.mark.parametrize("reason", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_what_fails_leaves_everything_as_it_was(
    quantized: Path, reason: Any, original: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {file.name: file.read_bytes() for file in quantized.iterdir()}
    calls = 0

    def progress(done: int, total: int) -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise reason

    expected = KeyboardInterrupt if reason is KeyboardInterrupt else kept.CheckpointError
    with pytest.raises(expected):
        quantize_checkpoint(original("llama"), quantized, "int8", force=True, quantizing=progress)
    assert {file.name: file.read_bytes() for file in quantized.iterdir()} == before
    assert [path.name for path in quantized.parent.iterdir()] == [quantized.name]
    monkeypatch.setattr(quantized_writer.shutil, "disk_usage", lambda path: SimpleNamespace(free=1))
    with pytest.raises(kept.CheckpointError, match="free; make room"):
        quantize_checkpoint(original("llama"), quantized, "int8", force=True)


def test_a_folder_is_replaced(quantized: Path, original: Callable[[str], Path]) -> None:
    mapped = LLM(quantized)
    expected = logits(mapped)
    for name in ("stray.json", "README.md", "LICENSE", "tokenizer.model", "merges.txt"):
        (quantized / name).write_text("{}")
    quantize_checkpoint(original("llama"), quantized, "int8", force=True)
    assert {path.name for path in quantized.iterdir()} == {
        "config.json",
        "generation_config.json",
        "kept.safetensors",
    }
    assert torch.equal(logits(LLM(quantized)), logits(LLM(original("llama"), quantize="int8")))
    assert torch.equal(logits(mapped), expected)  # it holds the file that was there
    assert [path.name for path in quantized.parent.iterdir()] == [quantized.name]


def test_without_the_native_module(
    original: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantized_writer, "NATIVE_AVAILABLE", False)
    with pytest.raises(kept.BackendError, match="packed by the native module"):
        quantize_checkpoint(original("llama"), tmp_path / "out")


def test_copied_weights_are_the_mapped_ones(quantized: Path) -> None:
    mapped, copied = LLM(quantized), LLM(quantized, copy_weights=True)
    expected = logits(mapped)
    assert torch.equal(logits(copied), expected)
    (file,) = quantized.glob("*.safetensors")
    with file.open("r+b") as held:  # what is mapped changes with it
        held.seek(file.stat().st_size // 2)
        held.write(bytes(file.stat().st_size // 4))
    assert not torch.equal(logits(mapped), expected)
    assert torch.equal(logits(copied), expected)


@pytest.mark.skipif(
    not Path("/sys/kernel/mm/transparent_hugepage").exists(), reason="a kernel without huge pages"
)
def test_a_mapped_file_may_lie_on_huge_pages(quantized: Path) -> None:
    llm = LLM(quantized)
    asked = [
        mapping
        for mapping in re.split(r"\n(?=\w+-\w+ )", Path("/proc/self/smaps").read_text())
        if str(quantized) in mapping and re.search(r"^VmFlags:.* hg\b", mapping, re.MULTILINE)
    ]
    assert asked
    assert logits(llm).isfinite().all()
