"""A decoder that attends what an encoder has read, and the padded face over both."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from kept.batch import Batch, Source, pack_source
from kept.cache import Cache, EncodedInput, KVShape, make_cache, stores
from kept.errors import ContextLengthError, OptionError
from kept.exiting import computing
from kept.format import format_bytes
from kept.machine import describe_machine
from kept.models.causal_lm import CausalLM
from kept.models.encoder_passes import ENCODER_ROWS, passes
from kept.models.model_config import ModelConfig
from kept.models.native_encoder import NativeEncoderDecoder
from kept.models.next_logits import NextLogits
from kept.models.padded import PaddedInput, read_padded
from kept.models.record import Record
from kept.ops import exact_products, plain_torch
from kept.ops.activations import Activations


class EncoderDecoderConfig(ModelConfig, Protocol):
    """A config with the token that a decoder starts from."""

    @property
    def start_token_id(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Seq2SeqLMOutput:
    """What the padded face returns, under transformers' names. S: the width of `input_ids`.

    logits: (B, T, V) fp32, zero at padding. cache: the one given, or a new one; None without.
    Of the decoder: hidden states (L + 1) of (B, T, E), attentions (L,) of (B, H, T, past + T),
    cross_attentions (L,) of (B, H, T, S). Of the encoder, where it ran: its output (B, S, E), zero
    at padding; hidden states; attentions (layers,) of (B, H, S, S).
    """

    logits: Tensor
    cache: Cache | None
    decoder_hidden_states: tuple[Tensor, ...] | None = None
    decoder_attentions: tuple[Tensor, ...] | None = None
    cross_attentions: tuple[Tensor, ...] | None = None
    encoder_last_hidden_state: Tensor | None = None
    encoder_hidden_states: tuple[Tensor, ...] | None = None
    encoder_attentions: tuple[Tensor, ...] | None = None


class Encoder(nn.Module, ABC):
    """Blocks over all tokens of an input, and a norm.

    shapes: what each block's attention reads of a token. A block is called as `block(x, shared,
    store, record)`.
    """

    shapes: tuple[KVShape, ...]
    blocks: nn.ModuleList
    norm: nn.Module

    @abstractmethod
    def shared(self) -> object:
        """What all blocks take in a pass."""

    def forward(self, x: Tensor, batch: Batch, record: Record) -> Tensor:
        """x: (M, E), the vectors of the batch's tokens -> (M, E)."""
        shared = self.shared()
        with stores(None, batch, self.shapes) as found:
            for block, store in zip(self.blocks, found, strict=True):
                record.take_hidden(x)
                x = block(x, shared, store, record)
        x = self.norm(x)
        record.take_hidden(x)
        return x


class EncoderDecoderLM(CausalLM):
    """An encoder, and a decoder whose layers attend its output besides the tokens before.

    A batch's source is what the encoder reads in a pass; what it makes of it goes to the cross
    layers of the cache, and later passes attend it there. Families say how the tokens of an input
    are embedded, and what a block does: `block(x, shared, store, cross, states, record)` runs it,
    where `cross` stores the keys and values of its cross layer, and `states` is the encoder's
    output, if it ran. The block's attention over the input is its `cross`, a `CrossAttention`.
    """

    is_rotary = True
    native: NativeEncoderDecoder | None
    encoder: Encoder
    is_encoder_decoder: ClassVar[bool] = True
    config: EncoderDecoderConfig

    def _on_kernels(self, num_parameters: int, activations: Activations) -> NativeEncoderDecoder:
        return NativeEncoderDecoder(self, num_parameters, activations)

    def check_input(self, length: int) -> None:
        """Raise ContextLengthError for an input that this machine's memory cannot read."""
        if length <= ENCODER_ROWS or self.device.type != "cpu":
            return
        need, room = self.input_bytes(length), describe_machine().total_memory
        if room is not None and need > room:
            raise ContextLengthError(
                f"an input of {length:,} tokens takes {format_bytes(need)} while it is read, and "
                f"this machine has {format_bytes(room)}; cut it into parts (the model was trained "
                f"on {self.config.context:,} tokens)"
            )

    def input_bytes(self, length: int) -> int:
        """Bytes that reading an input of so many tokens takes, beside the weights."""
        if self.native is not None:
            return length * self.native.encoder.program.row_bytes
        return length**2 * self.config.num_heads * self.dtype.itemsize  # the scores of a layer

    def encode(self, source: Source, record: Record) -> Tensor:
        """The encoder's output (M, E), each input by itself; so many inputs at a time as
        ENCODER_ROWS allows, or all of them where they are recorded."""
        if self.native is not None:
            return self.native.encoder.encode(source, record)
        recorded = record.want_hidden or record.want_attention
        states = [
            self.encoder(self.embed_input(part), part, record)
            for _, _, part in passes(source, whole=recorded)
        ]
        return states[0] if len(states) == 1 else torch.cat(states)

    @abstractmethod
    def embed_input(self, batch: Batch) -> Tensor:
        """Vectors (M, E) of the tokens of inputs, as the encoder's blocks take them."""

    def cross_keys(self, states: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Keys and values (M, G, D) of each cross layer, of the encoder's output (M, E)."""
        blocks: Any = self.blocks
        return [block.cross.keys(states) for block in blocks]

    @plain_torch(watched=True)
    def encode_input(self, tokens: Sequence[int], cache: Cache) -> EncodedInput:
        """What the encoder makes of one input, read by itself, stored as the cache's cross layers
        store it; no slot attends it yet.

        Raises OptionError for no tokens, CacheFullError where there is no room, and what `encode`
        does.
        """
        source = pack_source([tokens], 1, self.device)
        assert source is not None
        self.check_input(len(tokens))
        with computing(), self._turn.lock, torch.no_grad(), exact_products():
            if self.native is not None:
                found = cache.cross.room(len(tokens))
                self.native.encoder.store_alone(source.tokens, found, cache.codec)
                return found
            states = self.encode(source, Record())
            return cache.cross.encoded(len(tokens), self.cross_keys(states))

    @abstractmethod
    def shared(self) -> object:
        """What all blocks of the decoder take in a pass."""

    def _check(self, batch: Batch, cache: Cache | None) -> None:
        self._layers.check(cache)
        if cache is not None and cache.name == "evicting" and self.not_evicting is not None:
            raise OptionError(f"{self.not_evicting}; make a cache of another kind")
        if batch.source is not None:
            self.check_input(max(batch.source.lengths))

    def _run_native(
        self, batch: Batch, cache: Cache | None, record: Record | None, top_k: int = 0
    ) -> NextLogits:
        self._check(batch, cache)
        return super()._run_native(batch, cache, record, top_k)

    def _run(self, batch: Batch, cache: Cache | None, record: Record) -> Tensor:
        self._check(batch, cache)
        layers = self.config.num_layers
        with stores(cache, batch, self.kv_shapes) as found:
            if batch.source is not None:
                record.states = self.encode(batch.source, record.encoder or Record())
            x, shared = self.embed(batch)[0], self.shared()
            for block, store, cross in zip(
                self.blocks, found[:layers], found[layers:], strict=True
            ):
                record.take_hidden(x)
                x = block(x, shared, store, cross, record.states, record)
        if record.want_hidden:
            x = self.norm(x)
            record.take_hidden(x)
            return self._logits(x if batch.wanted is None else x[batch.wanted])
        return self._logits(self.norm(x if batch.wanted is None else x[batch.wanted]))

    # The encoder's input stands first, as in transformers, where a decoder takes its own.
    @plain_torch(watched=True)
    def forward(  # type: ignore[override]
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        cache: Cache | None = None,
        use_cache: bool = True,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
    ) -> Seq2SeqLMOutput:
        """The face people know from transformers, over padded input.

        input_ids: (B, S) int, what the encoder reads; leave it out to go on with what the cache
            has read before. attention_mask: (B, S), 0 is padding. decoder_input_ids: (B, T), the
            decoder's new tokens, of which the first is the decoder's start token. decoder_
            attention_mask: (B, T) for the new ones, or (B, past + T). cache: continue from it
            (mutated); with use_cache and none, a dynamic one is made and returned.

        Raises OptionError for shapes, ids or masks that do not fit, and for a cache in training;
        ContextLengthError past the context of either side where positions are absolute; CacheError
        for new inputs where the cache holds tokens that attended others.
        """
        if cache is not None and not use_cache:
            raise OptionError("a cache was passed with use_cache=False; drop one of the two")
        if decoder_input_ids is None:
            raise OptionError(
                "decoder_input_ids is missing; pass the decoder's tokens, at first its start "
                f"token {self.config.start_token_id} for each sequence"
            )
        vocab = self.config.vocab_size
        new = read_padded(decoder_input_ids, decoder_attention_mask, None, cache, vocab)
        read = None
        if input_ids is not None:
            read = read_padded(input_ids, attention_mask, None, None, vocab)
            new = replace(new, batch=replace(new.batch, source=_source(read, new.batch)))
        elif attention_mask is not None:
            raise OptionError("attention_mask is of input_ids, and there are none; leave it out")
        if use_cache and cache is None:
            cache = make_cache(
                self.kv_shapes,
                num_slots=decoder_input_ids.shape[0],
                dtype=self.dtype,
                device=self.device,
            )
        record, encoder = (Record(output_hidden_states, output_attentions) for _ in range(2))
        record.encoder = encoder
        logits = self.run(new.batch, cache, record)
        inputs = _columns(cache, new) if read is None else read.columns
        crossing = replace(new, columns=inputs)
        return Seq2SeqLMOutput(
            logits=new.unpack(logits),
            cache=cache,
            decoder_hidden_states=tuple(new.unpack(x) for x in record.hidden) or None,
            decoder_attentions=tuple(new.unpack_weights(*x) for x in record.attention) or None,
            cross_attentions=tuple(crossing.unpack_weights(*x) for x in record.cross_attention)
            or None,
            **({} if read is None else _of_encoder(read, record, encoder)),
        )


def _source(read: PaddedInput, new: Batch) -> Source:
    """The encoder's input, one for each of the decoder's sequences."""
    if read.batch.slots != new.slots or read.present.shape[0] < new.slots[-1] + 1:
        raise OptionError(
            f"input_ids has tokens in sequences {list(read.batch.slots)} and decoder_input_ids in "
            f"{list(new.slots)}; each sequence needs both"
        )
    return Source(read.batch.tokens, read.batch.starts, tuple(range(len(new.slots))))


def _columns(cache: Cache | None, new: PaddedInput) -> Tensor:
    """(B, S) bool: where the inputs that a cache holds have tokens, begun on the left."""
    device = new.present.device
    held = (0,) if cache is None else cache.input_lengths
    lengths = torch.tensor(held, dtype=torch.int64, device=device)
    return torch.arange(max(held), dtype=torch.int64, device=device) < lengths[:, None]


def _of_encoder(read: PaddedInput, record: Record, encoder: Record) -> dict[str, Any]:
    assert record.states is not None
    return {
        "encoder_last_hidden_state": read.unpack(record.states),
        "encoder_hidden_states": tuple(read.unpack(x) for x in encoder.hidden) or None,
        "encoder_attentions": tuple(read.unpack_weights(*x) for x in encoder.attention) or None,
    }
