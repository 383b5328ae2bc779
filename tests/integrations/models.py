"""Tiny random models of transformers, and how they are run."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import DynamicCache

VOCABULARY = 67
WINDOW = 6
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 12,
    "max_position_embeddings": 256,
    # Of no token that random weights are likely to choose: texts have the length asked for.
    "bos_token_id": 1,
    "eos_token_id": VOCABULARY - 1,
    "pad_token_id": 0,
}
HYBRID = ["sliding_attention", "full_attention", "sliding_attention"]
FAMILIES: dict[str, dict[str, Any]] = {
    "gpt2": {
        "vocab_size": VOCABULARY,
        "n_embd": 32,
        "n_layer": 3,
        "n_head": 4,
        "n_positions": 256,
        "bos_token_id": 1,
        "eos_token_id": VOCABULARY - 1,
        "tie_word_embeddings": False,
    },
    "llama": SIZES,
    "mistral": {**SIZES, "sliding_window": WINDOW},
    "gemma2": {
        **SIZES,
        "sliding_window": WINDOW,
        "layer_types": HYBRID,
        "query_pre_attn_scalar": 12,
        "attn_logit_softcapping": 3.0,
        "tie_word_embeddings": False,
    },
    "gemma3_text": {
        **SIZES,
        "sliding_window": WINDOW,
        "layer_types": HYBRID,
        "query_pre_attn_scalar": 12,
        "tie_word_embeddings": False,
    },
    "qwen3": SIZES,
}
T5 = {
    "vocab_size": VOCABULARY,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 40,
    "num_layers": 2,
    "num_decoder_layers": 3,
    "num_heads": 4,
    "decoder_start_token_id": 0,
    "pad_token_id": 0,
    "eos_token_id": VOCABULARY - 1,
    "tie_word_embeddings": False,
}


@lru_cache
def decoder(family: str, attention: str = "eager", **overrides: Any) -> Any:
    """The same weights for every attention."""
    config = transformers.AutoConfig.for_model(family, **{**FAMILIES[family], **overrides})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation=attention)
        _spread(model)
    return model.eval()


@lru_cache
def t5(**overrides: Any) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        config = transformers.T5Config(**{**T5, **overrides})
        model = transformers.T5ForConditionalGeneration(config)
        _spread(model, 0.12)
    return model.eval()


def _spread(model: Any, std: float = 0.25) -> None:
    """As initialised, a model would attend alike everywhere and repeat one token."""
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=std)


def prompt(batch: int = 1, length: int = 9, seed: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(2, VOCABULARY - 1, (batch, length), generator=generator)


def padded(*lengths: int) -> tuple[Tensor, Tensor]:
    """Prompts padded on the left to the longest, and their mask."""
    ids = prompt(len(lengths), max(lengths))
    places = torch.arange(max(lengths))
    mask = (places >= max(lengths) - torch.tensor(lengths)[:, None]).long()
    return ids * mask, mask


def generate(
    model: Any, cache: Any, ids: Tensor, mask: Tensor | None = None, **options: Any
) -> Any:
    options = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0, **options}
    mask = torch.ones_like(ids) if mask is None else mask
    torch.manual_seed(5)
    return model.generate(ids, attention_mask=mask, past_key_values=cache, **options)


@torch.no_grad()
def logits(model: Any, cache: Any, ids: Tensor, mask: Tensor | None = None) -> Tensor:
    """(B, T, V) of one pass over new ids."""
    found: Tensor = model(input_ids=ids, attention_mask=mask, past_key_values=cache).logits
    return found


def theirs(model: Any) -> DynamicCache:
    return DynamicCache(config=model.config)
