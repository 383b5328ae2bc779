"""`kept info`: the machine, what kept uses of it, and what a model is."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import sys
from typing import Annotated, Any

import typer

from kept import __version__
from kept.cli.description import Description, describe_model, token_costs
from kept.cli.options import MODEL, option
from kept.cli.terminal import BOLD, styled
from kept.format import dtype_name, format_bytes, format_count, pairs

_OF_DECODER = " of the decoder, each with a cross layer that attends the encoder's input"


def info(
    model: Annotated[
        str | None,
        typer.Argument(
            help="A folder, a GGUF file or a hub id, of which only the description is fetched. "
            "Default: the "
            "bundled model.",
            show_default=False,
        ),
    ] = None,
    revision: Annotated[
        str | None, option(MODEL, "Branch, tag or commit of a hub id. Default: main.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object; sizes in bytes.")
    ] = False,
) -> None:
    """Show this machine, the kernels kept runs on here, and a model's shape and cost in memory."""
    from kept.errors import OptionError

    if revision is not None and model is None:
        raise OptionError("--revision is of a hub id, and no MODEL is given; leave it out")
    found = {"kept": __version__, **_machine()}
    found["model"] = _model(describe_model(model, revision))
    if as_json:
        typer.echo(json.dumps(found))
        return
    print(_heading("Machine"))
    print(pairs(_machine_rows(found), indent="  "))
    print(_heading("\nModel"))
    print(pairs(_model_rows(found["model"]), indent="  "))


def _machine() -> dict[str, Any]:
    import torch

    from kept.machine import NATIVE_AVAILABLE, describe_machine, native_error
    from kept.ops import backend, num_threads, why_reference

    return {
        "machine": dataclasses.asdict(describe_machine()),
        "native": {"available": NATIVE_AVAILABLE, "error": native_error()},
        "ops": backend(),
        "ops_reason": why_reference(),
        "isa": _isa() if NATIVE_AVAILABLE else None,
        "activations": _activations(),
        "threads": num_threads(),
        "python": platform.python_version(),
        "torch": {"version": torch.__version__, "threads": torch.get_num_threads()},
    }


def _isa() -> dict[str, Any]:
    from kept import _native
    from kept.ops import isa

    return {"used": isa(), "available": list(_native.isa_names())}


def _activations() -> dict[str, str]:
    """What `activations="auto"` takes here, by the format of the weights."""
    from kept.ops import backend, isa
    from kept.ops.activations import automatic
    from kept.ops.quantize import QUANTIZED_FORMATS

    if backend() == "native":
        return {str(format): str(kind) for format, kind in automatic(isa()).items()}
    return dict.fromkeys(QUANTIZED_FORMATS, "bfloat16")


def _machine_rows(found: dict[str, Any]) -> list[tuple[str, str]]:
    machine, native, torch = found["machine"], found["native"], found["torch"]
    total, free, cache = (
        "unknown" if machine[name] is None else format_bytes(machine[name])
        for name in ("total_memory", "available_memory", "last_level_cache")
    )
    features = " ".join(machine["features"])
    if not features:
        features = "none of those kept looks for" if native["available"] else "unknown"
    operations = "the native kernels (KEPT_OPS)"
    if found["ops_reason"] is not None:
        operations = f"the torch reference ({found['ops_reason']})"
    instructions = "none"
    if found["isa"] is not None:
        available = ", ".join(found["isa"]["available"])
        instructions = f"{found['isa']['used']} (KEPT_ISA), of {available}"
    return [
        ("cpu", machine["cpu"]),
        ("features", features),
        ("cores", str(machine["num_cores"])),
        ("memory", f"{free} available of {total}"),
        ("last-level cache", cache),
        ("system", f"{machine['system']} {machine['architecture']}"),
        ("kept", f"{found['kept']} on Python {found['python']}"),
        ("native module", "built" if native["available"] else f"missing: {native['error']}"),
        ("operations", operations),
        ("instructions", instructions),
        (
            "activations",
            ", ".join(f"{x} with {w} weights" for w, x in found["activations"].items()),
        ),
        ("threads", f"{found['threads']} (KEPT_NUM_THREADS)"),
        ("torch", f"{torch['version']}, {torch['threads']} threads"),
    ]


