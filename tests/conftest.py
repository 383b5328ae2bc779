"""What every test runs under: one torch thread, a fixed seed, hypothesis without chance."""

import gc
import os
from collections.abc import Generator, Iterator
from functools import cache

import hypothesis
import pytest
import torch
import typer.main
import typer.testing
from thinning import FULL, left_out

gc.disable()  # until all tests are there, since hardly anything of what makes them is garbage
torch.set_num_threads(1)
if "PYTEST_XDIST_WORKER" in os.environ:
    # A worker a CPU: threads of several would wait for each other at every barrier. What threads
    # can change is tested where their number is set.
    os.environ.setdefault("KEPT_NUM_THREADS", "1")
hypothesis.settings.register_profile("kept", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("kept")
# What is invoked in this process takes longer to make than most commands take to run.
typer.main.get_command = typer.testing._get_command = cache(typer.main.get_command)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    gone = set() if FULL else left_out(items)
    config.hook.pytest_deselected(items=list(gone))
    items[:] = [item for item in items if item not in gone]


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    try:
        return (yield)
    finally:
        gc.enable()


def pytest_collection_finish() -> None:
    """What is there before the first test, torch and ten thousand test items among it, stays: a
    collection of garbage that walks it each time takes as long as many a test."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _seed() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield
