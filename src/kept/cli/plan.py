"""`kept plan`: what a model and its cache take, and what fits."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from kept.cli.description import Description, describe_model, describe_shape
from kept.cli.memory import CachePlan, kinds
from kept.cli.options import CACHE, MODEL, option
from kept.cli.plan_draft import plan_draft
from kept.cli.plan_report import Row, heading, rows_table, to_json
from kept.errors import OptionError
from kept.format import dtype_name, pairs
from kept.options import KVDtypeName

if TYPE_CHECKING:
    from kept.ops import KVCodec


def plan(
    model: Annotated[
        str | None,
        typer.Argument(
            help="A folder, a GGUF file or a hub id, of which only the description is fetched. "
            "Default: the "
            "bundled model.",
            show_default=False,
        ),
    ] = None,
    shape: Annotated[
        str | None,
        option(MODEL, "A well-known shape instead, such as gpt2 or llama-3.2-1b.", metavar="NAME"),
    ] = None,
    revision: Annotated[
        str | None, option(MODEL, "Branch, tag or commit of a hub id. Default: main.")
    ] = None,
    dtype: Annotated[
        str | None,
        option(
            MODEL,
            "float32, bfloat16 or float16, of weights and cache, or what weights are quantized to: "
            "int8, int4. Default: all but float16.",
        ),
    ] = None,
    kv_dtype: Annotated[
        KVDtypeName | None,
        option(
            CACHE,
            "What keys and values are stored as. Default: as the weights, bfloat16 where those are "
            "quantized.",
        ),
    ] = None,
    context: Annotated[
        int | None,
        option(CACHE, "Tokens of each sequence, prompt included. Default: the model's context."),
    ] = None,
    input_length: Annotated[
        int | None,
        option(
            CACHE,
            "Tokens of the input that an encoder reads for each sequence. Default: the model's "
            "context; only of an encoder-decoder model.",
        ),
    ] = None,
    batch: Annotated[int, option(CACHE, "Sequences side by side. Default: 1.")] = 1,
    sliding_window: Annotated[
        int | None, option(CACHE, "Tokens a sliding cache holds. Default: the model's window.")
    ] = None,
    num_sinks: Annotated[
        int | None, option(CACHE, "First tokens a sliding cache never drops. Default: 0.")
    ] = None,
    draft_model: Annotated[
        str | None,
        option(
            MODEL, "A folder or hub id of a smaller model that drafts for it.", metavar="SOURCE"
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object; sizes in bytes.")
    ] = False,
) -> None:
    """Show what weights and cache take in each kind and dtype, and what fits in free memory.

    For example: kept plan --shape llama-3.2-1b --context 8192 --batch 4
    """
    from kept.machine import describe_machine
    from kept.models import DTYPES
    from kept.ops import find_kv_codec

    if model is not None and shape is not None:
        raise OptionError("there is a MODEL and a --shape; leave one of the two out")
    if revision is not None and model is None:
        raise OptionError("--revision is of a hub id, and no MODEL is given; leave it out")
    found = describe_model(model, revision) if shape is None else describe_shape(shape)
    length = _check(found, context, batch, sliding_window, num_sinks)
    num_read = _read_input_length(found, input_length)
    draft = plan_draft(draft_model, found)
    machine = describe_machine()
    room = machine.total_memory if machine.available_memory is None else machine.available_memory
    rows = [
        _row(
            found,
            each,
            weights,
            0 if draft is None else draft.weight_bytes,
            cache,
            length,
            batch,
            room,
        )
        for each, weights in _weights(found, dtype).items()
        for cache in _caches(
            found,
            find_kv_codec(kv_dtype or (each if each in DTYPES else "bfloat16")),
            sliding_window,
            num_sinks or 0,
            num_read,
        )
    ]
    if as_json:
        numbers = to_json(found, rows, length, batch, room, machine.total_memory)
        if found.is_encoder_decoder:
            numbers |= {
                "input_length": num_read,
                "bytes_per_input_token": found.input_token_bytes(),
            }
        if draft is not None:
            numbers["draft_model"] = draft.to_json()
        typer.echo(json.dumps(numbers))
        return
    lines = heading(found, length, num_read, batch, room, machine.total_memory)
    if draft is not None:
        lines.insert(1, ("draft model", draft.line))
    print(pairs(lines))
    print(f"\n{rows_table(rows, found.model.config.context)}")
    print("\nA growing (dynamic) cache counts the room it grows into. Activations come on top.")


def _check(
    found: Description, context: int | None, batch: int, window: int | None, sinks: int | None
) -> int:
    """The context to plan for. Raises OptionError for a number that makes no sense."""
    limit = found.model.config.context
    for name, value, least in (
        ("--context", context, 1),
        ("--batch", batch, 1),
        ("--sliding-window", window, 1),
        ("--num-sinks", sinks, 0),
    ):
        if value is not None and value < least:
            raise OptionError(f"{name} {value}: give at least {least}")
    if context is not None and context > limit:
        raise OptionError(
            f"--context {context:,} is more than this model's context of {limit:,} tokens; "
            "give at most that"
        )
    if sinks is not None and "sliding" not in kinds(found.kv_shapes, window):
        raise OptionError(
            f"--num-sinks {sinks} is for sliding caches, and this model has no window; "
            "give --sliding-window, or leave it out"
        )
    if sinks and (own := next((w for w in found.windows if w is not None), None)) is not None:
        raise OptionError(
            f"--num-sinks {sinks} would do nothing where the model's own window of {own} tokens "
            "hides the first ones; leave it out"
        )
    return limit if context is None else context


def _read_input_length(found: Description, asked: int | None) -> int:
    """Tokens of each encoder input. Raises OptionError for a number that makes no sense."""
    if not found.is_encoder_decoder:
        if asked is not None:
            raise OptionError(
                f"--input-length {asked} is of an encoder's input, and this model is a decoder; "
                "leave it out"
            )
        return 0
    if asked is not None and asked < 1:
        raise OptionError(f"--input-length {asked}: give at least 1")
    return found.model.config.context if asked is None else asked


def _weights(found: Description, dtype: str | None) -> dict[str, int]:
    """Bytes of the weights in each dtype or format to plan for. Raises OptionError for another."""
    quantized = found.quantized_bytes()
    if found.quantized is not None:
        if dtype not in (None, "auto", found.quantized):
            raise OptionError(
                f"--dtype {dtype} cannot be planned for: {found.name} is quantized to "
                f"{found.quantized}; leave it out"
            )
        return {found.quantized: quantized[found.quantized]}
    if dtype == "auto" and found.loaded_as is not None and found.loaded_bytes is not None:
        return {found.loaded_as: found.loaded_bytes}
    if dtype in quantized:
        return {dtype: quantized[dtype]}
    floats = [found.dtype(name) for name in (("float32", "bfloat16") if dtype is None else [dtype])]
    sizes = {dtype_name(each): found.weight_bytes(each) for each in floats}
    return sizes | quantized if dtype is None else sizes


def _caches(
    found: Description, codec: KVCodec, window: int | None, sinks: int, num_read: int
) -> list[CachePlan]:
    shapes = found.kv_shapes
    return [
        CachePlan(
            shapes,
            kind,
            codec,
            *((window, sinks) if kind == "sliding" else (None, 0)),
            input_length=num_read,
        )
        for kind in kinds(shapes, window)
    ]


def _row(
    found: Description,
    dtype: str,
    weights: int,
    draft_weights: int,
    cache: CachePlan,
    length: int,
    batch: int,
    room: int | None,
) -> Row:
    each = cache.num_bytes(length)
    total = weights + draft_weights + batch * each
    left = None if room is None else max(room - weights - draft_weights, 0)
    return Row(
        dtype=dtype,
        kv_dtype=cache.codec.name,
        cache=cache.kind,
        weight_bytes=weights,
        cache_bytes=batch * each,
        total_bytes=total,
        fits=None if room is None else total <= room,
        max_batch=None if left is None else left // each,
        max_context=None
        if left is None
        else cache.longest(left, batch, found.model.config.context),
    )
