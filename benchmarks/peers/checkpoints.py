"""Writes the checkpoints that all peers are measured on: random weights of published shapes.

    python benchmarks/peers/checkpoints.py FOLDER

makes, under FOLDER/models, gpt2 (GPT-2, 124 M, fp32), qwen05 (Qwen2.5-0.5B, 494 M, bf16) and
qwen3moe (Qwen3-30B-A3B at a twentieth of its parameters, 1.5 B, bf16). How fast a model runs does
not depend on its values. The tokenizer is that of kept's bundled model, with a name for each
further id, so that servers have something to say of every token.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import kept
from kept.bench.random_weights import random_model, save_checkpoint
from kept.bench.shapes import shape_config
from kept.models import resolve_dtype

CHECKPOINTS = {"gpt2": "gpt2", "qwen05": "qwen2.5-0.5b", "qwen3moe": "qwen3-30b-a3b-small"}
BUNDLED = Path(kept.__file__).parent / "bundled"
EXTRA = {"bos_token_id": 0, "eos_token_id": 0}
# Names under which exporters look for what config.json says under another.
ALIASES = {"dtype": "torch_dtype", "n_positions": "n_ctx"}


def write(name: str, shape: str, models: Path) -> None:
    """One checkpoint; one that is there already stays as it is."""
    folder = models / name
    if (folder / "config.json").exists():
        print(f"{folder} is there already")
        return
    config = {**shape_config(shape), **EXTRA}
    config |= {alias: config[field] for field, alias in ALIASES.items() if field in config}
    folder.mkdir(parents=True, exist_ok=True)
    model = random_model(config, resolve_dtype(None, config), seed=0)
    save_checkpoint(model, config, folder)
    write_tokenizer(folder, config["vocab_size"])
    print(f"{folder}: {model.num_parameters / 1e6:.1f} M parameters")


def write_tokenizer(folder: Path, size: int) -> None:
    """The bundled model's, in which ids up to `size` that it has no text for are `[unusedID]`."""
    tokenizer = json.loads((BUNDLED / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary |= {f"[unused{i}]": i for i in range(len(vocabulary), size)}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    described = json.loads((BUNDLED / "tokenizer_config.json").read_text(encoding="utf-8"))
    described["tokenizer_class"] = "PreTrainedTokenizerFast"
    (folder / "tokenizer_config.json").write_text(json.dumps(described), encoding="utf-8")


def main() -> None:
    """Write all of them."""
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    for name, shape in CHECKPOINTS.items():
        write(name, shape, Path(sys.argv[1]) / "models")


if __name__ == "__main__":
    main()
