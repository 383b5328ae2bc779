"""What a model is, from its config.json alone: no weights are read, nor fetched from the hub."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kept.errors import CheckpointError, TemplateError

if TYPE_CHECKING:
    import torch

    from kept.cache import KVShape
    from kept.gguf import GGUFHeader
    from kept.models import CausalLM, Checkpoint


@dataclass(frozen=True)
class Description:
    """A model on the meta device: shapes without memory.

    folder: or the GGUF file, None for a named shape. stored_dtype: of its weights, None where they
    are not there. stored_as, loaded_as: the blocks that its matrices are in and what they are held
    in where no dtype is asked for, None for plain numbers; loaded_bytes: of the weights then.
    header: of a GGUF file that is not fetched.
    """

    name: str
    folder: Path | None
    config: Mapping[str, Any]
    model: CausalLM
    stored_dtype: torch.dtype | None = None
    stored_as: str | None = None
    loaded_as: str | None = None
    loaded_bytes: int | None = None
    header: GGUFHeader | None = None

    @property
    def architecture(self) -> str:
        """As config.json's `architectures` and transformers name it."""
        named: list[str] = self.config.get("architectures") or [str(self.config["model_type"])]
        return named[0]

    @cached_property
    def num_parameters(self) -> int:
        """Tied weights count once."""
        return self.model.num_parameters

    def dtype(self, asked: str | None = None) -> torch.dtype:
        """The dtype it is loaded in if this one is asked for. Raises as loading does."""
        import torch

        from kept.models import resolve_dtype

        return resolve_dtype(asked, self.config, self.stored_dtype or torch.float32)

    def why_torch(self) -> str | None:
        """Why it runs on torch, loaded as it is; None where the native kernels run it."""
        import torch

        from kept.ops.backend import why_torch

        widest = max(shape.head_dim for shape in self.kv_shapes)
        return why_torch(self.dtype(), torch.device("cpu"), widest, self.model.not_native)

    @property
    def kv_shapes(self) -> tuple[KVShape, ...]:
        """What each layer stores per token."""
        return self.model.kv_shapes

    def token_bytes(self) -> dict[str, int]:
        """Bytes of a token's keys and values over all layers, for each `--kv-dtype` there is.

        Grouped heads count once, and scales are counted.
        """
        return _bytes_of(self._shapes(cross=False))

    def token_bytes_past_windows(self) -> dict[str, int]:
        """`token_bytes` once windows are full, but for a static cache: of layers without one."""
        return _bytes_of([shape for shape in self._shapes(cross=False) if shape.window is None])

    def input_token_bytes(self) -> dict[str, int]:
        """The same of a token of an encoder's input, over all cross layers."""
        return _bytes_of(self._shapes(cross=True))

    def _shapes(self, cross: bool) -> list[KVShape]:
        return [shape for shape in self.kv_shapes if shape.cross == cross]

    @property
    def is_encoder_decoder(self) -> bool:
        """Whether a prompt goes to an encoder."""
        return self.model.is_encoder_decoder

    @property
    def quantized(self) -> str | None:
        """What its weights are stored as, where `kept quantize` wrote them. Raises as loading."""
        from kept.models import quantized_format

        return None if self.folder is None else quantized_format(self.folder, self.config)

    def weight_bytes(self, dtype: torch.dtype) -> int:
        """Bytes of the weights once loaded; of quantized ones whatever the dtype."""
        from kept.models.block_sizes import bytes_saved_by_blocks

        if self.quantized is not None:
            return self.quantized_bytes()[self.quantized]
        whole = self.num_parameters * dtype.itemsize
        if self.why_torch() is not None:
            return whole
        return whole - bytes_saved_by_blocks(self.model, self.config, dtype)

    def quantized_bytes(self) -> dict[str, int]:
        """Bytes of the weights in each format they can be quantized to, as the kernels read them.

        Scales and padding are counted, and what is not quantized.
        """
        from kept.models import quantized_sizes

        return quantized_sizes(self.model, self.dtype())

    @property
    def windows(self) -> tuple[int, ...]:
        """The windows of the layers that have one."""
        return tuple(shape.window for shape in self.kv_shapes if shape.window is not None)

    def tokenizer(self) -> tuple[str, int] | None:
        """Its kind and how many tokens it has; None without one. Raises TokenizerError."""
        from kept.text import find_tokenizer, gguf_tokenizer

        if self.header is not None:
            found = gguf_tokenizer(self.header)
            backend = None if found is None else found[0]
        else:
            tokenizer = None if self.folder is None else find_tokenizer(self.folder)
            backend = None if tokenizer is None else tokenizer.backend
        if backend is None:
            return None
        return type(backend.model).__name__, backend.get_vocab_size(with_added_tokens=True)

    def has_chat_template(self) -> bool:
        """Whether `kept chat` can use it."""
        from kept.text import ChatTemplate

        if self.header is not None:
            return "tokenizer.chat_template" in self.header.metadata
        if self.folder is None:
            return False
        try:
            ChatTemplate.from_folder(self.folder)
        except TemplateError:
            return False
        return True


def _bytes_of(shapes: Sequence[KVShape]) -> dict[str, int]:
    from kept.cache import why_not_in_keys
    from kept.ops import find_kv_codec
    from kept.options import KV_DTYPES

    codecs = [find_kv_codec(name) for name in KV_DTYPES]
    codecs = [codec for codec in codecs if why_not_in_keys(shapes, codec) is None]
    return {c.name: sum(shape.num_bytes(c) for shape in shapes) for c in codecs}


def token_costs(bytes_per_token: Mapping[str, int]) -> str:
    """`Description.token_bytes` for people."""
    return ", ".join(f"{count:,} in {name}" for name, count in bytes_per_token.items())


def describe_model(source: str | None, revision: str | None = None) -> Description:
    """Describe a folder, a hub id, or the bundled model (None).

    A folder's files are checked as loading would check them, as far as their headers go. Raises
    CheckpointError and its kinds, OptionError for the revision of a folder.
    """
    from kept.json_file import read_json_object
    from kept.models import find_folder, find_remote, open_checkpoint

    if (remote := find_remote(source, revision)) is not None:
        return _describe_remote(str(source), remote)
    folder, repo_id = find_folder(source, revision=revision, weights=False)
    name = "the bundled model" if source is None else source
    if repo_id is None:
        checkpoint = open_checkpoint(folder)
        config = checkpoint.config
        return Description(
            name,
            folder,
            config,
            _build(config),
            checkpoint.stored_dtype,
            checkpoint.stored_as,
            *_loading_of(checkpoint),
        )
    config = read_json_object(folder / "config.json", CheckpointError)
    return Description(name, folder, config, _build(config))


def _describe_remote(name: str, header: GGUFHeader) -> Description:
    from kept.models import describe_header, gguf_checkpoint

    found = describe_header(header)
    config, blocks = found.config, found.stored_as
    loaded_as, size = _loading_of(gguf_checkpoint(header.path, found))
    return Description(name, None, config, _build(config), None, blocks, loaded_as, size, header)


def _loading_of(checkpoint: Checkpoint) -> tuple[str | None, int | None]:
    from kept.models import describe_loading

    return (None, None) if checkpoint.stored_as is None else describe_loading(checkpoint)


def describe_shape(name: str) -> Description:
    """Describe a well-known shape. Raises OptionError for one that is not known."""
    from kept.bench.shapes import shape_config

    config = shape_config(name)
    return Description(f"shape {name}", None, config, _build(config))


def _build(config: Mapping[str, Any]) -> CausalLM:
    from kept.models import build_model

    return build_model(config)
