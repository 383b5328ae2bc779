from __future__ import annotations

from collections.abc import Iterator

import pytest

from kept import LLM

from .serving import Served, served


@pytest.fixture(scope="session")
def llm() -> LLM:
    return LLM()


@pytest.fixture(scope="module")
def server(llm: LLM) -> Iterator[Served]:
    with served(llm) as found:
        yield found
