"""kept: text generation that never computes a key or a value twice."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from kept.errors import (
    BackendError,
    CacheError,
    CacheFullError,
    CheckpointError,
    CheckpointNotFoundError,
    ContextLengthError,
    EngineError,
    KeptError,
    KeptWarning,
    NoTokenError,
    OptionError,
    SamplingError,
    TemplateError,
    TokenizerError,
    UnsupportedFormatError,
    UnsupportedModelError,
    WeightsError,
)

if TYPE_CHECKING:
    from kept.cache import (
        Cache,
        EvictionPolicy,
        from_legacy,
        load_cache,
        make_cache,
        to_legacy,
    )
    from kept.engine import Completion, GenerationError, GenerationInterrupted
    from kept.llm import LLM, Stream
    from kept.models import (
        CausalLM,
        CausalLMOutput,
        EncoderDecoderLM,
        Seq2SeqLMOutput,
        quantize_checkpoint,
    )
    from kept.options import CacheOptions
    from kept.sampling import SamplingParams

__version__ = "0.1.0"

__all__ = [
    "LLM",
    "BackendError",
    "Cache",
    "CacheError",
    "CacheFullError",
    "CacheOptions",
    "CausalLM",
    "CausalLMOutput",
    "CheckpointError",
    "CheckpointNotFoundError",
    "Completion",
    "ContextLengthError",
    "EncoderDecoderLM",
    "EngineError",
    "EvictionPolicy",
    "GenerationError",
    "GenerationInterrupted",
    "Grammar",
    "KeptError",
    "KeptWarning",
    "NoTokenError",
    "Offloaded",
    "OptionError",
    "SamplingError",
    "SamplingParams",
    "Seq2SeqLMOutput",
    "Stream",
    "TemplateError",
    "TokenizerError",
    "UnsupportedFormatError",
    "UnsupportedModelError",
    "WeightsError",
    "from_legacy",
    "load_cache",
    "make_cache",
    "quantize_checkpoint",
    "to_legacy",
]

# What needs torch is imported when first asked for: torch takes seconds, `kept --help` should not.
_HOMES = {
    "LLM": "kept.llm",
    "Cache": "kept.cache",
    "CacheOptions": "kept.options",
    "CausalLM": "kept.models",
    "CausalLMOutput": "kept.models",
    "Completion": "kept.engine",
    "EncoderDecoderLM": "kept.models",
    "EvictionPolicy": "kept.cache",
    "GenerationError": "kept.engine",
    "GenerationInterrupted": "kept.engine",
    "Grammar": "kept.grammar",
    "Offloaded": "kept.cache",
    "SamplingParams": "kept.sampling",
    "Seq2SeqLMOutput": "kept.models",
    "Stream": "kept.llm",
    "from_legacy": "kept.cache",
    "load_cache": "kept.cache",
    "make_cache": "kept.cache",
    "quantize_checkpoint": "kept.models",
    "to_legacy": "kept.cache",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'kept' has no attribute {name!r}")
    value: object = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
