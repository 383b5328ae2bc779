"""Decoders: a file per family over shared layers, and how checkpoints become them."""

from kept.models.causal_lm import CausalLM, CausalLMOutput, ModelConfig, NextLogits
from kept.models.checkpoint import Checkpoint, find_folder, open_checkpoint
from kept.models.dtypes import DTYPES, resolve_dtype
from kept.models.encoder_decoder import EncoderDecoderLM, Seq2SeqLMOutput
from kept.models.quantized_format import quantized_format, quantized_sizes
from kept.models.quantized_writer import quantize_checkpoint
from kept.models.registry import (
    FAMILIES,
    build_model,
    load_model,
    read_config,
    resolve_device,
)

__all__ = [
    "DTYPES",
    "FAMILIES",
    "CausalLM",
    "CausalLMOutput",
    "Checkpoint",
    "EncoderDecoderLM",
    "ModelConfig",
    "NextLogits",
    "Seq2SeqLMOutput",
    "build_model",
    "find_folder",
    "load_model",
    "open_checkpoint",
    "quantize_checkpoint",
    "quantized_format",
    "quantized_sizes",
    "read_config",
    "resolve_device",
    "resolve_dtype",
]
