"""What is measured: a model, and what it costs to run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from kept.bench.random_weights import random_model
from kept.bench.shapes import shape_config
from kept.bench.work import Costs, stored_bytes
from kept.errors import OptionError
from kept.format import dtype_name
from kept.llm import LLM
from kept.machine import MatrixDtype
from kept.models import (
    CausalLM,
    Checkpoint,
    build_model,
    open_checkpoint,
    resolve_dtype,
)
from kept.models.native import matrices
from kept.models.packing import prepare
from kept.models.quantized_format import quantized_format
from kept.ops import PackedMatrix
from kept.ops.backend import isa


@dataclass(frozen=True, slots=True)
class Subject:
    """The model under measurement.

    random: its weights are drawn, not trained. quantize: the format they are held in, None for
    the model's dtype.
    """

    name: str
    model: CausalLM
    random: bool
    quantize: str | None = None
    costs: Costs = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "costs", Costs.of(self.model))

    @property
    def num_parameters(self) -> int:
        """Parameters; shared ones count once."""
        return self.costs.num_parameters

    @property
    def weight_bytes(self) -> int:
        """Bytes of all weights, in the format they are held in."""
        return stored_bytes(self.model)

    @property
    def step_weight_bytes(self) -> int:
        """Bytes of weights that a decode step of one sequence reads."""
        return self.costs.pass_bytes(1)

    @property
    def weight_format(self) -> str:
        """What the weights are held in, in words."""
        dtype = dtype_name(self.model.dtype)
        if self.quantize is None:
            return dtype
        return f"{self.quantize} weights over {self.model.activations or dtype}"

    @property
    def kernels(self) -> str:
        """What runs the model: the native kernels' instruction set, or torch."""
        return "torch" if self.model.native is None else f"native {isa()}"

    @property
    def instructions(self) -> str | None:
        """The native kernels' instruction set, whose peak bounds them; None for torch's best."""
        return None if self.model.native is None else isa()

    @property
    def matrix_dtype(self) -> MatrixDtype:
        """The type whose matrix arithmetic bounds the model's."""
        if self.quantize is not None:
            return "int8"  # the narrowest there is, and so the highest limit
        # There is no probe of float16: like a type without an instruction it is bound by fp32's.
        return "bf16" if self.model.dtype == torch.bfloat16 else "fp32"

    def pass_operations(self, length: int) -> int:
        """Operations of matrix products in a pass over a prompt, for its last token's logits."""
        return self.costs.prompt(length).operations

    def kv_bytes(self, length: int) -> int:
        """Bytes of keys and values that a token attends at this length, windows considered."""
        return self.costs.kv_bytes(length)


def random_subject(
    shape: str,
    dtype: str | None = None,
    seed: int = 0,
    device: str | None = None,
    quantize: str | None = None,
    activations: str = "auto",
) -> Subject:
    """A known shape with random weights, in its published dtype unless one is given.

    quantize, activations: the format to hold them in, and as what activations meet them, as
    `kept.LLM` takes both. Raises OptionError for a shape,
    dtype, device or format that is not known, or too little memory.
    """
    config = shape_config(shape)
    model = random_model(config, resolve_dtype(dtype, config), seed, device)
    prepare(model, quantize, activations=activations)
    return Subject(shape, model, random=True, quantize=quantize)


def checkpoint_subject(
    source: str | Path,
    dtype: str | torch.dtype | None = None,
    device: str | None = None,
    progress: Callable[[int, int], None] | None = None,
    quantize: str | None = None,
    activations: str = "auto",
) -> Subject:
    """A checkpoint folder's or hub id's model; one of `kept quantize` counts as what it holds.

    Raises what `kept.LLM` raises for one, and OptionError for an encoder-decoder model.
    """
    checkpoint = open_checkpoint(source)
    refuse_encoders(checkpoint)
    llm = LLM(
        source,
        dtype=dtype,
        device=device,
        quantize=quantize,
        activations=activations,
        progress=progress,
    )
    held = quantized_format(checkpoint.folder, checkpoint.config)
    name = Path(source).name or str(source)
    stored = None if checkpoint.stored_as is None else _formats_of(llm.model)
    return Subject(name, llm.model, random=False, quantize=quantize or held or stored)


def _formats_of(model: CausalLM) -> str | None:
    """What a model's matrices are held in, as far as they are codes; None: numbers."""
    packed = [modules[0].weight for modules in matrices(model)]
    held = {x.format for x in packed if isinstance(x, PackedMatrix)} - {"fp32", "bf16"}
    return ", ".join(sorted(held)) or None


def refuse_encoders(checkpoint: Checkpoint) -> None:
    """Raise OptionError for an encoder-decoder model, whose steps are not what is counted here."""
    if build_model(checkpoint.config).is_encoder_decoder:
        raise OptionError(
            f"{checkpoint.folder} is an encoder-decoder model, and kept bench measures decoders; "
            "name another model"
        )
