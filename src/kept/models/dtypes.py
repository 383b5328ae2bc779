"""The dtypes kept computes in, and which of them a model is loaded in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from kept.errors import OptionError, UnsupportedModelError

DTYPES: Mapping[str, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def resolve_dtype(
    dtype: str | torch.dtype | None,
    config: Mapping[str, Any],
    unsaid: torch.dtype = torch.float32,
) -> torch.dtype:
    """The dtype to compute in: the one asked for, or the checkpoint's own for None and "auto".

    unsaid: the checkpoint's own where its config.json does not say. Raises OptionError for a
    `dtype` kept does not compute in, UnsupportedModelError for such a one in config.json.
    """
    if dtype in (None, "auto"):
        return _config_dtype(config) or unsaid
    found = _find(dtype)
    if found is None:
        name = str(dtype).removeprefix("torch.")
        raise OptionError(f"dtype {name!r} is not one of auto, {', '.join(DTYPES)}")
    return found


def _config_dtype(config: Mapping[str, Any]) -> torch.dtype | None:
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
    return DTYPES.get(str(dtype).removeprefix("torch."))
