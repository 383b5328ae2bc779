"""Checkpoints in bf16 and fp16, and loading in another dtype than the stored one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from kept import LLM, OptionError

from .generation import prompts
from .test_files import rewrite_config
from .zoo import FEW, make_hf


def load_hf(folder: Path, dtype: torch.dtype) -> PreTrainedModel:
    # Not `model.to(dtype)`, which would round the rotary frequencies too.
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()


def check_as_close(found: Tensor, coarse: Tensor, exact: Tensor) -> None:
    """kept's rounding errors are of the size of transformers' own, and both are small."""
    theirs, ours = (float((x - exact).square().mean().sqrt()) for x in (coarse, found))
    assert ours < 1.3 * theirs
    assert theirs < 0.2 * exact.std()


@pytest.mark.parametrize("name", FEW)
@torch.no_grad()
def test_a_bf16_checkpoint(name: str, tmp_path: Path) -> None:
    make_hf(name).bfloat16().save_pretrained(tmp_path)
    ids = torch.tensor(prompts(24))
    coarse = load_hf(tmp_path, torch.bfloat16)(ids).logits.float()
    exact = load_hf(tmp_path, torch.float32)(ids).logits
    model = LLM(tmp_path).model
    assert model.dtype == torch.bfloat16
    # In two pieces, so that keys pass through a cache in bf16.
    first = model(ids[:, :20])
    found = torch.cat([first.logits, model(ids[:, 20:], cache=first.cache).logits], dim=1)
    assert found.dtype == torch.float32
    assert first.cache is not None
    assert first.cache.dtype == torch.bfloat16
    check_as_close(found, coarse, exact)
    widened = LLM(tmp_path, dtype="float32").model(ids).logits
    torch.testing.assert_close(widened, exact, rtol=0, atol=1e-4)


@torch.no_grad()
def test_asking_for_another_dtype(tmp_path: Path) -> None:
    make_hf("llama").save_pretrained(tmp_path)
    ids = torch.tensor(prompts(12))
    exact = load_hf(tmp_path, torch.float32)(ids).logits
    for dtype in (torch.bfloat16, torch.float16):
        coarse = load_hf(tmp_path, dtype)(ids).logits.float()
        for asked in (dtype, str(dtype), str(dtype).removeprefix("torch.")):
            model = LLM(tmp_path, dtype=asked).model
            assert model.dtype == dtype
            check_as_close(model(ids).logits, coarse, exact)
    with pytest.raises(OptionError, match="'int8' is not one of auto, float32"):
        LLM(tmp_path, dtype="int8")


def test_a_config_without_dtype_means_the_stored_one(tmp_path: Path) -> None:
    make_hf("gpt2").bfloat16().save_pretrained(tmp_path)
    rewrite_config(tmp_path, dtype=..., torch_dtype=...)
    assert LLM(tmp_path).model.dtype == torch.bfloat16
    rewrite_config(tmp_path, torch_dtype="float32")
    assert LLM(tmp_path).model.dtype == torch.float32
    assert LLM(tmp_path, dtype="auto").model.dtype == torch.float32
