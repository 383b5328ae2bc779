"""What a cache's file says of it besides its tensors, as JSON and back."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kept.cache.block_layout import BlockLayout
from kept.cache.contiguous import ContiguousLayout, grown
from kept.cache.evicting import EvictingLayout
from kept.cache.eviction_file import MAX_COUNT, read_count, read_rule, write_rule
from kept.cache.in_keys import why_not_in_keys
from kept.cache.layout import Layout
from kept.cache.reading import Readable
from kept.cache.saved_window import SavedWindow
from kept.cache.shape import KVShape
from kept.errors import CacheError
from kept.ops import VALUE_CODECS, KVCodec, find_kv_codec


@dataclass(frozen=True, slots=True)
class Description:
    """Everything but keys, values and which tokens they are of.

    kind: the cache's name. shapes: (L,). lengths: (slots,) tokens of each. layouts: what
    `write_layout` makes of each distinct one. layout_of: which of them each layer that stores has,
    cross layers left out. inputs: tokens of each encoder input. input_of: (slots,) which of them
    each slot attends, -1: none; empty without cross layers. checksums: of each tensor.
    """

    kind: str
    codec: KVCodec
    shapes: tuple[KVShape, ...]
    lengths: tuple[int, ...]
    layouts: tuple[Mapping[str, Any], ...]
    layout_of: tuple[int, ...]
    inputs: tuple[int, ...]
    input_of: tuple[int, ...]
    fingerprint: str
    checksums: Mapping[str, str]

    @classmethod
    def of(cls, cache: Readable, fingerprint: str, checksums: Mapping[str, str]) -> Description:
        """Describe a cache."""
        layouts, inputs = list(dict.fromkeys(cache.layouts)), list(cache.cross.inputs)
        of = cache.cross.of if cache.cross.shapes else []
        return cls(
            cache.name,
            cache.codec,
            cache.shapes,
            cache.lengths,
            tuple(write_layout(layout, cache.lengths) for layout in layouts),
            tuple(layouts.index(layout) for layout in cache.layouts),
            tuple(found.length for found in inputs),
            tuple(-1 if found is None else inputs.index(found) for found in of),
            fingerprint,
            checksums,
        )

    def to_json(self) -> str:
        """One line that `read` reads."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        fields["codec"] = self.codec.pair
        fields["shapes"] = [_shape_fields(shape) for shape in self.shapes]
        return json.dumps(fields)

    @classmethod
    def read(cls, file: Path, text: str) -> Description:
        """What `to_json` wrote. Raises CacheError for anything else."""
        try:
            fields = json.loads(text)
            keys, values = fields["codec"]
            if any(name not in VALUE_CODECS for name in (keys, values)):
                raise CacheError(
                    f"{file} stores keys as {keys!r} and values as {values!r}, which this kept "
                    f"does not know; there are {', '.join(VALUE_CODECS)}"
                )
            codec = find_kv_codec((keys, values))
            if sinks := fields.get("unquantized_sinks"):  # of files that an older kept wrote
                raise CacheError(
                    f"{file} holds unquantized_sinks={sinks!r:.100}, first tokens beside their "
                    "codes, which kept no longer does; make the cache anew and save it"
                )
            found = cls(
                _text(fields["kind"]),
                codec,
                tuple(KVShape(**shape) for shape in fields["shapes"]),
                tuple(map(read_count, fields["lengths"])),
                tuple(fields["layouts"]),
                tuple(map(read_count, fields["layout_of"])),
                tuple(map(read_count, fields["inputs"])),
                tuple(read_count(number, least=-1) for number in fields["input_of"]),
                _text(fields["fingerprint"]),
                {_text(name): _text(value) for name, value in fields["checksums"].items()},
            )
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
            raise _unreadable(file) from error
        if not found._fits_together():
            raise _unreadable(file)
        return found

    def _fits_together(self) -> bool:
        layouts, inputs = range(len(self.layouts)), range(len(self.inputs))
        cross = any(shape.cross for shape in self.shapes)
        return (
            bool(self.lengths)
            and all(map(_is_shape, self.shapes))
            and why_not_in_keys(self.shapes, self.codec) is None
            and set(self.layout_of) == set(layouts)
            and all(length >= 1 for length in self.inputs)
            and len(self.input_of) == (len(self.lengths) if cross else 0)
            and set(self.input_of) - {-1} == set(inputs)
        )

    def check(self, file: Path, shapes: Sequence[KVShape], fingerprint: str) -> None:
        """Raise CacheError unless the cache is one of this model and has this fingerprint."""
        stored = sum(shape.shares is None and not shape.cross for shape in self.shapes)
        if len(shapes) != len(self.shapes) or len(self.layout_of) != stored:
            raise CacheError(
                f"{file} holds {len(self.shapes)} layers and this model has {len(shapes)}; load it "
                "for the model that it was saved with"
            )
        for layer, (saved, wanted) in enumerate(zip(self.shapes, shapes, strict=True)):
            if saved != wanted:
                raise CacheError(
                    f"{file} holds {saved} in layer {layer} and this model stores {wanted}; load "
                    "it for the model that it was saved with"
                )
        if fingerprint != self.fingerprint:
            raise CacheError(
                f"{file} was saved with the fingerprint {self.fingerprint!r}, not {fingerprint!r}; "
                "what it holds belongs to something else, so make the cache anew, or name the "
                "fingerprint it was saved with"
            )


