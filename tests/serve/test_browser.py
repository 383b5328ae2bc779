"""The page in a browser: it chats, shows the cache, and leaves nobody out."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from thinning import examples

from kept import LLM

from .browsing import AXE, browser, why_not
from .serving import Served, served

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))

KEY = "a-key-of-somebody"
TEXTS = [
    "# Head\n\nA *b* **c** `d` ~~e~~ [f](https://g.example/h_(i)) https://j.example\n\n> k\n> l",
    "1. one\n2. two\n   - deep\n   - er\n\n```py\nx = 1\n\ny = '<b>'\n```",
    "| a | b |\n|---|---|\n| c | `d` |\n| e |",
    "<img src=x onerror=alert(1)> <script>alert(1)</script>",
    "[x](javascript:alert(1)) ![y](data:,z) [z](//h.example) <a href=x>",
    "def __init__(self):\n    self.a_b_c = 2 ** 3 * 4\n\n***\n\n- a\n\n  b\n* c",
    "`` a ` b `` *unclosed **bold `code\n~~~\nopen fence",
    "",
    "\n\n   \n",
]
LOOKS = [(320, "light"), (1280, "dark"), (320, "dark"), (1280, "light")][: examples(2, 4)]
IS_SHOWN = "(section) => getComputedStyle(section).display !== 'none'"
MARKED = """async ([text, begin, end]) => {
  const { render } = await import("/page/markdown.js");
  const home = document.createElement("div");
  home.append(...render(text, begin < end ? [[begin, end, "cached"]] : []));
  return {
    whole: home.textContent,
    marked: [...home.querySelectorAll("mark")].map((m) => m.textContent).join(""),
    names: [...new Set([...home.querySelectorAll("*")].map((e) => e.localName))],
    links: [...home.querySelectorAll("a")].map((a) => a.href),
  };
}"""


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browser() as found:
        yield found


@pytest.fixture(scope="module")
def open_server(llm: LLM) -> Iterator[Served]:
    with served(llm) as found:
        yield found


@contextmanager
def page_of(chromium: Any, url: str, **options: Any) -> Iterator[Any]:
    """A page in a context of its own, of which nothing may go wrong."""
    options = {"viewport": {"width": 1280, "height": 800}, **options}
    context = chromium.new_context(**options)
    context.set_default_timeout(120_000)
    page, wrong, asked = context.new_page(), [], []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda m: wrong.append(m.text) if "Content Security" in m.text else None)
    page.on("request", lambda request: asked.append(request.url))
    page.goto(url)
    try:
        yield page
    finally:
        context.close()
    assert wrong == []
    assert {asked_for[: len(url)] for asked_for in asked} == {url}
    assert not any(KEY in asked_for for asked_for in asked)


def ask(page: Any, text: str, turns: int) -> str:
    """The answer that is turn number `turns` of the conversation."""
    page.fill("#prompt", text)
    page.press("#prompt", "Enter")
    return answered(page, turns)


def answered(page: Any, turns: int) -> str:
    last = f"#messages > li:nth-child({turns})"
    page.wait_for_selector(f"{last} .acts button:has-text('Again')")
    found: str = page.inner_text(f"{last} .text")
    return found


def until(page: Any, holds: str) -> None:
    """Wait until an expression is true. Playwright's own way is to evaluate it as a page would,
    which the page's policy forbids."""
    end = time.monotonic() + 120
    while not page.evaluate(holds):
        assert time.monotonic() < end, holds
        time.sleep(0.02)


def set_option(page: Any, name: str, value: str) -> None:
    page.evaluate(
        """([name, value]) => { const input = document.querySelector(`[name=${name}]`);
        input.value = value; input.dispatchEvent(new Event("input", { bubbles: true })); }""",
        [name, value],
    )


def test_a_conversation_is_kept_edited_and_branched(chromium: Any, open_server: Served) -> None:
    asked = "add two numbers"
    with page_of(chromium, open_server.url) as page:
        set_option(page, "max_tokens", "24")
        set_option(page, "prompt_lookup_num_tokens", "8")
        first = ask(page, asked, 2)
        expected = open_server.chat(max_tokens=24).json()["choices"][0]["message"]["content"]
        assert first.split() == expected.split()
        told = page.inner_text("#messages > li:nth-child(2) .told")
        assert "prompt tokens cached" in told
        assert "24 written" in told
        ask(page, "and multiply", 4)
        # What was asked before is known by now, up to its last character.
        until(page, "document.querySelector('.user mark.cached') !== null")
        assert page.inner_text("#messages > li:nth-child(1) mark.cached") == asked
        page.click("#messages > li:nth-child(1) button:has-text('Edit')")
        page.fill("#messages > li:nth-child(1) textarea", "subtract them")
        page.click("button:has-text('Ask this')")
        answered(page, 2)
        assert page.locator("#messages > li").count() == 2
        assert "2 of 2" in page.inner_text("#messages > li:nth-child(1) .branch")
        page.click("[aria-label='The branch before']")
        assert page.locator("#messages > li").count() == 4
        page.reload()
        assert page.locator("#messages > li").count() == 4
        assert page.inner_text("#messages > li:nth-child(2) .text").split() == first.split()
        page.click("#new-chat")
        assert page.locator("#messages > li.empty").count() == 1
        page.click("#conversations button:has-text('add two')")
        assert page.locator("#messages > li").count() == 4
        page.click("#conversations .remove")
        assert page.evaluate("JSON.parse(localStorage['kept conversations']).length") == 0


