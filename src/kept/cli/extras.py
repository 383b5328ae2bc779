"""The optional parts of kept: which packages each takes, and which are here."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Final

EXTRAS: Final[Mapping[str, tuple[str, ...]]] = {
    "serve": ("fastapi", "llguidance", "prometheus_client", "pydantic", "uvicorn"),
    "grammar": ("llguidance",),
    "encrypt": ("cryptography",),
    "bench": ("matplotlib",),
    "gguf": ("gguf",),
    "sentencepiece": ("protobuf", "sentencepiece"),
    "transformers": ("transformers",),
}


def missing_extras() -> set[str]:
    """The parts of which a package is not here."""
    return {name for name, needed in EXTRAS.items() if not all(map(_is_here, needed))}


def _is_here(package: str) -> bool:
    if package == "protobuf":  # whose modules lie in a folder that others share
        return find_spec("google") is not None and find_spec("google.protobuf") is not None
    return find_spec(package) is not None
