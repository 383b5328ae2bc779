"""An encoder and the decoder that attends it, on the native kernels.

inputs    embed, every block over one layer's buffers, norm         all tokens of an input at once
            └─ for each cross layer of the decoder: linear, place   into the cache's inputs
tokens    the decoder's program, whose cross layers attend the inputs of its step
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from kept.batch import Batch, Source
from kept.cache import EncodedInput, make_cache
from kept.models.encoder_passes import passes
from kept.models.native import NativeDecoder, traced_batch
from kept.models.record import Record
from kept.models.recorded_run import run_recorded
from kept.ops import CrossView, KVCodec, LentInputs, Program, StepBuffers, lines
from kept.ops.activations import Activations
from kept.ops.traced_store import TracedStore

if TYPE_CHECKING:
    from kept.models.encoder_decoder import EncoderDecoderLM

Visit = Callable[[int], None]


class NativeEncoderDecoder(NativeDecoder):
    """Runs the steps of a packed model that has an encoder."""

    _model: EncoderDecoderLM

    def __init__(
        self, model: EncoderDecoderLM, num_parameters: int, activations: Activations
    ) -> None:
        super().__init__(model, num_parameters, activations)
        self.encoder = NativeEncoder(model, activations)

    def _trace_blocks(self, written: lines.Trace, x: Any, rope: object) -> Any:
        shared = self._model.shared()
        for layer, block in enumerate(self._model.blocks):
            written.starts.append(len(written.lines))
            own, cross = TracedStore(layer), TracedStore(layer, crossing=True)
            x = block(x, shared, own, cross, None, Record())
        return x

    def _read_source(self, batch: Batch, stores: StepBuffers, record: Record | None) -> None:
        if batch.source is None:
            return
        assert stores.inputs is not None
        observed = None if record is None else record.encoder
        visit, first = stores.visit, self._model.config.num_layers
        visit_crossing = None if visit is None else lambda layer: visit(first + layer)
        states = self.encoder.store(batch.source, stores.inputs, observed, visit_crossing)
        if record is not None:
            record.states = states


class NativeEncoder:
    """Runs a packed model's encoder, and makes of its output what the cross layers store."""

    def __init__(self, model: EncoderDecoderLM, activations: Activations) -> None:
        self._model, encoder = model, model.encoder
        written = lines.Trace(activations=activations)
        x: Any = model.embed_input(traced_batch(written))
        shared = encoder.shared()
        for block in encoder.blocks:
            written.starts.append(len(written.lines))
            # A layer's keys are not looked at again, so that all of them have the same place.
            x = block(x, shared, TracedStore(0), Record())
        written.starts.append(len(written.lines))
        states = encoder.norm(x)
        self._ends = [len(written.lines)]  # of the norm, and of what is made for each cross layer
        pairs: Any = model.cross_keys(states)
        for layer, (k, v) in enumerate(pairs):
            TracedStore(layer, crossing=True).append(k, v)
        self._ends += [
            at + 1
            for at, line in enumerate(written.lines)
            if isinstance(line, lines.Place) and line.crossing
        ]
        self.program = Program(written, reuses=True)

    def encode(self, source: Source, record: Record) -> Tensor:
        """See `EncoderDecoderLM.encode`; fp32."""
        found = self._run(source, None, record, None)
        assert found is not None
        return found

    def store_alone(self, tokens: Tensor, found: EncodedInput, codec: KVCodec) -> None:
        """Write what the cross layers store of one input (S,), in this codec; mutates it."""
        source = Source(tokens, (0, len(tokens)), (0,))
        lent = LentInputs([found.lent(codec)], [found.length], (0,), 1, _no_view)
        self._run(source, lent, None, None)

    def store(
        self, source: Source, inputs: LentInputs, record: Record | None, visit: Visit | None
    ) -> Tensor | None:
        """Write what the cross layers store of the inputs of a source, the first of `inputs`.

        visit: to be called with each cross layer before it is written. Returns the encoder's output
        (M, E) fp32 where there is a record to fill. Mutates both.
        """
        return self._run(source, inputs, record, visit)

    def _run(
        self, source: Source, inputs: LentInputs | None, record: Record | None, visit: Visit | None
    ) -> Tensor | None:
        recorded = record is not None and (record.want_hidden or record.want_attention)
        states = []
        for begin, end, batch in passes(source, whole=recorded):
            lent = None if inputs is None else _between(inputs, begin, end)
            states.append(self._pass(batch, lent, record, visit))
        return None if record is None else torch.cat([x for x in states if x is not None])

    def _pass(
        self, batch: Batch, inputs: LentInputs | None, record: Record | None, visit: Visit | None
    ) -> Tensor | None:
        program, count, model = self.program, len(batch.slots), self._model
        own = make_cache(model.encoder.shapes[:1], num_slots=count, dtype=model.dtype)
        no_logits = torch.empty(0, 0, dtype=torch.float32, device="cpu")
        with own.lend(batch) as lent:
            stores = replace(lent, inputs=inputs)
            step = program.step(batch, stores, None, no_logits)
            if record is not None:
                run_recorded(program, step, batch.num_rows, stores, record)
            done = 0 if record is None else program.starts[-1]
            if inputs is None:
                program.run(step, done, self._ends[0])
            elif visit is None:
                program.run(step, done, len(program))
            else:
                for layer, end in enumerate(self._ends[1:]):
                    visit(layer)
                    program.run(step, done, end)
                    done = end
        if record is None:
            return None
        return program.final_norm(batch.num_rows)


def _between(inputs: LentInputs, begin: int, end: int) -> LentInputs:
    """Inputs begin to end of a source, each of which is a sequence of a pass."""
    count = end - begin
    buffers, lengths = inputs.buffers[begin:end], inputs.lengths[begin:end]
    return LentInputs(buffers, lengths, range(count), count, inputs.view)


def _no_view(layer: int) -> CrossView:
    raise AssertionError(f"nobody attends layer {layer} while it is written")
