"""LoRA adapters against the matrices that they are merged into."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lora import ATTENTION, EVERY, merged, write_adapter
from torch import Tensor
from transformers import PreTrainedModel

from kept import LLM
from kept.batch import pack
from kept.errors import OptionError

from .zoo import make_hf

FAMILIES = ("deepseek_v3", "gemma3", "gemma3n", "gpt2", "llama", "qwen2", "qwen2_moe")
TEXTS = [[5, 6, 7, 8, 9, 3, 44, 21, 6], [1, 2, 3], [5, 6, 7, 8, 9, 3], [90]]


def logits(model: PreTrainedModel, text: list[int]) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(torch.tensor([text])).logits[0]
    return found


def saved(folder: Path, name: str = "llama") -> PreTrainedModel:
    hf = make_hf(name)
    hf.save_pretrained(folder)
    return hf


@pytest.mark.parametrize("name", FAMILIES)
def test_adapters_in_one_batch(tmp_path: Path, backend: str, name: str) -> None:
    """Each sequence has the logits of a model that its adapter is merged into."""
    hf = saved(tmp_path, name)
    whole = write_adapter(tmp_path / "whole", hf, EVERY, seed=1)
    some = write_adapter(
        tmp_path / "some", hf, ATTENTION, rank=3, alpha=6.0, seed=2, dtype=torch.bfloat16
    )
    model = LLM(tmp_path, adapters={n: tmp_path / n for n in ("whole", "some")}).model
    batch = pack(TEXTS, adapters=(1, -1, 0, 1))
    models = merged(hf, some), hf, merged(hf, whole), merged(hf, some)
    found = model.run(batch).split(batch.counts)
    for text, of, each in zip(TEXTS, models, found, strict=True):
        torch.testing.assert_close(each, logits(of, text), rtol=0.0, atol=1e-4)
    plain = model.run(pack(TEXTS))
    assert torch.equal(plain[batch.starts[1] : batch.starts[2]], found[1]) or backend != "native"


@pytest.mark.parametrize("name", ["bloom", "gpt_neox"])
def test_matrices_that_are_stored_head_by_head(tmp_path: Path, name: str) -> None:
    """An adapter's outputs go where the base's rows went."""
    hf = saved(tmp_path, name)
    pairs = write_adapter(tmp_path / "a", hf, ["query_key_value"], seed=4)
    model = LLM(tmp_path, adapters={"a": tmp_path / "a"}).model
    found = model.run(pack(TEXTS[:1], adapters=(0,)))
    exact = logits(merged(hf, pairs), TEXTS[0])
    torch.testing.assert_close(found, exact, rtol=0.0, atol=1e-4)


@pytest.mark.parametrize(
    ("fields", "scale"),
    [
        ({"lora_alpha": 3.0}, 0.75),
        ({"use_rslora": True}, 4.0),
        ({"alpha_pattern": {"q_proj": 2.0}}, 0.5),
        ({"alpha_pattern": {r"layers\.[01].self_attn.q_proj": 20, "proj": 1}}, 5.0),
        ({"alpha_pattern": {"proj": 1.0}}, 2.0),
    ],
)
def test_scales(tmp_path: Path, fields: dict[str, object], scale: float) -> None:
    hf = saved(tmp_path)
    pairs = write_adapter(tmp_path / "a", hf, ["q_proj"], **fields)
    model = LLM(tmp_path, adapters={"a": tmp_path / "a"}).model
    found = model.run(pack(TEXTS[:1], adapters=(0,)))
    exact = logits(merged(hf, pairs, scale), TEXTS[0])
    torch.testing.assert_close(found, exact, rtol=0.0, atol=1e-4)


def test_ranks_by_pattern(tmp_path: Path, backend: str) -> None:
    hf = saved(tmp_path)
    path = "model.layers.1.self_attn.v_proj"
    pairs = write_adapter(tmp_path / "a", hf, EVERY, alpha=4.0, rank_pattern={path: 7})
    assert len(pairs[path][0]) == 7
    pairs[path] = pairs[path][0], pairs[path][1] * (4 / 7)
    model = LLM(tmp_path, adapters={"a": tmp_path / "a"}).model
    found = model.run(pack(TEXTS[:1], adapters=(0,)))
    exact = logits(merged(hf, pairs, 1.0), TEXTS[0])
    torch.testing.assert_close(found, exact, rtol=0.0, atol=1e-4)


@pytest.mark.parametrize("activations", ["bfloat16", "int8"])
@pytest.mark.parametrize("format", ["int8", "int4"])
def test_a_quantized_base(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: str, activations: str
) -> None:
    """Against the reference over the rounded matrices, and far closer than without."""
    hf = saved(tmp_path, "qwen2")
    write_adapter(tmp_path / "a", hf, EVERY, seed=3)
    adapters = {"a": tmp_path / "a"}
    found = LLM(tmp_path, quantize=format, activations=activations, adapters=adapters).model
    monkeypatch.setenv("KEPT_OPS", "reference")
    exact = LLM(tmp_path, quantize=format, adapters=adapters).model
    ours, base, theirs = (
        model.run(pack(TEXTS, adapters=each))
        for model, each in ((found, (0,) * 4), (found, ()), (exact, (0,) * 4))
    )
    assert (ours - theirs).norm() < 0.08 * theirs.norm()
    assert (base - theirs).norm() > 0.3 * theirs.norm()


def test_numbers_that_there_are_not(tmp_path: Path, backend: str) -> None:
    hf = saved(tmp_path)
    write_adapter(tmp_path / "a", hf)
    llm = LLM(tmp_path, adapters={"a": tmp_path / "a"})
    for wrong in ((1,), (-2,), (0, 0)):
        with pytest.raises(OptionError, match="the model has 1"):
            llm.model.run(pack([[3]], adapters=wrong))
    with pytest.raises(OptionError, match=r"adapter='b' is not one .* loaded with: 'a'"):
        llm.generate([3], adapter="b")
    with pytest.raises(OptionError, match="loaded with: none"):
        LLM(tmp_path).generate([3], adapter="a")
