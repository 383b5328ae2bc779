"""OpenVINO GenAI, as its LLMPipeline runs on a CPU."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import openvino_genai as genai
from worker import Job, Prompts, Stamps

CACHES = {"bf16": "bf16", "int8": "u8"}
ARITHMETIC = ("bf16", "f32")  # for weights of every format: the first that the CPU has


class OpenVINO:
    """A pipeline, and what its compiled model says of its own precision."""

    def __init__(self, job: Job) -> None:
        config: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": arithmetic(),
            "KV_CACHE_PRECISION": CACHES[job.cache],
            "INFERENCE_NUM_THREADS": job.threads,
        }
        self.facts = {
            "versions": {"openvino-genai": genai.get_version(), "openvino": ov.__version__},
            "weights": job.weights,
            **compiled(job.model, config),
        }
        self.pipeline = genai.LLMPipeline(job.model, "CPU", **config)

    def generate(self, prompts: Prompts, new: int) -> Stamps:
        """All prompts in one call; the pipeline's own clock says when each token was there."""
        ids = np.array(prompts, dtype=np.int64)
        config = genai.GenerationConfig()
        config.max_new_tokens = config.min_new_tokens = new
        config.ignore_eos, config.do_sample = True, False
        inputs = genai.TokenizedInputs(ov.Tensor(ids), ov.Tensor(np.ones_like(ids)))
        start = time.perf_counter()
        result = self.pipeline.generate(inputs, config)
        end = time.perf_counter()
        counts = [len(row) for row in result.tokens]
        raw = result.perf_metrics.raw_metrics
        times = [milliseconds / 1e3 for milliseconds in raw.m_new_token_times]
        if not all(start <= moment <= end for moment in times):
            raise SystemExit("OpenVINO's token times are not on this process's clock")
        return shared_out(times, raw.m_batch_sizes, counts)


def arithmetic() -> str:
    """What the CPU device computes in on this machine.

    It counts bf16 among what it can do wherever the CPU has it, whatever oneDNN is held to, and
    would then emulate it.
    """
    held = os.environ.get("ONEDNN_MAX_CPU_ISA")
    able = ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if held is not None and not held.endswith("BF16"):
        able = ["FP32"]
    names = {"bf16": "BF16", "f32": "FP32"}
    return next(name for name in ARITHMETIC if names[name] in able)


def compiled(folder: str, config: dict[str, Any]) -> dict[str, Any]:
    """The precisions the device gives a model under this configuration."""
    model = ov.Core().compile_model(Path(folder) / "openvino_model.xml", "CPU", config)
    return {
        "arithmetic": model.get_property("INFERENCE_PRECISION_HINT").get_type_name(),
        "cache": model.get_property("KV_CACHE_PRECISION").get_type_name(),
        "threads": model.get_property("INFERENCE_NUM_THREADS"),
        "dynamic_quantization_group": model.get_property("DYNAMIC_QUANTIZATION_GROUP_SIZE"),
    }


def shared_out(times: list[float], sizes: list[int], counts: list[int]) -> Stamps:
    """Give each sequence its tokens' times: at each moment those under way, then new ones.

    sizes: tokens drawn at each moment. counts: tokens of each sequence in the end.
    """
    stamps: Stamps = [[] for _ in counts]
    for moment, size in zip(times, sizes, strict=True):
        open_rows = [row for row, count in zip(stamps, counts, strict=True) if len(row) < count]
        for row in sorted(open_rows, key=lambda row: not row)[:size]:
            row.append(moment)
    return stamps


def load(job: Job) -> OpenVINO:
    """The folder's model."""
    return OpenVINO(job)
