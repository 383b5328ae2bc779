"""What is measured: a model, and what it costs to run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from kept.bench.random_weights import random_model
from kept.bench.shapes import shape_config
from kept.bench.work import Costs, stored_bytes
from kept.machine import MatrixDtype
from kept.models import CausalLM, load_model, open_checkpoint, resolve_dtype


@dataclass(frozen=True, slots=True)
class Subject:
    """The model under measurement. random: its weights are drawn, not trained."""

    name: str
    model: CausalLM
    random: bool
    costs: Costs = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "costs", Costs.of(self.model))

    @property
    def num_parameters(self) -> int:
        """Parameters; shared ones count once."""
        return self.model.num_parameters

    @property
    def weight_bytes(self) -> int:
        """Bytes of all weights, in the format they are held in."""
        return stored_bytes(self.model)

    @property
    def step_weight_bytes(self) -> int:
        """Bytes of weights that a decode step reads."""
        return self.costs.weight_bytes

    @property
    def matrix_dtype(self) -> MatrixDtype:
        """The type whose matrix arithmetic bounds the model's."""
        # There is no probe of float16: like a type without an instruction it is bound by fp32's.
        return "bf16" if self.model.dtype == torch.bfloat16 else "fp32"

    def pass_operations(self, length: int) -> int:
        """Operations of matrix products in a pass over a prompt, for its last token's logits."""
        return self.costs.prompt(length).operations

    def kv_bytes(self, length: int) -> int:
        """Bytes of keys and values that a token attends at this length, windows considered."""
        return self.costs.kv_bytes(length)


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
