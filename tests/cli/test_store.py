"""Conversations and prompts that outlive the command, and `kept store`."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cli.running import kept
from kept import machine

pytestmark = pytest.mark.skipif(
    not machine.NATIVE_AVAILABLE, reason="installed without a C++ compiler"
)
FEW = ("--max-new-tokens", 6, "--ignore-eos")
TEXT = "def add(a, b):\n    return a + b\n" * 6
KEY = "ab" * 32


@pytest.mark.parametrize("key", ["", KEY])
def test_yesterdays_conversation_goes_on(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv("KEPT_STORE_KEY", key)
    where = "--prefix-store", tmp_path / "store"
    system = "--system", "Be brief. " * 12
    whole = kept("chat", "-m", folder, *FEW, *system, stdin="Hello\nMore\n/undo\nAgain\n/stats\n")
    first = kept("chat", "-m", folder, *FEW, *where, *system, stdin="Hello\nMore\n/undo\n")
    assert first.exit_code == 0, first.stderr
    second = kept("chat", "-m", folder, *FEW, *where, "--resume", stdin="Again\n/stats\n")
    assert second.exit_code == 0, second.stderr
    assert "going on after 1 turns" in second.stderr
    assert second.stdout.splitlines()[:1] == whole.stdout.splitlines()[2:3]
    row = next(line for line in second.stdout.splitlines() if line.lstrip().startswith("2"))
    prompt, cached = (int(cell.replace(",", "")) for cell in row.split()[1:3])
    assert cached >= prompt // 64 * 64 > 0, "what was read yesterday"
    [chat] = (tmp_path / "store" / ".chats").iterdir()
    assert chat.stat().st_mode & 0o777 == 0o600
    assert (b"Be brief" in chat.read_bytes()) == (not key)


def test_there_may_be_nothing_to_resume(folder: Path, tmp_path: Path) -> None:
    found = kept("chat", "-m", folder, "--prefix-store", tmp_path, "--resume", stdin="Hello\n")
    assert found.exit_code == 1
    assert "no conversation to resume" in found.stderr
    found = kept("chat", "-m", folder, "--resume", stdin="Hello\n")
    assert found.exit_code == 2
    assert "--prefix-store" in found.stderr
    found = kept("generate", "-m", folder, "--store-bytes", "1GiB", "Hello")
    assert found.exit_code == 2
    assert "--store-bytes" in found.stderr


def test_a_prompt_is_read_ahead(folder: Path, tmp_path: Path) -> None:
    where, file = ("--prefix-store", tmp_path / "store"), tmp_path / "system.txt"
    file.write_text(TEXT)
    first = kept("cache", "prompt", "-m", folder, *where, "--file", file)
    assert first.exit_code == 0, first.stderr
    [count] = re.findall(r"([\d,]+) tokens are stored, 0 of them", first.stdout)
    again = kept("cache", "prompt", "-m", folder, *where, "--file", file)
    assert f"{count} tokens are stored, {int(count) - 1} of them" in again.stdout
    given = kept("generate", "-m", folder, *where, *FEW, "--json", TEXT.rstrip("\n") + "\n# more")
    assert re.search(r'"store": \d\d', given.stdout)
    system = kept("cache", "prompt", "-m", folder, *where, "--system", "Be brief. " * 20)
    assert system.exit_code == 0, system.stderr
    off = kept("cache", "prompt", "-m", folder, "--prefix-store", "off", "x")
    assert off.exit_code == 2
    static = kept("cache", "prompt", "-m", folder, *where, "--cache-implementation", "static", "x")
    assert static.exit_code == 2
    assert "dynamic" in static.stderr


def test_the_store_is_looked_after(folder: Path, tmp_path: Path) -> None:
    where = "--prefix-store", tmp_path / "store"
    assert kept("store", "ls", *where).exit_code == 2
    kept("cache", "prompt", "-m", folder, *where, TEXT)
    listed = kept("store", "ls", *where)
    assert str(folder) in listed.stdout
    assert "float32" in listed.stdout
    assert kept("store", "verify", *where).stdout == "all files are sound\n"
    [path] = (tmp_path / "store").glob("*/*.kv")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)
    found = kept("store", "verify", *where, "--remove")
    assert found.exit_code == 1
    assert "damaged" in found.stdout
    assert "nothing is stored" in kept("store", "ls", *where).stdout
    kept("cache", "prompt", "-m", folder, *where, TEXT)
    assert kept("store", "prune", *where).exit_code == 2
    assert "removed 0 files" in kept("store", "prune", *where, "--unused", 1).stdout
    assert "removed 0 files" in kept("store", "prune", *where, "--store-bytes", "1GiB").stdout
    assert "removed 1 files" in kept("store", "clear", *where, "--yes").stdout
    assert "nothing is stored" in kept("store", "ls", *where).stdout
