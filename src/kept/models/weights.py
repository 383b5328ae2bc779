"""Loading a checkpoint's tensors into a module."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from kept.errors import WeightsError
from kept.exiting import computing
from kept.models.checkpoint import Checkpoint
from kept.models.dtypes import DTYPES
from kept.models.weight_map import WeightMap
from kept.models.weight_plan import Copy, plan_weights


def load_weights(
    module: nn.Module,
    checkpoint: Checkpoint,
    weight_map: WeightMap,
    *,
    dtype: torch.dtype,
    device: torch.device,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Give `module`, built on the meta device, its parameters from `checkpoint`.

    Each parameter is allocated once, as `dtype` on `device`, and each stored tensor is copied into
    its rows, which casts it. Stored tensors are memory-mapped: beside the parameters, the pages in
    use never amount to more than the largest of them, and only a tensor that is both cast and
    transposed is copied once more, alone. `progress` is called with the stored bytes
    copied so far and their total, first with zero.

    Mutates `module`: its parameters are replaced, shared ones stay shared, buffers are not touched.
    If it raises, `module` is as it was. Everything but the data is verified before anything is
    allocated.

    Where config.json ties two parameters and the file holds both: equal tensors are one parameter;
    different ones become two, with a warning, as in transformers 5. Where it holds only one, that
    one fills both, provided the other is `optional` in the map.

    Raises `WeightsError` for missing, unexpected, misshapen or unreadable tensors and for values
    `dtype` cannot hold; `UnsupportedFormatError` for integer and 8-bit tensors.
    """
    plan = plan_weights(module, checkpoint, weight_map, dtype)
    meta = dict(module.named_parameters(remove_duplicate=False))
    sizes = [checkpoint.tensors[copy.stored].num_bytes for copy in plan.copies]
    done, mapped, total, largest = 0, 0, sum(sizes), max(sizes, default=0)
    checkpoint.close()  # comparing tied tensors may have mapped some
    if progress is not None:
        progress(done, total)

    filled: dict[str, Tensor] = {}
    for copy, size in zip(plan.copies, sizes, strict=True):
        # The pages of what was read stay in use until the file's mapping is dropped.
        if mapped + size > largest:
            checkpoint.close()
            mapped = 0
        with computing():
            if copy.parameter not in filled:
                shape = meta[copy.parameter].shape
                filled[copy.parameter] = torch.empty(shape, dtype=dtype, device=device)
            _fill(filled[copy.parameter], checkpoint, copy)
        done, mapped = done + size, mapped + size
        if progress is not None:
            progress(done, total)
    checkpoint.close()

    parameters = {
        name: nn.Parameter(tensor, requires_grad=meta[name].requires_grad)
        for name, tensor in filled.items()
    }
    for name, owner in plan.owners.items():
        parent, _, leaf = name.rpartition(".")
        setattr(module.get_submodule(parent), leaf, parameters[owner])


def _fill(parameter: Tensor, checkpoint: Checkpoint, copy: Copy) -> None:
    stored = checkpoint.read(copy.stored)
    rows = parameter[copy.start : copy.stop] if parameter.dim() else parameter
    # Casting and transposing in one copy is three times slower than one after the other.
    rows.copy_(stored.to(rows.dtype).T if copy.transpose else stored)
    refuse_overflow(rows, stored.dtype, checkpoint.tensors[copy.stored].file, copy.stored)


def refuse_overflow(cast: Tensor, stored_dtype: torch.dtype, file: Path, name: str) -> None:
    """Raise WeightsError where a cast from `stored_dtype` has made numbers infinite."""
    largest = torch.finfo(cast.dtype).max
    if torch.finfo(stored_dtype).max > largest and cast.numel():
        low, high = torch.aminmax(cast)
        if torch.isinf(low) or torch.isinf(high):
            raise WeightsError(
                f"{file}: {name!r} holds values beyond {largest:g}, the largest "
                f"{_name(cast.dtype)} can hold (it is stored as {_name(stored_dtype)}). "
                f"{_overflow_remedy(cast.dtype, stored_dtype)}"
            )


def _overflow_remedy(dtype: torch.dtype, stored_dtype: torch.dtype) -> str:
    largest = torch.finfo(dtype).max
    wider = [name for name, other in DTYPES.items() if torch.finfo(other).max > largest]
    if not wider:
        return "kept computes in no wider one, so it cannot run these weights; is the file damaged?"
    sure = stored_dtype in DTYPES.values()
    return f"Load it as {' or '.join(wider)}{'' if sure else ', if that holds them'}."


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
