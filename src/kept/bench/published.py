"""Published results of the same experiment, to set beside this machine's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Published:
    """Somebody's measurement; with_cache and without_cache in seconds."""

    what: str
    hardware: str
    new_tokens: int
    with_cache: float
    without_cache: float

    @property
    def ratio(self) -> float:
        """Time without the cache over time with it."""
        return self.without_cache / self.with_cache


PUBLISHED: Final = (
    Published("GPT-2", "NVIDIA A5000", 1000, 6.24, 21.10),
    Published("model not stated", "NVIDIA T4", 300, 11.7, 61.0),
)
