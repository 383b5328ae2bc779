"""Languages of a prompt and its translation over the wire."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from translators import KINDS, make_folder

from kept import LLM

from .serving import Served, served

TEXT = "The garden is wonderful"


@pytest.fixture(scope="module", params=["nllb", "mbart"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def llm(kind: str, tmp_path_factory: pytest.TempPathFactory) -> LLM:
    path: Path = tmp_path_factory.mktemp("models")
    make_folder(kind, path)
    return LLM(path)


@pytest.fixture(scope="module")
def server(llm: LLM) -> Iterator[Served]:
    with served(llm) as found:
        yield found


def test_a_completion_is_the_library_s(server: Served, llm: LLM, kind: str) -> None:
    one, other = KINDS[kind][2]
    texts = set()
    for source, target in ((None, None), (one, other), (other, one)):
        [wanted] = llm.generate(TEXT, src_lang=source, tgt_lang=target, max_new_tokens=8)
        found = server.complete(TEXT, src_lang=source, tgt_lang=target, temperature=0).json()
        assert found["choices"][0]["text"] == wanted.text
        texts.add(wanted.token_ids)
    assert len(texts) == 3


def test_what_is_refused(server: Served, kind: str) -> None:
    one, _ = KINDS[kind][2]
    for body, message in (
        ({"tgt_lang": "english"}, "tgt_lang='english' is no language of this tokenizer"),
        ({"prompt": [5, 6], "src_lang": one}, "a prompt is token ids already"),
        ({"prompt": "house " * 90}, "positions for 64"),
    ):
        refused = server.complete(**{"prompt": TEXT, **body})
        assert refused.status_code == 400
        assert message in refused.json()["error"]["message"]
