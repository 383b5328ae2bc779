"""Bits per byte on the held-out modules, beside `xz -9`, and a few greedy continuations.

    python training/evaluate.py src/kept/bundled
    python training/evaluate.py training/runs/main --tokenizer training/runs/tokenizer

Protocol: each held-out module is one document after a separator. Every token of it is scored once,
in windows of 2,048 tokens that advance by 1,024, so past the first window a token has at least
1,024 tokens before it. The nats of all tokens are added and divided by ln 2 and by the modules'
UTF-8 bytes. `xz -9` compresses the same modules joined into one stream, as the model sees one
module at a time but was trained on the others.
"""

from __future__ import annotations

import argparse
import json
import lzma
import math
from dataclasses import fields
from pathlib import Path

import checkpoint
import torch
from corpus import Module, read_modules, split
from data import encode_documents
from model import Llama, ModelShape
from safetensors.torch import load_file
from tokenizer import CONTEXT, END_OF_TEXT
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional as F

PROMPTS = (
    "def fibonacci(n):",
    "class Stack:\n",
    "import os\n",
    "class TestList(unittest.TestCase):\n    def test_append(self):\n",
    '    def __init__(self, name):\n        """Initialise',
)


def load_exported(folder: Path) -> Llama:
    """The model of a Hugging Face folder written by `export.py`, widened to fp32."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config |= config.get("rope_parameters", {})
    shape = ModelShape(**{field.name: config[field.name] for field in fields(ModelShape)})
    model = Llama(shape)
    stored = load_file(folder / "model.safetensors")
    model.load_state_dict({name: tensor.float() for name, tensor in stored.items()})
    return model


def load(folder: Path) -> Llama:
    """The model of an exported folder or of a training checkpoint."""
    return (
        checkpoint.load_model(folder) if (folder / "state.json").exists() else load_exported(folder)
    )


@torch.no_grad()
def document_nats(model: Llama, document: Tensor, context: int) -> float:
    """Negative log-likelihood of all tokens `(time,)` after the first, in nats.

    Windows of `context` tokens advance by half of it.
    """
    total, scored = 0.0, 1
    tokens = document.long()
    while scored < len(tokens):
        begin = 0 if scored == 1 else scored - context + context // 2
        window = tokens[begin : begin + context + 1]
        hidden = model.hidden(window[None, :-1])[0, scored - 1 - begin :]
        logits = F.linear(hidden, model.model.embed_tokens.weight)
        total += F.cross_entropy(logits, window[scored - begin :], reduction="sum").item()
        scored = begin + len(window)
    return total


def bits_per_byte(
    model: Llama, tokenizer: Tokenizer, modules: list[Module], context: int = CONTEXT
) -> float:
    """The figure the protocol above defines."""
    documents = encode_documents(tokenizer, [module.text for module in modules])
    nats = sum(document_nats(model, document, context) for document in documents)
    return nats / math.log(2) / sum(module.num_bytes for module in modules)


def xz_bits_per_byte(modules: list[Module]) -> float:
    """What `xz -9` needs for the modules joined together."""
    raw = "".join(module.text for module in modules).encode("utf-8")
    return 8 * len(lzma.compress(raw, preset=9)) / len(raw)


@torch.no_grad()
def continue_greedily(model: Llama, tokenizer: Tokenizer, prompt: str, new_tokens: int) -> str:
    """The prompt and its most likely continuation, up to the separator."""
    separator = tokenizer.encode(END_OF_TEXT).ids[0]
    tokens: list[int] = [separator, *tokenizer.encode(prompt).ids]
    for _ in range(new_tokens):
        logits = model(torch.tensor([tokens[-CONTEXT:]]))[0, -1]
        choice = int(logits.argmax())
        if choice == separator:
            break
        tokens.append(choice)
    return tokenizer.decode(tokens[1:])


def main() -> None:
    """Print the figures and the continuations."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, help="exported folder or training checkpoint")
    parser.add_argument("--tokenizer", type=Path, help="folder of tokenizer.json (the model's)")
    parser.add_argument("--every", type=int, default=1, help="score one held-out module in N")
    parser.add_argument("--context", type=int, default=CONTEXT, help="tokens per window")
    parser.add_argument("--new-tokens", type=int, default=96)
    arguments = parser.parse_args()
    tokenizer = Tokenizer.from_file(
        str((arguments.tokenizer or arguments.model) / "tokenizer.json")
    )
    model = load(arguments.model)
    _, held_out = split(read_modules())
    held_out = held_out[:: arguments.every]
    size = sum(module.num_bytes for module in held_out)
    print(f"{len(held_out)} held-out modules, {size:,} bytes")
    bits = bits_per_byte(model, tokenizer, held_out, arguments.context)
    print(f"model  {bits:.4f} bits per byte", flush=True)
    print(f"xz -9  {xz_bits_per_byte(held_out):.4f} bits per byte")
    for prompt in PROMPTS:
        print(f"{'-' * 40} {prompt!r}")
        print(continue_greedily(model, tokenizer, prompt, arguments.new_tokens))


if __name__ == "__main__":
    main()
