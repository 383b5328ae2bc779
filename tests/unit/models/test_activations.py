"""As what activations meet quantized weights, and who says so."""

import pytest

from kept import LLM, machine
from kept.errors import BackendError, OptionError
from kept.ops import activations
from kept.ops.activations import choose_activations

needs_native = pytest.mark.skipif(
    not machine.NATIVE_AVAILABLE, reason="installed without a C++ compiler"
)


@needs_native
def test_who_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(activations, "isa", lambda: "avx2vnni")
    assert choose_activations("auto", "int8", None) == "int8"
    monkeypatch.setattr(activations, "isa", lambda: "avx2")
    assert choose_activations("auto", "int8", None) == "int8"
    assert choose_activations("auto", "int4", None) == "bfloat16"
    assert choose_activations("auto", None, None) == "bfloat16"
    assert choose_activations("auto", "int8", "no kernels") == "bfloat16"
    assert choose_activations("bfloat16", "int8", None) == "bfloat16"
    monkeypatch.setattr(activations, "isa", lambda: "amx")
    assert choose_activations("auto", "int8", None) == "bfloat16"
    assert choose_activations("auto", "q8_0", None) == "int8"
    assert choose_activations("auto", "q4_0", None) == "int8"
    assert choose_activations("int8", "int4", None) == "int8"
    with pytest.raises(OptionError, match="'int4' is not one of auto, bfloat16, int8"):
        choose_activations("int4", "int8", None)
    with pytest.raises(OptionError, match="pass quantize='int8' or 'int4' as well"):
        choose_activations("int8", None, None)
    with pytest.raises(BackendError, match="needs the native kernels: no kernels"):
        choose_activations("int8", "int8", "no kernels")


@needs_native
def test_a_model_says_what_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEPT_OPS", "native")
    for asked in ("bfloat16", "int8"):
        assert LLM(quantize="int8", activations=asked).model.activations == asked
    with pytest.raises(OptionError, match="activations='int8' is of weights"):
        LLM(activations="int8")
    monkeypatch.setenv("KEPT_OPS", "reference")
    with pytest.raises(BackendError, match="KEPT_OPS=reference"):
        LLM(quantize="int8", activations="int8")
