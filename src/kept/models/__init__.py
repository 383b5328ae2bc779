"""Decoders: a file per family over shared layers, and how checkpoints become them."""

from kept.models.adapter import Adapter
from kept.models.adapters import load_adapters
from kept.models.causal_lm import CausalLM
from kept.models.checkpoint import Checkpoint
from kept.models.dtypes import DTYPES, resolve_dtype
from kept.models.encoder_decoder import EncoderDecoderLM, Seq2SeqLMOutput
from kept.models.folder import find_folder
from kept.models.gguf_checkpoint import describe_header
from kept.models.gguf_hub import find_remote
from kept.models.loading import describe_loading, load_model
from kept.models.model_config import ModelConfig
from kept.models.next_logits import NextLogits
from kept.models.opening import gguf_checkpoint, open_checkpoint
from kept.models.padded_face import CausalLMOutput
from kept.models.quantized_format import quantized_format, quantized_sizes
from kept.models.quantized_writer import quantize_checkpoint
from kept.models.registry import (
    FAMILIES,
    build_model,
    read_config,
    resolve_device,
)
from kept.models.repeated_step import RepeatedStep

__all__ = [
    "DTYPES",
    "FAMILIES",
    "Adapter",
    "CausalLM",
    "CausalLMOutput",
    "Checkpoint",
    "EncoderDecoderLM",
    "ModelConfig",
    "NextLogits",
    "RepeatedStep",
    "Seq2SeqLMOutput",
    "build_model",
    "describe_header",
    "describe_loading",
    "find_folder",
    "find_remote",
    "gguf_checkpoint",
    "load_adapters",
    "load_model",
    "open_checkpoint",
    "quantize_checkpoint",
    "quantized_format",
    "quantized_sizes",
    "read_config",
    "resolve_device",
    "resolve_dtype",
]
