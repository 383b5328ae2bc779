"""The options commands share: how one is declared, and which model."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any

import typer

from kept.options import PREFIX_STORE, STORE_BYTES

MODEL = "Model"
LENGTH = "When to stop"
CHOICE = "How to choose each token"
BEAMS = "Beam search"
REPORT = "What to report"
STORE_KEY = "KEPT_STORE_KEY"  # environment: hex digits that encrypt the prefix store
CACHE = "Cache and context"


class QuantizedFormat(StrEnum):
    """What weights can be rounded to."""

    INT8 = "int8"
    INT4 = "int4"


class ActivationsName(StrEnum):
    """As what activations meet weights of int8 or int4."""

    AUTO = "auto"
    BFLOAT16 = "bfloat16"
    INT8 = "int8"


ACTIVATIONS_HELP = (
    "As what activations meet weights of int8 or int4: bfloat16, int8, or auto, the faster on this "
    "machine's instruction set, which `kept info` names. Default: auto."
)


def option(panel: str, text: str, *names: str, metavar: str | None = None) -> Any:
    """A typer option; `text` says its unit and its default, which typer cannot know."""
    return typer.Option(
        *names, help=text, rich_help_panel=panel, metavar=metavar, show_default=False
    )


_REVISION = "Branch, tag or commit of a hub id. Default: main."
_DTYPE = (
    "auto, float32, bfloat16 or float16. Default: auto, the checkpoint's own, but on a CPU "
    "bfloat16 for float16."
)


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Which model, and how to hold it."""

    model: Annotated[
        str | None,
        option(
            MODEL,
            "A checkpoint's folder, a GGUF file, or a hub id such as Qwen/Qwen2.5-0.5B (of a GGUF "
            "file org/name:file.gguf), fetched once and kept in the hub's cache. Default: the "
            "small bundled model of Python code.",
            "--model",
            "-m",
        ),
    ] = None
    revision: Annotated[str | None, option(MODEL, _REVISION)] = None
    dtype: Annotated[str | None, option(MODEL, _DTYPE)] = None
    quantize: Annotated[
        QuantizedFormat | None,
        option(
            MODEL,
            "Round the weights to int8 or int4, about a half and 0.28 of bfloat16's bytes, while "
            "loading. `kept quantize` does so once and for all. Default: as they are stored; int8 "
            "where others have quantized them and no --dtype is given.",
        ),
    ] = None
    activations: Annotated[ActivationsName, option(MODEL, ACTIVATIONS_HELP)] = ActivationsName.AUTO
    copy_weights: Annotated[
        bool,
        option(
            MODEL,
            "Copy the weights of a folder that `kept quantize` wrote into memory. Default: they "
            "are used where the file is mapped, and shared with other processes.",
            "--copy-weights",
        ),
    ] = False
    device: Annotated[
        str | None, option(MODEL, "cpu, cuda, cuda:1, mps, as torch names them. Default: cpu.")
    ] = None
    kv_memory: Annotated[
        str | None,
        option(
            CACHE,
            "The most memory that all keys and values may take together, 40% being a share of this "
            "machine's. Default: what memory holds.",
            metavar="<bytes, or as 512MiB, 2GiB, 40%>",
        ),
    ] = None
    draft_model: Annotated[
        str | None,
        option(
            MODEL,
            "A smaller model of the same vocabulary, a folder or hub id, which drafts what the "
            "model then verifies, several tokens a step, where that is faster. Default: none.",
        ),
    ] = None
    prefix_store: Annotated[
        str | None,
        typer.Option(
            help="Keep what is computed of texts in files of this directory, and read it instead "
            f"of computing it again, also after a restart; off: nowhere. {STORE_KEY}, 64 hex "
            "digits, encrypts them. Default: off; in `kept chat` and `kept cache` "
            f"{PREFIX_STORE}.",
            rich_help_panel=CACHE,
            envvar="KEPT_PREFIX_STORE",
            show_envvar=False,
            metavar="<folder, or off>",
            show_default=False,
        ),
    ] = None
    store_bytes: Annotated[
        str | None,
        option(
            CACHE,
            f"The most that all files of the prefix store take. Default: {STORE_BYTES}.",
            metavar="<bytes, or as 512MiB, 2GiB>",
        ),
    ] = None
    offload_folder: Annotated[
        str | None,
        option(
            CACHE,
            "Keep keys and values in files of this folder, with --offload-memory of them in "
            "memory. Default: all in memory.",
        ),
    ] = None
    offload_memory: Annotated[
        str | None,
        option(
            CACHE,
            "How much of the keys and values is in memory at a time; goes with --offload-folder. "
            "Default: all.",
            metavar="<bytes, or as 512MiB, 2GiB>",
        ),
    ] = None
