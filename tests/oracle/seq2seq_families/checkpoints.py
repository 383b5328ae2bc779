"""Tiny random checkpoints of BART and its kin, and what transformers makes of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    M2M100Config,
    M2M100ForConditionalGeneration,
    MarianConfig,
    MarianMTModel,
    MBartConfig,
    MBartForConditionalGeneration,
    PegasusConfig,
    PegasusForConditionalGeneration,
)

import kept

from ..generation import upto_eos
from ..seq2seq import pad

VOCAB, CONTEXT, PAD, START = 97, 160, 1, 2
BASE = {
    "vocab_size": VOCAB,
    "d_model": 40,
    "encoder_layers": 3,
    "decoder_layers": 2,
    "encoder_attention_heads": 5,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 56,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": CONTEXT,
    "pad_token_id": PAD,
    "bos_token_id": 0,
    "decoder_start_token_id": START,
    "eos_token_id": None,
    "forced_eos_token_id": None,
}
# For texts that are compared: transformers gives a padding token within a text of M2M-100 no place,
# and counts the tokens behind it anew where it reads them without a cache.
NO_PADDING = {"suppress_tokens": [PAD, 5]}
Classes = tuple[type[Any], type[Any]]
_BART: Classes = (BartConfig, BartForConditionalGeneration)
_MBART: Classes = (MBartConfig, MBartForConditionalGeneration)
_MARIAN: Classes = (MarianConfig, MarianMTModel)
_PEGASUS: Classes = (PegasusConfig, PegasusForConditionalGeneration)
_M2M_100: Classes = (M2M100Config, M2M100ForConditionalGeneration)

# One of each family, as the best known checkpoints of it set what can be set.
FAMILIES: Mapping[str, tuple[Classes, Mapping[str, Any]]] = {
    "bart": (_BART, {}),
    "mbart": (_MBART, {"scale_embedding": True}),
    "marian": (_MARIAN, {"scale_embedding": True, "activation_function": "swish"}),
    "pegasus": (_PEGASUS, {"scale_embedding": True, "activation_function": "relu"}),
    "m2m_100": (_M2M_100, {}),
}
# And what others set.
CONFIGS: Mapping[str, tuple[Classes, Mapping[str, Any]]] = {
    **FAMILIES,
    "bart scaled": (_BART, {"scale_embedding": True, "activation_function": "gelu_new"}),
    "bart untied": (_BART, {"tie_word_embeddings": False}),
    "bart of one layer": (_BART, {"encoder_layers": 1, "decoder_layers": 1}),
    "marian of odd width": (
        _MARIAN,
        {"d_model": 45, "decoder_attention_heads": 3, "decoder_layers": 3},
    ),
    "m2m_100 of odd width": (
        _M2M_100,
        {"d_model": 45, "decoder_attention_heads": 9, "scale_embedding": False, "pad_token_id": 5},
    ),
}


@dataclass(frozen=True)
class Pair:
    """One checkpoint in both."""

    name: str
    folder: Path
    hf: Any
    llm: kept.LLM

    @property
    def model(self) -> Any:
        """kept's model."""
        return self.llm.model


def make_hf(name: str) -> Any:
    """transformers' model, seeded by its name, in eval mode, eager attention."""
    (config_class, model_class), more = CONFIGS[name]
    config = config_class(**{**BASE, **more})
    config._attn_implementation = "eager"
    hf = model_class(config)
    if not config.tie_word_embeddings:  # which unties the tables of tokens too; files have one
        for side in (hf.model.encoder, hf.model.decoder):
            side.embed_tokens.weight = hf.model.shared.weight
    generator = torch.Generator().manual_seed(sum(name.encode()))
    computed = "embed_positions" if config.model_type in ("marian", "pegasus") else "no table"
    with torch.no_grad():
        for parameter_name, parameter in hf.named_parameters():
            if computed in parameter_name:
                continue
            centre = 1.0 if "norm" in parameter_name and parameter_name.endswith("weight") else 0.0
            parameter.copy_(centre + 0.25 * torch.randn(parameter.shape, generator=generator))
        if config.model_type != "m2m_100":
            hf.final_logits_bias.copy_(torch.randn(1, VOCAB, generator=generator))
    # Whatever a class sets by itself stands in generation_config.json where a test puts it.
    hf.generation_config.forced_eos_token_id = None
    assert isinstance(hf, nn.Module)
    return hf.eval()


def hf_generate(pair: Pair, prompt: Sequence[int], **options: Any) -> list[tuple[int, ...]]:
    """The new tokens of each returned sequence, the end-of-sequence token included.

    Where the decoder is deeper than the encoder transformers' own cache is too short, so without.
    """
    ids, config = torch.tensor([list(prompt)]), pair.hf.config
    eos = options.get("eos_token_id") or ()
    eos = (eos,) if isinstance(eos, int) else tuple(eos)
    rows = pair.hf.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        use_cache=config.decoder_layers <= config.encoder_layers,
        **{"do_sample": False, "max_new_tokens": 64, **NO_PADDING, **options},
    )
    return [upto_eos(row[1:].tolist(), eos) for row in rows]


def draw(*shape: int, seed: int = 3) -> torch.Tensor:
    """Random token ids, none of which is what a model may pad with."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(6, VOCAB, shape, generator=generator)


def prompts() -> list[list[int]]:
    return [draw(n, seed=n).tolist() for n in (9, 1, 21)]


def padded_prompts() -> tuple[torch.Tensor, torch.Tensor]:
    """They as a batch (B, S) that is padded on the right, and its mask."""
    rows = [torch.tensor(prompt) for prompt in prompts()]
    ids, mask = pad(rows, [0] * len(rows), max(map(len, rows)))
    return ids.masked_fill(mask == 0, PAD), mask


def hf_greedy(pair: Pair) -> list[tuple[int, ...]]:
    """64 tokens that transformers finds for the prompts as a padded batch, none of them twice."""
    if pair.name not in _GREEDY:
        ids, mask = padded_prompts()
        rows = pair.hf.generate(
            ids,
            attention_mask=mask,
            use_cache=pair.hf.config.decoder_layers <= pair.hf.config.encoder_layers,
            **{"do_sample": False, "max_new_tokens": 64, "no_repeat_ngram_size": 1, **NO_PADDING},
        )
        _GREEDY[pair.name] = [tuple(row[1:].tolist()) for row in rows]
    return _GREEDY[pair.name]


_GREEDY: dict[str, list[tuple[int, ...]]] = {}
