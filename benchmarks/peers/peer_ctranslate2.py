"""CTranslate2, quantized as it loads."""

from __future__ import annotations

import json
import time
from pathlib import Path

import ctranslate2
from worker import Job, Prompts, Stamps

COMPUTE = {"int8": "int8_float32", "bf16": "bfloat16"}


class CTranslate2:
    """A generator, and the strings its tokens have."""

    def __init__(self, job: Job) -> None:
        self.generator = ctranslate2.Generator(
            job.model,
            device="cpu",
            compute_type=COMPUTE[job.weights],
            intra_threads=job.threads,
            inter_threads=1,
        )
        self.tokens = json.loads((Path(job.model) / "vocabulary.json").read_text())
        self.facts = {
            "versions": {"ctranslate2": ctranslate2.__version__},
            "weights": self.generator.compute_type,
            "cache": "float32" if self.generator.compute_type.endswith("float32") else "bfloat16",
        }

    def generate(self, prompts: Prompts, new: int) -> Stamps:
        """All prompts in one batch."""
        stamps: Stamps = [[] for _ in prompts]

        def note(step: ctranslate2.GenerationStepResult) -> bool:
            stamps[step.batch_id].append(time.perf_counter())
            return False  # go on

        self.generator.generate_batch(
            [[self.tokens[i] for i in row] for row in prompts],
            max_length=new,
            min_length=new,
            sampling_topk=1,
            beam_size=1,
            include_prompt_in_result=False,
            end_token=[],
            callback=note,
        )
        return stamps


def load(job: Job) -> CTranslate2:
    """The folder's model."""
    return CTranslate2(job)
