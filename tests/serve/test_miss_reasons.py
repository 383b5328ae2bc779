"""A server says what has changed since the request before, and what that has cost, to the token."""

from __future__ import annotations

from pathlib import Path

from kept import LLM

from .edits import ALIASES, KINDS, checkpoint, edits, wrong
from .serving import served


def test_reasons_and_tokens_of_edits(tmp_path: Path) -> None:
    llm = LLM(checkpoint(tmp_path))
    found = list(edits(2 * len(KINDS)))
    assert {edit.kind for edit in found} == set(KINDS)
    with served(llm, served_model_name=ALIASES) as server:
        assert wrong(server, llm, found) == []
