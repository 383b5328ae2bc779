"""Write the bundled model: an ordinary Hugging Face folder of bf16 safetensors.

    python training/export.py

Nothing here needs transformers; `tests/unit/test_bundled.py` checks that transformers reads it.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import checkpoint
import torch
from model import Llama
from safetensors.torch import save_file
from tokenizer import RUNS, tokenizer_config
from tokenizers import Tokenizer

BUNDLED = Path(__file__).resolve().parents[1] / "src" / "kept" / "bundled"
MAX_BYTES = 12_000_000


def model_config(model: Llama) -> dict[str, object]:
    """The fields of `config.json`; the separator, token 0, begins and ends every document."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        **model.shape.as_dict(),
        "hidden_act": "silu",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "mlp_bias": False,
        "initializer_range": 0.02,
        "rope_scaling": None,
        "rope_parameters": {"rope_type": "default", "rope_theta": model.shape.rope_theta},
        "tie_word_embeddings": True,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "pad_token_id": 0,
        "dtype": "bfloat16",
        "torch_dtype": "bfloat16",
        "use_cache": True,
    }


def write_json(path: Path, content: dict[str, object]) -> None:
    """Write indented UTF-8 JSON with a final newline."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def export(run: Path, tokenizer_folder: Path, out: Path) -> int:
    """Write the folder from a checkpoint and return its size in bytes.

    Raises `ValueError` if the folder would be larger than a package should carry.
    """
    model = checkpoint.load_model(run)
    out.mkdir(parents=True, exist_ok=True)
    weights = {n: p.detach().to(torch.bfloat16).contiguous() for n, p in model.named_parameters()}
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    write_json(out / "config.json", model_config(model))
    generation: dict[str, object] = {
        "bos_token_id": 0,
        "eos_token_id": 0,
        "pad_token_id": 0,
        "do_sample": False,
        # Left to itself so small a model soon says one line for ever.
        "repetition_penalty": 1.3,
    }
    write_json(out / "generation_config.json", generation)
    # Read once so that a damaged tokenizer stops the export rather than the user.
    Tokenizer.from_file(str(tokenizer_folder / "tokenizer.json"))
    shutil.copyfile(tokenizer_folder / "tokenizer.json", out / "tokenizer.json")
    write_json(out / "tokenizer_config.json", tokenizer_config())
    for file in out.iterdir():
        file.chmod(0o644)
    size = sum(file.stat().st_size for file in out.iterdir() if file.is_file())
    if size > MAX_BYTES:
        raise ValueError(f"{out} holds {size:,} bytes; the package carries at most {MAX_BYTES:,}")
    return size


def main() -> None:
    """Export a checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, default=RUNS / "main", help="checkpoint folder")
    parser.add_argument("--tokenizer", type=Path, default=RUNS / "tokenizer")
    parser.add_argument("--out", type=Path, default=BUNDLED)
    arguments = parser.parse_args()
    size = export(arguments.run, arguments.tokenizer, arguments.out)
    print(f"{arguments.out}: {size:,} bytes")


if __name__ == "__main__":
    main()
