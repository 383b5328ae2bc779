"""A model small enough to generate with in milliseconds, and a machine whose limit is known."""

import pytest
import torch
from tiny_config import TINY

from kept import machine
from kept.bench import subject
from kept.bench.random_weights import random_model
from kept.bench.subject import Subject


@pytest.fixture
def tiny() -> Subject:
    """Grouped heads of size 4, two layers, a context of 96."""
    return Subject("tiny", random_model(TINY, torch.float32, seed=0), random=True)


@pytest.fixture
def bandwidth(monkeypatch: pytest.MonkeyPatch) -> machine.Rate:
    """What the read-bandwidth probe says, without its half a gigabyte; a matrix peak, too."""
    rate = machine.Rate("a probe", 1, 2e9, 1e9)
    monkeypatch.setattr(machine, "measure_bandwidth", lambda *_: rate)
    peak = {name: machine.Rate(f"{name} units", 1, 4e12, 3e12) for name in ("fp32", "bf16", "int8")}
    monkeypatch.setattr(machine, "measure_matrix_peak", lambda dtype, *_, **__: peak[dtype])
    return rate


@pytest.fixture
def shaped(monkeypatch: pytest.MonkeyPatch, tiny: Subject) -> list[tuple[object, ...]]:
    """Every shape is the tiny model; what was asked for is noted."""
    asked: list[tuple[object, ...]] = []

    def make(*arguments: object) -> Subject:
        asked.append(arguments)
        return tiny

    monkeypatch.setattr(subject, "random_subject", make)
    return asked
