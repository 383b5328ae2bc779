"""`kept serve`: flags, variables and the file, and a real process from its start to its end."""

from __future__ import annotations

import json
import signal
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from cli.running import kept, start
from kept import LLM, CacheOptions
from kept.cli import serve as command
from kept.serve import running, service
from kept.serve.settings import SETTINGS, Settings


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What a server would have been started with."""
    found: dict[str, Any] = {}

    class Seen:
        models = ("seen",)

        def __init__(self, llm: Any, settings: Settings, cache: CacheOptions, name: str) -> None:
            found.update(settings=settings, cache=cache, name=name)

    def load(model: Any, store: str, **more: Any) -> None:
        found.update(model=model, store=store, more=more)

    monkeypatch.setattr(command, "load", load)
    monkeypatch.setattr(service, "Service", Seen)
    monkeypatch.setattr(running, "serve", lambda *_: None)
    return found


def test_every_setting_is_a_flag() -> None:
    text = kept("serve", "--help").stdout
    for setting in SETTINGS:
        assert "--" + setting.name.replace("_", "-") in text


def test_flags_come_before_variables_and_these_before_the_file(
    seen: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "kept.toml"
    file.write_text(
        'port = 0\nmax-n = 3\nmax_queue_time = 1.5\ndrain-time = 7\nkv-dtype = "int8"\n'
        'served-model-name = ["a", "b"]\naccess-log = false\nmax-body = "2MiB"\n'
    )
    monkeypatch.setenv("KEPT_MAX_QUEUE_TIME", "2.5")
    monkeypatch.setenv("KEPT_DRAIN_TIME", "8")
    monkeypatch.setenv("KEPT_API_KEY", "first:long-enough-1 long-enough-2")
    done = kept("serve", "--config", file, "--drain-time", "9")
    assert done.exit_code == 0, done.output
    settings = seen["settings"]
    assert (settings.max_n, settings.max_queue_time, settings.drain_time) == (3, 2.5, 9.0)
    assert settings.served_model_name == ("a", "b")
    assert settings.api_key == ("first:long-enough-1", "long-enough-2")
    assert (settings.access_log, settings.max_body) == (False, 2 << 20)
    assert seen["cache"].kv_dtype == "int8"
    assert seen["name"] == "kept"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("prot = 1", "no --prot"),
        ("[server]\nport = 1", "table"),
        ("port = ", "not valid TOML"),
        ("port = 70000", "port=70000 is out of range"),
        ('allowed-origins = ["chat.example.org"]', "write an origin as"),
    ],
)
def test_a_file_that_will_not_do(
    seen: dict[str, Any], tmp_path: Path, text: str, told: str
) -> None:
    file = tmp_path / "kept.toml"
    file.write_text(text)
    done = kept("serve", "--config", file)
    assert done.exit_code == 2
    assert told in " ".join(done.output.split())
    assert not seen


def test_a_key_that_will_not_do_is_told_before_a_model_is_loaded(
    seen: dict[str, Any], tmp_path: Path
) -> None:
    assert kept("serve", "--api-key", "short").exit_code == 2
    (tmp_path / "keys").write_text("# none\n")
    assert kept("serve", "--api-key-file", tmp_path / "keys").exit_code == 2
    assert not seen


def test_two_names_of_a_model(seen: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    assert kept("serve", "a/b", "--model", "c/d").exit_code == 2
    monkeypatch.setenv("KEPT_MODEL", "c/d")
    assert kept("serve", "a/b", "--port", "0").exit_code == 0
    assert seen["name"] == seen["model"].model == "a/b"


def test_a_process_says_where_it_is_and_ends_when_told(tmp_path: Path) -> None:
    process = start("serve", "--port", "0", "--default-max-tokens", "3")
    try:
        assert process.stderr is not None
        line = process.stderr.readline().decode()
        assert line.startswith("kept: kept answers at http://127.0.0.1:")
        url = line.split()[-1]
        body = json.dumps({"messages": [{"role": "user", "content": "hello"}]}).encode()
        asked = urllib.request.Request(
            f"{url}/v1/chat/completions", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(asked, timeout=60) as answer:
            found = json.load(answer)
        [expected] = [LLM().chat([{"role": "user", "content": "hello"}], max_new_tokens=3)]
        assert found["choices"][0]["message"]["content"] == expected.text
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        log = [json.loads(line) for line in process.stderr.read().decode().splitlines()]
        assert [entry["path"] for entry in log] == ["/v1/chat/completions"]
    finally:
        process.kill()
        process.communicate()
