"""What is refused of the files of an adapter, by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lora import write_adapter
from safetensors.torch import load_file, save_file

from kept import LLM
from kept.errors import (
    CheckpointError,
    CheckpointNotFoundError,
    OptionError,
    UnsupportedFormatError,
    UnsupportedModelError,
    WeightsError,
)

from . import seq2seq
from .zoo import make_hf

HOME = "base_model.model.model.layers.0.self_attn.q_proj"
AGAIN = "base_model.model.layers.0.self_attn.q_proj"  # as the base's tensors may be called too
PAIR = (4, 48), (48, 4)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    make_hf("llama").save_pretrained(folder)
    return folder


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    write_adapter(tmp_path / "a", make_hf("llama"), ["q_proj", "up_proj"])
    return tmp_path / "a"


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"peft_type": "IA3"}, UnsupportedModelError, "peft_type = 'IA3'"),
        ({"use_dora": True}, UnsupportedModelError, "use_dora = True.*DoRA"),
        ({"bias": "all"}, UnsupportedModelError, "bias = 'all'"),
        ({"lora_bias": True}, UnsupportedModelError, "lora_bias"),
        ({"modules_to_save": ["lm_head"]}, UnsupportedModelError, "modules_to_save"),
        ({"trainable_token_indices": [1]}, UnsupportedModelError, "trainable_token_indices"),
        ({"layer_replication": [[0, 1]]}, UnsupportedModelError, "layer_replication"),
        ({"use_bdlora": {"nblocks": 2}}, UnsupportedModelError, "use_bdlora"),
        ({"kasa_config": {"beta": 1e-4}}, UnsupportedModelError, "kasa_config.*base's own"),
        ({"monteclora_config": {"num_experts": 2}}, UnsupportedModelError, "monteclora_config"),
        ({"init_lora_weights": "pissa"}, UnsupportedModelError, "pissa.*convert"),
        ({"r": 0}, CheckpointError, "r = 0"),
        ({"r": 5}, WeightsError, r"\(4, 48\) and should be \(5, 48\)"),
        ({"lora_alpha": "x"}, CheckpointError, "lora_alpha"),
        ({"rank_pattern": {"q_proj": 3}}, WeightsError, r"should be \(3, 48\)"),
        ({"rank_pattern": {"(": 4}}, CheckpointError, "no pattern"),
        ({"alpha_pattern": {"([a-z._0-9]+)+X": 4}}, CheckpointError, "for ever to match"),
        ({"rank_pattern": {".?" * 30 + "X": 4}}, CheckpointError, "for ever to match"),
        ({"rank_pattern": {"(.|.)" * 30 + "X": 4}}, CheckpointError, "for ever to match"),
        ({"alpha_pattern": {"(?=.*){9}" * 9: 4}}, CheckpointError, "for ever to match"),
        ({"alpha_pattern": [1]}, CheckpointError, "must be an object"),
    ],
)
def test_configs(
    base: Path, adapter: Path, fields: dict[str, Any], error: type[Exception], message: str
) -> None:
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    with pytest.raises(error, match=message):
        LLM(base, adapters={"a": adapter})


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({f"{HOME}.lora_B.weight": None}, WeightsError, "lora_A of .* alone"),
        ({f"{HOME}.lora_A.weight": torch.ones(4, 47)}, WeightsError, r"should be \(4, 48\)"),
        ({f"{HOME}.lora_B.weight": torch.ones(47, 4)}, WeightsError, r"should be \(48, 4\)"),
        ({f"{HOME}.lora_A.weight": torch.ones(4, 48).char()}, UnsupportedFormatError, "int8"),
        ({f"{HOME}.lora_A.weight": torch.full((4, 48), torch.nan)}, WeightsError, "not finite"),
        (
            {f"{HOME}.lora_A.default.weight": torch.ones(4, 48)},
            WeightsError,
            r"lora_A\.default\.weight' and .* of one layer",
        ),
        (
            {f"{AGAIN}.lora_{x}.weight": torch.ones(y) for x, y in zip("AB", PAIR, strict=True)},
            WeightsError,
            "of one layer",
        ),
        ({f"{HOME}.lora_magnitude_vector": torch.ones(48)}, UnsupportedModelError, "magnitude"),
        ({"base_model.model.lm_head.weight": torch.ones(2, 2)}, UnsupportedModelError, "lm_head"),
        (
            {f"base_model.model.lm_head.lora_{x}.weight": torch.ones(2, 2) for x in "AB"},
            UnsupportedModelError,
            "'lm_head'.* not of embeddings, the head",
        ),
        (
            {f"base_model.model.model.layers.9.x.lora_{x}.weight": torch.ones(2, 2) for x in "AB"},
            WeightsError,
            "layers.9.x.*does not have",
        ),
    ],
)  # fmt: skip
def test_tensors(
    base: Path, adapter: Path, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    path = str(adapter / "adapter_model.safetensors")
    tensors = {k: v for k, v in (load_file(path) | changes).items() if v is not None}
    save_file(tensors, path)
    with pytest.raises(error, match=message):
        LLM(base, adapters={"a": adapter})


def test_what_expands_latents(tmp_path: Path) -> None:
    hf = make_hf("deepseek_v3")
    hf.save_pretrained(tmp_path)
    write_adapter(tmp_path / "a", hf, ["q_b_proj", "kv_b_proj"])
    with pytest.raises(UnsupportedModelError, match=r"kv_b_proj', which expands.* Merge"):
        LLM(tmp_path, adapters={"a": tmp_path / "a"})


def test_patterns_that_people_write(base: Path, adapter: Path) -> None:
    path = adapter / "adapter_config.json"
    fields = json.loads(path.read_text())
    several = "|".join(map(str, range(80)))
    for pattern in (
        "q_proj",
        r"model\.layers\.0\.self_attn.q_proj",
        r"^model\.layers\.(\d+)\.self_attn\.[qk]_proj",
        rf".*?layers\.(?:{several})\..*(self_attn|mlp)\.\w+",
    ):
        path.write_text(json.dumps(fields | {"alpha_pattern": {pattern: 2.0}}))
        [found] = LLM(base, adapters={"a": adapter}).model.adapters
        scales = {part.scale for parts in found.parts.values() for part in parts}
        assert 0.5 in scales, pattern


def test_files(base: Path, adapter: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointNotFoundError, match="no folder here"):
        LLM(base, adapters={"a": tmp_path / "none"})
    for wrong in ("x", {"": adapter}, {3: adapter}):
        with pytest.raises(OptionError, match="adapter"):
            LLM(base, adapters=wrong)
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    with pytest.raises(UnsupportedFormatError, match="does not unpickle"):
        LLM(base, adapters={"a": adapter})
    (adapter / "adapter_model.bin").unlink()
    with pytest.raises(CheckpointNotFoundError, match=r"adapter_model\.safetensors"):
        LLM(base, adapters={"a": adapter})


def test_an_encoder_decoder_has_none(adapter: Path, tmp_path: Path) -> None:
    seq2seq.make_hf("v1.0").save_pretrained(tmp_path / "t5")
    with pytest.raises(OptionError, match="adapters of decoders alone"):
        LLM(tmp_path / "t5", adapters={"a": adapter})
