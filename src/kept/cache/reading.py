"""What a cache holds, and how it is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from kept.blocks import BlockPool
from kept.cache.block_layout import BlockLayout
from kept.cache.checks import check_slots
from kept.cache.cross import CrossLayers
from kept.cache.evicting_layer import tokens_of
from kept.cache.indices import read_whole
from kept.cache.layer import LayerCache
from kept.cache.layout import Layout
from kept.cache.make_layer import make_layers
from kept.cache.place import InMemory, Place
from kept.cache.shape import KVShape
from kept.cache.slots import Slots
from kept.cache.state import Holder, State
from kept.errors import OptionError
from kept.ops import KVCodec, plain_torch


class Readable(Slots):
    """The side of a `Cache` that is read, and the state that all of it works on."""

    def __init__(
        self,
        shapes: Sequence[KVShape],
        layouts: Sequence[Layout],
        codec: KVCodec,
        device: torch.device,
        name: str,
        lengths: Sequence[int] | None = None,
        place: Place | None = None,
    ) -> None:
        """layouts: one per storing layer but for cross layers, which need none; layers that lay
        tokens out alike pass the same object. lengths: (slots,) tokens that the caller is about to
        put into the layers, by default none. place: of the buffers, by default the device's
        memory."""
        self.name, self.codec, self.device = name, codec, device
        self.place = place or InMemory(device)
        # Whether steps let go of blocks that windows have passed; else `let_go` is called for it.
        self.lets_go = True
        stored = [shape for shape in shapes if shape.shares is None and not shape.cross]
        lengths = (0,) * layouts[0].num_slots if lengths is None else tuple(lengths)
        layers = make_layers(stored, layouts, codec, self.place)
        crossing = [shape for shape in shapes if shape.cross]  # behind all others
        none, first = [None] * len(lengths), len(shapes) - len(crossing)
        cross = CrossLayers(crossing, first, none, codec, self.place, device)
        state = State(tuple(shapes), tuple(layers), tuple(layouts), lengths, cross)
        self._holder = Holder(state)

    @property
    def _state(self) -> State:
        """What it holds, with nothing left to be written."""
        if self._holder.state.writes:
            self._finish()
        return self._holder.state

    @_state.setter
    def _state(self, state: State) -> None:
        self._holder.state = state

    def _finish(self) -> None:
        state = self._holder.state
        for write in state.writes:
            write()
        self._holder.state = replace(state, writes=())

    @property
    def shapes(self) -> tuple[KVShape, ...]:
        """What each layer stores of a token, cross layers last."""
        return self._state.shapes

    @property
    def num_slots(self) -> int:
        """How many sequences it has room for."""
        return len(self._state.counted)

    @property
    def num_layers(self) -> int:
        """L, layers that share another's keys and values included, cross layers not."""
        return self.cross.first

    @property
    def layers(self) -> tuple[LayerCache, ...]:
        """The buffers of each layer that stores; those of cross layers are in `cross`."""
        return self._state.layers

    @property
    def layouts(self) -> tuple[Layout, ...]:
        """How each layer that stores lays its tokens out; layers that do so alike share one."""
        return self._state.layouts

    @property
    def cross(self) -> CrossLayers:
        """Which encoder input each slot attends, and the buffers of all of them."""
        return self._state.cross

    @property
    def lengths(self) -> tuple[int, ...]:
        """(slots,) how many tokens each slot has, those that windows have passed included."""
        return self._state.lengths

    @property
    def input_lengths(self) -> tuple[int, ...]:
        """(slots,) tokens of the encoder input that each slot attends; 0: none."""
        return self.cross.lengths

    @property
    def max_length(self) -> int | None:
        """How many tokens a slot can have at most; None: any number."""
        return min((x.limit for x in self.layouts if x.limit is not None), default=None)

    @property
    def pools(self) -> tuple[BlockPool, ...]:
        """The blocks that its tokens lie in, and those of everybody who shares them: of layers of
        each distinct window, which have one budget. Empty: nothing of it lies in blocks."""
        found = self._state.distinct
        return tuple(x.memory.pool for x in found if isinstance(x, BlockLayout))

    @property
    def dtype(self) -> torch.dtype:
        """What keys and values come back in: that of their codecs, fp32 for int8 and int4."""
        return self.codec.dtype

    @property
    def num_bytes(self) -> int:
        """Bytes it takes: buffers, unused capacity included, or blocks.

        Exact; an encoder input counts once, and so does a block that several slots share. Of what
        forks share, each counts the whole.
        """
        pairs = zip(self.layers, self.layouts, strict=True)
        return sum(layer.num_bytes(layout) for layer, layout in pairs) + self.cross.num_bytes

    def max_step(self, slot: int) -> int | None:
        """How many tokens the slot may take in one step; None: any number.

        Raises CacheError for no slot of this cache, OptionError for what is no number.
        """
        return self.max_steps((slot,))[0]

    def max_steps(self, slots: Sequence[int]) -> list[int | None]:
        """`max_step` of each of some slots."""
        state = self._state
        layouts, lengths = state.distinct, [state.lengths[self._read_slot(slot)] for slot in slots]
        each = [[layout.max_step(length) for layout in layouts] for length in lengths]
        return [min((most for most in found if most is not None), default=None) for found in each]

    def __repr__(self) -> str:
        inputs = f"inputs of {list(self.input_lengths)}, " if self.cross.shapes else ""
        return (
            f"<Cache {self.name}: {self.num_layers} layers, lengths {list(self.lengths)}, "
            f"{inputs}{self.num_bytes:,} bytes of {self.codec.name}>"
        )

    @plain_torch()
    def layer(self, index: int, begin: int = 0) -> list[tuple[Tensor, Tensor]]:
        """Keys and values (G, S - begin, D) that one layer attends, of the tokens from
        `begin` on, per slot.

        Codes come decoded. Of a cross layer the tokens are those of the slot's input. Raises
        CacheError if one of the tokens is gone, as a window has passed it.
        """
        self._check_index(index)
        begin = read_whole(begin, "begin")
        if begin < 0:
            raise OptionError(f"begin={begin} is before the first token; give 0 or more")
        if self.shapes[index].cross:
            return self.cross.read(index, begin)
        layout, layer = self._held_by(index)
        ends = enumerate(self.lengths)
        return [layer.read(slot, layout.entries(slot, begin, end)) for slot, end in ends]

    @plain_torch()
    def held(self, index: int) -> list[Tensor]:
        """Which tokens one layer holds of each slot, (G, S) int64 each, oldest first.

        Heads differ only in an evicting cache. In blocks they are those that have not been let go,
        and a cross layer's all those of the input.
        """
        self._check_index(index)
        if self.shapes[index].cross:
            return self.cross.tokens(index)
        layout, layer = self._held_by(index)
        return [tokens_of(layout, layer, slot, length) for slot, length in enumerate(self.lengths)]

    def _read_slot(self, slot: int) -> int:
        """One slot; raises CacheError for none of this cache's, OptionError for no number."""
        if type(slot) is int and 0 <= slot < self.num_slots:  # as for each sequence of a step
            return slot
        slot = read_whole(slot, "a slot")
        check_slots((slot,), self.num_slots)
        return slot

    def _check_index(self, index: int) -> None:
        if not 0 <= read_whole(index, "a layer") < len(self.shapes):
            raise OptionError(f"layer {index} is none of the {len(self.shapes)} of this cache")

    def _held_by(self, index: int) -> tuple[Layout, LayerCache]:
        """What holds the keys that layer `index` attends, its own or those of another."""
        shares = self.shapes[index].shares
        owner = index if shares is None else shares
        return self.layouts[owner], self.layers[owner]
