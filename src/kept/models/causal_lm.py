"""What every decoder shares: the pass over packed rows."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import ClassVar, TypeVar

import torch
from torch import Tensor, nn

from kept import ops
from kept.batch import Batch
from kept.cache import Cache, KVShape, stores
from kept.errors import ContextLengthError, OptionError
from kept.exiting import computing
from kept.models.adapter import Adapter, check_numbers, find
from kept.models.matching import OwnLayers
from kept.models.model_config import ModelConfig
from kept.models.native import NativeDecoder, PackWeight, Progress, pack_model
from kept.models.next_logits import NextLogits
from kept.models.padded_face import PaddedFace
from kept.models.record import Record
from kept.models.repeated_step import RepeatedStep
from kept.ops import PackedMatrix, Rope, RopeTables
from kept.ops.activations import Activations
from kept.turns import Turn

Found = TypeVar("Found")


_CPU = torch.device("cpu")


class CausalLM(PaddedFace):
    """A decoder. Families say how tokens are embedded and what a block does.

    is_encoder_decoder: whether a prompt goes to an encoder, see `EncoderDecoderLM`.
    not_native: why the native kernels cannot run the family; None: they can. not_evicting: why an
    evicting cache cannot serve it; None: it can. too_narrow: dtypes that its activations outgrow.
    """

    is_encoder_decoder: ClassVar[bool] = False
    not_native: ClassVar[str | None] = None
    not_evicting: ClassVar[str | None] = None
    too_narrow: ClassVar[tuple[torch.dtype, ...]] = ()
    embedding: nn.Module
    blocks: nn.ModuleList
    norm: nn.Module
    head: nn.Module

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        ops.backend()  # a KEPT_OPS that cannot be had fails here, before any weight is read
        self.config = config
        self.native: NativeDecoder | None = None
        self._dtype: torch.dtype | None = None
        self.adapters: tuple[Adapter, ...] = ()
        self.adapted_rows = ops.AdaptedRows()
        self._layers = OwnLayers(config.kv_shapes)
        self._turn = Turn()

    @abstractmethod
    def embed(self, batch: Batch) -> tuple[Tensor, Rope | tuple[Rope, ...]]:
        """Vectors (N, E) of the batch's tokens, and its rotary tables if positions are rotary.

        Several tables where layers differ in them; blocks pick theirs.
        """

    @property
    def tables(self) -> tuple[nn.Module, ...]:
        """Tables of vectors by token, which are packed as matrices are."""
        return (self.embedding,)

    def finish(self, x: Tensor) -> Tensor:
        """What the final norm reads (N, E) of the rows behind the last block."""
        return x

    def project(self, x: Tensor) -> Tensor:
        """Logits (M, V) of the final norm's rows (M, E)."""
        logits: Tensor = self.head(x)
        return logits

    def rope_tables(self, batch: Batch) -> RopeTables | None:
        """The tables the native kernels rotate with; None where positions are absolute."""
        return None

    def rope_ahead(self, lengths: Sequence[int]) -> RopeTables | None:
        """These for the tokens that come behind so many of each sequence, whose rows are their
        positions, as far as there is room in them; asks torch for nothing where they are there."""
        return None

    @property
    def keys_follow_length(self) -> bool:
        """Whether a token's keys depend on how long its text becomes, as under dynamic rotary
        scaling, and not only on the tokens before it."""
        return False

    @property
    def reread_at(self) -> int | None:
        """Beyond how many tokens of a text all of its keys are others than up to there, so that
        those that are held have to be computed anew, once; None: there is no such length."""
        return None

    def pack(
        self,
        pack_weight: PackWeight,
        progress: Progress | None = None,
        dtype: torch.dtype | None = None,
        activations: Activations = "bfloat16",
    ) -> None:
        """Replace every matrix by what `pack_weight` makes of it, and run on the native kernels.

        progress: called with the numbers packed so far and their total. dtype: what keys and
        values are stored as unless asked otherwise, by default that of the weights. activations:
        as what they enter products with int8 and int4 weights. A packed model has no gradients
        and does not move to another device. Mutates the model.
        """
        dtype = dtype or self.dtype

        def pack_one(weight: Tensor, gated: bool, bias: Tensor | None) -> PackedMatrix:
            with computing():
                return pack_weight(weight, gated, bias)

        num_parameters = pack_model(self, pack_one, progress)
        self._dtype = dtype
        self.native = self._on_kernels(num_parameters, activations)

    def _on_kernels(self, num_parameters: int, activations: Activations) -> NativeDecoder:
        return NativeDecoder(self, num_parameters, activations)

    @property
    def activations(self) -> Activations | None:
        """As what activations meet int8 and int4 weights; None where torch runs the model."""
        return None if self.native is None else self.native.activations

    def find_adapter(self, name: str | None) -> Adapter | None:
        """The adapter of that name; None: none. Raises OptionError for one that there is not."""
        return None if name is None else find(self.adapters, name)

    @property
    def kv_shapes(self) -> tuple[KVShape, ...]:
        """What each layer stores per token; what `make_cache` takes."""
        return self.config.kv_shapes

    @property
    def num_parameters(self) -> int:
        """How many numbers the weights are; tied ones count once."""
        if self.native is not None:
            return self.native.num_parameters
        return sum(parameter.numel() for parameter in self.parameters())

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights, and so of keys and values; bfloat16 where weights are quantized."""
        return self._dtype or next(self.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return _CPU if self.native is not None else next(self.parameters()).device

    @ops.plain_torch(watched=True)
    def run(self, batch: Batch, cache: Cache | None = None, record: Record | None = None) -> Tensor:
        """The forward pass over packed rows.

        Returns logits (M, V) fp32 of the rows the batch wants. Mutates the cache, whose lengths
        advance when every layer has run, and the record. With a cache nothing that comes back has
        a gradient. The model's dtype says what it computes in, and autocast does not reach it.
        Raises, before anything is stored, OptionError for a cache in training, ContextLengthError
        past the context where positions are absolute, CacheError or CacheFullError.
        """
        if cache is not None and self.training and torch.is_grad_enabled():
            raise OptionError(
                "a cache cannot be used while the model is in train() mode with gradients on: "
                "cached keys carry no gradient, so a backward pass would silently miss their part; "
                "call model.eval(), use torch.no_grad(), or pass use_cache=False"
            )
        self._check_positions(batch)
        with computing(), self._turn.lock:
            if self.native is not None:
                return self._run_native(batch, cache, record or Record()).logits
            # What comes back from a cache carries no gradient: better none than a wrong one.
            recorded = torch.is_grad_enabled() and cache is None
            with torch.set_grad_enabled(recorded), ops.exact_products():
                return self._run(batch, cache, record or Record())

    @contextmanager
    def running(self) -> Iterator[None]:
        """Have the model to oneself: other threads wait, and it may run within. Holds torch to one
        thread beside the kernels, on whose CPUs its others would spin for milliseconds."""
        with self._turn.lock, nullcontext() if self.native is None else ops.one_torch_thread():
            self._turn.note()
            yield
            self._turn.note_end()

    def run_alone(self, do: Callable[[], Found]) -> Found:
        """Return what `do` does while it has the model to itself as when `running`, but for torch's
        threads."""
        with self._turn.lock:
            self._turn.note()
            found = do()
            self._turn.note_end()
            return found

    @property
    def is_running_here(self) -> bool:
        """Whether the calling thread has the model to itself."""
        return self._turn.is_mine

    @property
    def is_running_elsewhere(self) -> bool:
        """Whether another thread has it, as far as can be told without waiting."""
        return self._turn.is_noted_elsewhere

    def next_logits(self, batch: Batch, cache: Cache | None = None, top_k: int = 0) -> NextLogits:
        """`run`, and the likeliest token of each row and its `top_k` largest logits, where the
        native kernels find them on their way. To be called, and what it returns to be read, while
        `running`."""
        if self.native is None:
            return NextLogits(self.run(batch, cache))
        return self._run_native(batch, cache, None, top_k)

    @ops.plain_torch()
    def repeat(
        self,
        slots: tuple[int, ...],
        cache: Cache,
        top_k: int = 0,
        adapters: tuple[int, ...] = (),
    ) -> RepeatedStep | None:
        """Steps that give each of some slots one token more, all of whose tokens are read and
        which count positions from 0; each step finds the `top_k` largest logits of every row.
        adapters: of the slots, as of `Batch`.

        None where there is none to be had: not on the native kernels, a slot without tokens, a
        cache that evicts, moving rotary tables, or a buffer that is full.
        """
        if self.native is None or (self.training and torch.is_grad_enabled()):
            return None
        self._check_native(cache)
        return self.native.repeat(slots, cache, top_k, adapters)

    def _run_native(
        self, batch: Batch, cache: Cache | None, record: Record | None, top_k: int = 0
    ) -> NextLogits:
        assert self.native is not None
        self._check_native(cache)
        check_numbers(batch, len(self.adapters))
        return self.native.run(batch, cache, record, top_k)

    def _check_positions(self, batch: Batch) -> None:
        if self.is_rotary or (last := int(batch.positions.max())) < self.config.context:
            return
        raise ContextLengthError(
            f"position {last} is past this model's context of {self.config.context}; pass fewer "
            "tokens, or start a new cache"
        )

    def _check_native(self, cache: Cache | None) -> None:
        if self.training and torch.is_grad_enabled():
            raise OptionError(
                "this model is packed for the native kernels, which compute no gradients; load it "
                "with KEPT_OPS=reference to train it, or call model.eval()"
            )
        if cache is not None and cache.device.type != "cpu":
            raise OptionError(
                f"the cache is on {cache.device} and this model on the CPU; make it with "
                "device=model.device"
            )
        self._layers.check(cache)

    def _run(self, batch: Batch, cache: Cache | None, record: Record) -> Tensor:
        self._layers.check(cache)
        check_numbers(batch, len(self.adapters))
        self.adapted_rows.set(batch.adapters, batch.starts, self.device)
        x, rope = self.embed(batch)
        with stores(cache, batch, self.kv_shapes) as found:
            for block, store in zip(self.blocks, found, strict=True):
                record.take_hidden(x)
                x = block(x, rope, store, record)
        x = self.finish(x)
        if record.want_hidden:
            x = self.norm(x)
            record.take_hidden(x)
            return self._logits(x if batch.wanted is None else x[batch.wanted])
        return self._logits(self.norm(x if batch.wanted is None else x[batch.wanted]))

    def _logits(self, x: Tensor) -> Tensor:  # (M, E) -> (M, V)
        return self.project(x).float()
