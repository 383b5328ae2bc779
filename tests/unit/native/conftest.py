"""Every instruction set, and a pool that is left as it was found."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from thinning import FULL

from kept import machine
from kept.ops import use_threads

if machine.NATIVE_AVAILABLE:
    from kept import _native

    # Where tiles are real, only the tests that hold them to their emulation need that too.
    _emulated = _native.emulated_isa_names() if FULL or "amx" not in _native.isa_names() else []
    NAMES = [*_native.isa_names(), *_emulated]
else:
    NAMES = []


@pytest.fixture(params=NAMES)
def isa(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """One of this CPU's instruction sets, which the programs of the test run on."""
    name: str = request.param
    monkeypatch.setenv("KEPT_ISA", name)
    return name


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    if not machine.NATIVE_AVAILABLE:
        pytest.skip("installed without a C++ compiler")
    yield
    use_threads()
