"""How the slots of a cache are cut, moved and copied."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Self

from kept.cache.block_groups import with_shapes
from kept.cache.block_layout import BlockLayout
from kept.cache.encoded_input import EncodedInput
from kept.cache.indices import read_lengths, read_selected
from kept.cache.layout import Layout
from kept.cache.make_layer import make_layer, make_layers
from kept.cache.reading import Readable
from kept.cache.shape import KVShape
from kept.cache.state import Holder, State
from kept.errors import CacheError
from kept.ops import plain_torch


class Movable(Readable):
    """The side of a `Cache` that changes what it holds without a step."""

    def abandon(self) -> None:
        """Drop a step that not every layer has taken part in, and what it stored."""
        self.cross.abandon()
        self._settle()

    @plain_torch()
    def _settle(self) -> None:
        """Drop what is being stored in its own layers; ends a lease."""
        self._state = self._state.settled()

    @plain_torch()
    def truncate(self, length: int | Sequence[int]) -> None:
        """Keep at most the first `length` tokens of each slot (one number, or one per slot).

        Encoder inputs stay; a slot of 0 tokens may take a new one. Raises CacheError, changing
        nothing, if the cache has already dropped what it would need.
        """
        self._cut(list(enumerate(read_lengths(length, self.num_slots))))

    @plain_torch()
    def truncate_slot(self, slot: int, length: int) -> None:
        """Keep at most the first `length` tokens of one slot; otherwise as `truncate`."""
        slot, [length] = self._read_slot(slot), read_lengths([length], 1)
        self._cut([(slot, length)])

    def _cut(self, kept: Sequence[tuple[int, int]]) -> None:
        """kept: slots, and how many tokens stay there at most."""
        before = self.lengths
        cuts = [(slot, n) for slot, n in kept if n < before[slot]]
        for layout in self._state.distinct:
            for slot, n in cuts:
                layout.check_truncate(slot, n, before[slot])
        self.abandon()
        if cuts:
            self._state = self._state.truncated(cuts)
            self._finish()

    @plain_torch()
    def select(self, indices: Sequence[int]) -> None:
        """Slot i becomes a copy of what slot indices[i] was; there are len(indices) slots then.

        Raises OptionError for an index that is no slot, or none at all.
        """
        order = read_selected(indices, self.num_slots)
        self.abandon()
        if order == list(range(self.num_slots)):
            return
        self._state = self._state.selected(order)
        self._finish()
        self._leave()

    def attend(self, slot: int, found: EncodedInput | None) -> None:
        """Have a slot without tokens attend an encoder input that is written, None: none.

        Raises CacheError for a slot whose tokens have attended another, or where there are no cross
        layers.
        """
        slot = self._read_slot(slot)
        if not self.cross.shapes or (found is not None and self.lengths[slot]):
            raise CacheError(
                f"slot {slot} holds {self.lengths[slot]} tokens in a cache of "
                f"{len(self.cross.shapes)} cross layers, and can take no input; truncate it to 0, "
                "or make the cache from the kv_shapes of an encoder-decoder model"
            )
        self.abandon()
        of = list(self.cross.of)
        of[slot] = found
        self._state = replace(self._state, cross=self.cross.attending(of))

    @plain_torch()
    def reshape(self, layer: int, shape: KVShape) -> None:
        """Give a layer another number of heads or sizes of them before it stores anything.

        For a model whose layers say what they store only with their first keys. Raises CacheError
        once it has stored some, or for another kind of layer.
        """
        self._check_index(layer)
        state = self._state
        shapes, old = state.shapes, state.shapes[layer]
        shared = any(of.shares == layer for of in shapes) or old.shares is not None
        same = (shape.window, shape.shares, shape.cross) == (old.window, old.shares, old.cross)
        if old.cross:
            held = any(self.input_lengths) or self.cross.is_filling
        else:
            held = any(state.lengths) or (state.open is not None and layer in state.open.touched)
        if shared or held or not same:
            raise CacheError(
                f"layer {layer} stores {old} and cannot come to store {shape}: a layer takes other "
                "heads only while nothing is stored or shared; make the cache anew"
            )
        if old.cross:
            state = replace(state, cross=state.cross.reshaped(layer, shape))
        else:
            state = self._with_shape(state, layer, shape)
        self._state = replace(state, shapes=(*shapes[:layer], shape, *shapes[layer + 1 :]))

    def _with_shape(self, state: State, layer: int, shape: KVShape) -> State:
        layout, layers = state.layouts[layer], list(state.layers)
        if not isinstance(layout, BlockLayout):
            layers[layer] = make_layer(shape, layout, self.codec, self.place)
            return state.with_layers(layers)
        if state.open is not None and state.open.touched:
            return self._set_apart(state, layer, shape, layout)
        self.abandon()
        state = self._state
        shapes = [state.shapes[i] if i != layer else shape for i in range(len(layers))]
        layouts = with_shapes(state.layouts, shapes, self.codec, self.device, self.place)
        layers = [
            old if new is before else made
            for old, made, new, before in zip(
                layers,
                make_layers(shapes, layouts, self.codec, self.place),
                layouts,
                state.layouts,
                strict=True,
            )
        ]
        return replace(state, layers=tuple(layers), layouts=tuple(layouts), lent=None)

    def _set_apart(self, state: State, layer: int, shape: KVShape, layout: BlockLayout) -> State:
        """Give a layer blocks of its own in the middle of a step, as other layers have stored some
        of its tokens in blocks of the size they had."""
        assert state.open is not None
        step, [made] = (
            state.open,
            with_shapes([layout], [shape], self.codec, self.device, self.place),
        )
        assert isinstance(made, BlockLayout)
        made.memory.share_budget(layout.memory)
        step.plans[made] = made.plan(step.starts, step.slots, step.before, self.device)
        layers, layouts = list(state.layers), list(state.layouts)
        [layers[layer]], layouts[layer] = make_layers([shape], [made], self.codec, self.place), made
        return replace(state, layers=tuple(layers), layouts=tuple(layouts), lent=None)

    @plain_torch()
    def fork(self) -> Self:
        """An independent cache with the same content; what both have is copied when one is to write
        to it: all buffers at once, or a block."""
        if self._state.open is None:
            self._settle()  # ends a lease
        twin = type(self).__new__(type(self))
        twin.__dict__.update(self.__dict__)
        twin._holder = Holder(self._state.forked().settled())
        return twin

    def __copy__(self) -> Self:
        return self.fork()

    def __deepcopy__(self, memo: object) -> Self:
        return self.fork()

    def _leave(self, of: Layout | None = None) -> None:
        """Tell the place that the buffers of one layout's layers, or of all, are not needed."""
        for layer, layout in zip(self.layers, self.layouts, strict=True):
            if of is None or layout is of:
                self.place.leave(layer.buffers)
