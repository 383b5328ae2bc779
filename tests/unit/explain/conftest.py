"""The bundled model, and an explanation of it, made once."""

import pytest

from kept import LLM
from kept.explain.explanation import Explanation, Settings, explain


@pytest.fixture(scope="session")
def bundled() -> LLM:
    """In fp32: the reference would round a bf16 model's weights of attention to bf16."""
    return LLM(dtype="float32")


@pytest.fixture(scope="session")
def found(bundled: LLM) -> Explanation:
    """A prompt of a few tokens, and six that are drawn, of which all but the last are read."""
    settings = Settings(max_new_tokens=6, window=4, sinks=1, budget=6)
    return explain(bundled, "bundled", "for i in range(10):", settings)
