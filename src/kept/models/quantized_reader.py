"""Loading a quantized checkpoint: its matrices are used where the file is mapped.

Nothing is copied but norms and tables of positions, so loading takes no time that grows with the
model, and processes that load the same folder share its pages. Who asks for it gets copies, on huge
pages where the system has them for memory and not for this file.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from kept.errors import CheckpointError, WeightsError
from kept.models.causal_lm import CausalLM
from kept.models.checkpoint import PACKED_WEIGHTS, QUANTIZATION, Checkpoint
from kept.models.dtypes import dtype_of_parameter
from kept.models.huge_pages import advise_huge_pages
from kept.models.layers import Linear
from kept.models.native import Progress, matrices
from kept.models.packing import find_activations, may_run_natively
from kept.models.quantized_format import (
    StoredMatrix,
    TensorTypes,
    fingerprint,
    plain_parameters,
    read_format,
    stored_matrices,
    stored_tensors,
)
from kept.models.weights import refuse_overflow
from kept.ops import PackedMatrix
from kept.ops.packed_layout import unpack_matrix
from kept.ops.quantize import dequantize

_MAX_NAMED = 8


def load_quantized(
    model: CausalLM,
    checkpoint: Checkpoint,
    *,
    dtype: torch.dtype,
    stored_dtype: torch.dtype,
    device: torch.device,
    activations: str = "auto",
    copy: bool = False,
    progress: Progress | None = None,
) -> None:
    """Make a model on the meta device that of a quantized checkpoint, ready to run.

    dtype: of what is not quantized; stored_dtype: as it is stored. Where the native kernels run
    the model, its matrices stay in the mapped file; else each is unpacked into numbers of `dtype`,
    which takes as much memory as the original. progress: called with the bytes loaded and their
    total.

    activations: how they meet the weights, see `choose_activations`. copy: what the kernels would
    read where the file is mapped is copied out of it.

    Mutates the model. Raises WeightsError for tensors that are missing, unexpected or misshapen,
    and as `read_format` and `choose_activations`.
    """
    format = read_format(checkpoint.folder, checkpoint.config)
    chosen = find_activations(model, activations, format, dtype, device)
    _verify(checkpoint, stored_tensors(model, format, stored_dtype))
    total = sum(info.num_bytes for info in checkpoint.tensors.values())
    stored = stored_matrices(model, format)
    native = may_run_natively(model, dtype, device)
    # Before any other is mapped: some of its bytes are read then, and with them what lies around.
    advise_huge_pages(checkpoint.read(next(iter(checkpoint.tensors))), total)
    for name in plain_parameters(model):
        _place(model, name, _cast(checkpoint, name, dtype, device))
    if native:
        parts = [_parts(checkpoint, matrix) for matrix in stored]
        packed = zip(stored, parts, strict=True)

        def pack_next(weight: Tensor, gated: bool, bias: Tensor | None) -> PackedMatrix:
            matrix, mapped = next(packed)
            return _pack(matrix, {k: _copied(x) for k, x in mapped.items()} if copy else mapped)

        model.pack(pack_next, None, torch.bfloat16, chosen)
        if progress is not None:
            progress(total, total)
    else:
        _unpack_all(model, checkpoint, stored, dtype, device, progress)
    checkpoint.close()


def _verify(checkpoint: Checkpoint, expected: TensorTypes) -> None:
    """Hold the file against config.json, and both against what the model needs."""
    entry = checkpoint.config[QUANTIZATION]
    path = checkpoint.folder / PACKED_WEIGHTS
    advice = "quantize the original checkpoint again, or copy both files of one folder"
    found = checkpoint.tensors
    missing = [name for name in expected if name not in found]
    unexpected = [name for name in found if name not in expected]
    wrong = [
        f"{name} is {found[name].dtype} {found[name].shape} and should be {dtype} {shape}"
        for name, (dtype, shape) in expected.items()
        if name in found and (found[name].dtype, found[name].shape) != (dtype, shape)
    ]
    for what, names in (
        ("lacks tensors that config.json calls for", missing),
        ("holds tensors that config.json does not call for", unexpected),
        ("contradicts config.json", wrong),
    ):
        if names:
            more = f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""
            listed = ", ".join(names[:_MAX_NAMED])
            raise WeightsError(f"{path} {what}: {listed}{more}; {advice}")
    try:
        written = json.loads(checkpoint.files[path].metadata.get(QUANTIZATION, "null"))
    except ValueError:
        written = None
    if written != entry or entry.get("fingerprint") != fingerprint(expected):
        raise CheckpointError(
            f"{path} does not carry the {QUANTIZATION} entry of config.json beside it; {advice}"
        )


def _cast(checkpoint: Checkpoint, name: str, dtype: torch.dtype, device: torch.device) -> Tensor:
    stored = checkpoint.read(name)
    out = stored.to(device=device, dtype=dtype_of_parameter(name, dtype), copy=True)
    refuse_overflow(out, stored.dtype, checkpoint.tensors[name].file, name)
    return out


def _place(model: CausalLM, name: str, tensor: Tensor) -> None:
    parent, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent), leaf, nn.Parameter(tensor))


def _parts(checkpoint: Checkpoint, matrix: StoredMatrix) -> dict[str, Tensor]:
    names = matrix.shape.parts(matrix.has_bias)
    return {part: checkpoint.read(f"{matrix.name}.{part}") for part in names}


def _pack(matrix: StoredMatrix, parts: Mapping[str, Tensor]) -> PackedMatrix:
    shape = matrix.shape
    return PackedMatrix(shape.format, shape.gated, shape.num_out, shape.num_in, **parts)


def _copied(part: Tensor) -> Tensor:
    from kept import _native

    return _native.zeros(part.nbytes).view(part.dtype).view(part.shape).copy_(part)


def _unpack_all(
    model: CausalLM,
    checkpoint: Checkpoint,
    stored: list[StoredMatrix],
    dtype: torch.dtype,
    device: torch.device,
    progress: Callable[[int, int], None] | None,
) -> None:
    sizes: Mapping[str, int] = {name: info.num_bytes for name, info in checkpoint.tensors.items()}
    total, done = sum(sizes.values()), 0
    for modules, matrix in zip(matrices(model), stored, strict=True):
        parts = _parts(checkpoint, matrix)
        scales = parts["channel_scales" if matrix.shape.format == "int8" else "group_scales"]
        codes, bias = unpack_matrix(matrix.shape, parts["data"], scales, parts.get("bias"))
        numbers = dequantize(codes)
        weight = nn.Parameter(numbers.to(device=device, dtype=dtype))
        refuse_overflow(weight.data, numbers.dtype, checkpoint.folder / PACKED_WEIGHTS, matrix.name)
        for module in modules:
            module.weight = weight
            if isinstance(module, Linear) and bias is not None:
                module.bias = nn.Parameter(bias.to(device=device, dtype=dtype))
        done += sum(sizes[f"{matrix.name}.{part}"] for part in parts)
        del parts, scales, codes
        checkpoint.close()  # what was read of the file need not stay in memory
        if progress is not None:
            progress(done, total)
