"""`kept info` and `kept plan`: numbers held against models and caches that exist."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from thinning import cells

from cli.running import kept
from kept import LLM
from kept.bench.shapes import SHAPES
from kept.cache import KVShape, make_cache
from kept.cli.memory import CachePlan
from kept.machine import describe_machine
from kept.ops import KV_CODECS
from kept.ops.quantize import QUANTIZED_FORMATS
from kept.options import KV_DTYPES


def plan(*arguments: object) -> dict[str, Any]:
    result = kept("plan", *arguments, "--json")
    assert result.exit_code == 0, result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_info_of_the_machine() -> None:
    found = json.loads(kept("info", "--json").stdout)
    assert found["machine"]["num_cores"] == describe_machine().num_cores
    assert found["torch"] == {"version": torch.__version__, "threads": torch.get_num_threads()}
    assert found["ops"] in ("native", "reference")
    assert found["native"]["available"] == (found["native"]["error"] is None)
    assert (found["ops_reason"] is None) == (found["ops"] == "native")
    assert found["threads"] >= 1
    if found["native"]["available"]:
        assert found["isa"]["used"] in found["isa"]["available"]
    assert found["model"]["name"] == "the bundled model"


def test_info_of_a_model(folder: Path) -> None:
    llm = LLM(folder)
    found = json.loads(kept("info", folder, "--json").stdout)["model"]
    parameters = llm.model.num_parameters
    assert found["num_parameters"] == parameters
    assert found["weight_bytes"] == 4 * parameters
    assert (found["num_layers"], found["num_heads"], found["num_kv_heads"]) == (2, 4, 2)
    assert (found["head_dim"], found["context"], found["dtype"]) == (8, 192, "float32")
    assert set(found["bytes_per_token"]) == set(KV_DTYPES)
    for name, count in found["bytes_per_token"].items():
        cache = make_cache(llm.model.kv_shapes, "static", max_cache_len=1, kv_dtype=name)
        assert count == cache.num_bytes
    assert found["tokenizer"] == {"kind": "BPE", "tokens": found["vocab_size"]}
    assert found["chat_template"]


def test_the_dtype_shown_is_the_one_loaded(folder: Path, tmp_path: Path) -> None:
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    config.pop("dtype", config.pop("torch_dtype", None))
    (tmp_path / "config.json").write_text(json.dumps(config))
    weights = load_file(folder / "model.safetensors")
    save_file({n: t.bfloat16() for n, t in weights.items()}, tmp_path / "model.safetensors")
    assert LLM(tmp_path).model.dtype == torch.bfloat16
    assert json.loads(kept("info", tmp_path, "--json").stdout)["model"]["dtype"] == "bfloat16"
    assert {row["dtype"] for row in plan(tmp_path, "--dtype", "auto")["rows"]} == {"bfloat16"}


def test_a_dtype_in_config_json_that_kept_lacks(folder: Path, tmp_path: Path) -> None:
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "dtype": "float64"}))
    result = kept("info", tmp_path)
    assert result.exit_code == 1
    assert "config.json has dtype = 'float64'" in result.stderr
    assert LLM(tmp_path, dtype="float32").model.dtype == torch.float32


def test_info_for_people(folder: Path) -> None:
    result = kept("info", folder)
    assert result.exit_code == 0
    for words in ("cores", "native module", "torch", "LlamaForCausalLM", "4 query, 2 key/value"):
        assert words in result.stdout
    assert "\x1b" not in result.stdout


def test_info_reads_no_weights(folder: Path, tmp_path: Path) -> None:
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = tmp_path / "model.safetensors"
    size = int.from_bytes(weights.read_bytes()[:8], "little") + 8
    with weights.open("r+b") as opened:  # the header, and a hole in place of the numbers
        length = weights.stat().st_size
        opened.truncate(size)
        opened.truncate(length)
    assert kept("info", tmp_path).exit_code == 0


def test_layers_with_and_without_a_window() -> None:
    """Past the windows a token costs what layers without one store of it, but in a static cache."""
    found = plan("--shape", "gemma-3-270m", "--context", 32768)
    rows = {row["cache"]: row for row in found["rows"] if row["dtype"] == "bfloat16"}
    token, past = (found[f"bytes_per_token{x}"]["bfloat16"] for x in ("", "_past_windows"))
    assert (token, past) == (18 * 2 * 256 * 2, 3 * 2 * 256 * 2)
    assert rows["static"]["cache_bytes"] == 32768 * token
    windowed = (512 + 64) * (token - past)
    assert rows["dynamic"]["cache_bytes"] == 32768 * past + windowed
    assert rows["sliding"]["cache_bytes"] == rows["dynamic"]["cache_bytes"]
    for command in (("plan", "--shape", "gemma-3-270m"), ("plan", "--shape", "gpt2")):
        assert ("past the windows" in kept(*command).stdout) == ("gemma" in command[2])


def test_revision_needs_a_model() -> None:
    assert kept("info", "--revision", "main").exit_code == 2
    assert kept("plan", "--revision", "main").exit_code == 2


def test_plan_counts_grouped_heads_once(folder: Path) -> None:
    found = plan(folder, "--context", 100, "--batch", 3)
    weights = LLM(folder).model.num_parameters
    by = {(row["dtype"], row["cache"]): row for row in found["rows"]}
    dtypes = ("float32", "bfloat16", "int8", "int4")
    assert set(by) == {(d, k) for d in dtypes for k in ("dynamic", "static")}
    token = 2 * 2 * 2 * 8  # layers, keys and values, key/value heads, head size
    assert by["float32", "static"]["cache_bytes"] == 3 * 100 * token * 4
    assert by["bfloat16", "dynamic"]["cache_bytes"] == 3 * 128 * token * 2
    for (dtype, _), row in by.items():
        if dtype not in QUANTIZED_FORMATS:
            assert row["weight_bytes"] == weights * (4 if dtype == "float32" else 2)
        assert row["total_bytes"] == row["weight_bytes"] + row["cache_bytes"]
        assert row["fits"]
        assert row["max_context"] == 192


@pytest.mark.parametrize(
    ("cache", "length", "codec"),
    cells(
        [("dynamic", None, 0), ("static", None, 0), ("sliding", None, 0), ("sliding", 50, 3)],
        [1, 64, 65, 130, 200],
        ["float32", "int8", "k8v4", "int4"],
        out_of=4,
    ),
    ids=str,
)
def test_a_plan_is_what_a_cache_takes(
    cache: tuple[str, int | None, int], length: int, codec: str
) -> None:
    kind, window, sinks = cache
    own = (None, None, None) if sinks else (None, 40, 100)
    shapes = (KVShape(2, 8, own[0]), KVShape(2, 37, own[1]), KVShape(1, 4, own[2]))
    options: dict[str, Any] = {"max_cache_len": length} if kind == "static" else {}
    if kind == "sliding":
        options = {"sliding_window": window, "num_sinks": sinks}
    made = make_cache(shapes, kind, kv_dtype=codec, **options)
    for _ in range(length):
        for layer, shape in enumerate(shapes):
            new = torch.zeros(1, shape.num_kv_heads, 1, shape.head_dim)
            made.update(new, new, layer)
    planned = CachePlan(shapes, kind, KV_CODECS[codec], window, sinks)
    assert planned.num_bytes(length) == made.num_bytes


def test_plan_of_a_stored_dtype(folder: Path) -> None:
    found = plan(folder, "--kv-dtype", "int4", "--context", 100)
    assert {(row["dtype"], row["kv_dtype"]) for row in found["rows"]} == {
        ("float32", "int4"),
        ("bfloat16", "int4"),
        ("int8", "int4"),
        ("int4", "int4"),
    }
    token = 2 * 2 * 2 * (8 // 2 + 2)  # layers, keys and values, heads, codes and one scale
    assert found["bytes_per_token"]["int4"] == token
    for row in found["rows"]:
        assert row["cache_bytes"] == (100 if row["cache"] == "static" else 128) * token
    assert f"{token:,} in int4" in kept("plan", folder).stdout


def test_plan_of_a_model_too_large_for_any_machine() -> None:
    found = plan("--shape", "llama-3.2-1b", "--batch", 10**9)
    assert all(not row["fits"] for row in found["rows"])
    for row in found["rows"]:
        assert row["max_batch"] < 10**9
        assert row["max_context"] == 0


def test_what_fits_fits() -> None:
    shapes = (KVShape(2, 64, 100),) * 2
    for kind in ("dynamic", "static", "sliding"):
        cache = CachePlan(shapes, kind, KV_CODECS["bfloat16"])
        room = 3 * cache.num_bytes(77)
        longest = cache.longest(room, 3, 10_000)
        assert longest >= 77
        assert 3 * cache.num_bytes(longest) <= room
        assert longest == 10_000 or 3 * cache.num_bytes(longest + 1) > room


@pytest.mark.parametrize("name", sorted(SHAPES))
def test_every_shape_can_be_planned(name: str) -> None:
    result = kept("plan", "--shape", name)
    assert result.exit_code == 0
    assert "float32" in result.stdout
    assert "bfloat16" in result.stdout


def test_a_sliding_cache_where_there_is_a_window() -> None:
    rows = plan("--shape", "gpt2", "--sliding-window", 128, "--num-sinks", 4)["rows"]
    assert {row["cache"] for row in rows} == {"dynamic", "static", "sliding"}
    sliding = next(row for row in rows if row["cache"] == "sliding")
    assert sliding["cache_bytes"] == 2 * 12 * 768 * 4 * (64 + 128 + 64)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--context", "2000"], "1,024"),
        (["--context", "0"], "at least 1"),
        (["--batch", "0"], "at least 1"),
        (["--num-sinks", "2"], "no window"),
        (["--dtype", "int3"], "int3"),
        (["somewhere"], "leave one"),
    ],
)
def test_numbers_that_make_no_sense(arguments: list[str], words: str) -> None:
    result = kept("plan", "--shape", "gpt2", *arguments)
    assert result.exit_code == 2
    assert words in result.stderr


def test_an_unknown_shape_names_the_known() -> None:
    result = kept("plan", "--shape", "gpt9")
    assert result.exit_code == 2
    assert "qwen2.5-0.5b" in result.stderr


def test_plan_of_a_draft_model(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = replace(describe_machine(), available_memory=1 << 30)  # else it comes and goes
    monkeypatch.setattr("kept.machine.describe_machine", lambda: machine)
    alone, found = plan(folder), plan(folder, "--draft-model", folder)
    draft, parameters = found["draft_model"], alone["num_parameters"]
    assert draft["weight_bytes"] == 4 * parameters
    assert draft["bytes_per_token"] == alone["bytes_per_token"]["float32"]
    for with_draft, without in zip(found["rows"], alone["rows"], strict=True):
        assert with_draft["total_bytes"] - without["total_bytes"] == 4 * parameters
        assert with_draft["max_batch"] < without["max_batch"]
    line = f"up to {draft['bytes_per_token']:,} bytes per token"
    assert line in kept("plan", folder, "--draft-model", folder).stdout


def test_a_draft_model_that_cannot_be_planned(folder: Path) -> None:
    result = kept("plan", "--shape", "gpt2", "--draft-model", folder)
    assert result.exit_code == 2
    assert "the model 50,257" in " ".join(result.stderr.split())