def _shape_fields(shape: KVShape) -> dict[str, Any]:
    fields = dataclasses.asdict(shape)
    if shape.value_dim is None:  # what a kept that knows no value_dim reads too
        del fields["value_dim"]
    if not shape.values_in_keys:
        del fields["values_in_keys"]
    return fields


def write_layout(layout: Layout, lengths: Sequence[int]) -> dict[str, Any]:
    """The numbers of a layout of so many tokens a slot, as JSON takes them."""
    if isinstance(layout, EvictingLayout):
        return {"layout": "evicting", **write_rule(layout.rule)}
    if isinstance(layout, BlockLayout) and layout.window is not None:
        begins = [gone.stop if gone else 0 for gone in layout.gone]
        return {**layout.traits, "begins": begins}
    return layout.traits


def read_layout(file: Path, fields: Mapping[str, Any], lengths: Sequence[int]) -> Layout:
    """The layout that `write_layout` described, for sequences of these lengths.

    Raises CacheError for anything else.
    """
    longest = max(lengths)
    try:
        if fields["layout"] == "ring":
            raise CacheError(
                f"{file} holds tokens in rings, as an older kept laid windows out, which now lie "
                "in blocks; make the cache anew and save it"
            )
        if fields["layout"] == "evicting":
            rule = read_rule(fields)
            stored = max(map(rule.num_stored, lengths))
            capacity = min(grown(stored), rule.budget + rule.grain) if stored else 0
            return EvictingLayout(len(lengths), rule, capacity)
        if fields["layout"] == "blocks":
            return SavedWindow.read(fields, lengths)
        if fields["layout"] == "contiguous":
            if fields["max_length"] is None:
                return ContiguousLayout(len(lengths), grown(longest) if longest else 0)
            if read_count(fields["max_length"]) >= longest:
                return ContiguousLayout(len(lengths), fields["max_length"], fixed=True)
    except (ValueError, TypeError, LookupError) as error:
        raise _unreadable(file) from error
    raise _unreadable(file)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(value)
    return value


def _is_shape(shape: KVShape) -> bool:
    return (
        all(type(n) is int and 1 <= n <= MAX_COUNT for n in (shape.num_kv_heads, shape.head_dim))
        and (shape.window is None or (type(shape.window) is int and shape.window >= 1))
        and (shape.shares is None or (type(shape.shares) is int and shape.shares >= 0))
        and type(shape.cross) is type(shape.values_in_keys) is bool
        and type(shape.value_width) is int
        and 1 <= shape.value_width <= MAX_COUNT
    )


def _unreadable(file: Path) -> CacheError:
    return CacheError(
        f"{file} describes no cache that this kept can make; delete it, and save the cache again"
    )
