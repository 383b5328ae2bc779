"""A draft model at the door: of which vocabulary it is, and where there can be none."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from kept import LLM, machine
from kept.errors import CheckpointNotFoundError, OptionError

needs_native = pytest.mark.skipif(
    not machine.NATIVE_AVAILABLE, reason="installed without a C++ compiler"
)
CODE = "def first(a, b):\n    return "


def bundled() -> Path:
    return LLM().checkpoint.folder


@needs_native
def test_texts_are_what_they_are_without_one() -> None:
    plain, drafted = LLM(), LLM(draft_model=bundled())
    for options in ({}, {"temperature": 0.7, "seed": 3, "num_return_sequences": 2}):
        given: dict[str, Any] = {"max_new_tokens": 24, **options}
        found = drafted.generate(CODE, **given)
        assert [x.token_ids for x in found] == [x.token_ids for x in plain.generate(CODE, **given)]
    drafted.forget()


@needs_native
def test_another_vocabulary_is_refused_by_the_first_token_that_differs(tmp_path: Path) -> None:
    folder = tmp_path / "other"
    shutil.copytree(bundled(), folder)
    path = folder / "tokenizer.json"
    document = json.loads(path.read_text())
    vocab = document["model"]["vocab"]
    one, other = (next(text for text, i in vocab.items() if i == number) for number in (40, 41))
    vocab[one], vocab[other] = 41, 40
    path.write_text(json.dumps(document))
    with pytest.raises(OptionError, match=r"is token 4\d in the model's and token 4\d in"):
        LLM(draft_model=folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    with pytest.raises(OptionError, match="has no tokenizer"):
        LLM(draft_model=folder)
    with pytest.raises(CheckpointNotFoundError):
        LLM(draft_model=tmp_path / "none")


@needs_native
def test_drafts_that_nobody_can_make_are_refused() -> None:
    llm = LLM()
    with pytest.raises(OptionError, match=r"draft_model=.*--draft-model"):
        llm.generate(CODE, num_assistant_tokens=4)
    llm.generate(CODE, num_assistant_tokens=0, max_new_tokens=1)
    with pytest.raises(OptionError, match="no effect on beam search"):
        LLM(draft_model=bundled()).generate(CODE, num_assistant_tokens=4, num_beams=2)


def test_where_torch_runs_the_model_the_log_says_that_it_is_not_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("KEPT_OPS", "reference")
    llm = LLM(draft_model=bundled())
    assert llm.draft_model is None
    assert "is not used: torch runs this model" in caplog.text
    llm.generate(CODE, num_assistant_tokens=4, max_new_tokens=1)
