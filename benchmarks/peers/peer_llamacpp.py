"""llama.cpp, through the C interface that llama-cpp-python wraps."""

from __future__ import annotations

import ctypes
import time

import llama_cpp as ll
import numpy as np
from worker import Job, Prompts, Stamps

CACHES = {"bf16": ll.GGML_TYPE_F16, "int8": ll.GGML_TYPE_Q8_0}  # F16 is its own 16-bit format
CACHE_NAMES = {"bf16": "f16", "int8": "q8_0"}
CHUNK = 512  # rows of a pass


class LlamaCpp:
    """A model and a context of one sequence."""

    def __init__(self, job: Job) -> None:
        ll.llama_backend_init()
        self.quiet = ll.llama_log_callback(lambda *_: None)
        ll.llama_log_set(self.quiet, ctypes.c_void_p(0))
        self.model = ll.llama_model_load_from_file(
            job.model.encode(), ll.llama_model_default_params()
        )
        if not self.model:
            raise SystemExit(f"llama.cpp cannot load {job.model}")
        params = ll.llama_context_default_params()
        params.n_ctx = job.prompt + job.new + 16
        params.n_batch = params.n_ubatch = CHUNK
        params.n_threads = params.n_threads_batch = job.threads
        params.type_k = params.type_v = CACHES[job.cache]
        params.flash_attn_type = ll.LLAMA_FLASH_ATTN_TYPE_ENABLED
        self.context = ll.llama_init_from_model(self.model, params)
        if not self.context:
            raise SystemExit(f"llama.cpp makes no context of {params.n_ctx} tokens")
        self.num_tokens = ll.llama_vocab_n_tokens(ll.llama_model_get_vocab(self.model))
        description = ctypes.create_string_buffer(256)
        ll.llama_model_desc(self.model, description, len(description))
        features = ll.llama_print_system_info().decode()
        self.facts = {
            "versions": {"llama-cpp-python": ll.__version__},
            "weights": description.value.decode(),
            "cache": CACHE_NAMES[job.cache],
            "attention": "flash",
            "system": features.strip(" |"),
        }

    def generate(self, prompts: Prompts, new: int) -> Stamps:
        """One prompt after another would be no batch: only one is taken."""
        if len(prompts) != 1:
            raise SystemExit(f"this adapter runs 1 sequence at a time, not {len(prompts)}")
        ll.llama_memory_clear(ll.llama_get_memory(self.context), True)
        [ids], times = prompts, []
        for begin in range(0, len(ids), CHUNK):
            self.decode(ids[begin : begin + CHUNK])
        for step in range(new):
            token = self.likeliest()
            times.append(time.perf_counter())
            if step + 1 < new:
                self.decode([token])
        return [times]

    def decode(self, ids: list[int]) -> None:
        """A pass over these ids; the last one's logits are kept."""
        tokens = (ll.llama_token * len(ids))(*ids)
        status = ll.llama_decode(self.context, ll.llama_batch_get_one(tokens, len(ids)))
        if status:
            raise SystemExit(f"llama_decode failed with status {status}")

    def likeliest(self) -> int:
        """The token of the highest logit; waits for the pass to end."""
        logits = ll.llama_get_logits_ith(self.context, -1)
        return int(np.ctypeslib.as_array(logits, shape=(self.num_tokens,)).argmax())


def load(job: Job) -> LlamaCpp:
    """The file's model."""
    return LlamaCpp(job)
