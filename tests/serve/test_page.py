"""The page's files: served to anybody, small, and nothing in them that its policy would stop."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest

from kept import LLM
from kept.serve.page_files import FOLDER

from .serving import Served, served

MOST_BYTES = 150_000
OWN = [path for path in sorted(FOLDER.iterdir()) if not path.name.startswith("uplot")]


@pytest.fixture(scope="module")
def locked(llm: LLM) -> Iterator[Served]:
    with served(llm, api_key=("a-key-of-somebody",)) as found:
        yield found


class Attributes(HTMLParser):
    """What a document's elements carry, and what stands in its scripts and styles."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.links: list[str] = []
        self.inline = ""
        self._within = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._within = tag
        self.names |= {name for name, _ in attrs}
        self.links += [value for name, value in attrs if name in ("src", "href") and value]

    def handle_endtag(self, tag: str) -> None:
        self._within = ""

    def handle_data(self, data: str) -> None:
        if self._within in ("script", "style"):
            self.inline += data.strip()


def test_all_files_are_served_without_a_key_and_nothing_else(locked: Served) -> None:
    for path in ["/", *(f"/page/{file.name}" for file in FOLDER.iterdir())]:
        answer = locked.http.get(path)
        assert answer.status_code == 200
        assert answer.headers["x-content-type-options"] == "nosniff"
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        again = locked.http.get(path, headers={"if-none-match": answer.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
    for path in ("/page/", "/page/x.js", "/page/..%2fapp.py", "/page/.%2e/app.py"):
        assert locked.http.get(path).status_code == 404
    for path in ("/kept/cache", "/kept/live", "/v1/models", "/pages", "/page"):
        assert locked.http.get(path).status_code == 401
    assert locked.http.head("/").status_code == 200


def test_they_are_small_and_come_with_their_licence() -> None:
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) <= MOST_BYTES
    assert "MIT" in (FOLDER / "uplot.license.txt").read_text()
    assert "uPlot" in (FOLDER / "uplot.js").read_text()


def test_nothing_in_them_is_inline_or_from_elsewhere() -> None:
    found = Attributes()
    found.feed((FOLDER / "index.html").read_text())
    assert not [name for name in found.names if name.startswith("on") or name == "style"]
    assert found.inline == ""
    assert all(link.startswith(("/page/", "#")) for link in found.links)
    files = {path.name for path in FOLDER.iterdir()}
    assert {link.removeprefix("/page/") for link in found.links if link[0] == "/"} <= files


@pytest.mark.parametrize("path", [p for p in OWN if p.suffix == ".js"], ids=lambda p: p.name)
def test_a_script_makes_no_markup_of_text_and_imports_what_is_there(path: Path) -> None:
    text = path.read_text()
    banned = r"(inner|outer|insertAdjacent)HTML|document\.write|\beval\b|new Function"
    assert not re.search(banned, text)
    for name in re.findall(r'from "\./([\w.]+)"', text):
        assert (FOLDER / name).is_file()
    assert not re.search(r"[\"'`]https?://(?!www\.w3\.org/2000/svg)", text)
