"""The LoRA adapters of a model: which there are, and giving its layers their parts of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from kept.errors import OptionError
from kept.models.adapter import Adapter
from kept.models.adapter_files import read_adapter
from kept.models.causal_lm import CausalLM
from kept.models.checkpoint import Checkpoint
from kept.models.layers import Linear
from kept.models.loading import lay_out
from kept.ops import Adapters, LowRank


def check_adapters(adapters: object) -> dict[str, Any]:
    """Names and folders of adapters. Raises OptionError for anything else."""
    if adapters is None:
        return {}
    if not isinstance(adapters, Mapping):
        raise OptionError(
            f"adapters={adapters!r:.100} is a {type(adapters).__name__}; pass a dict of names and "
            "folders"
        )
    for name in adapters:
        if not isinstance(name, str) or not name.strip() or name != name.strip():
            raise OptionError(f"an adapter is called {name!r:.100}; give it a name of text")
    return dict(adapters)


def load_adapters(model: CausalLM, checkpoint: Checkpoint, asked: object) -> None:
    """Give a loaded model the adapters of some folders. Mutates the model.

    asked: names and folders. Raises OptionError for what is none of these, and for an
    encoder-decoder model; else as `read_adapter`.
    """
    folders = check_adapters(asked)
    if not folders:
        return
    if model.is_encoder_decoder:
        raise OptionError(
            f"{checkpoint.folder} is an encoder-decoder model, and kept runs adapters of decoders "
            "alone; leave adapters out, or merge one into the checkpoint"
        )
    _, weight_map = lay_out(checkpoint)
    found = [read_adapter(name, folders[name], model, weight_map) for name in folders]
    attach(model, found)


def attach(model: CausalLM, adapters: Sequence[Adapter]) -> None:
    """Give each layer its part of adapters that were read for the model. Mutates the model."""
    homes = dict.fromkeys(home for each in adapters for home in each.parts)
    for home in homes:
        layer = model.get_submodule(home)
        assert isinstance(layer, Linear), home
        parts = (each.parts.get(home, ()) for each in adapters)
        moved = tuple(tuple(_on(model.device, part) for part in each) for each in parts)
        layer.adapters = Adapters(moved, model.adapted_rows)
    model.adapters = tuple(adapters)
    if model.native is not None:
        model.native.trace_again()


def _on(device: torch.device, part: LowRank) -> LowRank:
    return replace(part, down=part.down.to(device), up=part.up.to(device))
