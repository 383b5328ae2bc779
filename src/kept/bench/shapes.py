"""The shapes of well-known models, as their published config.json gives them.

One is a published one made smaller, and says so. Enough to build the model and fill it with random
weights: how fast a step is depends on the shape and not on the values, so nothing need be
downloaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from kept.bench.shape_families import (
    Config,
    deepseek_v2,
    gemma,
    gemma3,
    gpt2,
    llama,
    llama3,
    llama_like,
    qwen2,
    qwen3,
    qwen3_moe,
    smollm2,
)
from kept.errors import OptionError

SHAPES: Final[Mapping[str, Config]] = MappingProxyType(
    {
        "gpt2": gpt2(12, 768, 12),
        "gpt2-medium": gpt2(24, 1024, 16),
        "gpt2-large": gpt2(36, 1280, 20),
        "gpt2-xl": gpt2(48, 1600, 25),
        "gemma-2-2b": gemma(
            "gemma2",
            "Gemma2ForCausalLM",
            vocab=256000,
            width=2304,
            mlp=9216,
            layers=26,
            heads=(8, 4),
            context=8192,
            theta=10000.0,
            sliding_window=4096,
            attn_logit_softcapping=50.0,
            final_logit_softcapping=30.0,
        ),
        "gemma-3-270m": gemma3(width=640, mlp=2048, layers=18),
        "gemma-3-1b": gemma3(width=1152, mlp=6912, layers=26),
        "smollm2-135m": smollm2(width=576, mlp=1536, layers=30, heads=(9, 3), theta=100000.0),
        "smollm2-360m": smollm2(width=960, mlp=2560, layers=32, heads=(15, 5), theta=100000.0),
        "smollm2-1.7b": smollm2(width=2048, mlp=8192, layers=24, heads=(32, 32), theta=130000.0),
        "qwen2.5-0.5b": qwen2(
            vocab=151936, width=896, mlp=4864, layers=24, heads=(14, 2), context=32768, tied=True
        ),
        "qwen2.5-1.5b": qwen2(
            vocab=151936, width=1536, mlp=8960, layers=28, heads=(12, 2), context=131072, tied=True
        ),
        "qwen2.5-7b": qwen2(
            vocab=152064,
            width=3584,
            mlp=18944,
            layers=28,
            heads=(28, 4),
            context=131072,
            tied=False,
        ),
        "qwen3-0.6b": qwen3(width=1024, mlp=3072, layers=28, heads=(16, 8), tied=True),
        "qwen3-1.7b": qwen3(width=2048, mlp=6144, layers=28, heads=(16, 8), tied=True),
        "qwen3-30b-a3b": qwen3_moe(
            vocab=151936, width=2048, mlp=6144, layers=48, heads=(32, 4), experts=768, tied=False
        ),
        # Its proportions at a twentieth of the parameters, for machines that cannot hold it: 1.5
        # billion of which a token meets 0.2.
        "qwen3-30b-a3b-small": qwen3_moe(
            vocab=32768, width=1024, mlp=3072, layers=14, heads=(16, 2), experts=256, tied=True
        ),
        "deepseek-v2-lite": deepseek_v2(
            vocab=102400,
            width=2048,
            mlp=10944,
            layers=27,
            heads=(16, 16),
            experts=1408,
            num_experts=64,
            n_shared_experts=2,
            num_experts_per_tok=6,
            q_lora_rank=None,
            routed_scaling_factor=1.0,
            tied=False,
        ),
        "llama-3.2-1b": llama3(
            width=2048, mlp=8192, layers=16, heads=(32, 8), tied=True, rope_factor=32.0, head_dim=64
        ),
        "llama-3.2-3b": llama3(
            width=3072,
            mlp=8192,
            layers=28,
            heads=(24, 8),
            tied=True,
            rope_factor=32.0,
            head_dim=128,
        ),
        "llama-3.1-8b": llama3(
            width=4096, mlp=14336, layers=32, heads=(32, 8), tied=False, rope_factor=8.0
        ),
        "llama-2-7b": llama(
            vocab=32000,
            width=4096,
            mlp=11008,
            layers=32,
            heads=(32, 32),
            context=4096,
            theta=10000.0,
            tied=False,
            dtype="float16",
        ),
        "mixtral-8x7b-v0.1": llama_like(
            "mixtral",
            "MixtralForCausalLM",
            vocab=32000,
            width=4096,
            mlp=14336,
            layers=32,
            heads=(32, 8),
            context=32768,
            theta=1e6,
            tied=False,
            sliding_window=None,
            num_local_experts=8,
            num_experts_per_tok=2,
        ),
        "mistral-7b-v0.1": llama_like(
            "mistral",
            "MistralForCausalLM",
            vocab=32000,
            width=4096,
            mlp=14336,
            layers=32,
            heads=(32, 8),
            context=32768,
            theta=10000.0,
            tied=False,
            sliding_window=4096,
        ),
    }
)


def shape_config(name: str) -> Config:
    """The config.json of a known shape. Raises OptionError that lists the known ones."""
    if name not in SHAPES:
        raise OptionError(f"no shape is called {name!r}; there are {', '.join(SHAPES)}")
    return SHAPES[name]
