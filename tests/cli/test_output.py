"""What is written for a terminal, and what for a pipe."""

import io
import sys

import pytest

from kept.cli import loading
from kept.cli.terminal import BOLD, Writer, styled
from kept.format import format_bytes, format_count, format_seconds, table


class Terminal(io.StringIO):
    """A stream that says it is one."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _colours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")


def test_colours_only_at_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    assert styled("a", BOLD, Terminal()) == "\x1b[1ma\x1b[0m"
    assert styled("a", BOLD, io.StringIO()) == "a"
    monkeypatch.setenv("TERM", "dumb")
    assert styled("a", BOLD, Terminal()) == "a"
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    assert styled("a", BOLD, Terminal()) == "a"


def test_a_model_cannot_run_escape_sequences() -> None:
    text = "a\x1b[2J\x07\x9b\tb\n"
    terminal, pipe = Writer(Terminal()), Writer(io.StringIO())
    for writer in (terminal, pipe):
        writer.write(text)
    assert terminal.stream.getvalue() == "a\u241b[2J\u2407\ufffd\tb\n"  # type: ignore[attr-defined]
    assert pipe.stream.getvalue() == text  # type: ignore[attr-defined]


def test_the_last_line_is_ended_once() -> None:
    for text in ("a", "a\n"):
        stream = io.StringIO()
        writer = Writer(stream)
        writer.write(text)
        writer.end_line()
        assert stream.getvalue() == "a\n"
    nothing = io.StringIO()
    Writer(nothing).end_line()
    assert nothing.getvalue() == ""


def test_no_bar_in_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with loading.bar("Loading", unit="bytes") as update:
        assert update is None


@pytest.mark.parametrize("unit", ["bytes", "texts"])
@pytest.mark.parametrize("patience", [0, 1000])
def test_a_bar_for_whoever_waits(monkeypatch: pytest.MonkeyPatch, patience: int, unit: str) -> None:
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(loading, "_PATIENCE", patience)
    with loading.bar("Loading", unit) as update:
        assert update is not None
        update(1, 4)
        update(4, 4)
    assert ("Loading" in stream.getvalue()) == (patience == 0)


def test_numbers() -> None:
    assert [format_bytes(n) for n in (0, 1023, 1536, 3 << 30)] == [
        "0 B",
        "1023 B",
        "1.5 KiB",
        "3.0 GiB",
    ]
    assert [format_count(n) for n in (4096, 124_439_808, 1_235_814_400)] == [
        "4,096",
        "124.4 M",
        "1.2 B",
    ]
    assert [format_seconds(s) for s in (None, 0.0123, 2)] == ["-", "12.3 ms", "2.00 s"]


def test_numbers_line_up_at_the_right() -> None:
    rows = [("a", "5"), ("long", "1,000")]
    assert table(("name", "count"), rows) == "name  count\na         5\nlong  1,000"
