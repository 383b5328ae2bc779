"""Writing a quantized checkpoint; `quantized_format.py` draws it.

It is written into a folder beside its place and moved there once it is on disk (`moving.py`), so
that what goes wrong on the way leaves nothing behind, and what was there before as it was. One run
at a time writes a place (`claim.py`).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kept.errors import BackendError, CheckpointError, OptionError
from kept.format import dtype_name
from kept.gguf import is_gguf
from kept.machine import NATIVE_AVAILABLE, native_error
from kept.models.causal_lm import CausalLM
from kept.models.checkpoint import PACKED_WEIGHTS, QUANTIZATION, Checkpoint
from kept.models.claim import UNFINISHED, claimed, discard, name_beside
from kept.models.gguf_description import describe_gguf
from kept.models.hub import DESCRIPTIONS
from kept.models.layers import Linear
from kept.models.loading import fetch_to_quantize, open_weights
from kept.models.moving import move
from kept.models.native import Progress, matrices
from kept.models.opening import open_checkpoint
from kept.models.packing import Quantizer, check_format
from kept.models.quantized_format import (
    as_metadata,
    make_entry,
    num_bytes,
    plain_parameters,
    read_format,
    refuse_big_endian,
    stored_matrices,
    stored_tensors,
)
from kept.models.safetensors_writer import write_safetensors
from kept.models.target_folder import find_target, refuse_strange
from kept.ops import plain_torch, use_threads
from kept.ops.quantize import QUANTIZED_FORMATS

_NOT_COPIED = ("config.json", "*.index.json")


@torch.inference_mode(False)
@plain_torch()
def quantize_checkpoint(
    source: str | Path | None,
    target: str | Path,
    format: str = "int8",
    *,
    dtype: str | None = None,
    revision: str | None = None,
    force: bool = False,
    loading: Progress | None = None,
    quantizing: Progress | None = None,
) -> Path:
    """Quantize a checkpoint and write it to a folder, which is returned.

    source, dtype, revision: as `LLM` takes them. `LLM(target)` then gives the very logits of
    `LLM(source, dtype=dtype, quantize=format)`, and maps its matrices instead of reading them; of a
    dtype of float16 only `LLM(target, dtype=dtype)` does, as for every float16 checkpoint.
    transformers cannot load the folder. force: replace a checkpoint that is there, once the new one
    is complete and on disk; a folder that holds anything else is refused all the same, and without
    `force` nothing is replaced that was there or came there meanwhile. loading: called with the
    bytes read and their total; quantizing: with the numbers quantized and their total. Memory holds
    one matrix at a time while this runs.

    Raises OptionError for a format or target that cannot be used, also while another run writes
    there, BackendError without the native module, CheckpointError and its kinds for a source that
    cannot be quantized or a target that cannot be written.
    """
    kind = check_format(format)
    if kind is None:
        raise OptionError(f"format=None is not one of {', '.join(QUANTIZED_FORMATS)}; name one")
    refuse_big_endian()
    if not NATIVE_AVAILABLE:
        raise BackendError(f"weights are packed by the native module, and {native_error()}")
    checkpoint = open_checkpoint(source, revision=revision)
    if QUANTIZATION in checkpoint.config:
        already = read_format(checkpoint.folder, checkpoint.config)
        raise OptionError(
            f"{checkpoint.folder} is quantized to {already} already; quantize the checkpoint it "
            "was made from"
        )
    place = find_target(target, checkpoint.folder, force=force)
    model, weights = open_weights(checkpoint, dtype=dtype, progress=loading)
    try:
        with claimed(place):
            # Anew, as the claim may have put back what a killed run had moved away.
            find_target(target, checkpoint.folder, force=force)
            temporary = name_beside(place, UNFINISHED)
            try:
                temporary.mkdir()
                fetch = fetch_to_quantize(checkpoint, dtype, model, weights, kind)
                _write(temporary, model, checkpoint, Quantizer(model, kind, quantizing, fetch))
            except BaseException:
                discard(temporary, place)
                raise
            move(temporary, place, (lambda old: _check_old(target, old)) if force else None)
    except OSError as error:
        raise CheckpointError(
            f"{place} cannot be written: {error.strerror or error}; make room there, or name "
            "another folder"
        ) from error
    return place


def _check_old(target: str | Path, old: Path) -> None:
    refuse_strange(target, sorted(old.iterdir()))


def _write(folder: Path, model: CausalLM, checkpoint: Checkpoint, quantizer: Quantizer) -> None:
    format = quantizer.format
    kinds = stored_tensors(model, format, model.dtype)
    free, needed = shutil.disk_usage(folder).free, num_bytes(kinds)
    if free < needed:
        raise CheckpointError(
            f"the quantized weights take {needed:,} bytes, and {folder.parent} has {free:,} free; "
            "make room there, or name another folder"
        )
    entry = make_entry(format, kinds)
    config = {name: x for name, x in checkpoint.config.items() if name != "torch_dtype"}
    config["dtype"] = dtype_name(model.dtype)
    if len(matrices(model)[0]) == 1:  # also where config.json tied what the file held apart
        config["tie_word_embeddings"] = False
    config[QUANTIZATION] = entry
    _write_description(folder, checkpoint)
    tensors = _tensors(model, quantizer)
    write_safetensors(folder / PACKED_WEIGHTS, kinds, tensors, as_metadata(entry))
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _write_description(folder: Path, checkpoint: Checkpoint) -> None:
    """Tokenizer, chat template and the settings of texts, as the checkpoint has them."""
    if is_gguf(checkpoint.folder):
        for name, text in describe_gguf(checkpoint.folder, checkpoint.generation_config).items():
            (folder / name).write_text(text, encoding="utf-8")
        return
    for path in checkpoint.folder.iterdir():
        copied = any(fnmatch(path.name, pattern) for pattern in DESCRIPTIONS)
        if copied and not any(fnmatch(path.name, each) for each in _NOT_COPIED) and path.is_file():
            shutil.copyfile(path, folder / path.name)


def _tensors(model: CausalLM, quantizer: Quantizer) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of the file; a matrix of the model is dropped once it is packed."""
    use_threads()
    plain = plain_parameters(model)
    stored = stored_matrices(model, quantizer.format)
    for modules, matrix in zip(matrices(model), stored, strict=True):
        linear: Any = next((module for module in modules if isinstance(module, Linear)), None)
        bias = None if linear is None else linear.bias
        packed = quantizer(modules[0].weight, matrix.shape.gated, bias)
        for module in modules:
            del module.weight
        for part in matrix.shape.parts(matrix.has_bias):
            yield f"{matrix.name}.{part}", getattr(packed, part)
    for name, parameter in plain.items():
        yield name, parameter.detach()
