"""A forked child computes what its parent does, as servers that load before they fork need it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import T5Config, T5ForConditionalGeneration

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")

TIMEOUT = 170  # seconds, of which a child that hangs takes 100
# Sums of a billion products, so that torch gathers threads.
BEGINNING = """
import os, signal, sys
import torch
torch.set_num_threads(2)

def forked(work, *given):
    child = os.fork()
    if child == 0:
        signal.alarm(100)
        try:
            same = work(*given)
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(2)
        os._exit(0 if same else 1)
    assert os.waitpid(child, 0)[1] == 0, "the child came to something else, or hung"

def num_threads():
    return len(os.listdir("/proc/self/task")) if os.path.isdir("/proc/self/task") else 1
"""
IMPORTED = """
import importlib, pkgutil
from torch.utils._python_dispatch import TorchDispatchMode

class Nothing(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        raise AssertionError(f"an import computes {func}")

import kept, numpy, safetensors.torch, tokenizers
before = num_threads()
with Nothing():
    for found in pkgutil.walk_packages(kept.__path__, "kept."):
        if not found.name.endswith("__main__") and ".integrations" not in found.name:
            importlib.import_module(found.name)
assert num_threads() == before, "an import starts threads"

def child():
    llm = kept.LLM(quantize="int8")
    return llm.generate("Once", max_new_tokens=3)[0].finish_reason == "length"

for os.environ["KEPT_OPS"] in ("auto", "reference"):
    forked(child)
"""
FACES = """
from kept.ops.quantize import quantize
from kept.integrations.transformers import KeptCache
from transformers import LlamaConfig, LlamaForCausalLM

models = []
for os.environ["KEPT_OPS"] in ("auto", "reference"):
    models.append((os.environ["KEPT_OPS"], kept.LLM(), kept.LLM(sys.argv[1])))
torch.manual_seed(0)
ids = torch.randint(4096, (2, 150))
sizes = dict(hidden_size=256, intermediate_size=512, num_hidden_layers=2, num_attention_heads=4)
theirs = LlamaForCausalLM(LlamaConfig(vocab_size=512, **sizes)).eval()
theirs.set_attn_implementation("kept")

def plugged():
    cache = KeptCache.from_config(theirs.config)
    with torch.no_grad():
        return theirs(ids % 512, past_key_values=cache).logits

def faces(llm, t5):
    options = dict(max_new_tokens=3, do_sample=True, seed=1)
    texts = [x.text for x in llm.generate(["Once upon a time", "She"], **options)]
    texts += [x.text for x in t5.generate([[5, 6, 7] * 60], max_new_tokens=3)]
    texts += llm.stream("A dog", **options)
    with torch.no_grad():
        called = llm.model(ids).logits
        read = t5.model(ids, decoder_input_ids=ids[:, :40]).logits
    rounded = quantize(torch.linspace(-1, 1, 1 << 17).view(256, -1), "int4")
    return texts, [called, read, plugged(), rounded.codes, rounded.scales.float()]

def every():
    found = []
    for os.environ["KEPT_OPS"], *pair in models:
        found.append(faces(*pair))
    return found

def equal(found, expected):
    return all(
        x[0] == y[0] and all(map(torch.equal, x[1], y[1]))
        for x, y in zip(found, expected, strict=True)
    )

def child():
    return equal(every(), expected) and torch.get_num_threads() == 2

expected = every()
forked(child)
assert equal(every(), expected), "the parent came to harm"
"""
# As a GNU OpenMP that cannot let go of its threads.
UNABLE = """
import logging
said = []
handler = logging.Handler()
handler.emit = lambda record: said.append(record.getMessage())
logging.getLogger("kept").addHandler(handler)
from kept.ops import forking

def hindered():
    # The reference sums in another order on fewer threads.
    close = all(
        torch.allclose(x, y, atol=1e-2)
        for found, right in zip(every(), expected)
        for x, y in zip(found[1], right[1])
    )
    told = [x for x in said if "on one thread in this forked process" in x]
    return close and len(told) == 1 and torch.get_num_threads() == 1

if forking._pause is not None:
    forking._pause = lambda kind: -1
    forked(hindered)
"""


# A fork while other threads wait for texts: the parent goes on, and the child is rid of theirs.
OTHERS = """
import threading
from kept.engine import BlockState

os.environ["KEPT_OPS"] = "auto"

llm = kept.LLM()
expected = llm.generate("Once upon a time", max_new_tokens=12)[0].text
long = dict(max_new_tokens=200, ignore_eos=True)
there, found = threading.Barrier(4), []

def others(text):
    pieces = iter(llm.stream(text, **long))
    there.wait(60)
    for _ in range(2):
        next(pieces)
    there.wait(60)
    there.wait(60)
    found.append("".join(pieces))

def engine():
    (only,) = llm._engines._engines.values()
    return only

def child():
    mine = llm.generate("Once upon a time", max_new_tokens=12)[0].text == expected
    llm.forget()
    seen = engine().view()
    held = [blocks.count(BlockState.HELD) for blocks in seen.blocks]
    return mine and not any(held) and not seen.running and not seen.num_waiting

threads = [threading.Thread(target=others, args=(text,)) for text in ("A dog", "She", "He")]
for thread in threads:
    thread.start()
there.wait(60)
there.wait(60)  # all of them are in the middle of a text
assert len(engine().view().running) == 3
forked(child)
there.wait(60)
for thread in threads:
    thread.join()
assert len(found) == 3 and all(found), "the parent's threads came to harm"
"""


def run(script: str, *given: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", BEGINNING + script, *given],
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        # Threads that spin on CPUs which others want take several times as long.
        env={**os.environ, "OMP_WAIT_POLICY": "PASSIVE"},
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_an_import_computes_nothing_and_a_forked_child_has_every_face(tmp_path: Path) -> None:
    """All in one process, as importing takes seconds: it forks when it has only imported, when its
    threads are busy, and when it has computed everything."""
    config = T5Config(
        vocab_size=4096, d_model=128, d_kv=32, d_ff=256, num_layers=2, num_heads=4,
        decoder_start_token_id=0,
    )  # fmt: skip
    T5ForConditionalGeneration(config).save_pretrained(tmp_path)
    run(IMPORTED + OTHERS + FACES + UNABLE, str(tmp_path))
