"""The memory behind an object, found without asking it."""

from __future__ import annotations

import gc
from types import BuiltinFunctionType, FunctionType, ModuleType

import torch
from torch import Tensor

# What would lead from one object to all others.
STRANGERS = (type, ModuleType, FunctionType, BuiltinFunctionType)


def tensors(*roots: object) -> list[Tensor]:
    """Every tensor that can be reached from some objects."""
    seen, found, ahead = set(), [], list(roots)
    while ahead:
        here = ahead.pop()
        if id(here) in seen or isinstance(here, STRANGERS):
            continue
        seen.add(id(here))
        if isinstance(here, Tensor):
            found.append(here)
        else:
            ahead += gc.get_referents(here)
    return found


def storage_bytes(*roots: object) -> int:
    """Bytes of the distinct storages behind all of them."""
    storages: dict[int, torch.UntypedStorage] = {}
    for tensor in tensors(*roots):
        storage = tensor.untyped_storage()
        storages[storage._cdata] = storage
    return sum(storage.nbytes() for storage in storages.values())
