"""What is measured: a model, and the bytes one decode step must read of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from kept.bench.random_weights import random_model
from kept.bench.shapes import shape_config
from kept.models import CausalLM, load_model, open_checkpoint, resolve_dtype
from kept.models.layers import Embedding


@dataclass(frozen=True, slots=True)
class Subject:
    """The model under measurement. random: its weights are drawn, not trained."""

    name: str
    model: CausalLM
    random: bool

    @property
    def num_parameters(self) -> int:
        """Parameters; shared ones count once."""
        return self.model.num_parameters

    @property
    def weight_bytes(self) -> int:
        """Bytes of all weights."""
        return self.num_parameters * self.model.dtype.itemsize

    @property
    def step_weight_bytes(self) -> int:
        """Bytes of weights that a decode step reads: of a table of vectors, one row at most.

        A table that is also the output head is read whole.
        """
        read = {
            parameter
            for module in self.model.modules()
            if not isinstance(module, Embedding)
            for parameter in module.parameters(recurse=False)
        }
        return sum(p.numel() for p in read) * self.model.dtype.itemsize

    def pass_operations(self, length: int) -> int:
        """Operations of matrix products in a pass over a prompt, for its last token's logits.

        A multiplication and an addition are two. Attention counts the tokens that are attended.
        """
        config = self.model.config
        blocks = sum(p.numel() for p in self.model.blocks.parameters() if p.ndim == 2)
        head = sum(p.numel() for p in self.model.head.parameters())
        attention = 0
        for shape in self.model.kv_shapes:
            window = min(length, shape.window or length)
            pairs = window * (window + 1) // 2 + (length - window) * window
            attention += 2 * config.num_heads * shape.head_dim * pairs
        return 2 * (blocks * length + head + attention)

    def kv_bytes(self, length: int) -> int:
        """Bytes of keys and values that a token attends at this length, windows considered."""
        per_entry = (
            shape.numel * min(length, shape.window or length) for shape in self.model.kv_shapes
        )
        return sum(per_entry) * self.model.dtype.itemsize


def random_subject(
    shape: str, dtype: str | None = None, seed: int = 0, device: str | None = None
) -> Subject:
    """A known shape with random weights, in its published dtype unless one is given.

    Raises OptionError for a shape, dtype or device that is not known, or too little memory.
    """
    config = shape_config(shape)
    model = random_model(config, resolve_dtype(dtype, config), seed, device)
    return Subject(shape, model, random=True)


def checkpoint_subject(
    source: str | Path,
    dtype: str | torch.dtype | None = None,
    device: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Subject:
    """A checkpoint folder's or hub id's model. Raises what `kept.LLM` raises for one."""
    checkpoint = open_checkpoint(source)
    model = load_model(checkpoint, dtype=dtype, device=device, progress=progress)
    return Subject(Path(source).name or str(source), model, random=False)
