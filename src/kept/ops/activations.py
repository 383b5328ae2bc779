"""How activations enter products with quantized weights: as bfloat16, or as int8 codes."""

from __future__ import annotations

from typing import Literal, get_args

from kept.errors import BackendError, OptionError
from kept.ops.backend import isa
from kept.ops.quantize import QUANTIZED_FORMATS, CodeFormat, QuantizedFormat

Activations = Literal["bfloat16", "int8"]
ACTIVATIONS: tuple[str, ...] = ("auto", *get_args(Activations))

# Where products of whole numbers are the faster ones, for one row as for a prompt, and of which
# weights they keep the quality (docs/decisions/integer-products.md). On matrix tiles each group of
# activations would cost as much as its products; the portable kernels were not found faster.
_FASTER = ("avx512bf16", "avx512vnni", "avx512", "avx2vnni", "avx2")
_AS_GOOD: tuple[CodeFormat, ...] = ("int8", "q8_0", "q4_0")
# Weights with a scale for each 32 inputs: whole numbers are the faster ones for one row on AMX as
# well, where tiles multiply bf16 by weights of 4 bits of many rows alone.
_FASTER_IN_GROUPS = (*_FASTER, "amx")


def check_activations(asked: str) -> None:
    """Raise OptionError for a value of `activations=` that there is not."""
    if not isinstance(asked, str) or asked not in ACTIVATIONS:
        raise OptionError(f"activations={asked!r} is not one of {', '.join(ACTIVATIONS)}")


def choose_activations(asked: str, format: CodeFormat | None, why_torch: str | None) -> Activations:
    """What weights of this format are multiplied with. format: None for weights as they are.

    why_torch: why the native kernels do not run the model, if they do not. "auto" looks at the
    instruction set and the format alone, so that no batch or prompt changes a bit. Raises
    OptionError for an unknown value, and where there are no quantized weights to choose for;
    BackendError for int8 where torch runs the model.
    """
    check_activations(asked)
    if asked == "auto":
        if why_torch is not None or format is None:
            return "bfloat16"
        return _automatic(isa(), format)
    if format is None:
        raise OptionError(
            f"activations={asked!r} is of weights that are int8 or int4, and these are neither; "
            "pass quantize='int8' or 'int4' as well, or leave it out"
        )
    if asked == "int8" and why_torch is not None:
        raise BackendError(
            f"activations='int8' needs the native kernels: {why_torch}; leave it out, or pass "
            "'bfloat16'"
        )
    return "int8" if asked == "int8" else "bfloat16"


def automatic(isa_name: str) -> dict[QuantizedFormat, Activations]:
    """What "auto" takes on an instruction set, by the format of the weights."""
    return {format: _automatic(isa_name, format) for format in QUANTIZED_FORMATS}


def _automatic(isa_name: str, format: CodeFormat) -> Activations:
    faster = _FASTER if format == "int8" else _FASTER_IN_GROUPS
    return "int8" if isa_name in faster and format in _AS_GOOD else "bfloat16"
