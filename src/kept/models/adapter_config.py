"""Reading a LoRA's adapter_config.json, as peft writes it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod, sqrt
from pathlib import Path
from typing import Any, Final

from kept.errors import CheckpointError, UnsupportedModelError
from kept.json_file import read_json_object
from kept.models.fields import Fields

CONFIG: Final = "adapter_config.json"
MAX_RANK: Final = 4096
_MAX_PATTERN = 1000  # characters
# In how many ways one may match at most, as branches of groups and repeats multiply: some tenths of
# a second a name.
_MAX_WAYS, _OF_REPEAT = 300_000, 12
_FIXED = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]")  # escapes and classes: one character each

# What else an adapter may be, and the value of the field under which it is not.
_NEUTRAL: tuple[tuple[str, object, str], ...] = (
    ("use_dora", False, "DoRA scales whole rows of the base's matrices"),
    ("bias", "none", "an adapter's biases are not added"),
    ("lora_bias", False, "an adapter's biases are not added"),
    ("modules_to_save", None, "layers that were trained whole are not replaced"),
    ("trainable_token_indices", None, "embeddings stay those of the base"),
    ("target_parameters", None, "only linear layers are adapted"),
    ("layer_replication", None, "the base's layers stay as many as they are"),
    ("use_qalora", False, "its inputs are pooled"),
    ("alora_invocation_tokens", None, "an adapter holds for all of a text"),
    ("use_bdlora", False, "its pairs are stored as blocks of a diagonal"),
    ("kasa_config", None, "the base's own matrices lose their least parts"),
    ("monteclora_config", None, "what is drawn beside its pairs is left out"),
    ("arrow_config", None, "nothing chooses among adapters but the request"),
)
# Under others peft changes the base's own matrices when it loads the adapter.
_PLAIN_BEGINNINGS = (None, True, False, "gaussian", "eva", "orthogonal")


@dataclass(frozen=True)
class AdapterConfig:
    """Rank and scale of a LoRA's modules; `ranks` and `alphas` are patterns that say so of some."""

    rank: int
    alpha: float
    by_root: bool
    ranks: Mapping[str, int]
    alphas: Mapping[str, float]

    def rank_of(self, module: str) -> int:
        """The rank that a module has, which goes by its path within the base."""
        rank: int = _of(self.ranks, module, self.rank)
        return rank

    def scale_of(self, module: str) -> float:
        """What its product is multiplied by: alpha / R, or alpha / sqrt(R) (`use_rslora`)."""
        rank = self.rank_of(module)
        alpha: float = _of(self.alphas, module, self.alpha)
        return alpha / (sqrt(rank) if self.by_root else rank)


def read_adapter_config(folder: Path) -> AdapterConfig:
    """Read a folder's adapter_config.json.

    Raises CheckpointNotFoundError where there is none, CheckpointError for fields that are wrong,
    and UnsupportedModelError for an adapter that is no plain LoRA.
    """
    path = folder / CONFIG
    given = read_json_object(path, CheckpointError)
    fields = Fields(given, str(path))
    fields.choice("peft_type", "", ("LORA",))
    for name, neutral, why in _NEUTRAL:
        if given.get(name) not in ([], {}):
            fields.refuse(name, neutral, why)
    beginning = given.get("init_lora_weights")
    if beginning not in _PLAIN_BEGINNINGS:
        raise UnsupportedModelError(
            f"{path} has init_lora_weights = {beginning!r:.100}, under which the base's own "
            "matrices change; convert it to a plain LoRA (peft's save_pretrained with "
            "path_initial_model_for_weight_conversion)"
        )
    return AdapterConfig(
        rank=fields.integer("r", 8, maximum=MAX_RANK),
        alpha=fields.number("lora_alpha", 8, positive=False),
        by_root=fields.flag("use_rslora", False),
        ranks=_patterns(path, given, "rank_pattern", whole=True),
        alphas=_patterns(path, given, "alpha_pattern", whole=False),
    )


def _patterns(path: Path, config: Mapping[str, Any], name: str, *, whole: bool) -> dict[str, Any]:
    found = config.get(name) or {}
    if not isinstance(found, dict):
        raise CheckpointError(f"{path} has {name} = {found!r:.100}, which must be an object")
    for pattern, value in found.items():
        fields = Fields({pattern: value}, f"{path}'s {name}")
        if whole:
            fields.integer(pattern, maximum=MAX_RANK)
        else:
            fields.number(pattern, positive=False)
        try:
            re.compile(pattern if len(pattern) <= _MAX_PATTERN else "(")
        except (re.error, RecursionError, OverflowError) as error:
            raise CheckpointError(
                f"{path} has {pattern!r:.100} in {name}, which is no pattern of module names of "
                f"at most {_MAX_PATTERN} characters"
            ) from error
        if not _is_quick(pattern):
            raise CheckpointError(
                f"{path} has {pattern!r:.100} in {name}, which could take for ever to match: it "
                "repeats a group, looks around, or has more groups with branches, and repeats such "
                "as .*, than names of modules need; write the names out"
            )
    return found


def _is_quick(pattern: str) -> bool:
    """Whether a pattern, which compiles, can only match in a bounded number of ways."""
    bare = re.sub(r"([*+?}])[?+]", r"\1", _FIXED.sub("x", pattern).replace("(?:", "("))
    if "(?" in bare or re.search(r"\)[*+{]", bare):
        return False
    ways = [part.count("|") + 1 for part in bare.split("(")]
    ways += [_OF_REPEAT] * sum(map(bare.count, "*+?{"))
    return prod(ways) <= _MAX_WAYS


def _of(patterns: Mapping[str, Any], module: str, default: Any) -> Any:
    """The value of the first pattern that a module's path, or an end of it, is: as in peft."""
    for pattern, value in patterns.items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return default
