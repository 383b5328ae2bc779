"""What loading a checkpoint will do, verified before anything is allocated."""

from __future__ import annotations

import logging
import re
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from kept.errors import KeptWarning, UnsupportedFormatError, WeightsError
from kept.gguf import is_gguf
from kept.models.checkpoint import Checkpoint
from kept.models.weight_map import Placement, WeightMap

log = logging.getLogger("kept")

_FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
_MAX_NAMED = 8
# Heads that training has left beside the language model's, and tables that are computed anew.
_EXTRA_HEADS = re.compile(
    r"(^|\.)(v_head|value_head|reward_head|score|classifier|multiple_choice_head|qa_outputs)\."
)
_TABLES = re.compile(r"(^|\.)rotary_emb\.(inv_freq|cos_cached|sin_cached)$|\.attn\.(masked_)?bias$")
_COMPARED_AT_ONCE = 1 << 20  # elements


@dataclass(frozen=True)
class Copy:
    """One stored tensor and the rows of the parameter it fills; the rest as of a `Placement`."""

    stored: str
    parameter: str
    start: int
    stop: int
    transpose: bool
    grouped: tuple[int, int] | None = None
    repeats: int = 1
    flat: bool = False

    @property
    def moves_rows(self) -> bool:
        """Whether its rows lie in another order or number than they are stored in."""
        return self.grouped is not None or self.repeats > 1


@dataclass(frozen=True)
class WeightPlan:
    """The copies that fill a module.

    `owners` maps every parameter name of the module to the one it shares its tensor with: itself,
    or for tied parameters the name the copies use. `zeros` are those that no tensor fills.
    """

    copies: tuple[Copy, ...]
    owners: Mapping[str, str]
    zeros: tuple[str, ...] = ()


def plan_weights(
    module: nn.Module, checkpoint: Checkpoint, weight_map: WeightMap, dtype: torch.dtype
) -> WeightPlan:
    """Match a checkpoint's tensors with a module's parameters.

    Tensors of one parameter, shared in the module under several names (tied embeddings), are
    compared as `dtype`: equal ones are read once. Where they differ the parameters are untied with
    a warning, as transformers 5 does.

    Raises `WeightsError` for missing, unexpected or misshapen tensors and `UnsupportedFormatError`
    for integer and 8-bit ones. A map that does not fit the module is a bug and fails an assertion.
    """
    shapes = {
        name: tuple(parameter.shape)
        for name, parameter in module.named_parameters(remove_duplicate=False)
    }
    owners = _shared_names(module)
    _assert_covered(weight_map.placements, shapes, owners)
    found = _match_names(checkpoint, weight_map, owners)
    _refuse_integers(checkpoint, found)
    _refuse_misshapen(checkpoint, weight_map, found, shapes)

    candidates = [
        _copy(stored, weight_map.placements[canonical], shapes)
        for canonical, stored in found.items()
    ]
    plan = _settle_tied(checkpoint, candidates, owners, dtype, warns=not weight_map.may_untie)
    absent = sorted(weight_map.zeros - found.keys())
    return replace(plan, zeros=tuple(weight_map.placements[name].parameter for name in absent))


def _shared_names(module: nn.Module) -> dict[str, str]:
    first: dict[int, str] = {}
    return {
        name: first.setdefault(id(parameter), name)
        for name, parameter in module.named_parameters(remove_duplicate=False)
    }


def _bounds(placement: Placement, shape: Sequence[int]) -> tuple[int, int]:
    if placement.rows is None:
        return 0, shape[0] if shape else 1
    assert placement.rows.step in (None, 1), placement
    start, stop = placement.rows.start, placement.rows.stop
    assert isinstance(start, int), placement
    assert isinstance(stop, int), placement
    return start, stop


