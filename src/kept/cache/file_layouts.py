"""How the layouts that a file describes come to lie."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from kept.cache.block_groups import block_layouts
from kept.cache.contiguous import ContiguousLayout
from kept.cache.description import Description
from kept.cache.file_tensors import damaged
from kept.cache.layout import Layout
from kept.cache.place import Place
from kept.cache.saved_window import SavedWindow
from kept.errors import CacheError


@dataclass(frozen=True, slots=True)
class Lying:
    """Where what is read is to lie."""

    place: Place | None
    pool_bytes: int | None
    in_blocks: bool

    @property
    def files(self) -> Place | None:
        """Where it lies if that is not memory."""
        return None if self.place is None or self.place.budget is None else self.place

    @property
    def whole_in_blocks(self) -> bool:
        """Whether layers that let no token go lie in blocks, if their kind may."""
        return self.in_blocks and self.files is None


def in_blocks(found: Description, layouts: Sequence[Layout], options: Lying) -> set[Layout]:
    """Those of the layouts of a file that are to lie in blocks: of layers with a window, and, in
    memory, of those that let no token go."""
    may = options.whole_in_blocks and found.kind in ("dynamic", "sliding")
    whole = (x for x in layouts if isinstance(x, ContiguousLayout) and not x.fixed)
    return {x for x in whole if may or isinstance(x, SavedWindow)}


def laid_in_blocks(
    found: Description,
    layouts: Sequence[Layout],
    lying: Container[Layout],
    device: torch.device,
    options: Lying,
) -> list[Layout]:
    """Layouts in place of those that a file describes, some of which are to lie in blocks."""
    own = [shape for shape in found.shapes if shape.shares is None and not shape.cross]
    saved = [(layouts[i], shape) for i, shape in zip(found.layout_of, own, strict=True)]
    saved = [(layout, shape) for layout, shape in saved if layout in lying]
    windows = {x: x.window if isinstance(x, SavedWindow) else None for x, _ in saved}
    sinks = max((x.sinks for x in windows if isinstance(x, SavedWindow)), default=0)
    empty = block_layouts(
        [shape for _, shape in saved],
        [windows[layout] for layout, _ in saved],
        len(found.lengths),
        found.codec,
        device,
        options.pool_bytes,
        sinks,
        options.files,
    )
    made: dict[Layout, Layout] = {
        layout: of.filled(found.lengths, layout.gone if isinstance(layout, SavedWindow) else None)
        for layout, of in {x: of for (x, _), of in zip(saved, empty, strict=True)}.items()
    }
    return [made.get(layout, layout) for layout in layouts]


def check_windows(
    file: Path, found: Description, layouts: Sequence[Layout], options: Lying
) -> None:
    """Raise CacheError where layers attend no window that such a cache gives them, or those of a
    dynamic one, whose windows have passed tokens, come to lie in runs."""
    own = [shape for shape in found.shapes if shape.shares is None and not shape.cross]
    runs = found.kind == "dynamic" and not options.whole_in_blocks
    for shape, index in zip(own, found.layout_of, strict=True):
        layout = layouts[index]
        window = layout.window if isinstance(layout, SavedWindow) else None
        if not _may_attend(found.kind, shape.window, window):
            raise damaged(file, f"it keeps a window of {window} where a layer has {shape.window}")
        if runs and window is not None:
            raise CacheError(
                f"{file} holds a cache in blocks, whose layers with a window keep that alone, so "
                "it cannot lie in runs or in files; leave place and in_blocks out, or save a cache "
                "that was made with keeps_all=True"
            )


def _may_attend(kind: str, own: int | None, window: int | None) -> bool:
    """Whether a cache of this kind can keep `window` tokens for a layer whose own window is
    another."""
    if kind == "sliding":
        return own is None or (window is not None and window <= own)
    return window == own or (window is None and kind != "evicting")
