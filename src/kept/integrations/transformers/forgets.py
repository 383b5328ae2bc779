"""Layers whose cache keeps less than the model attends."""

from __future__ import annotations

from kept.cache import BlockLayout, Cache
from kept.errors import OptionError
from kept.integrations.transformers.model import ATTENTION, ModelLayers

Forgets = tuple[int, int] | None


def forgets_of(model: ModelLayers, cache: Cache) -> list[Forgets]:
    """(window, sinks) of each layer of a cache that keeps less than the model attends.

    Raises OptionError if there are any, and the model does not attend through kept.
    """
    found: list[Forgets] = []
    for window, layout in zip(model.windows, cache.layouts, strict=True):
        kept = None
        if isinstance(layout, BlockLayout) and layout.window is not None:
            kept = layout.window, layout.sinks
        found.append(None if kept == (window, 0) else kept)
    if any(found) and not model.uses_kept_attention:
        raise OptionError(
            "with this sliding_window and num_sinks the cache forgets tokens that the "
            f"{model.config.model_type} model's own masks show, which only kept's attention can "
            f"honour; load the model with attn_implementation={ATTENTION!r}, or leave them out"
        )
    return found
