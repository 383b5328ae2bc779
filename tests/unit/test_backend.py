"""KEPT_OPS, KEPT_ISA and KEPT_NUM_THREADS are obeyed, or refused wherever a model is made."""

import logging

import pytest
import torch

from kept import BackendError, OptionError, machine
from kept.models import build_model
from kept.ops import backend, runs_natively, use_threads
from kept.ops import backend as choose
from kept.ops.backend import isa, num_threads

CONFIG = {"model_type": "gpt2", "n_embd": 8, "n_head": 2, "n_layer": 1, "vocab_size": 5}
CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("choice", "expected"), [("auto", "native"), ("native", "native"), ("reference", "reference")]
)
def test_what_can_be_had(monkeypatch: pytest.MonkeyPatch, choice: str, expected: str) -> None:
    monkeypatch.setenv("KEPT_OPS", choice)
    assert backend() == expected
    build_model(CONFIG)


def test_without_the_native_module(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(machine, "NATIVE_AVAILABLE", False)
    monkeypatch.setattr(machine, "_import_error", "no such file")
    monkeypatch.setenv("KEPT_OPS", "auto")
    assert backend() == "reference"
    choose.__globals__["say_once"].cache_clear()
    with caplog.at_level(logging.WARNING, "kept"):
        assert not runs_natively(torch.float32, CPU)
    assert "using the torch reference: " in caplog.records[0].message
    assert "no such file" in caplog.records[0].message
    monkeypatch.setenv("KEPT_OPS", "native")
    with pytest.raises(BackendError, match=r"no such file.*or use KEPT_OPS=reference"):
        build_model(CONFIG)


def test_an_unknown_choice_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEPT_OPS", "fastest")
    with pytest.raises(OptionError, match="'fastest' is not one of auto, native, reference"):
        build_model(CONFIG)


def test_what_the_kernels_cannot_run(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("KEPT_OPS", "auto")
    assert runs_natively(torch.bfloat16, CPU)
    choose.__globals__["say_once"].cache_clear()
    with caplog.at_level(logging.WARNING, "kept"):
        assert not runs_natively(torch.float16, CPU)
        assert not runs_natively(torch.float16, CPU)
    assert [r.message for r in caplog.records] == [
        "using the torch reference: the native kernels compute in float32 or bfloat16, and the "
        "model is torch.float16"
    ]
    assert not runs_natively(torch.float32, torch.device("cuda"))
    monkeypatch.setenv("KEPT_OPS", "native")
    with pytest.raises(BackendError, match=r"KEPT_OPS=native, but .*torch.float16; pass dtype"):
        runs_natively(torch.float16, CPU)


def test_instructions_can_be_forced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KEPT_ISA", raising=False)
    best = isa()
    monkeypatch.setenv("KEPT_ISA", "portable")
    assert isa() == "portable"
    monkeypatch.setenv("KEPT_ISA", "mmx")
    with pytest.raises(OptionError, match=rf"KEPT_ISA='mmx' cannot be had.*{best}"):
        isa()


def test_threads_can_be_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KEPT_NUM_THREADS", raising=False)
    assert num_threads() == machine.num_cores()
    monkeypatch.setenv("KEPT_NUM_THREADS", "3")
    assert use_threads() == 3
    for wrong in ("0", "-1", "two", "99999", "1.5", ""):
        monkeypatch.setenv("KEPT_NUM_THREADS", wrong)
        with pytest.raises(OptionError, match="must be a whole number from 1 to 1024"):
            num_threads()
