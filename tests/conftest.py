"""What every test runs under: one torch thread, a fixed seed, hypothesis without chance."""

from collections.abc import Iterator

import hypothesis
import pytest
import torch

torch.set_num_threads(1)
hypothesis.settings.register_profile("kept", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("kept")


@pytest.fixture(autouse=True)
def _seed() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield
