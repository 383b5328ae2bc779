"""The page asks for nothing, holds its record whatever is in it, and its programs fit it."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from kept import LLM
from kept.explain import page as page_module
from kept.explain.explanation import Explanation, Settings, explain
from kept.explain.json_record import as_json
from kept.explain.page import PROGRAMS, page
from kept.explain.policies import keep_heavy_hitters, keep_window

WEB = Path(page_module.__file__).parent / "web"
VOID = {"meta", "input", "br", "link", "img", "hr"}
NASTY = '</script><script>alert(1)</script> %RECORD% <!-- &amp; "[bold]" \u2028'


class Reader(HTMLParser):
    """Collects elements, ids and the text of scripts, and sees that all that opens is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.title = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.scripts[-1] += data
        if self.open and self.open[-1] == "title":
            self.title += data

    @property
    def ids(self) -> list[str]:
        return [str(attributes["id"]) for _, attributes in self.elements if "id" in attributes]


@pytest.fixture(scope="module")
def record(found: Explanation) -> dict[str, Any]:
    return as_json(found)


def test_the_page_is_well_formed_and_holds_its_record(record: dict[str, Any]) -> None:
    read = Reader(page(record))
    assert not read.open
    assert len(read.ids) == len(set(read.ids))
    embedded, programs = read.scripts
    assert json.loads(embedded) == json.loads(json.dumps(record))
    for name in PROGRAMS:
        assert (WEB / name).read_text(encoding="utf-8") in programs


def test_the_page_asks_for_nothing(record: dict[str, Any]) -> None:
    text = page(record)
    assert not re.findall(r"https?:|//[a-z]|@import|url\((?!#)|\bfetch\(|XMLHttp|import\(", text)
    for tag, attributes in Reader(text).elements:
        assert tag not in ("link", "img", "iframe", "object")
        assert not {"src", "href", "srcset", "action"} & set(attributes)
    assert "default-src 'none'" in text


def test_whatever_a_prompt_holds_it_stays_text(bundled: LLM) -> None:
    found = explain(bundled, "bundled", NASTY, Settings(max_new_tokens=1, kv_dtypes=()))
    record = as_json(found)
    read = Reader(page(record))
    assert len(read.scripts) == 2
    assert json.loads(read.scripts[0]) == json.loads(json.dumps(record))
    assert not re.search("[<>&\u2028]", read.scripts[0].replace("\\u2028", ""))
    assert "</script><script>alert(1)</script>\u2423%RECORD%" in read.title


def test_every_element_the_programs_look_for_is_there(record: dict[str, Any]) -> None:
    read = Reader(page(record))
    wanted = set(re.findall(r'\bat\("([\w-]+)"\)', read.scripts[1]))
    assert {"grid", "slider", "policies", "codecs"} <= wanted
    assert wanted <= set(read.ids)
    labelled = {str(a["aria-labelledby"]) for _, a in read.elements if "aria-labelledby" in a}
    assert labelled <= set(read.ids)


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node to run the page's programs")
def test_the_sliders_rules_are_the_reports(found: Explanation, record: dict[str, Any]) -> None:
    steps = [(step.start, step.end) for step in found.recording.steps]
    asked, expected = [], []
    for index, view in enumerate(found.views):
        for size in range(1, found.recording.num_read + 2):
            asked.append(f"keepWindow(record.views[{index}].rows, record.steps, {size}, 2)")
            expected.append(keep_window(view.rows, steps, size, 2))
            asked.append(f"keepHeavyHitters(record.views[{index}].rows, record.steps, {size})")
            expected.append(keep_heavy_hitters(view.rows, steps, size))
    program = f"""
        {(WEB / "policies.js").read_text(encoding="utf-8")}
        const record = {json.dumps(record)};
        console.log(JSON.stringify([{",".join(asked)}]));"""
    run = subprocess.run(["node", "-"], input=program, capture_output=True, text=True, check=True)
    for ours, theirs in zip(expected, json.loads(run.stdout), strict=True):
        assert [list(step.kept) for step in ours] == [step["kept"] for step in theirs]
        lost = [step["lost"] for step in theirs]
        assert [step.lost for step in ours] == pytest.approx(lost, abs=1e-9)
