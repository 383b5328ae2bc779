"""The corpus: the standard library's own source, split into train and held-out modules.

    python training/corpus.py

A file belongs to the held-out part when a hash of its path says so, so the split is the same on
every machine with the same Python and nobody has chosen it.
"""

from __future__ import annotations

import hashlib
import sysconfig
from dataclasses import dataclass
from pathlib import Path

HELD_OUT_PER_MILLE = 35
SKIPPED_FOLDERS = frozenset({"site-packages", "dist-packages", "__pycache__"})


@dataclass(frozen=True)
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
    root = root or Path(sysconfig.get_paths()["stdlib"])
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


def split(modules: list[Module]) -> tuple[list[Module], list[Module]]:
    """The modules as (train, held-out)."""
    train = [module for module in modules if not is_held_out(module.path)]
    held_out = [module for module in modules if is_held_out(module.path)]
    return train, held_out


def main() -> None:
    """Print the sizes of both parts and the names of the held-out modules."""
    train, held_out = split(read_modules())
    for name, part in (("train", train), ("held-out", held_out)):
        print(f"{name:9} {len(part):5} modules {sum(m.num_bytes for m in part):11,} bytes")
    for module in held_out:
        print(f"  {module.num_bytes:9,}  {module.path}")


if __name__ == "__main__":
    main()
