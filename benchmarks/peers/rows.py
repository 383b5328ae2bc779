"""The rows of work: what is measured, and by whom."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

# Peers that share another's virtual environment.
ENVIRONMENT_OF: Final = {"ctranslate2": "openvino"}
NAMES: Final = {
    "kept": "kept",
    "transformers": "transformers",
    "openvino": "OpenVINO GenAI",
    "ctranslate2": "CTranslate2",
    "llamacpp": "llama.cpp",
    "vllm": "vLLM",
}
_OPENVINO: Final = {"bf16": "ov-", "int8": "ov8-", "int4": "ov4-"}
_GGUF: Final = {"bf16": "bf16", "int8": "q8_0", "int4": "q4_0", "q8_0": "q8_0", "q4_0": "q4_0"}
BLOCKS: Final = ("q8_0", "q4_0")  # of a GGUF file, which kept reads as well


@dataclass(frozen=True, slots=True)
class Row:
    """One piece of work that kept and its peers are given.

    model: a checkpoint under FOLDER/models. weights, cache: bf16, int8 or int4; weights also the
    blocks of a GGUF file, which is then the same for all. batch: sequences side by side. new:
    tokens drawn after each prompt; with 1 the reading of the prompt is what is measured.
    """

    name: str
    model: str
    weights: str
    cache: str
    batch: int
    prompt: int
    new: int
    peers: tuple[str, ...]

    @property
    def is_prefill(self) -> bool:
        """Whether reading prompts is measured rather than drawing tokens."""
        return self.new == 1

    @property
    def title(self) -> str:
        """The row in words."""
        formats = self.weights if self.cache == "bf16" else f"{self.weights}, {self.cache} cache"
        batch = "" if self.batch == 1 else f"{self.batch} sequences, "
        work = (
            f"reading a prompt of {self.prompt:,}"
            if self.is_prefill
            else f"prompt {self.prompt:,}, {self.new:,} new"
        )
        return f"{self.model} {formats}: {batch}{work}"

    def cut_short(self) -> Row:
        """The same with little to do."""
        return replace(
            self, batch=min(self.batch, 2), prompt=min(self.prompt, 32), new=min(self.new, 6)
        )

    def file_of(self, peer: str, folder: Path) -> Path:
        """The model as a peer reads it."""
        models = folder / "models"
        if peer == "openvino":
            return models / f"{_OPENVINO[self.weights]}{self.model}"
        if peer == "ctranslate2":
            return models / f"ct2-{self.model}"
        if peer == "llamacpp" or self.weights in BLOCKS:
            return models / f"{self.model}-{_GGUF[self.weights]}.gguf"
        return models / self.model


ROWS: Final = (
    Row(
        "qwen05-bf16-decode", "qwen05", "bf16", "bf16", 1, 128, 64,
        ("openvino", "llamacpp", "transformers", "vllm"),
    ),
    Row(
        "qwen05-int8-decode", "qwen05", "int8", "bf16", 1, 128, 64,
        ("openvino", "ctranslate2", "llamacpp"),
    ),
    Row("qwen05-int4-decode", "qwen05", "int4", "bf16", 1, 128, 64, ("openvino", "llamacpp")),
    Row(
        "qwen05-int8-batch", "qwen05", "int8", "bf16", 16, 160, 64,
        ("openvino", "ctranslate2"),
    ),
    Row("qwen05-int8-prefill-128", "qwen05", "int8", "bf16", 1, 128, 1, ("openvino", "llamacpp")),
    Row("qwen05-int8-prefill-1024", "qwen05", "int8", "bf16", 1, 1024, 1, ("openvino", "llamacpp")),
    Row("qwen05-int4-prefill-128", "qwen05", "int4", "bf16", 1, 128, 1, ("openvino", "llamacpp")),
    Row("qwen05-int4-prefill-1024", "qwen05", "int4", "bf16", 1, 1024, 1, ("openvino", "llamacpp")),
    Row("qwen05-q8_0-decode", "qwen05", "q8_0", "bf16", 1, 128, 64, ("llamacpp",)),
    Row("qwen05-q4_0-decode", "qwen05", "q4_0", "bf16", 1, 128, 64, ("llamacpp",)),
    Row("qwen05-q4_0-prefill-128", "qwen05", "q4_0", "bf16", 1, 128, 1, ("llamacpp",)),
    Row("qwen3moe-int4-decode", "qwen3moe", "int4", "bf16", 1, 128, 64, ("llamacpp",)),
    Row("qwen3moe-q4_0-decode", "qwen3moe", "q4_0", "bf16", 1, 128, 64, ("llamacpp",)),
    Row("gpt2-bf16-decode", "gpt2", "bf16", "bf16", 1, 8, 500, ("openvino", "llamacpp")),
    Row("gpt2-int8-decode", "gpt2", "int8", "bf16", 1, 8, 500, ("openvino", "llamacpp")),
    Row(
        "qwen05-bf16-batch", "qwen05", "bf16", "bf16", 16, 160, 64,
        ("openvino", "vllm", "transformers"),
    ),
    Row(
        "qwen05-bf16-prefill-128", "qwen05", "bf16", "bf16", 1, 128, 1,
        ("openvino", "vllm", "transformers", "llamacpp"),
    ),
    Row(
        "qwen05-bf16-prefill-1024", "qwen05", "bf16", "bf16", 1, 1024, 1,
        ("openvino", "vllm", "transformers", "llamacpp"),
    ),
    Row("qwen05-long-bf16", "qwen05", "bf16", "bf16", 1, 8192, 64, ("openvino", "llamacpp")),
    Row("qwen05-long-int8", "qwen05", "bf16", "int8", 1, 8192, 64, ("openvino", "llamacpp")),
)  # fmt: skip
