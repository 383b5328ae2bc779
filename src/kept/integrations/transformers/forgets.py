"""Layers whose cache keeps less than the model attends."""

from __future__ import annotations

from kept.cache import Cache, RingLayout
from kept.errors import OptionError
from kept.integrations.transformers.model import ATTENTION, ModelLayers

Forgets = tuple[int, int] | None


def rings(cache: Cache) -> list[RingLayout]:
    return [layout for layout in dict.fromkeys(cache.layouts) if isinstance(layout, RingLayout)]


def forgets_of(model: ModelLayers, cache: Cache) -> list[Forgets]:
    """(window, sinks) of each layer of a cache that keeps less than the model attends.

    Raises OptionError if there are any, and the model does not attend through kept.
    """
    found: list[Forgets] = []
    for window, layout in zip(model.windows, cache.layouts, strict=True):
        less = isinstance(layout, RingLayout) and (layout.window != window or layout.sinks > 0)
        found.append((layout.window, layout.sinks) if less else None)  # type: ignore[attr-defined]
    if any(found) and not model.uses_kept_attention:
        raise OptionError(
            "with this sliding_window and num_sinks the cache forgets tokens that the "
            f"{model.config.model_type} model's own masks show, which only kept's attention can "
            f"honour; load the model with attn_implementation={ATTENTION!r}, or leave them out"
        )
    return found
