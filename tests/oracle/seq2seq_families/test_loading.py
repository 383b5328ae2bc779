"""Checkpoints of BART and its kin: how they are stored, in which formats, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import kept
from kept import CheckpointError, OptionError, UnsupportedModelError, WeightsError
from kept.batch import pack
from kept.models import build_model

from .checkpoints import CONTEXT, FAMILIES, START, VOCAB, Pair, draw, prompts

CLOSE = {"rtol": 0.0, "atol": 1e-4}

every_family = pytest.mark.parametrize("pair", FAMILIES, indirect=True)
FILE = "model.safetensors"


@pytest.fixture
def copy(pair: Pair, tmp_path: Path) -> Path:
    """The checkpoint's files, to be changed."""
    shutil.copytree(pair.folder, tmp_path, dirs_exist_ok=True)
    return tmp_path


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.run(pack([[START, 5, 6]], sources=[prompts()[0]]))


@every_family
@pytest.mark.parametrize("format", ["int8", "int4"])
def test_quantized_weights(
    pair: Pair, format: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("kept._native")
    rounded = kept.LLM(pair.folder, quantize=format)
    stored = kept.LLM(kept.quantize_checkpoint(pair.folder, tmp_path / format, format))
    found, again, close = (logits(llm.model) for llm in (rounded, stored, pair.llm))
    assert torch.equal(found, again)
    assert (found - close).abs().mean() < (0.1 if format == "int8" else 1.0) * close.std()
    monkeypatch.setenv("KEPT_OPS", "reference")
    for source, quantize in ((pair.folder, format), (tmp_path / format, None)):
        plain = logits(kept.LLM(source, quantize=quantize, dtype="float32").model)
        assert (found - plain).abs().mean() < 0.05 * close.std()


@pytest.mark.parametrize("pair", ["bart", "marian"], indirect=True)
def test_names_of_older_files(pair: Pair, copy: Path) -> None:
    """The table of tokens under every name, names without their first part, computed tables."""
    weights = load_file(copy / FILE)
    table = weights.pop("model.shared.weight")
    names = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "shared.weight")
    weights |= {f"model.{name}": table.clone() for name in names}
    weights["lm_head.weight"] = table.clone()
    weights["model.encoder.version"] = torch.tensor([3.0])
    if pair.name == "marian":
        weights["model.encoder.embed_positions.weight"] = torch.zeros(CONTEXT, 40)
    bare = {name.removeprefix("model."): tensor for name, tensor in weights.items()}
    for several in (weights, bare):
        save_file(several, copy / FILE)
        found = kept.LLM(copy).model
        assert found.num_parameters == pair.model.num_parameters
        assert torch.equal(logits(found), logits(pair.model))


@pytest.mark.parametrize("pair", ["bart"], indirect=True)
def test_a_bias_of_logits_that_files_leave_out_is_zero(
    pair: Pair, copy: Path, backend: str
) -> None:
    weights = load_file(copy / FILE)
    bias = weights.pop("final_logits_bias")
    save_file(weights, copy / FILE)
    for dtype, close in (("float32", 1e-4), ("bfloat16", 0.2)):
        found = logits(kept.LLM(copy, dtype=dtype).model)
        wanted = logits(kept.LLM(pair.folder, dtype=dtype).model) - bias
        torch.testing.assert_close(found, wanted, rtol=0.0, atol=close)
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "architectures": ["BartModel"]}))
    assert logits(kept.LLM(copy).model).shape == (3, VOCAB)


@pytest.mark.parametrize("pair", ["bart"], indirect=True)
def test_tensors_that_do_not_fit(pair: Pair, copy: Path) -> None:
    weights = load_file(copy / FILE)
    places = "model.decoder.embed_positions.weight"
    for changed, message in (
        ({**weights, "final_logits_bias": torch.zeros(VOCAB)}, r"final_logits_bias is .*\(1, 97\)"),
        ({k: v for k, v in weights.items() if k != places}, f"Missing tensors: {places}"),
        ({**weights, places: weights[places][:-1].clone()}, f"max_position_embeddings={CONTEXT}"),
        ({**weights, "model.decoder.layer_norm.weight": torch.ones(40)}, "Unexpected tensors"),
    ):
        save_file(changed, copy / FILE)
        with pytest.raises(WeightsError, match=message):
            kept.LLM(copy)


@pytest.mark.parametrize("side", ["encoder", "decoder"])
@pytest.mark.parametrize("pair", ["bart untied"], indirect=True)
def test_tables_of_tokens_that_differ(pair: Pair, copy: Path, side: str) -> None:
    """Which no field of config.json changes, so that the error names none to set."""
    name = f"model.{side}.embed_tokens.weight"
    save_file(load_file(copy / FILE) | {name: torch.ones(VOCAB, 40)}, copy / FILE)
    with pytest.raises(WeightsError, match=f"{name}.* one parameter.* once, whatever") as found:
        kept.LLM(copy)
    assert "Set tie_word_embeddings" not in str(found.value)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model_type": "bart", "normalize_before": True}, "normalize_before = True.*only False"),
        ({"model_type": "mbart", "add_final_layer_norm": False}, "add_final_layer_norm = False"),
        ({"model_type": "marian", "decoder_vocab_size": 9}, "decoder_vocab_size = 9.*of their own"),
        (
            {"model_type": "marian", "share_encoder_decoder_embeddings": False},
            "share_encoder_decoder_embeddings = False",
        ),
        ({"model_type": "pegasus", "activation_function": "mish"}, "activation_function = 'mish'"),
        ({"model_type": "nllb-moe"}, "'nllb-moe', some of whose layers are experts"),
        ({"model_type": "pegasus_x"}, "'pegasus_x', whose encoder attends blocks"),
        ({"model_type": "bart", "architectures": ["BartForCausalLM"]}, "BartForCausalLM"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)
def test_configs_that_are_not_run(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UnsupportedModelError, match=message):
        build_model(fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"decoder_attention_heads": 7}, "d_model = 1024, which decoder_attention_heads = 7 does"),
        ({"decoder_start_token_id": 999_999}, "decoder_start_token_id = 999999"),
        ({"max_position_embeddings": 0}, "max_position_embeddings = 0"),
    ],
)
def test_configs_that_are_wrong(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        build_model({"model_type": "m2m_100", **fields})


def test_what_the_models_refuse(made: Callable[[str], Pair]) -> None:
    llm, new = made("mbart").llm, draw(2, 1)
    for call, error, message in (
        (lambda: llm.model(draw(2, 4)), OptionError, "decoder_input_ids is missing"),
        (lambda: llm.chat([{"role": "user", "content": "x"}]), OptionError, "encoder-decoder"),
        (lambda: llm.model(draw(1, 4), decoder_input_ids=new), OptionError, "needs both"),
    ):
        with pytest.raises(error, match=message):
            call()
