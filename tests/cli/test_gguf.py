"""The command line with a GGUF file where it takes a model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from gguf_files import from_folder, quantized

from cli.running import kept
from kept import LLM, machine, quantize_checkpoint
from kept.bench.work import stored_bytes

packs = pytest.mark.skipif(not machine.NATIVE_AVAILABLE, reason="the native module packs")
OPTIONS = ("def add", "--max-new-tokens", 8)


@pytest.fixture(scope="module")
def blocks(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model of `folder` in blocks of Q8_0."""
    return from_folder(tmp_path_factory.mktemp("gguf") / "q8.gguf", folder, quantized("Q8_0"))


def test_it_writes_what_the_folder_does(folder: Path, tmp_path: Path) -> None:
    path = from_folder(tmp_path / "model.gguf", folder)
    for command in (("generate", *OPTIONS), ("generate", *OPTIONS, "--quantize", "int4")):
        ours, theirs = (kept(*command, "-m", model) for model in (path, folder))
        assert ours.exit_code == theirs.exit_code == 0, ours.stderr + theirs.stderr
        assert ours.stdout == theirs.stdout
    talk = [
        kept("chat", "-m", model, "--max-new-tokens", 6, stdin="hello\n")
        for model in (path, folder)
    ]
    assert talk[0].exit_code == 0, talk[0].stderr
    assert talk[0].stdout == talk[1].stdout
    explained = kept("explain", "def", "-m", path, "--max-new-tokens", 2)
    assert explained.exit_code == 0, explained.stderr


def test_info_and_plan_say_what_it_becomes(blocks: Path) -> None:
    found = json.loads(kept("info", blocks, "--json").stdout)["model"]
    assert found["stored_as"].startswith("Q8_0 (")
    assert found["loaded_as"] == "q8_0, int8"  # of matrices whose rows are no whole blocks
    assert found["architecture"] == "LlamaForCausalLM"
    assert found["tokenizer"] == {"kind": "BPE", "tokens": found["vocab_size"]}
    assert found["chat_template"]
    shown = " ".join(kept("info", blocks).stdout.split())
    assert f"stored as {found['stored_as']}, loaded as q8_0, int8 (" in shown
    rows = json.loads(kept("plan", blocks, "--json").stdout)["rows"]
    assert {row["dtype"] for row in rows} == {"float32", "bfloat16", "int8", "int4"}
    rows = json.loads(kept("plan", blocks, "--dtype", "auto", "--json").stdout)["rows"]
    assert {row["dtype"] for row in rows} == {found["loaded_as"]}
    assert {row["weight_bytes"] for row in rows} == {found["loaded_weight_bytes"]}
    if machine.NATIVE_AVAILABLE:
        assert found["loaded_weight_bytes"] == stored_bytes(LLM(blocks).model)


@packs
def test_what_is_lost_of_what_is_stored(blocks: Path, tmp_path: Path) -> None:
    text, out = tmp_path / "a.txt", tmp_path / "a.json"
    text.write_text("def add(a, b):\n    return a + b\n" * 4)
    options = ("--text", text, "--formats", "stored,int4", "--kv-dtypes", "", "--json", out)
    done = kept("bench", "quality", "--model", blocks, *options)
    assert done.exit_code == 0, done.stderr
    found = json.loads(out.read_text())["weights"]
    model = LLM(blocks).model
    assert found["stored"]["bits"] == 8 * stored_bytes(model) / model.num_parameters
    assert found["fp32"]["bits"] == 32
    losses = {name: each["divergence"] for name, each in found.items() if name != "fp32"}
    assert losses["stored"] < losses["int4"] / 4, losses


@packs
@pytest.mark.parametrize("format", ["int8", "int4"])
def test_quantizing_keeps_bits_tokens_and_template(
    format: str, blocks: Path, tmp_path: Path
) -> None:
    folder = quantize_checkpoint(blocks, tmp_path / "out", format)
    for command in (("generate", *OPTIONS), ("chat", "--max-new-tokens", 6)):
        ours, theirs = (
            kept(*command, *more, stdin="hello\n")
            for more in (("-m", folder), ("-m", blocks, "--quantize", format))
        )
        assert ours.exit_code == theirs.exit_code == 0, ours.stderr + theirs.stderr
        assert ours.stdout == theirs.stdout
    one, other = LLM(folder), LLM(blocks, quantize=format)
    assert one.tokenizer is not None
    assert other.tokenizer is not None
    assert one.tokenizer.tokens() == other.tokenizer.tokens()
    assert one.tokenizer.special_tokens == other.tokenizer.special_tokens
    assert one.checkpoint.generation_config == other.checkpoint.generation_config


@packs
def test_codes_are_of_the_numbers_that_the_blocks_stand_for(blocks: Path, tmp_path: Path) -> None:
    from kept.models import open_checkpoint
    from kept.ops.quantize import quantize

    stored = open_checkpoint(quantize_checkpoint(blocks, tmp_path / "out", "int8"))
    numbers = open_checkpoint(blocks).read("model.layers.0.self_attn.o_proj.weight")
    scales = stored.read("blocks.0.attention.out.channel_scales")
    assert scales.tolist() == quantize(numbers, "int8").scales.tolist()


def test_a_folder_around_a_file_is_told_from_it(blocks: Path) -> None:
    refused = kept("generate", *OPTIONS, "-m", blocks.parent)
    assert refused.exit_code != 0
    assert f"pass the file itself: {blocks}" in " ".join(refused.stderr.split())
