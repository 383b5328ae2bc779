"""How a checkpoint becomes a model that is ready to run."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from kept.errors import OptionError
from kept.format import dtype_name
from kept.models.causal_lm import CausalLM
from kept.models.checkpoint import QUANTIZATION, Checkpoint
from kept.models.dtypes import is_unsaid, own_dtype, resolve_dtype
from kept.models.freed_memory import give_back_freed_memory
from kept.models.held_blocks import (
    MXFP4,
    Holding,
    holdings,
    mostly,
    names_of,
    staying_formats,
    total_bytes,
)
from kept.models.native import matrices
from kept.models.packing import Fetch, check_format, find_activations, may_run_natively, prepare
from kept.models.quantized_format import read_format
from kept.models.quantized_reader import load_quantized
from kept.models.registry import find_family, resolve_device, shape_model
from kept.models.weight_map import WeightMap
from kept.models.weights import StoredWeights
from kept.ops import plain_torch
from kept.ops.activations import check_activations
from kept.ops.backend import say_once
from kept.ops.blocks import CodedMatrix
from kept.ops.quantize import QuantizedFormat, QuantizedMatrix
from kept.ops.stored_rows import StoredMatrix

_CPU = torch.device("cpu")


@torch.inference_mode(False)  # what is loaded outlives the caller's mode
@plain_torch()
def load_model(
    checkpoint: Checkpoint,
    *,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device | None = None,
    quantize: str | None = None,
    activations: str = "auto",
    copy_weights: bool = False,
    progress: Callable[[int, int], None] | None = None,
    packing: Callable[[int, int], None] | None = None,
) -> CausalLM:
    """The checkpoint's model, its weights cast to `dtype` on `device`, in eval mode.

    quantize: round its matrices to "int8" or "int4". activations: as what they meet such weights,
    "bfloat16", "int8", or "auto", the faster on this machine's instruction set. copy_weights: out
    of a quantized folder's file rather than use them where it is mapped. progress: called
    with the stored bytes read so far and their total; packing: with the weights packed for the
    kernels and their total.

    Raises UnsupportedModelError, WeightsError or UnsupportedFormatError where the files cannot be
    used, OptionError for a dtype or device that cannot, and for activations without quantized
    weights; BackendError for int8 activations where torch runs the model.
    """
    check_format(quantize)
    check_activations(activations)
    if QUANTIZATION not in checkpoint.config:
        return _load_original(checkpoint, dtype, device, quantize, activations, progress, packing)
    if quantize is not None:
        format = read_format(checkpoint.folder, checkpoint.config)
        raise OptionError(
            f"quantize={quantize!r}, but {checkpoint.folder} is quantized to {format} already; "
            "leave it out, or load the checkpoint it was made from"
        )
    model, _ = lay_out(checkpoint)
    place = resolve_device(device)
    wanted = resolve_dtype(dtype, checkpoint.config, device=place)
    _check_dtype(model, wanted)
    load_quantized(
        model,
        checkpoint,
        dtype=wanted,
        stored_dtype=own_dtype(checkpoint.config) or torch.float32,
        device=place,
        activations=activations,
        copy=copy_weights,
        progress=progress,
    )
    return model.eval()


def lay_out(checkpoint: Checkpoint) -> tuple[CausalLM, WeightMap]:
    """A checkpoint's model on the meta device, and where its tensors go."""
    family = find_family(checkpoint.config)
    config = family.read_config(dict(checkpoint.config))
    return shape_model(family, config), family.weight_map(config)


def _load_original(
    checkpoint: Checkpoint,
    dtype: str | torch.dtype | None,
    device: str | torch.device | None,
    quantize: str | None,
    activations: str,
    progress: Callable[[int, int], None] | None,
    packing: Callable[[int, int], None] | None,
) -> CausalLM:
    place = resolve_device(device)
    rest = check_format(quantize) or default_format(checkpoint, dtype, place)
    model, weights = open_weights(checkpoint, dtype=dtype, device=place, progress=progress)
    stays = () if quantize is not None else staying_formats(dtype, weights.dtype, place)
    held = holdings(model, weights, stays, rest)
    most = mostly(held)
    find_activations(model, activations, most, weights.dtype, place)
    if quantize is None:
        _say_held(checkpoint, held, rest)
    if rest is None and not may_run_natively(model, weights.dtype, place):
        weights.place_all()
        return model.eval()
    # Matrices are read when they are packed or rounded, so that memory holds one of them.
    fetch_other: Fetch
    if rest is not None:
        fetch_other = fetch_to_quantize(checkpoint, dtype, model, weights, rest)
    else:
        fetch_other = fetch_matrices(model, weights)

    def fetch(parameter: Tensor) -> Tensor | QuantizedMatrix | CodedMatrix | StoredMatrix:
        found: CodedMatrix | StoredMatrix | None = weights.fetch_coded(parameter, stays)
        if found is None and rest is None:
            found = weights.fetch_stored(parameter)
        return fetch_other(parameter) if found is None else found

    prepare(model, rest, packing, fetch=fetch, device=place, activations=activations, mostly=most)
    give_back_freed_memory()
    return model.eval()


