"""Models out of GGUF files: what the same model gives out of a folder, and transformers out of the
same file."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf_files import Blocks, quantized, random_blocks, write_gguf
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

from kept import LLM, CheckpointError, UnsupportedModelError, WeightsError
from kept.models.native import matrices
from kept.ops.backend import say_once

from .families import FAMILIES
from .generation import prompts
from .zoo import make_hf

# Blocks have 32 or 256 weights.
WIDE = {"hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 1}
PLAIN = (
    "gemma2",
    "gemma3",
    "gemma3 linear",
    "gpt_oss",
    "llama",
    "llama attention bias",
    "llama linear",
    "llama llama3",
    "llama tied",
    "llama wide heads",
    "llama yarn",
    "mistral",
    "mixtral",
    "qwen2",
    "qwen2_moe",
    "qwen3",
    "qwen3_moe",
)
PHI = [name for name in FAMILIES if name.startswith("phi3")]
# What no file says, as llama.cpp has it: a Gemma's scores, its windows and its local base.
AS_LLAMA_CPP: dict[str, dict[str, Any]] = {
    "gemma2": {"query_pre_attn_scalar": 12},
    "gemma3": {"query_pre_attn_scalar": 12, "sliding_window_pattern": 6, "num_hidden_layers": 7},
    "gemma3 linear": {
        "query_pre_attn_scalar": 12,
        "sliding_window_pattern": 6,
        "num_hidden_layers": 7,
        "rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 5000.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
        },
    },
    # Every layer holds experts.
    "qwen2_moe": {"decoder_sparse_step": 1, "mlp_only_layers": [], "norm_topk_prob": False},
    "llama llama3": {
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 1000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 2048,
        },
        "head_dim": 64,
    },
}


@torch.no_grad()
def logits(llm: LLM) -> torch.Tensor:
    return llm.model(torch.tensor(prompts(24))).logits


@torch.no_grad()
@pytest.mark.parametrize("name", [*PLAIN, *PHI])
def test_a_model_is_what_it_is_in_a_folder(name: str, tmp_path: Path, backend: str) -> None:
    hf = make_hf(name, **AS_LLAMA_CPP.get(name, {}))
    path = write_gguf(tmp_path / "model.gguf", hf)
    llm = LLM(path)
    assert llm.model.dtype == torch.float32
    assert (llm.model.native is None) == (backend == "reference")
    expected = hf(torch.tensor(prompts(24))).logits
    torch.testing.assert_close(logits(llm), expected, rtol=0, atol=1e-4)
    if "gemma" not in name:  # whose norms are stored as another number
        hf.save_pretrained(tmp_path / "folder")
        assert torch.equal(logits(llm), logits(LLM(tmp_path / "folder")))


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "store"),
    [
        ("llama", quantized("Q8_0")),
        ("llama", random_blocks("Q4_K")),
        ("qwen2", quantized("Q4_0")),
        ("qwen3", random_blocks("Q6_K")),
        ("gemma2", quantized("F16")),
        ("gemma3", quantized("BF16")),
        ("gemma3", random_blocks("Q5_K")),
    ],
)
def test_blocks_are_what_transformers_reads(name: str, store: Blocks, tmp_path: Path) -> None:
    heads = {"head_dim": 256, "query_pre_attn_scalar": 256} if "gemma" in name else {}
    hf = make_hf(name, **WIDE, **{"head_dim": 64, "num_attention_heads": 4, **heads})
    path = write_gguf(tmp_path / "model.gguf", hf, store)
    # What `from_pretrained(gguf_file=...)` loads, which itself asks for accelerate.
    read = load_gguf_checkpoint(str(path), return_tensors=True, model_to_load=hf)["tensors"]
    unread = hf.load_state_dict(read, strict=False)
    assert not unread.unexpected_keys
    assert set(unread.missing_keys) <= {"lm_head.weight"}
    hf.tie_weights()
    expected = hf(torch.tensor(prompts(24))).logits
    # Blocks that are drawn at random make logits of hundreds, which fp32 itself rounds by 3e-5.
    torch.testing.assert_close(logits(LLM(path, dtype="float32")), expected, rtol=2e-6, atol=2e-4)


@torch.no_grad()
def test_experts_in_mxfp4_stay_as_they_are(tmp_path: Path, backend: str) -> None:
    sizes = {"hidden_size": 64, "intermediate_size": 64, "head_dim": 16}
    path = write_gguf(tmp_path / "m.gguf", make_hf("gpt_oss", **sizes), random_blocks("MXFP4"))
    llm, exact = LLM(path), LLM(path, dtype="float32")
    assert llm.model.dtype == torch.bfloat16
    assert (logits(llm) - logits(exact)).norm() < 0.05 * logits(exact).norm()
    checkpoint = llm.checkpoint
    for name in ("model.layers.1.mlp.experts.2.up_proj.weight", "lm_head.weight"):
        coded = checkpoint.coded(name)
        assert coded is not None
        assert torch.equal(coded.numbers(torch.float32), checkpoint.read(name))
    assert logits(LLM(path, quantize="int8")).isfinite().all()


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "type"), [("llama", "Q8_0"), ("qwen2", "Q4_0"), ("mixtral", "Q8_0")]
)
def test_blocks_stay_as_they_are(
    name: str, type: str, tmp_path: Path, backend: str, caplog: pytest.LogCaptureFixture
) -> None:
    heads = {"head_dim": 64, "num_attention_heads": 4, "num_key_value_heads": 2}
    path = write_gguf(tmp_path / "m.gguf", make_hf(name, **WIDE, **heads), quantized(type))
    say_once.cache_clear()
    with caplog.at_level(logging.WARNING, "kept"):
        llm = LLM(path)
    assert not [record for record in caplog.records if "int8" in record.message]
    exact, rounded = LLM(path, dtype="float32"), LLM(path, quantize="int4")
    expected, near = logits(exact), (logits(llm) - logits(exact)).norm()
    assert near < (logits(rounded) - expected).norm() / 2
    assert near < 0.1 * expected.norm()
    held, numbers = (
        [modules[0].weight for modules in matrices(each.model)] for each in (llm, exact)
    )
    if backend == "reference":
        assert all(torch.equal(x, y.bfloat16()) for x, y in zip(held, numbers, strict=True))
        return
    assert {x.format for x in held} == {type.lower()}
    assert all(torch.equal(x.unpack(), y.unpack()) for x, y in zip(held, numbers, strict=True))


@torch.no_grad()
def test_what_no_panel_holds_becomes_int8_beside_what_stays(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def store(numbers: np.ndarray) -> tuple[np.ndarray, gguf.GGMLQuantizationType]:
        # Of keys and values 128 rows, which one matrix holds beside the queries'.
        return quantized("Q5_0" if len(numbers) == 128 else "Q4_0")(numbers)

    hf = make_hf("llama", **WIDE, head_dim=64, num_attention_heads=4, num_key_value_heads=2)
    path = write_gguf(tmp_path / "m.gguf", hf, store)
    say_once.cache_clear()
    with caplog.at_level(logging.WARNING, "kept"):
        llm = LLM(path)
    said = "holds Q4_0, Q5_0 (4.6 bits a weight), of which Q4_0 stays as it is and the rest"
    assert any(said in record.message for record in caplog.records), caplog.text
    if llm.model.native is not None:
        formats = {x[0].weight.format for x in matrices(llm.model)}
        assert formats == {"q4_0", "int8"}
    assert logits(llm).isfinite().all()


def llama(path: Path, store: Blocks | None) -> Path:
    return write_gguf(path, make_hf("llama", **WIDE, num_attention_heads=4), store)


def test_blocks_become_int8_where_nobody_says_what(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = llama(tmp_path / "model.gguf", random_blocks("Q4_K"))
    say_once.cache_clear()
    with caplog.at_level(logging.WARNING, "kept"):
        llm, again = LLM(path), LLM(path)
    lines = [record.message for record in caplog.records if "int8" in record.message]
    assert len(lines) == 1, lines
    assert f"{path} holds Q4_K (4.5 bits a weight), which becomes int8" in lines[0]
    exact = logits(LLM(path, dtype="float32"))
    assert torch.equal(logits(llm), logits(LLM(path, quantize="int8")))
    assert torch.equal(logits(llm), logits(again))
    by_format = {q: (logits(LLM(path, quantize=q)) - exact).norm() for q in ("int8", "int4")}
    assert 0 < by_format["int8"] < by_format["int4"] / 4 < exact.norm() / 4
    rounded = (logits(LLM(path, dtype="bfloat16")) - exact).norm()
    assert 0 < rounded < by_format["int4"]


def test_a_plain_file_keeps_its_dtype(tmp_path: Path) -> None:
    for type, dtype in (("F16", torch.bfloat16), ("BF16", torch.bfloat16), ("F32", torch.float32)):
        path = llama(tmp_path / f"{type}.gguf", quantized(type))
        llm = LLM(path)
        assert llm.model.dtype == dtype
        assert llm.checkpoint.stored_as is None


def test_a_model_in_shards_is_one(tmp_path: Path) -> None:
    whole = llama(tmp_path / "model.gguf", quantized("Q8_0"))
    reader = gguf.GGUFReader(whole)
    for part in (0, 1):
        path = tmp_path / f"part-0000{part + 1}-of-00002.gguf"
        writer = gguf.GGUFWriter(path, "llama")
        for key, field in reader.fields.items():
            if part == 0 and not key.startswith(("GGUF.", "general.architecture")):
                writer.add_key_value(key, field.contents(), field.types[0])
        writer.add_uint16("split.count", 2)
        for tensor in reader.tensors[part::2]:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    for first in (1, 2):
        llm = LLM(tmp_path / f"part-0000{first}-of-00002.gguf", dtype="float32")
        assert torch.equal(logits(llm), logits(LLM(whole, dtype="float32")))
    (tmp_path / "part-00002-of-00002.gguf").unlink()
    with pytest.raises(FileNotFoundError, match="of which 1 are not there: part-00002"):
        LLM(tmp_path / "part-00001-of-00002.gguf")


def test_what_kept_does_not_run_is_named(tmp_path: Path) -> None:
    hf = make_hf("llama")
    path = write_gguf(
        tmp_path / "a.gguf", hf, more=lambda w: w.add_string("general.architecture", "rwkv9")
    )
    with pytest.raises(UnsupportedModelError, match=r"architecture 'rwkv9'.*kept runs gemma"):
        LLM(path)
    qwen = make_hf("qwen3")
    path = write_gguf(tmp_path / "b.gguf", qwen, more=lambda w: w.add_expert_count(8))
    with pytest.raises(UnsupportedModelError, match="expert_count = 8"):
        LLM(path)
    longrope = gguf.RopeScalingType.LONGROPE
    path = write_gguf(tmp_path / "c.gguf", hf, more=lambda w: w.add_rope_scaling_type(longrope))
    with pytest.raises(UnsupportedModelError, match=r"rope.scaling.type = 'longrope'"):
        LLM(path)


def test_tensors_that_are_there_twice_or_by_halves(tmp_path: Path) -> None:
    zeros = np.zeros(48, np.float32)
    path = write_gguf(
        tmp_path / "a.gguf",
        make_hf("llama"),
        more=lambda w: w.add_tensor("model.norm.weight", zeros),
    )
    with pytest.raises(WeightsError, match=r"holds 'model.norm.weight' twice, as .*output_norm"):
        LLM(path)
    path = write_gguf(tmp_path / "b.gguf", make_hf("phi3 long"))
    for one, other in (("long", "short"), ("short", "long")):
        name = f"rope_factors_{one}".encode()
        (tmp_path / "c.gguf").write_bytes(path.read_bytes().replace(name, b"x" * len(name)))
        with pytest.raises(
            WeightsError, match=rf"rope_factors_{other}.* and not rope_factors_{one}"
        ):
            LLM(tmp_path / "c.gguf")


def test_metadata_that_contradicts_itself_or_the_tensors(tmp_path: Path) -> None:
    """Nobody is sent to a config.json that a GGUF file does not have."""
    hf = make_hf("llama")
    path = write_gguf(tmp_path / "a.gguf", hf, more=lambda w: w.add_head_count_kv(4))
    with pytest.raises(CheckpointError, match=r"^a\.gguf, whose metadata is .*_heads = 4 does not"):
        LLM(path)
    path = write_gguf(tmp_path / "b.gguf", hf, more=lambda w: w.add_feed_forward_length(64))
    with pytest.raises(WeightsError, match=r"^The metadata, .*=64, .*Convert the model again\.$"):
        LLM(path)
    path = write_gguf(tmp_path / "c.gguf", hf, more=lambda w: w.add_block_count(3))
    with pytest.raises(
        WeightsError, match=r"its metadata describes\. Missing .*layers\.2.*convert"
    ):
        LLM(path)


def test_a_file_that_is_cut_after_it_was_opened_is_an_error(tmp_path: Path) -> None:
    from kept.models import load_model, open_checkpoint

    path = llama(tmp_path / "model.gguf", quantized("Q8_0"))
    checkpoint = open_checkpoint(path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(WeightsError, match="has become shorter since"):
        load_model(checkpoint)
    with pytest.raises(WeightsError, match="is too far"):
        open_checkpoint(path)
