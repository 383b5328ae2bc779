"""Tiny random T5 checkpoints, and what transformers makes of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import T5Config, T5ForConditionalGeneration

import kept

from .generation import upto_eos

VOCAB, START = 97, 0
BASE = {
    "vocab_size": VOCAB,
    "d_model": 40,
    "d_kv": 12,
    "d_ff": 56,
    "num_layers": 3,
    "num_decoder_layers": 2,
    "num_heads": 3,
    "relative_attention_num_buckets": 10,
    "relative_attention_max_distance": 17,
    "decoder_start_token_id": START,
    "eos_token_id": None,
}
_V11 = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
T5S: Mapping[str, Mapping[str, Any]] = {
    "v1.0": {},
    "v1.1": _V11,
    "v1.1 silu": {**_V11, "feed_forward_proj": "gated-silu", "layer_norm_epsilon": 1e-2},
    "v1.0 gelu": {"feed_forward_proj": "gelu", "num_decoder_layers": 4},
    "one head": {"num_heads": 1, "d_kv": 33, "relative_attention_num_buckets": 7},
    "wide buckets": {"relative_attention_num_buckets": 32, "relative_attention_max_distance": 128},
}


@dataclass(frozen=True)
class Pair:
    """One checkpoint in both."""

    name: str
    folder: Path
    hf: T5ForConditionalGeneration
    llm: kept.LLM

    @property
    def model(self) -> Any:
        """kept's model."""
        return self.llm.model


def make_hf(name: str) -> T5ForConditionalGeneration:
    """transformers' model, seeded by its name, in eval mode, eager attention."""
    config = T5Config(**{**BASE, **T5S[name]})
    config._attn_implementation = "eager"
    hf = T5ForConditionalGeneration(config)
    if not config.scale_decoder_outputs:
        hf.lm_head.weight = torch.nn.Parameter(torch.empty_like(hf.lm_head.weight))
    generator = torch.Generator().manual_seed(sum(name.encode()))
    with torch.no_grad():
        for parameter_name, parameter in hf.named_parameters():
            centre = 1.0 if "norm" in parameter_name else 0.0
            # Scores are not scaled, so that queries have to be small for soft attention.
            width = 0.06 if parameter_name.endswith(".q.weight") else 0.25
            parameter.copy_(centre + width * torch.randn(parameter.shape, generator=generator))
            if "relative_attention_bias" in parameter_name:
                parameter.mul_(4)
            if config.scale_decoder_outputs and parameter_name == "shared.weight":
                parameter.mul_(4)
    return hf.eval()


def draw(*shape: int, seed: int = 3) -> Tensor:
    """Random token ids."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(2, VOCAB, shape, generator=generator)


def hf_generate(pair: Pair, prompt: Sequence[int], **options: Any) -> list[tuple[int, ...]]:
    """The new tokens of each returned sequence, the end-of-sequence token included.

    Where the decoder is deeper than the encoder transformers' own cache is too short, so without.
    """
    ids = torch.tensor([list(prompt)])
    eos = options.get("eos_token_id") or ()
    eos = (eos,) if isinstance(eos, int) else tuple(eos)
    rows = pair.hf.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        pad_token_id=START,
        use_cache=pair.hf.config.num_decoder_layers <= pair.hf.config.num_layers,
        **{"do_sample": False, "max_new_tokens": 24, **options},
    )
    return [upto_eos(row[1:].tolist(), eos) for row in rows]


def prompts() -> list[list[int]]:
    return [draw(n, seed=n).tolist() for n in (9, 1, 21)]


def pad(rows: list[Tensor], begins: list[int], width: int) -> tuple[Tensor, Tensor]:
    ids, mask = torch.full((len(rows), width), 5), torch.zeros(len(rows), width, dtype=torch.int64)
    for row, (tokens, begin) in enumerate(zip(rows, begins, strict=True)):
        ids[row, begin : begin + len(tokens)], mask[row, begin : begin + len(tokens)] = tokens, 1
    return ids, mask
