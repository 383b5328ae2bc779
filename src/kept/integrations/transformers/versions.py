"""What differs between transformers 4.57 and 5, and nowhere else."""

from __future__ import annotations

from importlib import metadata
from typing import Any

from torch import Tensor

from kept.errors import OptionError

OLDEST = (4, 57)
HOW_TO_INSTALL = "pip install 'kept-llm[transformers]'"
# What a cache lays out as a window: in chunked attention too a query sees no further back.
WINDOWED = ("sliding_attention", "chunked_attention")

LayerKind = tuple[str, int | None]  # of a layer: what transformers calls it, and its window


def installed() -> tuple[int, int] | None:
    """Major and minor version of transformers, None where there is none."""
    try:
        major, minor = metadata.version("transformers").split(".")[:2]
    except metadata.PackageNotFoundError:
        return None
    return int(major), int(minor)


def check_installed() -> None:
    """Raise ImportError unless a transformers that kept plugs into is installed."""
    found = installed()
    if found is None:
        raise ImportError(
            f"kept.integrations.transformers needs transformers, which is not installed; "
            f"{HOW_TO_INSTALL}"
        )
    if found < OLDEST:
        raise ImportError(
            f"kept.integrations.transformers needs transformers {OLDEST[0]}.{OLDEST[1]} or newer, "
            f"and {metadata.version('transformers')} is installed; {HOW_TO_INSTALL}"
        )


IS_5 = (installed() or OLDEST) >= (5, 0)


def query_length(given: int | Tensor) -> int:
    """T of a `get_mask_sizes` call: a number in 5, the new tokens' positions (T,) in 4.57."""
    return given.shape[0] if isinstance(given, Tensor) else int(given)


def length_after_crop(length: int, given: int) -> int:
    """What `crop(given)` leaves of a cache of `length` tokens.

    5 takes the number of tokens to remove, as a negative number or 0. 4.57 takes the length to
    keep, or the same negative number. Raises OptionError for a positive number in 5.
    """
    if given < 0:
        return max(0, length + given)
    if not IS_5:
        return min(length, given)
    if given > 0:
        raise OptionError(
            f"crop({given}): this transformers takes the number of tokens to remove, negative; "
            f"crop({given - length}) would leave {given} of {length}"
        )
    return length


def layer_kinds(config: Any) -> list[LayerKind]:
    """The kind and window of each layer of a decoder's config."""
    if IS_5:
        from transformers.cache_utils import get_layer_types_and_kwargs

        found, options = get_layer_types_and_kwargs(config)
        return [(kind, x.get("sliding_window")) for kind, x in zip(found, options, strict=True)]
    window = getattr(config, "sliding_window", None) or getattr(
        config, "attention_chunk_size", None
    )
    kinds = getattr(config, "layer_types", None)
    if kinds is None:
        kind = "full_attention" if window is None else WINDOWED[0]
        kinds = [kind] * config.num_hidden_layers
    shared = getattr(config, "num_kv_shared_layers", 0)  # the last layers read what others store
    kinds = kinds[:-shared] if shared else kinds
    return [(kind, window if kind in WINDOWED else None) for kind in kinds]


def mask_places(arguments: dict[str, Any]) -> tuple[int, int]:
    """(T, tokens after this pass) of what a mask function is called with."""
    if IS_5:
        count, offset = arguments["q_length"], arguments.get("q_offset", 0)
        return int(count), int(offset) + int(count)
    positions = arguments["cache_position"]
    return positions.shape[0], int(positions[-1]) + 1


def wants_weights(arguments: dict[str, Any]) -> bool:
    """Whether the call that attention is part of returns its weights. arguments: of the attention.

    Not every model hands `output_attentions` on to its attention; 5 collects what it returns.
    """
    if arguments.get("output_attentions"):
        return True
    try:
        from transformers.utils.output_capturing import _active_collector
    except ImportError:  # 4.57, and whatever comes to do it otherwise
        return False
    return any("attentions" in name for name in _active_collector.get() or ())


def shared_layer() -> Any:
    """What stands in a cache for a layer that stores nothing; 4.57 leaves such layers out."""
    from transformers.cache_utils import DummyLayer

    return DummyLayer()
