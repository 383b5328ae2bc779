"""Weights that kept cannot read as they are: what they are, and the way to such as it does."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from kept.errors import UnsupportedFormatError
from kept.models.weight_files import INDEX

UNQUANTIZED = (
    "Load an unquantized checkpoint of the model (float32, float16 or bfloat16), which kept "
    "quantizes itself: quantize='int4'."
)
_PICKLED = (".bin", ".pt", ".pth", ".ckpt")
_EXPORTED = (".onnx", ".h5", ".msgpack", ".npz", ".tflite")
# What a training run leaves in its folder under those endings, none of them weights.
_NOT_WEIGHTS = ("training_args.", "optimizer.", "scheduler.", "rng_state", "scaler.")
_LOADED_BY_TRANSFORMERS = frozenset({"pytorch_model.bin", "pytorch_model.bin.index.json"})
_MAX_NAMED = 24
_TOKENIZERS = frozenset(
    {"tokenizer.json", "tokenizer_config.json", "tokenizer.model", "spiece.model", "vocab.json"}
)

# What only this format's files hold. The first that is found in a name decides, so the special
# ones come first.
_FORMATS = (
    ("bitsandbytes, in 4 bits", r"\.(absmax|nested_absmax|quant_map)$|quant_state\.bitsandbytes"),
    ("bitsandbytes, in 8 bits", r"\.SCB$"),
    ("GPTQ", r"\.g_idx$"),
    ("AWQ or GPTQ", r"\.qweight$"),
    ("compressed-tensors", r"\.weight_(packed|shape)$"),
    ("MLX", r"\.biases$"),
    ("HQQ", r"\.W_q$"),
    ("AQLM", r"\.codebooks$"),
    ("quanto", r"\.weight\._data$"),
    ("MXFP4", r"_proj_blocks$"),
    ("8-bit floats", r"\.weight_scale(_inv)?$"),
)


def refuse_quantized_tensors(folder: Path, tensors: Iterable[str]) -> None:
    """Raise UnsupportedFormatError that names the format of weights which others have quantized."""
    names = list(tensors)
    for format, pattern in _FORMATS:
        example = next((name for name in names if re.search(pattern, name)), None)
        if example is not None:
            raise UnsupportedFormatError(
                f"The weights in {folder} are quantized ({format}, as {example!r} shows), and "
                "nothing in config.json says how. Use the config.json they were saved with. "
                f"{UNQUANTIZED}"
            )


def refuse_gguf_alone(repo_id: str, names: Iterable[str]) -> None:
    """Raise UnsupportedFormatError for a hub model of GGUF files, which has to name one of them."""
    found = sorted(name for name in names if name.endswith(".gguf"))
    if found:
        listed = ", ".join(found[:_MAX_NAMED]) + (", ..." if len(found) > _MAX_NAMED else "")
        raise UnsupportedFormatError(
            f"Hub model {repo_id!r} has no config.json and {len(found)} GGUF files ({listed}). "
            f"Name one of them, as {repo_id}:{found[0]}"
        )


def refuse_other_files(folder: Path, names: list[str], architecture: str | None) -> None:
    """Raise UnsupportedFormatError for a folder of `names` whose weights are not safetensors.

    It says how transformers converts them. architecture: the class of transformers that loads them,
    None where config.json does not tell.
    """
    if any(name.endswith(".safetensors") for name in names) or INDEX in names:
        return
    for name in names:
        if name.startswith(_NOT_WEIGHTS):
            continue
        if name.endswith(_PICKLED):
            raise UnsupportedFormatError(
                f"{folder / name} is pickled, and opening a pickle can run any code it carries, so "
                f"kept reads safetensors only. {_way_from_pickles(folder, names, architecture)}"
            )
        if name.endswith(".gguf"):
            raise UnsupportedFormatError(
                f"{folder} holds no safetensors; of a GGUF file pass the file itself: "
                f"{folder / name}"
            )
        if name.endswith(_EXPORTED):
            raise UnsupportedFormatError(
                f"{folder / name} is in a format kept does not read; it reads safetensors only. "
                "Load the checkpoint it was exported from."
            )


def _way_from_pickles(folder: Path, names: list[str], architecture: str | None) -> str:
    if not _LOADED_BY_TRANSFORMERS.intersection(names):
        return "Load a checkpoint of the model that has them."
    return (
        "Where you trust it, convert it with transformers, and load the new folder:\n\n"
        f"{_recipe(folder, names, architecture)}"
    )


def _recipe(folder: Path, names: list[str], architecture: str | None) -> str:
    """Lines of Python that write a folder kept loads, its tokenizer with it."""
    old, new = str(folder.absolute()), f"{folder.absolute()}-safetensors"
    model = architecture or "AutoModelForCausalLM"
    lines = [
        "import transformers",
        f"model = transformers.{model}.from_pretrained({old!r}, dtype='auto')",
        f"model.save_pretrained({new!r})",
    ]
    if _TOKENIZERS.intersection(names):
        lines += [
            f"tokenizer = transformers.AutoTokenizer.from_pretrained({old!r})",
            f"tokenizer.save_pretrained({new!r})",
        ]
    return "\n".join(f"    {line}" for line in lines)