def _assert_covered(
    placements: Mapping[str, Placement],
    shapes: Mapping[str, tuple[int, ...]],
    owners: Mapping[str, str],
) -> None:
    filled: dict[str, set[tuple[int, int]]] = {owner: set() for owner in owners.values()}
    shared = [name for name, uses in Counter(owners.values()).items() if uses > 1]
    for canonical, placement in placements.items():
        assert placement.parameter in shapes, f"{canonical}: no parameter {placement.parameter}"
        owner = owners[placement.parameter]
        assert placement.rows is None or owner not in shared, f"{canonical}: tied, yet in pieces"
        filled[owner].add(_bounds(placement, shapes[placement.parameter]))
    for name, pieces in filled.items():
        assert pieces, f"{name} is not filled"
        reached = 0
        for start, stop in sorted(pieces):
            assert start == reached <= stop, f"{name}: rows {reached} to {start} are not filled"
            reached = stop
        length = shapes[name][0] if shapes[name] else 1
        assert reached == length, f"{name}: rows {reached} to {length} are not filled"


def _match_names(
    checkpoint: Checkpoint, weight_map: WeightMap, owners: Mapping[str, str]
) -> dict[str, str]:
    found: dict[str, str] = {}
    unexpected: list[str] = []
    extra: list[str] = []
    for stored in checkpoint.tensors:
        canonical = weight_map.canonical(stored)
        if canonical is not None and canonical in found:
            raise WeightsError(
                f"{checkpoint.folder} holds the same tensor under two names, {found[canonical]!r} "
                f"and {stored!r}. Save the checkpoint again under one of them."
            )
        if canonical is not None:
            found[canonical] = stored
        elif _EXTRA_HEADS.search(stored):
            extra.append(stored)
        elif not weight_map.ignores(stored) and not _TABLES.search(stored):
            unexpected.append(stored)
    filled = {_place(weight_map.placements[canonical], owners) for canonical in found}
    missing = [
        canonical
        for canonical, placement in weight_map.placements.items()
        if canonical not in found
        and canonical not in weight_map.zeros
        and not (canonical in weight_map.optional and _place(placement, owners) in filled)
    ]
    if missing or unexpected:
        raise WeightsError(_name_mismatch(checkpoint, missing, unexpected))
    if extra:
        log.warning(
            "%s holds heads that write no text, skipped: %s", checkpoint.folder, _listed(extra)
        )
    return found


def _place(placement: Placement, owners: Mapping[str, str]) -> tuple[str, int | None]:
    return owners[placement.parameter], placement.rows.start if placement.rows else None


def _name_mismatch(checkpoint: Checkpoint, missing: list[str], unexpected: list[str]) -> str:
    is_file = is_gguf(checkpoint.folder)
    described = "the model that its metadata describes" if is_file else "its config.json"
    text = f"The weights in {checkpoint.folder} do not fit {described}."
    if missing:
        text += f" Missing tensors: {_listed(missing)}."
    if unexpected:
        text += f" Unexpected tensors: {_listed(unexpected)}."
    if is_file:
        return f"{text} Download it again, or convert the model again."
    return (
        f"{text} Is the download complete, is config.json this checkpoint's own (it decides the "
        "number of layers, biases and tied embeddings), and does it name the right architecture?"
    )


def _listed(items: Sequence[str]) -> str:
    text = ", ".join(items[:_MAX_NAMED])
    return text if len(items) <= _MAX_NAMED else f"{text} and {len(items) - _MAX_NAMED} more"


def _refuse_integers(checkpoint: Checkpoint, found: Mapping[str, str]) -> None:
    wrong = [
        f"{stored} ({str(checkpoint.tensors[stored].dtype).removeprefix('torch.')})"
        for stored in found.values()
        if checkpoint.tensors[stored].dtype not in _FLOATS
    ]
    if wrong:
        raise UnsupportedFormatError(
            f"The weights in {checkpoint.folder} are quantized or not numbers kept computes with: "
            f"{_listed(wrong)}. Load a checkpoint stored as float32, float16, bfloat16 or float64."
        )


