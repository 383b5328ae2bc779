"""transformers, in the dtype of the row."""

from __future__ import annotations

import time

import torch
import transformers
from worker import Job, Prompts, Stamps

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


class Clock(transformers.StoppingCriteria):
    """Is asked after every token whether to stop; notes the time and says no."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: object) -> torch.Tensor:
        self.times.append(time.perf_counter())
        return torch.zeros(len(input_ids), dtype=torch.bool)


class Transformers:
    """A causal model of transformers."""

    def __init__(self, job: Job) -> None:
        torch.set_num_threads(job.threads)
        load = transformers.AutoModelForCausalLM.from_pretrained
        self.model = load(job.model, dtype=DTYPES[job.weights]).eval()
        self.facts = {
            "versions": {"transformers": transformers.__version__, "torch": torch.__version__},
            "weights": str(self.model.dtype),
            "cache": str(self.model.dtype),
            "attention": self.model.config._attn_implementation,
        }

    def generate(self, prompts: Prompts, new: int) -> Stamps:
        """All prompts in one batch, which goes in step."""
        ids, clock = torch.tensor(prompts), Clock()
        with torch.inference_mode():
            self.model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=new,
                min_new_tokens=new,
                do_sample=False,
                pad_token_id=0,
                eos_token_id=None,
                stopping_criteria=transformers.StoppingCriteriaList([clock]),
            )
        return [clock.times] * len(prompts)


def load(job: Job) -> Transformers:
    """The folder's model."""
    return Transformers(job)
