"""The dtypes kept computes in, and which of them a model is loaded in.

A float16 checkpoint is computed in bfloat16 on a CPU unless float16 is asked for: there are kernels
for it, and none of float16. Its range holds all of float16's, so no weight overflows or vanishes
and no activation that fitted does; a weight keeps 8 of its 11 significant bits. Where those count,
float32 keeps all of them, at twice the memory and half the speed. Quantizing rounds once, from the
float16 numbers themselves. Other devices compute in float16 as fast, and keep it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from kept.errors import OptionError, UnsupportedModelError
from kept.format import dtype_name

DTYPES: Mapping[str, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


# Of these a rounding would send tokens to other experts.
_KEPT_IN_FP32 = (".choice_bias",)


def dtype_of_parameter(name: str, dtype: torch.dtype) -> torch.dtype:
    """What the parameter of that name is loaded in where a model is in `dtype`."""
    return torch.float32 if name.endswith(_KEPT_IN_FP32) else dtype


def resolve_dtype(
    dtype: str | torch.dtype | None,
    config: Mapping[str, Any],
    unsaid: torch.dtype = torch.float32,
    *,
    device: torch.device | None = None,
) -> torch.dtype:
    """The dtype to compute in: the one asked for, or the checkpoint's own for None and "auto".

    unsaid: the checkpoint's own where its config.json does not say. device: by default the CPU,
    where a checkpoint's own float16 becomes bfloat16. Raises OptionError for a `dtype` kept does
    not compute in, UnsupportedModelError for such a one in config.json.
    """
    if is_unsaid(dtype):
        own = own_dtype(config) or unsaid
        on_cpu = device is None or device.type == "cpu"
        return torch.bfloat16 if own == torch.float16 and on_cpu else own
    found = _find(dtype)
    if found is None:
        raise OptionError(f"dtype {dtype_name(dtype)!r} is not one of auto, {', '.join(DTYPES)}")
    return found


def is_unsaid(dtype: str | torch.dtype | None) -> bool:
    """Whether the choice is the checkpoint's."""
    return dtype is None or dtype == "auto"


def own_dtype(config: Mapping[str, Any]) -> torch.dtype | None:
    """The dtype config.json says, None where it says none.

    Raises UnsupportedModelError for one that kept does not compute in.
    """
    # "torch_dtype" is the older name.
    field = next((name for name in ("dtype", "torch_dtype") if config.get(name)), None)
    if field is None:
        return None
    found = _find(config[field])
    if found is None:
        raise UnsupportedModelError(
            f"config.json has {field} = {config[field]!r}, which kept does not compute in; "
            f"pass dtype as one of {', '.join(DTYPES)}"
        )
    return found


def _find(dtype: object) -> torch.dtype | None:
    return DTYPES.get(dtype_name(dtype))
