"""Where each tensor of a checkpoint goes in kept's modules."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class Placement:
    """Where one checkpoint tensor goes.

    `rows` are the rows (dimension 0) of the parameter that it fills, half-open and with both ends
    given, where several tensors are fused into one parameter::

        q_proj (H*D, E) ─┐
        k_proj (G*D, E) ─┼─> qkv.weight ((H+2G)*D, E)
        v_proj (G*D, E) ─┘

    `transpose` says that the checkpoint holds (in, out), as GPT-2's Conv1D does, and the parameter
    (out, in). `grouped`, (groups, D), says that the checkpoint holds rows of heads by groups, in
    each its queries, a key and a value, and the parameter all queries, all keys and all values.
    `repeats` is how often the tensor's rows fill those of the parameter, one time after the other.
    `flat` says that the checkpoint holds (1, out) of a parameter (out,).
    `config_fields` name the fields of config.json that decide the shape; they are only for the
    error message.
    """

    parameter: str
    rows: slice | None = None
    transpose: bool = False
    config_fields: tuple[str, ...] = ()
    grouped: tuple[int, int] | None = None
    repeats: int = 1
    flat: bool = False


@dataclass(frozen=True)
class WeightMap:
    """How a family's checkpoint tensors fill its module.

    `placements` go by the tensor's canonical name. Names in `optional` may be absent where another
    tensor fills the same parameter, as with tied embeddings. Names in which one of the regexes
    `ignored` is found are expected and carry nothing that is needed. `prefixes` may stand before a
    canonical name in a file, or be missing from it: "transformer." finds both
    "transformer.wte.weight" and "wte.weight". `may_untie`: that tensors of tied parameters differ
    is usual in this family, whatever its config.json says, and no reason for a warning. `aliases`:
    other names of tensors, and the canonical ones. `zeros`: names that may be absent because their
    parameter is zero.
    """

    placements: Mapping[str, Placement]
    optional: frozenset[str] = frozenset()
    ignored: tuple[str, ...] = ()
    prefixes: tuple[str, ...] = ()
    may_untie: bool = False
    aliases: Mapping[str, str] = field(default_factory=dict)
    zeros: frozenset[str] = frozenset()
    _ignored: re.Pattern[str] | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        either = "|".join(f"(?:{pattern})" for pattern in self.ignored)
        object.__setattr__(self, "_ignored", re.compile(either) if either else None)

    def canonical(self, stored: str) -> str | None:
        """Return the canonical name of the tensor a file calls `stored`; None: not in the map."""
        stored = self.aliases.get(stored, stored)
        if stored in self.placements:
            return stored
        for prefix in self.prefixes:
            if stored.startswith(prefix) and stored[len(prefix) :] in self.placements:
                return stored[len(prefix) :]
            if prefix + stored in self.placements:
                return prefix + stored
        return None

    def ignores(self, stored: str) -> bool:
        """Say whether a tensor that is not in the map may be passed over."""
        return self._ignored is not None and self._ignored.search(stored) is not None


def arranged(stored: Tensor, grouped: tuple[int, int] | None, repeats: int) -> Tensor:
    """Rows (out, ...) as a parameter has them, of those that are stored; see `Placement`."""
    if grouped is not None:
        groups, head_dim = grouped
        heads = stored.unflatten(0, (groups, -1, head_dim))
        parts = heads[:, :-2], heads[:, -2], heads[:, -1]
        stored = torch.cat([part.reshape(-1, *stored.shape[1:]) for part in parts])
    return torch.cat([stored] * repeats) if repeats > 1 else stored
