"""A decoder on the native kernels: packing its weights, and running its steps.

`pack_model` replaces every matrix of a model by its packed form, one after the other, so that
memory holds the weights once. The model's own code is then traced (ops/trace.py) into a program.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from kept.batch import Batch
from kept.cache import Cache, check_sources, make_cache
from kept.models.head_matrices import LatentMatrices
from kept.models.layers import Embedding, Linear
from kept.models.next_logits import NextLogits, likeliest
from kept.models.record import Record
from kept.models.recorded_run import run_recorded
from kept.models.repeated_step import RepeatedStep
from kept.ops import (
    AttentionSpec,
    KVCodec,
    PackedMatrix,
    Program,
    StepBuffers,
    lines,
    use_threads,
)
from kept.ops.activations import Activations
from kept.ops.traced_batch import Ids, TracedBatch
from kept.ops.traced_store import TracedStore

if TYPE_CHECKING:
    from kept import _native
    from kept.models.causal_lm import CausalLM

Progress = Callable[[int, int], None]
Observe = Callable[[int, Tensor, AttentionSpec], None]  # layer, queries (N, H, D)
PackWeight = Callable[[Tensor, bool, Tensor | None], PackedMatrix]  # weight, gated, bias


class NativeDecoder:
    """Runs a packed model's steps.

    num_parameters: of its weights, tied ones once. activations: as what they enter products with
    int8 and int4 weights.
    """

    def __init__(self, model: CausalLM, num_parameters: int, activations: Activations) -> None:
        self.num_parameters, self.activations = num_parameters, activations
        self._model = model
        self.program = self._compile()
        # Of the logits, for so many rows; and its first rows, by how many.
        self._room, self._num_rows = self._logits_room(0), 0
        self._parts: dict[int, Tensor] = {}
        self._is_running = False

    def run(
        self, batch: Batch, cache: Cache | None, record: Record | None, top_k: int = 0
    ) -> NextLogits:
        """See `CausalLM.run`. Without a record the logits are good until the next such run: pages
        fresh from the system would cost more than many a kernel; and the likeliest are found."""
        model, runs_within = self._model, self._is_running
        if cache is None:
            if model.is_encoder_decoder:
                check_sources(batch)
            # Keys go through the same codec as a cache's, so that its bits are the same.
            cache = make_cache(model.kv_shapes, num_slots=len(batch.slots), dtype=model.dtype)
        count = batch.num_rows if batch.wanted is None else len(batch.wanted)
        logits = self._logits(count, lasting=record is not None or runs_within)
        rope = model.rope_tables(batch)
        found = NextLogits(logits)
        try:
            with cache.lend(batch) as lent:
                self._read_source(batch, lent, record)
                step = self.program.step(batch, lent, rope, logits, top_k)
                if record is not None and (record.want_hidden or record.want_attention):
                    run_recorded(self.program, step, batch.num_rows, lent, record)
                    self.program.run(step, self.program.starts[-1], len(self.program))
                elif lent.visit is not None:
                    self._run_by_layers(step, lent.visit)
                else:
                    self.program.run(step)
                if lent.observe is not None:
                    self._show_queries(lent.observe, batch, lent.buffers.codec)
                if record is None:
                    few = likeliest(self.program) if top_k else None
                    found = NextLogits(logits, self.program.best(), few)
                # A step ends in anybody's code, as a score is, which may run the model too.
                self._is_running = True
        finally:
            self._is_running = runs_within
        return found

    def repeat(
        self, slots: tuple[int, ...], cache: Cache, top_k: int, adapters: tuple[int, ...]
    ) -> RepeatedStep | None:
        """See `CausalLM.repeat`."""
        lease = cache.lease(slots)
        if lease is None or not lease.room:
            return None
        held = cache.lengths
        lengths = [held[slot] for slot in slots]
        rope = self._model.rope_ahead(lengths)
        room = lease.room if rope is None else min(lease.room, rope.room)
        if not room:
            return None
        logits = self._logits(len(slots), lasting=self._is_running)
        repeat = self.program.repeat(lengths, lease.stores, rope, logits, top_k, adapters)
        return RepeatedStep(self.program, repeat, lease, logits, room, top_k)

    def trace_again(self) -> None:
        """Run the model as it has become: its layers have other adapters."""
        self.program = self._compile()

    def _compile(self) -> Program:
        model, written = self._model, lines.Trace(activations=self.activations)
        embedded: Any = model.embed(traced_batch(written))
        written.residual = embedded[0].buffer
        x: Any = model.finish(self._trace_blocks(written, *embedded))
        written.starts.append(len(written.lines))
        logits: Any = model.project(model.norm(x.only_wanted()))
        logits.joined("logits")
        return Program(written)

    def _trace_blocks(self, written: lines.Trace, x: Any, rope: object) -> Any:
        for layer, (block, shape) in enumerate(
            zip(self._model.blocks, self._model.kv_shapes, strict=True)
        ):
            written.starts.append(len(written.lines))
            x = block(x, rope, TracedStore(layer, shape.shares), Record())
        return x

    def _read_source(self, batch: Batch, stores: StepBuffers, record: Record | None) -> None:
        """Have what the batch brings for an encoder read and stored; a decoder has nothing."""

    def _logits(self, count: int, lasting: bool) -> Tensor:
        if lasting:
            return self._logits_room(count)
        if count > self._num_rows:
            self._room = self._logits_room(count)
            self._parts, self._num_rows = {}, count
        found = self._parts.get(count)
        if found is None:
            found = self._parts[count] = self._room[:count]
        return found

    def _logits_room(self, count: int) -> Tensor:
        size = count, self.program.vocab_size
        return torch.empty(size, dtype=torch.float32, device="cpu")

    def _run_by_layers(self, step: _native.Step, visit: Callable[[int], None]) -> None:
        """Stop before each layer to have its keys and values fetched."""
        done, starts = 0, self.program.starts
        for layer, end in enumerate(starts[1:]):
            visit(layer)
            self.program.run(step, done, end)
            done = end
        self.program.run(step, done, len(self.program))

    def _show_queries(self, observe: Observe, batch: Batch, codec: KVCodec) -> None:
        """Show the cache the queries of each layer that stores, as the last run left them."""
        shapes = [shape for shape in self._model.kv_shapes if not shape.cross]
        attends = [line for _, line in self.program.attends() if not line.crossing]
        for layer, (shape, line) in enumerate(zip(shapes, attends, strict=True)):
            if shape.shares is None:
                queries = self.program.queries(line, batch.num_rows, codec)
                observe(layer, codec.keys.turned(queries), line.spec)


def pack_model(model: CausalLM, pack_weight: PackWeight, progress: Progress | None = None) -> int:
    """Pack every matrix of a model, see `CausalLM.pack`; returns how many numbers it has."""
    use_threads()
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    sharing = matrices(model)
    done, total = 0, sum(modules[0].weight.numel() for modules in sharing)
    for modules in sharing:
        done += modules[0].weight.numel()
        _pack(modules, pack_weight)
        if progress is not None:
            progress(done, total)
    in_floats = sharing[0][0].weight.format == "fp32"
    for module in model.modules():
        if isinstance(module, LatentMatrices):
            module.pack("fp32" if in_floats else "bf16")
    return num_parameters


def matrices(model: CausalLM) -> list[list[Any]]:
    """The modules that hold a matrix to multiply with, those that share one together.

    A table of positions is not among them: its rows are read as they are.
    """
    sharing: dict[int, list[Any]] = {}
    for module in model.modules():
        is_table = isinstance(module, Embedding) and any(module is x for x in model.tables)
        if isinstance(module, Linear) or is_table:
            sharing.setdefault(id(module.weight), []).append(module)
    return list(sharing.values())


def _pack(modules: list[Any], pack_weight: PackWeight) -> None:
    """Pack the weight that modules share; their parameter is gone when this returns."""
    linear = next((m for m in modules if isinstance(m, Linear)), None)
    gated, bias = (False, None) if linear is None else (linear.gated, linear.bias)
    packed = pack_weight(modules[0].weight, gated, bias)
    for module in modules:
        del module.weight
        module.weight = packed
    if linear is not None:
        linear.bias = None


def traced_batch(written: lines.Trace) -> Any:
    """Stands in for the batch of a model whose operations are to be written down."""
    tokens, positions = (Ids(written, are_positions=x) for x in (False, True))
    return TracedBatch(tokens, positions)
