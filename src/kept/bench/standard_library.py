"""A text every machine with Python has: the standard library's source, and its held-out part.

The bundled model was trained on the other part. A file belongs to the held-out one when a hash of
its path says so, so the split is the same on every machine with the same Python and nobody has
chosen it.
"""

from __future__ import annotations

import hashlib
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from kept.errors import OptionError

HELD_OUT_PER_MILLE = 35
SKIPPED_FOLDERS = frozenset({"site-packages", "dist-packages", "__pycache__"})


@dataclass(frozen=True, slots=True)
class Module:
    """One source file: its path relative to the library's root, and its text."""

    path: str
    text: str

    @property
    def num_bytes(self) -> int:
        """Length in UTF-8 bytes."""
        return len(self.text.encode("utf-8"))


def is_held_out(path: str) -> bool:
    """Whether the module at this relative path is held out, by the SHA-256 of the path."""
    digest = hashlib.sha256(path.encode("utf-8")).digest()
    return int.from_bytes(digest[:8], "big") % 1000 < HELD_OUT_PER_MILLE


def read_modules(root: Path | None = None) -> list[Module]:
    """Every non-empty UTF-8 `.py` file below the standard library, in path order, without copies.

    Exact duplicates are kept once, under their first path. Files that are not UTF-8 (a few tests
    of the source decoder) are left out.
    """
    root = _library() if root is None else root
    modules: list[Module] = []
    seen: set[bytes] = set()
    for file in sorted(root.rglob("*.py")):
        relative = file.relative_to(root)
        if SKIPPED_FOLDERS.intersection(relative.parts):
            continue
        raw = file.read_bytes()
        digest = hashlib.sha256(raw).digest()
        if not raw.strip() or digest in seen:
            continue
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError:
            continue
        seen.add(digest)
        modules.append(Module(relative.as_posix(), text))
    return modules


def read_held_out(root: Path | None = None) -> list[Module]:
    """The held-out modules, in path order.

    Raises OptionError where there are none, as in a Python that ships without its sources.
    """
    root = _library() if root is None else root
    found = [module for module in read_modules(root) if is_held_out(module.path)]
    if not found:
        raise OptionError(
            f"{root} has none of the held-out modules of Python's standard library; name a text of "
            "your own with --text, or run a Python that comes with its sources"
        )
    return found


def _library() -> Path:
    return Path(sysconfig.get_paths()["stdlib"])
