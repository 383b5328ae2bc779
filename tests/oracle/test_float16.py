"""float16 checkpoints: what they are computed in on a CPU, and that each number is rounded once."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import pytest
import torch
from cli.running import kept
from torch import Tensor
from transformers import AutoModelForCausalLM

from kept import LLM, BackendError, machine, quantize_checkpoint
from kept.ops.backend import say_once
from kept.ops.quantize import QUANTIZED_FORMATS

from .generation import prompts
from .test_dtypes import check_as_close
from .test_files import rewrite_config
from .zoo import make_hf

packs = pytest.mark.skipif(not machine.NATIVE_AVAILABLE, reason="the native module packs")
formats = pytest.mark.parametrize("format", QUANTIZED_FORMATS)


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama stored as float16, whose weights bfloat16 has to round."""
    folder = tmp_path_factory.mktemp("half")
    make_hf("llama tied").half().save_pretrained(folder)
    return folder


def as_stored(folder: Path, dtype: str | None, target: Path) -> Path:
    shutil.copytree(folder, target)
    # A name is taken out by `...`.
    rewrite_config(target, dtype=..., torch_dtype=... if dtype is None else dtype)
    return target


@torch.no_grad()
def logits(llm: LLM) -> Tensor:
    return llm.model(torch.tensor(prompts(24))).logits


@torch.no_grad()
@pytest.mark.parametrize("said", ["float16", "torch.float16", None])
def test_it_is_computed_in_bfloat16(
    said: str | None, half: Path, tmp_path: Path, backend: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder = as_stored(half, said, tmp_path / "m")
    say_once.cache_clear()
    with caplog.at_level(logging.WARNING, "kept"):
        llm, again = LLM(folder), LLM(folder, dtype="auto")
    assert llm.model.dtype == again.model.dtype == torch.bfloat16
    assert (llm.model.native is None) == (backend == "reference")
    lines = [record.message for record in caplog.records]
    assert len(lines) == 1, lines
    assert str(folder) in lines[0]
    assert "computing in bfloat16" in lines[0]
    ids = torch.tensor(prompts(24))
    exact, coarse = (
        AutoModelForCausalLM.from_pretrained(half, dtype=dtype).eval()(ids).logits.float()
        for dtype in (torch.float32, torch.bfloat16)
    )
    check_as_close(logits(llm), coarse, exact)
    assert torch.equal(logits(llm), logits(LLM(folder, dtype="bfloat16")))
    widened = logits(LLM(folder, dtype="float32"))
    torch.testing.assert_close(widened, exact, rtol=0, atol=1e-4)


def test_it_stays_float16_where_that_is_asked_for(
    half: Path, backend: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    say_once.cache_clear()
    monkeypatch.setenv("KEPT_OPS", "auto")
    with caplog.at_level(logging.WARNING, "kept"):
        model = LLM(half, dtype="float16").model
    assert model.dtype == torch.float16
    assert model.native is None
    assert [r.message.partition(":")[0] for r in caplog.records] == ["using the torch reference"]
    monkeypatch.setenv("KEPT_OPS", "native")
    with pytest.raises(BackendError, match=r"the model is torch\.float16; pass dtype='bfloat16'"):
        LLM(half, dtype="float16")


@packs
@formats
def test_it_is_quantized_from_the_numbers_that_are_stored(
    format: str, half: Path, tmp_path: Path, backend: str
) -> None:
    found = logits(LLM(half, quantize=format))
    stored = LLM(quantize_checkpoint(half, tmp_path / "out", format))
    assert torch.equal(logits(stored), found)
    assert (stored.model.native is None) == (backend == "reference")
    # Of matrices the same numbers in float32 give the same codes; rounded to bfloat16 they do not.
    wide = tmp_path / "wide"
    AutoModelForCausalLM.from_pretrained(half, dtype=torch.float32).save_pretrained(wide)
    codes = [
        LLM(quantize_checkpoint(folder, tmp_path / name, format, dtype=dtype)).checkpoint
        for folder, name, dtype in (
            (half, "half", None),
            (wide, "exact", "float32"),
            (half, "rounded", "bfloat16"),
        )
    ]
    matrices = [name for name in codes[0].tensors if name.endswith(".data")]
    assert matrices
    half_codes, exact, rounded = ([c.read(name) for name in matrices] for c in codes)
    assert all(map(torch.equal, half_codes, exact))
    assert not all(map(torch.equal, half_codes, rounded))


@packs
@pytest.mark.parametrize("ops", ["auto", "native", "reference"])
@pytest.mark.parametrize("quantized", [None, "int8"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", None])
def test_info_and_plan_say_what_loading_does(
    dtype: str | None,
    quantized: str | None,
    ops: str,
    half: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("KEPT_OPS", ops)
    folder = as_stored(half, dtype, tmp_path / "m")
    if quantized is not None:
        folder = quantize_checkpoint(folder, tmp_path / "out", quantized)
    said = json.loads(kept("info", folder, "--json").stdout)["model"]
    model = LLM(folder).model
    assert said["runs_natively"] == (model.native is not None) == (ops != "reference")
    assert (said["why_torch"] is None) == said["runs_natively"]
    shown = " ".join(kept("info", folder).stdout.split())
    assert ("runs on the native kernels" in shown) == said["runs_natively"]
    assert ("runs on torch: KEPT_OPS=reference" in shown) == (ops == "reference")
    rows = json.loads(kept("plan", folder, "--dtype", "auto", "--json").stdout)["rows"]
    planned = {row["dtype"] for row in rows}
    if quantized is None:
        loaded = str(model.dtype).removeprefix("torch.")
        assert said["dtype"] == loaded
        assert planned == {loaded}
    else:
        assert planned == {quantized}
