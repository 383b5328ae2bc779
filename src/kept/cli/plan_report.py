"""What `kept plan` shows: a row for each dtype and kind of cache, as a table or as JSON."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kept.cli.description import Description, token_costs
from kept.format import format_bytes, format_count, table

if TYPE_CHECKING:
    from kept.cache import KVShape


@dataclass(frozen=True, slots=True)
class Row:
    """One dtype and kind of cache. Bytes; None where this machine's memory is not known."""

    dtype: str
    kv_dtype: str
    cache: str
    weight_bytes: int
    cache_bytes: int
    total_bytes: int
    fits: bool | None
    max_batch: int | None
    max_context: int | None


def heading(
    found: Description, length: int, num_read: int, batch: int, room: int | None, total: int | None
) -> list[tuple[str, str]]:
    config, first = found.model.config, found.kv_shapes[0]
    memory = "unknown" if room is None else f"{format_bytes(room)} available"
    if room is not None and total is not None:
        memory += f" of {format_bytes(total)}"
    beyond = f"{token_costs(found.token_bytes_past_windows())}, in a dynamic or sliding cache"
    planned = f"{batch:,} x {length:,} tokens"
    of_input = []
    if found.is_encoder_decoder:
        of_input = [("bytes per input token", token_costs(found.input_token_bytes()))]
        planned += f", and {batch:,} x {num_read:,} of inputs"
    return [
        (
            "model",
            f"{found.name}: {found.architecture}, {format_count(found.num_parameters)} parameters",
        ),
        ("a token", f"{config.num_layers} layers x {_stored(first, config.num_heads)}"),
        ("bytes per token", token_costs(found.token_bytes())),
        *([("past the windows", beyond)] if found.windows else []),
        *of_input,
        ("planned", planned),
        ("memory", memory),
    ]


def _stored(shape: KVShape, num_heads: int) -> str:
    """What a layer stores of a token."""
    if shape.values_in_keys:
        return (
            f"{shape.head_dim} numbers for all {num_heads} query heads, the first "
            f"{shape.value_width} the value too"
        )
    heads = f"{shape.num_kv_heads} key/value heads (shared by {num_heads} query heads)"
    return f"2 x {heads} x {shape.head_dim}"


def rows_table(rows: list[Row], limit: int) -> str:
    header = ("dtype", "kv dtype", "cache", "weights", "keys+values", "total", "fits")
    words = {True: "yes", False: "no", None: "-"}
    cells = [
        (
            row.dtype,
            row.kv_dtype,
            row.cache,
            format_bytes(row.weight_bytes),
            format_bytes(row.cache_bytes),
            format_bytes(row.total_bytes),
            words[row.fits],
            "-" if row.max_batch is None else f"{row.max_batch:,}",
            "-"
            if row.max_context is None
            else f"{row.max_context:,}{' (all)' if row.max_context == limit else ''}",
        )
        for row in rows
    ]
    return table((*header, "max batch", "max context"), cells)


def to_json(
    found: Description,
    rows: list[Row],
    length: int,
    batch: int,
    room: int | None,
    total: int | None,
) -> dict[str, Any]:
    return {
        "model": found.name,
        "architecture": found.architecture,
        "num_parameters": found.num_parameters,
        "model_context": found.model.config.context,
        "context": length,
        "batch": batch,
        "bytes_per_token": found.token_bytes(),
        "bytes_per_token_past_windows": found.token_bytes_past_windows(),
        "available_memory": room,
        "total_memory": total,
        "rows": [dataclasses.asdict(row) for row in rows],
    }
