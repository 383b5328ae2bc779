"""The kernels' threads: many, changed in the middle, forked, and gone at the end."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from laws.tiny import native_model
from torch import Tensor

from kept import machine
from kept.batch import pack
from kept.cache import make_cache
from kept.models import CausalLM
from kept.ops import pack_matrix, use_threads

from .driving import Rig

TESTS = Path(__file__).parents[2]
PROMPT = [5, 3, 96, 0, 41] * 9


def decode(model: CausalLM, num_steps: int = 4) -> Tensor:
    """Logits of a prompt and a few tokens after it."""
    cache = make_cache(model.kv_shapes, dtype=model.dtype)
    found = [model.run(pack([PROMPT]), cache)]
    for past in range(len(PROMPT), len(PROMPT) + num_steps):
        token = int(found[-1][-1].argmax())
        found.append(model.run(pack([[token]], past=[past]), cache))
    return torch.cat(found)


def in_threads(*jobs: Callable[[], None]) -> None:
    """Run jobs at the same time; the first exception is raised here."""
    errors: list[BaseException] = []
    ready = threading.Barrier(len(jobs))

    def work(job: Callable[[], None]) -> None:
        try:
            ready.wait()
            job()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def test_more_threads_than_cores_and_than_work() -> None:
    model = native_model("llama", "bf16")
    use_threads(1)
    expected = decode(model)
    for threads in (2, 7, 3 * machine.num_cores() + 2, 64):
        use_threads(threads)
        assert torch.equal(decode(model, 2), expected[:-2])


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_what_one_thread_does_alone_and_what_all_share(name: str) -> None:
    """Norms, placing and merging of one row, of some and of many, where chunks are shared too."""
    model = native_model(name, "bf16")
    story, chunks = PROMPT * 24, (1030, 32, 5, 1, 1)

    def logits() -> Tensor:
        cache, found = make_cache(model.kv_shapes, dtype=model.dtype), []
        for count in chunks:
            [past] = cache.lengths
            found.append(model.run(pack([story[past : past + count]], past=[past]), cache))
        return torch.cat(found)

    use_threads(1)
    expected = logits()
    assert expected.isfinite().all()
    for threads in (2, 3, 5):
        use_threads(threads)
        assert torch.equal(logits(), expected)


def test_programs_of_several_callers_take_turns() -> None:
    names = (("gpt2", "fp32"), ("llama", "int4"), ("qwen3", "bf16"))
    models = [native_model(*name) for name in names]
    expected = [decode(model) for model in models]
    use_threads(3)

    def check(index: int) -> None:
        for _ in range(8):
            assert torch.equal(decode(models[index]), expected[index])

    in_threads(*(lambda i=i: check(i) for i in range(3)))


def test_one_model_for_several_callers() -> None:
    """Each with a cache of its own: they take turns, and none sees another's rows."""
    model = native_model("llama", "bf16")
    expected = decode(model)

    def check() -> None:
        for _ in range(8):
            assert torch.equal(decode(model), expected)

    in_threads(check, check, check)


def test_threads_come_and_go_while_others_run() -> None:
    models = [native_model("llama", "bf16"), native_model("gpt2", "int8")]
    expected = [decode(model) for model in models]
    weight = torch.randn(300, 70)
    done = threading.Event()

    def check(index: int) -> None:
        for _ in range(25):
            assert torch.equal(decode(models[index], 2), expected[index][:-2])
            assert torch.equal(pack_matrix(weight, "fp32").unpack(), weight)

    def resize() -> None:
        while not done.is_set():
            for threads in (1, 4, 2, 3):
                use_threads(threads)

    resizer = threading.Thread(target=resize)
    resizer.start()
    try:
        in_threads(lambda: check(0), lambda: check(1))
    finally:
        done.set()
        resizer.join()


def test_a_callers_own_arithmetic_mode_changes_nothing() -> None:
    """Flushing subnormals is a mode of the calling thread, which the others would not share."""
    x = torch.full((1, 300), 1e-40)
    rig = Rig()
    out = rig.linear(rig.rows(x), pack_matrix(torch.eye(300), "fp32"))
    if not torch.set_flush_denormal(True):
        pytest.skip("this CPU has no such mode")
    try:
        use_threads(1)  # new threads inherit the mode of the one that makes them
        found = [rig.run(1, threads=threads)[0].rows(out, 1) for threads in (1, 3)]
        flushed = torch.ones(64) * 1e-40
    finally:
        torch.set_flush_denormal(False)
    assert all(torch.equal(y.view(torch.int32), x.view(torch.int32)) for y in found)
    assert not flushed.any(), "the caller keeps the mode it had"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_forked_children_run_models() -> None:
    """With as many threads as their parent has and the same bits, whatever its threads were at."""
    run("""
        import os, threading, torch
        from laws.tiny import native_model
        from native.test_pool import decode
        from kept import _native
        from kept.ops import use_threads

        mine, others = native_model("llama", "bf16"), native_model("gpt2", "bf16")
        expected = decode(mine)

        def fork(threads):
            child = os.fork()
            if child == 0:
                same = torch.equal(decode(mine), expected) and _native.num_threads() == threads
                use_threads(2)
                os._exit(0 if same and torch.equal(decode(mine), expected) else 1)
            assert os.waitpid(child, 0)[1] == 0
            assert torch.equal(decode(mine), expected)

        for threads in (1, 3):
            use_threads(threads)
            fork(threads)
            fork(threads)

        done = threading.Event()

        def busy():
            while not done.is_set():
                decode(others)

        thread = threading.Thread(target=busy)
        thread.start()
        for _ in range(6):
            fork(3)
        done.set()
        thread.join()
        """)


def test_the_interpreter_ends_with_idle_threads() -> None:
    run("""
        import threading
        from laws.tiny import native_model
        from native.test_pool import decode
        from kept.ops import use_threads

        model = native_model("llama", "bf16")
        use_threads(4)
        caller = threading.Thread(target=decode, args=(model,))
        caller.start()
        caller.join()
        decode(model)
        """)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinity")
@pytest.mark.parametrize(("asked", "expected"), [(None, 1), ("3", 3)])
def test_threads_on_a_single_cpu(asked: str | None, expected: int) -> None:
    """As many as the process may use, or as it was told; sharing a CPU costs no bit."""
    wanted = {} if asked is None else {"KEPT_NUM_THREADS": asked}
    run(f"""
        import os
        os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
        import torch
        from laws.tiny import native_model
        from native.test_pool import decode
        from kept import _native
        from kept.ops import use_threads

        model = native_model("llama", "bf16")
        assert _native.num_threads() == {expected}, _native.num_threads()
        found = decode(model)
        use_threads(1)
        assert torch.equal(decode(model), found)
        """, **wanted)  # fmt: skip


def run(code: str, **variables: str) -> None:
    """Python code in a process of its own, which must end well and in time."""
    lines = code.strip("\n").splitlines()
    indent = len(lines[0]) - len(lines[0].lstrip())
    environment = {k: v for k, v in os.environ.items() if k != "KEPT_NUM_THREADS"}
    paths = os.pathsep.join((str(TESTS), str(TESTS / "unit")))
    found = subprocess.run(
        [sys.executable, "-c", "\n".join(line[indent:] for line in lines)],
        env={**environment, "PYTHONPATH": paths, **variables},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert found.returncode == 0, found.stderr