def _model(d: Description) -> dict[str, Any]:
    first, tokenizer, dtype = d.kv_shapes[0], d.tokenizer(), d.dtype()
    return {
        "name": d.name,
        "folder": None if d.folder is None else str(d.folder),
        "architecture": d.architecture,
        "model_type": d.config["model_type"],
        "num_layers": d.model.config.num_layers,
        "is_encoder_decoder": d.is_encoder_decoder,
        "not_native": d.model.not_native,
        "runs_natively": d.why_torch() is None,
        "why_torch": d.why_torch(),
        "num_heads": d.model.config.num_heads,
        "num_kv_heads": first.num_kv_heads,
        "head_dim": first.head_dim,
        "context": d.model.config.context,
        "windows": list(d.windows),
        "vocab_size": d.model.config.vocab_size,
        "num_parameters": d.num_parameters,
        "dtype": dtype_name(dtype),
        "weight_bytes": d.weight_bytes(dtype),
        "quantized": d.quantized,
        "stored_as": d.stored_as,
        "loaded_weight_bytes": d.loaded_bytes,
        "loaded_as": d.loaded_as,
        "quantized_weight_bytes": d.quantized_bytes(),
        "bytes_per_token": d.token_bytes(),
        "bytes_per_token_past_windows": d.token_bytes_past_windows(),
        "bytes_per_input_token": d.input_token_bytes() if d.is_encoder_decoder else None,
        "tokenizer": None if tokenizer is None else {"kind": tokenizer[0], "tokens": tokenizer[1]},
        "chat_template": d.has_chat_template(),
    }


def _model_rows(m: dict[str, Any]) -> list[tuple[str, str]]:
    heads, kv_heads = m["num_heads"], m["num_kv_heads"]
    sizes = sorted(set(m["windows"]))
    window = f"{', '.join(f'{w:,}' for w in sizes)} tokens, {len(m['windows'])} of the layers"
    tokenizer = "none"
    if m["tokenizer"] is not None:
        tokenizer = f"{m['tokenizer']['kind']}, {m['tokenizer']['tokens']:,} tokens"
    beyond = token_costs(m["bytes_per_token_past_windows"])
    return [
        ("name", m["name"]),
        ("folder", m["folder"]),
        ("architecture", f"{m['architecture']} ({m['model_type']})"),
        ("runs on", _runs_on(m["why_torch"])),
        ("layers", f"{m['num_layers']}{_OF_DECODER if m['is_encoder_decoder'] else ''}"),
        ("heads", f"{heads} query, {kv_heads} key/value, of {m['head_dim']}"),
        ("context", f"{m['context']:,} tokens"),
        ("sliding window", window if sizes else "none"),
        ("vocabulary", f"{m['vocab_size']:,}"),
        ("parameters", f"{format_count(m['num_parameters'])} ({m['num_parameters']:,})"),
        ("weights", _weights(m)),
        ("bytes per token", token_costs(m["bytes_per_token"])),
        *([("past the windows", f"{beyond}, in a dynamic or sliding cache")] if sizes else []),
        *_input_rows(m["bytes_per_input_token"]),
        ("tokenizer", tokenizer),
        ("chat template", "yes" if m["chat_template"] else "no"),
    ]


def _runs_on(why_torch: str | None) -> str:
    if why_torch is None:
        return "the native kernels"
    if os.environ.get("KEPT_OPS") == "native":
        return f"nothing: KEPT_OPS=native, but {why_torch}"
    return f"torch: {why_torch}"


def _input_rows(costs: dict[str, int] | None) -> list[tuple[str, str]]:
    if costs is None:
        return []
    return [("bytes per input token", f"{token_costs(costs)}, once for all beams and samples")]


def _weights(m: dict[str, Any]) -> str:
    if m["quantized"] is not None:
        return f"{format_bytes(m['weight_bytes'])}, quantized to {m['quantized']}"
    sizes = {m["dtype"]: m["weight_bytes"], **m["quantized_weight_bytes"]}
    each = ", ".join(f"{format_bytes(count)} in {name}" for name, count in sizes.items())
    if m["stored_as"] is None:
        return each
    loaded = ""
    if m["loaded_as"] is not None:
        loaded = f", loaded as {m['loaded_as']} ({format_bytes(m['loaded_weight_bytes'])})"
    return f"{each}; stored as {m['stored_as']}{loaded}"


def _heading(text: str) -> str:
    return styled(text, BOLD, sys.stdout)