def _refuse_misshapen(
    checkpoint: Checkpoint,
    weight_map: WeightMap,
    found: Mapping[str, str],
    shapes: Mapping[str, tuple[int, ...]],
) -> None:
    wrong: list[str] = []
    fields: dict[str, None] = {}
    for canonical, stored in found.items():
        placement = weight_map.placements[canonical]
        wanted = _stored_shape(placement, shapes[placement.parameter])
        shape = checkpoint.tensors[stored].shape
        if shape != wanted:
            wrong.append(f"{stored} is {shape} and should be {wanted}")
            fields.update(dict.fromkeys(placement.config_fields))
    if not wrong:
        return
    numbers = ", ".join(f"{name}={checkpoint.config.get(name)!r}" for name in fields)
    source, remedy = "config.json", "Use the config.json the weights were saved with."
    if is_gguf(checkpoint.folder):
        source, remedy = "The metadata, read as a config.json", "Convert the model again."
    raise WeightsError(
        f"{source}{f' ({numbers})' if numbers else ''} contradicts the weights in "
        f"{checkpoint.folder}: {_listed(wrong)}. {remedy}"
    )


def _stored_shape(placement: Placement, shape: tuple[int, ...]) -> tuple[int, ...]:
    start, stop = _bounds(placement, shape)
    wanted = ((stop - start) // placement.repeats, *shape[1:]) if shape else shape
    if placement.flat:
        return (1, *wanted)
    return wanted[::-1] if placement.transpose else wanted


def _copy(stored: str, placement: Placement, shapes: Mapping[str, tuple[int, ...]]) -> Copy:
    start, stop = _bounds(placement, shapes[placement.parameter])
    at = stored, placement.parameter, start, stop
    return Copy(*at, placement.transpose, placement.grouped, placement.repeats, placement.flat)


def _settle_tied(
    checkpoint: Checkpoint,
    candidates: Sequence[Copy],
    owners: Mapping[str, str],
    dtype: torch.dtype,
    *,
    warns: bool,
) -> WeightPlan:
    """Keep one copy per destination, and part tied parameters whose tensors differ."""
    first: dict[tuple[str, int], Copy] = {}
    apart: dict[str, Copy] = {}
    uses = Counter((copy.parameter, copy.start) for copy in candidates)
    for copy in candidates:
        kept = first.setdefault((owners[copy.parameter], copy.start), copy)
        if kept is copy or _equal(checkpoint, kept, copy, dtype):
            continue
        differ = f"{checkpoint.folder}: {kept.stored!r} and {copy.stored!r} hold different values"
        if uses[copy.parameter, copy.start] > 1:
            raise WeightsError(
                f"{differ} for one parameter, which kept has but once, whatever config.json says "
                "of tie_word_embeddings. Save the checkpoint again with one of the two."
            )
        if warns:
            warnings.warn(
                f"{differ}, though config.json ties them; each is used where it belongs. "
                "Set tie_word_embeddings to false in config.json to say so.",
                KeptWarning,
                stacklevel=4,
            )
        apart[copy.parameter] = copy
    filled_by = {owner: copy.parameter for (owner, _), copy in first.items()}
    settled = {
        name: name if name in apart else filled_by.get(owner, owner)
        for name, owner in owners.items()
    }
    together = [replace(copy, parameter=settled[copy.parameter]) for copy in first.values()]
    order = {name: index for index, name in enumerate(checkpoint.tensors)}
    copies = sorted([*together, *apart.values()], key=lambda copy: order[copy.stored])
    return WeightPlan(tuple(copies), settled)


def _equal(checkpoint: Checkpoint, one: Copy, other: Copy, dtype: torch.dtype) -> bool:
    a, b = (_oriented(checkpoint.read(copy.stored), copy) for copy in (one, other))
    # In pieces, so that casting takes little memory.
    step = max(1, _COMPARED_AT_ONCE // max(1, a[:1].numel()))
    return all(
        torch.equal(a[row : row + step].to(dtype), b[row : row + step].to(dtype))
        for row in range(0, a.shape[0], step)
    )


def _oriented(tensor: Tensor, copy: Copy) -> Tensor:
    if not tensor.dim():
        return tensor.reshape(1)
    return tensor.T if copy.transpose else tensor
