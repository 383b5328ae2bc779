"""kept: text generation that never computes a key or a value twice."""

from kept.cache import Cache, from_legacy, make_cache, to_legacy
from kept.engine import Completion
from kept.errors import (
    BackendError,
    CacheError,
    CacheFullError,
    CheckpointError,
    CheckpointNotFoundError,
    ContextLengthError,
    GenerationInterrupted,
    KeptError,
    OptionError,
    SamplingError,
    TemplateError,
    TokenizerError,
    UnsupportedFormatError,
    UnsupportedModelError,
    WeightsError,
)
from kept.llm import LLM, Stream
from kept.models import CausalLM, CausalLMOutput
from kept.sampling import SamplingParams

__version__ = "0.1.0"

__all__ = [
    "LLM",
    "BackendError",
    "Cache",
    "CacheError",
    "CacheFullError",
    "CausalLM",
    "CausalLMOutput",
    "CheckpointError",
    "CheckpointNotFoundError",
    "Completion",
    "ContextLengthError",
    "GenerationInterrupted",
    "KeptError",
    "OptionError",
    "SamplingError",
    "SamplingParams",
    "Stream",
    "TemplateError",
    "TokenizerError",
    "UnsupportedFormatError",
    "UnsupportedModelError",
    "WeightsError",
    "from_legacy",
    "make_cache",
    "to_legacy",
]