def test_an_answer_is_stopped(chromium: Any, open_server: Served) -> None:
    with page_of(chromium, open_server.url) as page:
        set_option(page, "max_tokens", "1500")
        set_option(page, "temperature", "1.5")
        page.fill("#prompt", "go on and on")
        page.press("#prompt", "Enter")
        until(page, "document.querySelector('.assistant .text').textContent.length > 9")
        page.click("#send")
        answered(page, 2)
        assert "topped" in page.inner_text(".assistant .told")
        assert open_server.has_idle_engines()


def test_the_cache_is_shown_as_a_map_and_as_a_table(chromium: Any, open_server: Served) -> None:
    open_server.complete("import os\n" * 60, max_tokens=40)
    with page_of(chromium, open_server.url) as page:
        page.wait_for_selector("#feed[data-is=live]")
        until(page, "document.querySelector('#map canvas').height > 0")
        label = page.get_attribute("#map canvas", "aria-label")
        assert "findable" in label
        page.click("#map summary")
        page.wait_for_selector("#map tbody tr")
        rows = page.eval_on_selector_all(
            "#map tbody tr", "rows => rows.map(r => [...r.cells].map(c => c.textContent))"
        )
        ends = [row[0].split(" to ") for row in rows if row[1] == "findable"]
        findable = sum(int(end[-1]) - int(end[0]) + 1 for end in ends)
        assert f" {findable} findable" in label
        page.focus("#map canvas")
        page.press("#map canvas", "End")
        assert page.inner_text("#map-at").startswith("Block ")
        before = len(open_server.http.get("/kept/cache").json()["data"])
        page.click("#texts-button")
        page.wait_for_selector("#texts tbody tr")
        assert page.locator("#texts tbody tr").count() == before
        page.click("#texts tbody tr:first-child button")
        until(page, f"document.querySelectorAll('#texts tbody tr').length === {before - 1}")
        assert page.inner_text("#steps").startswith(tuple("123456789"))


def test_a_key_goes_into_headers_and_nowhere_else(chromium: Any, llm: LLM) -> None:
    with (
        served(llm, api_key=(KEY,)) as locked,
        page_of(chromium, locked.url) as page,
    ):
        page.wait_for_selector("#key-dialog[open]")
        page.fill("#key", "no such key at all")
        page.click("#key-form button:has-text('Use it')")
        page.wait_for_selector("#key-error:has-text('does not know')")
        page.fill("#key", KEY)
        page.press("#key", "Enter")
        page.wait_for_selector("#feed[data-is=live]")
        set_option(page, "max_tokens", "3")
        assert ask(page, "hello", 2)
        stored = page.evaluate("[JSON.stringify(localStorage), JSON.stringify(sessionStorage)]")
        assert [KEY in each for each in stored] == [False, True]
        assert KEY not in page.content() + page.url


def test_markdown_is_elements_and_marks_are_of_their_characters(
    chromium: Any, open_server: Served
) -> None:
    safe = {"a", "blockquote", "br", "code", "div", "em", "h4", "hr", "li", "mark", "ol", "p"}
    safe |= {"pre", "s", "span", "strong", "table", "tbody", "td", "th", "thead", "tr", "ul"}
    with page_of(chromium, open_server.url) as page:
        for text in TEXTS:
            whole = page.evaluate(MARKED, [text, 0, len(text)])
            assert set(whole["names"]) <= safe
            assert all(link.startswith("https://") for link in whole["links"])
            # Every character that is shown is marked, but for the breaks between lines of code.
            assert whole["marked"].replace("\n", "") == whole["whole"].replace("\n", "")
            for begin, end in itertools.combinations(range(0, len(text) + 1, 7), 2):
                found = page.evaluate(MARKED, [text, begin, end])
                assert found["whole"] == whole["whole"]
                rest = iter(text[begin:end])
                assert all(c in rest for c in found["marked"].replace("\n", ""))  # in this order


@pytest.mark.parametrize(("width", "scheme"), LOOKS)
def test_nobody_is_left_out(chromium: Any, open_server: Served, width: int, scheme: str) -> None:
    options = {
        "viewport": {"width": width, "height": 640},
        "color_scheme": scheme,
        "reduced_motion": "reduce",
    }
    with page_of(chromium, open_server.url, **options) as page:
        set_option(page, "max_tokens", "12")
        ask(page, "a `b` and https://c.example/" + "long" * 40, 2)
        until(page, "document.querySelector('#cache caption') !== null")
        page.click("#options-button")
        views = ["list", "chat", "cache"] if width < 1100 else ["chat"]
        for view in views:
            if width < 1100:
                page.click(f"[data-to={view}]")
                shown = f"[...document.querySelectorAll('main > section')].map({IS_SHOWN})"
                assert page.evaluate(shown) == [view == name for name in views]
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            assert page.evaluate("document.documentElement.scrollHeight") <= 640
            if AXE.is_file():
                page.evaluate(AXE.read_text())
                found = page.evaluate("axe.run().then((r) => r.violations)")
                assert found == [], json.dumps(found, indent=1)
        page.evaluate("document.querySelector('.assistant').classList.add('busy')")
        caret = "getComputedStyle(document.querySelector('.busy .text > :last-child'), '::after')"
        assert page.evaluate(f"{caret}.animationName") == "none"