def default_format(
    checkpoint: Checkpoint, dtype: str | torch.dtype | None, device: torch.device = _CPU
) -> QuantizedFormat | None:
    """What matrices in blocks become on a CPU that do not stay as they are, where neither a format
    nor a dtype is asked for.

    None beside MXFP4: the model's dtype, as the files that hold some have little else in blocks
    that do not stay.

    A byte a weight is at most twice what most files take, and rounds by far less than they did;
    int4 would round as much again, and bfloat16 take three to four times their memory.
    """
    on_cpu = device.type == "cpu"
    if not on_cpu or not is_unsaid(dtype) or checkpoint.stored_as is None:
        return None
    return None if MXFP4.upper() in checkpoint.stored_as else "int8"


def describe_loading(checkpoint: Checkpoint) -> tuple[str, int]:
    """The formats that a checkpoint in blocks is held in where nothing is asked for, and the bytes
    of its weights then; nothing is read. Raises as `load_model`."""
    model, weights = open_weights(checkpoint)
    rest = default_format(checkpoint, None)
    held = holdings(model, weights, staying_formats(None, weights.dtype, _CPU), rest)
    return names_of(held, dtype_name(weights.dtype)), total_bytes(model, held, weights.dtype)


def _say_held(checkpoint: Checkpoint, held: list[Holding], rest: QuantizedFormat | None) -> None:
    """What becomes of blocks that do not stay as they are, said once."""
    if checkpoint.stored_as is None or rest is None:
        return
    stay = [each for each in held if each.format != rest]
    if len(stay) == len(held):
        return
    names = names_of(stay, dtype_name(torch.bfloat16)).upper()
    which = f"of which {names} stays as it is and the rest" if stay else "which"
    say_once(
        f"{checkpoint.folder} holds {checkpoint.stored_as}, {which} becomes {rest}, a byte a "
        "weight; quantize='int4' takes half of that and rounds again, dtype='bfloat16' twice "
        "that and keeps all but the last bits (`kept bench quality` says what each costs)"
    )


def open_weights(
    checkpoint: Checkpoint,
    *,
    dtype: str | torch.dtype | None = None,
    device: torch.device = _CPU,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[CausalLM, StoredWeights]:
    """A checkpoint's model on the meta device, and its weights, none of them read.

    The log says once where float16 is computed in another dtype. Raises as `load_model`.
    """
    model, weight_map = lay_out(checkpoint)
    wanted = resolve_dtype(dtype, checkpoint.config, checkpoint.stored_dtype, device=device)
    _check_dtype(model, wanted)
    weights = StoredWeights(
        model, checkpoint, weight_map, dtype=wanted, device=device, progress=progress
    )
    if checkpoint.stored_as is None and rounds_once(checkpoint, dtype, wanted):
        say_once(
            f"computing in {dtype_name(wanted)} what {checkpoint.folder} holds in float16, for "
            "which CPUs have no fast instructions; dtype='float32' keeps every bit, 'float16' its "
            "dtype"
        )
    return model, weights


def fetch_matrices(model: CausalLM, weights: StoredWeights) -> Callable[..., Tensor]:
    """Read what is no matrix into the model, and return what reads a matrix: `weights.fetch`."""
    weights.place_all_but(lambda: [sharing[0].weight for sharing in matrices(model)])
    return weights.fetch


def fetch_to_quantize(
    checkpoint: Checkpoint,
    dtype: str | torch.dtype | None,
    model: CausalLM,
    weights: StoredWeights,
    format: str,
) -> Fetch:
    """`fetch_matrices`, and what reads a matrix to be quantized to `format`.

    As codes where it is stored as those of `format`, else as numbers.
    """
    fetch = fetch_matrices(model, weights)
    exact = reads_stored(checkpoint, dtype, weights.dtype)

    def fetch_matrix(parameter: Tensor) -> Tensor | QuantizedMatrix:
        codes = weights.fetch_codes(parameter) if exact and format == "int8" else None
        return fetch(parameter, exact=exact) if codes is None else codes

    return fetch_matrix


def rounds_once(
    checkpoint: Checkpoint, asked: str | torch.dtype | None, wanted: torch.dtype
) -> bool:
    """Whether a checkpoint's dtype is none that it is computed in, and nobody asked for another."""
    return is_unsaid(asked) and wanted != (own_dtype(checkpoint.config) or checkpoint.stored_dtype)


def reads_stored(
    checkpoint: Checkpoint, asked: str | torch.dtype | None, wanted: torch.dtype
) -> bool:
    """Whether matrices are quantized from the numbers that are stored, and not from `wanted`."""
    blocks = is_unsaid(asked) and checkpoint.stored_as is not None
    return blocks or rounds_once(checkpoint, asked, wanted)


def _check_dtype(model: CausalLM, dtype: torch.dtype) -> None:
    if dtype in model.too_narrow:
        raise OptionError(
            f"{type(model).__name__} cannot be computed in {dtype_name(dtype)}, "
            f"whose largest number, {torch.finfo(dtype).max:,.0f}, its activations outgrow; load "
            "it with dtype='bfloat16' or 'float32'"
        )
