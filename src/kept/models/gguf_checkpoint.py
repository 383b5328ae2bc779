"""A GGUF file as a checkpoint: what its metadata says of the model, and its tensors by name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kept.gguf import GGUFHeader, read_headers
from kept.models.fields import Fields
from kept.models.gguf_config import gguf_config
from kept.models.gguf_names import find_sources
from kept.models.gguf_weights import GGUFWeights

_EOS = ("eos_token_id", "eot_token_id", "eom_token_id")


@dataclass(frozen=True, slots=True)
class GGUFModel:
    """What `open_checkpoint` makes a Checkpoint of.

    stored_as: the blocks that its matrices are stored in, None where they are plain numbers.
    """

    config: Mapping[str, Any]
    generation_config: Mapping[str, Any]
    weights: GGUFWeights
    stored_as: str | None


def open_gguf(path: Path) -> GGUFModel:
    """Read a GGUF file's header and what follows from it.

    Raises as `read_headers` and `gguf_config`.
    """
    return describe_header(read_headers(path))


def describe_header(header: GGUFHeader) -> GGUFModel:
    """What follows from a GGUF file's header. Raises as `gguf_config`."""
    config = gguf_config(header)
    weights = GGUFWeights(header, find_sources(header, config))
    return GGUFModel(config, _generation_config(header), weights, _stored_as(header))


def _generation_config(header: GGUFHeader) -> dict[str, Any]:
    """The tokens that begin and end a text; a turn's end counts as one, as for llama.cpp."""
    fields = Fields(header.metadata, f"the metadata of {header.path.name}")

    def read(key: str) -> int | None:
        name = f"tokenizer.ggml.{key}"
        return fields.integer(name, minimum=0) if fields.has(name) else None

    named = {"bos_token_id": read("bos_token_id"), "pad_token_id": read("padding_token_id")}
    found: dict[str, Any] = {name: value for name, value in named.items() if value is not None}
    if eos := [end for end in dict.fromkeys(map(read, _EOS)) if end is not None]:
        found["eos_token_id"] = eos
    return found


def _stored_as(header: GGUFHeader) -> str | None:
    bits, weights = 0, 0
    names: Counter[str] = Counter()
    for tensor in header.tensors.values():
        if len(tensor.shape) > 1:
            count = tensor.num_bytes // tensor.type.num_bytes * tensor.type.weights
            bits, weights = bits + 8 * tensor.num_bytes, weights + count
            if not tensor.type.is_plain:
                names[tensor.type.name] += count
    if not names:
        return None
    return (
        f"{', '.join(name for name, _ in names.most_common())} ({bits / weights:.1f} bits a weight)"
    )
