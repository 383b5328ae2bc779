"""Which files hold the keys and values that memory does not."""

from __future__ import annotations

from pathlib import Path

from kept.cache import Offloaded
from kept.errors import OptionError


def read_place(folder: str | Path | None, memory: int | None) -> Offloaded | None:
    """Where kv_folder and kv_memory have caches lie, None: in memory. Raises OptionError for one
    without the other, or for what will not do."""
    if folder is None and memory is None:
        return None
    if folder is None or memory is None:
        raise OptionError(
            f"kv_folder={folder} and kv_memory={memory} go together: the folder takes what the "
            "memory does not hold; give both or neither"
        )
    return Offloaded(folder, memory)
