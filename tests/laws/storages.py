"""The memory behind an object, found without asking it."""

from __future__ import annotations

import gc
from types import BuiltinFunctionType, FunctionType, ModuleType

from torch import Tensor

from kept.blocks import Block
from kept.cache.block_layout import BlockLayout
from kept.cache.block_memory import BlockMemory

# What would lead from one object to all others.
STRANGERS = (type, ModuleType, FunctionType, BuiltinFunctionType)


def tensors(*roots: object) -> list[Tensor]:
    """Every tensor that can be reached from some objects."""
    return [x for x in reached(*roots) if isinstance(x, Tensor)]


def reached(*roots: object) -> list[Tensor | BlockLayout]:
    """Every tensor, and every layout in blocks, that can be reached from some objects."""
    seen, found, ahead = set(), list[Tensor | BlockLayout](), list(roots)
    while ahead:
        here = ahead.pop()
        if id(here) in seen or isinstance(here, STRANGERS):
            continue
        seen.add(id(here))
        if isinstance(here, Tensor | BlockLayout):
            found.append(here)
        if not isinstance(here, Tensor):
            ahead += gc.get_referents(here)
    return found


def storage_bytes(*roots: object) -> int:
    """Bytes of the distinct storages behind all of them; of one that blocks lie in, of those blocks
    that tables hold, each once."""
    blocks: dict[BlockMemory, set[Block]] = {}
    for layout in reached(*roots):
        if isinstance(layout, BlockLayout):
            held = {block for table in layout.tables for block in table.blocks if block}
            blocks.setdefault(layout.memory, set()).update(held)
    total, reserved = 0, set[int]()
    for memory, held in blocks.items():
        buffers = [x for layer in memory.buffers for x in layer]
        reserved |= {x.untyped_storage()._cdata for x in buffers}
        total += len(held) * sum(x[0].nbytes for x in buffers)
    others = {x.untyped_storage()._cdata: x.untyped_storage() for x in tensors(*roots)}
    return total + sum(x.nbytes() for key, x in others.items() if key not in reserved)
