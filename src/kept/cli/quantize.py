"""`kept quantize`: write a checkpoint's weights as int8 or int4, ready to be mapped."""

from __future__ import annotations

from typing import Annotated

import typer

from kept.cli.loading import bars
from kept.cli.options import QuantizedFormat
from kept.format import format_bytes


def quantize(
    model: Annotated[
        str,
        typer.Argument(
            help="The checkpoint: a folder, a GGUF file or a hub id.", show_default=False
        ),
    ],
    # Not a Path, which would make "." of an empty name.
    out: Annotated[
        str, typer.Argument(help="The folder to write; new or empty.", show_default=False)
    ],
    *,
    format: Annotated[
        QuantizedFormat,
        typer.Option(help="int8: one byte a weight; int4: half a byte, and a scale for each 32."),
    ] = QuantizedFormat.INT8,
    dtype: Annotated[
        str | None,
        typer.Option(
            help="auto, float32, bfloat16 or float16, of what is not quantized, and what weights "
            "are rounded to before. Default: auto, the checkpoint's own; for float16 bfloat16, and "
            "weights are not rounded before.",
            show_default=False,
        ),
    ] = None,
    revision: Annotated[
        str | None,
        typer.Option(help="Branch, tag or commit of a hub id. Default: main.", show_default=False),
    ] = None,
    force: Annotated[
        bool,
        typer.Option("--force", help="Replace a checkpoint in OUT, once the new is complete."),
    ] = False,
) -> None:
    """Quantize a checkpoint once, and load it in a moment ever after.

    OUT holds the matrices as kept's kernels read them, so that loading maps the file and reads
    nothing. It generates the same text as the checkpoint with --quantize. Only kept can load OUT:
    transformers and others cannot. Ctrl-C leaves nothing behind; what a
    killed run leaves is removed by the next. Without --force nothing in OUT is ever replaced.

    For example: kept quantize Qwen/Qwen2.5-0.5B qwen-int4 --format int4
    """
    from kept.models import quantize_checkpoint

    with bars(("Loading", "bytes"), ("Quantizing", "weights")) as (loading, quantizing):
        written = quantize_checkpoint(
            model,
            out,
            format.value,
            dtype=dtype,
            revision=revision,
            force=force,
            loading=loading,
            quantizing=quantizing,
        )
    size = sum(file.stat().st_size for file in written.iterdir())
    typer.echo(f"{format.value}, {format_bytes(size)}: kept generate --model {out}")
