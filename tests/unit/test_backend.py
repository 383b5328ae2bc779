"""KEPT_OPS is obeyed or refused wherever a model is made."""

import pytest

from kept import BackendError, OptionError
from kept.models import build_model
from kept.ops import backend

CONFIG = {"model_type": "gpt2", "n_embd": 8, "n_head": 2, "n_layer": 1, "vocab_size": 5}


@pytest.mark.parametrize("choice", ["auto", "reference"])
def test_what_can_be_had(monkeypatch: pytest.MonkeyPatch, choice: str) -> None:
    monkeypatch.setenv("KEPT_OPS", choice)
    assert backend() == "reference"
    build_model(CONFIG)


def test_native_is_refused_rather_than_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEPT_OPS", "native")
    with pytest.raises(BackendError, match=r"KEPT_OPS=native.*use KEPT_OPS=auto"):
        build_model(CONFIG)


def test_an_unknown_choice_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEPT_OPS", "fastest")
    with pytest.raises(OptionError, match="'fastest' is not one of auto, native, reference"):
        build_model(CONFIG)
