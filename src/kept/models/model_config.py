"""What is asked of any model's config."""

from __future__ import annotations

from typing import Protocol

from kept.cache import KVShape


class ModelConfig(Protocol):
    """What the engine and the caches need to know of a model's config."""

    @property
    def vocab_size(self) -> int: ...
    @property
    def context(self) -> int: ...
    @property
    def num_layers(self) -> int: ...
    @property
    def num_heads(self) -> int: ...
    @property
    def kv_shapes(self) -> tuple[KVShape, ...]: ...
