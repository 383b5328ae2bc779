"""Serves a list of requests with one peer in that peer's own Python, each sent when it is due.

    PEER/bin/python serving.py WORK.json

WORK.json: {"peer": "openvino" | "vllm", "model", "weights", "threads", "max_batch", "cache_gib",
"share", "requests": [{"at": seconds, "prompt": [ids], "new": tokens}, ...]}. share: whether
prefixes are kept and reused. The last line of its output is JSON: what ran, and of each request
when it was sent and when each of its tokens was there. Needs nothing but the standard library and
the peer.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any, Protocol

Work = dict[str, Any]
NAP = 0.0005  # seconds between looks at the clock while nothing runs


class Server(Protocol):
    """A model behind a peer's own scheduler. facts: its version, and the formats that run."""

    facts: dict[str, Any]

    def add(self, index: int, prompt: list[int], new: int) -> None:
        """Take a request for exactly `new` greedy tokens."""

    def step(self) -> dict[int, int]:
        """Compute once; returns the tokens so far of each request that has come further."""

    @property
    def busy(self) -> bool: ...


class OpenVINO:
    """OpenVINO GenAI's continuous batching."""

    def __init__(self, work: Work) -> None:
        import openvino as ov
        import openvino_genai as genai
        from peer_openvino import CACHES, arithmetic

        self.ov, self.genai = ov, genai
        scheduler = genai.SchedulerConfig()
        scheduler.cache_size = work["cache_gib"]
        scheduler.max_num_seqs = work["max_batch"]
        scheduler.dynamic_split_fuse = True
        scheduler.enable_prefix_caching = work["share"]
        computes = arithmetic()
        config = {
            "INFERENCE_PRECISION_HINT": computes,
            "INFERENCE_NUM_THREADS": work["threads"],
        }
        if computes in CACHES:
            config["KV_CACHE_PRECISION"] = CACHES[computes]
        self.pipeline = genai.ContinuousBatchingPipeline(work["model"], scheduler, "CPU", config)
        self.facts = {
            "versions": {"openvino-genai": genai.get_version(), "openvino": ov.__version__},
            "weights": work["weights"],
            "arithmetic": computes,
        }
        self.handles: dict[int, Any] = {}
        self.counts: dict[int, int] = {}

    def add(self, index: int, prompt: list[int], new: int) -> None:
        """See `Server.add`."""
        import numpy as np

        config = self.genai.GenerationConfig()
        config.max_new_tokens = config.min_new_tokens = new
        config.ignore_eos, config.do_sample = True, False
        ids = self.ov.Tensor(np.array([prompt], dtype=np.int64))
        self.handles[index] = self.pipeline.add_request(index, ids, config)
        self.counts[index] = 0

    def step(self) -> dict[int, int]:
        """See `Server.step`."""
        self.pipeline.step()
        found = {}
        for index, handle in list(self.handles.items()):
            while handle.can_read():
                for output in handle.read().values():
                    self.counts[index] += len(output.generated_ids)
                found[index] = self.counts[index]
        return found

    @property
    def busy(self) -> bool:
        """Whether a request is unfinished."""
        return self.pipeline.has_non_finished_requests()


class VLLM:
    """vLLM's engine in this process."""

    def __init__(self, work: Work) -> None:
        import os

        from peer_vllm import DTYPES, ENVIRONMENT

        os.environ.update(ENVIRONMENT)  # read as vllm is imported
        os.environ["VLLM_CPU_KVCACHE_SPACE"] = str(work["cache_gib"])
        import torch
        import vllm

        longest = max(len(r["prompt"]) + r["new"] for r in work["requests"])
        self.engine = vllm.LLM(
            work["model"],
            dtype=DTYPES[work["weights"]],
            max_model_len=longest + 1,
            max_num_seqs=work["max_batch"],
            enforce_eager=True,
            enable_prefix_caching=work["share"],
            skip_tokenizer_init=True,
        ).llm_engine
        self.params = vllm.SamplingParams
        self.facts = {
            "versions": {"vllm": vllm.__version__, "torch": torch.__version__},
            "weights": str(self.engine.model_config.dtype),
            "arithmetic": str(self.engine.model_config.dtype),
        }

    def add(self, index: int, prompt: list[int], new: int) -> None:
        """See `Server.add`."""
        params = self.params(
            max_tokens=new, min_tokens=new, temperature=0, ignore_eos=True, detokenize=False
        )
        self.engine.add_request(str(index), {"prompt_token_ids": prompt}, params)

    def step(self) -> dict[int, int]:
        """See `Server.step`."""
        outputs = self.engine.step()
        return {int(x.request_id): len(x.outputs[0].token_ids) for x in outputs}

    @property
    def busy(self) -> bool:
        """Whether a request is unfinished."""
        return self.engine.has_unfinished_requests()


SERVERS = {"openvino": OpenVINO, "vllm": VLLM}


def serve(server: Server, requests: list[Work]) -> list[dict[str, Any]]:
    """Send every request when it is due, and note when its tokens come, in seconds."""
    order = sorted(range(len(requests)), key=lambda i: requests[i]["at"])
    found = [{"sent": 0.0, "stamps": []} for _ in requests]
    start = time.perf_counter()
    while order or server.busy:
        now = time.perf_counter() - start
        while order and requests[order[0]]["at"] <= now:
            index = order.pop(0)
            found[index]["sent"] = now
            server.add(index, requests[index]["prompt"], requests[index]["new"])
        if not server.busy:
            time.sleep(NAP)
            continue
        counts = server.step()
        now = time.perf_counter() - start
        for index, count in counts.items():
            stamps = found[index]["stamps"]
            stamps += [round(now, 7)] * (count - len(stamps))
    return found


def main() -> None:
    """Serve what the first argument's file holds, after a warm-up, and print it."""
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    work = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    server: Server = SERVERS[work["peer"]](work)
    longest = max(len(r["prompt"]) for r in work["requests"])
    # A prompt that shares nothing with those that are timed.
    serve(server, [{"at": 0.0, "prompt": [7 + i % 5 for i in range(min(longest, 512))], "new": 4}])
    requests = serve(server, work["requests"])
    for request, asked in zip(requests, work["requests"], strict=True):
        if len(request["stamps"]) != asked["new"]:
            raise SystemExit(
                f"{len(request['stamps'])} tokens came where {asked['new']} were asked for"
            )
    print("\n" + json.dumps({"facts": server.facts, "requests": requests}), flush=True)


if __name__ == "__main__":
    main()
