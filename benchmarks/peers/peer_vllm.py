"""vLLM for CPUs, stepped by hand so that the time of every token is known."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from itertools import count

from worker import Job, Prompts, Stamps

ENVIRONMENT: Mapping[str, str] = {
    "VLLM_CPU_KVCACHE_SPACE": "4",  # GiB
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
}
DTYPES = {"bf16": "bfloat16", "fp32": "float32"}


class VLLM:
    """An engine in this process."""

    def __init__(self, job: Job) -> None:
        os.environ.update(ENVIRONMENT)  # read as vllm is imported
        import torch
        import vllm

        self.engine = vllm.LLM(
            job.model,
            dtype=DTYPES[job.weights],
            max_model_len=job.prompt + job.new + 1 if job.prompt + job.new > 1000 else 1024,
            enforce_eager=True,
            enable_prefix_caching=False,
            skip_tokenizer_init=True,
        ).llm_engine
        self.params = vllm.SamplingParams
        self.names = count()
        self.facts = {
            "versions": {"vllm": vllm.__version__, "torch": torch.__version__},
            "weights": str(self.engine.model_config.dtype),
            "cache": str(self.engine.model_config.dtype),
            "threads": torch.get_num_threads(),
        }

    def generate(self, prompts: Prompts, new: int) -> Stamps:
        """All prompts at once; the engine decides how they share its steps."""
        params = self.params(
            max_tokens=new, min_tokens=new, temperature=0, ignore_eos=True, detokenize=False
        )
        names = [str(next(self.names)) for _ in prompts]
        for name, row in zip(names, prompts, strict=True):
            self.engine.add_request(name, {"prompt_token_ids": row}, params)
        stamps: dict[str, list[float]] = {name: [] for name in names}
        while self.engine.has_unfinished_requests():
            outputs = self.engine.step()
            now = time.perf_counter()
            for output in outputs:
                times = stamps[output.request_id]
                times += [now] * (len(output.outputs[0].token_ids) - len(times))
        return [stamps[name] for name in names]


def load(job: Job) -> VLLM:
    """The folder's model."""
    return VLLM(job)
