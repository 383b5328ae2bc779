"""kept doctor and kept connect."""

from __future__ import annotations

import ast
import json
import re
import socket
import threading
import tomllib
from collections import namedtuple
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from kept.cli import checkups
from kept.cli.app import app
from kept.cli.checkups import Asked, Finding
from kept.cli.clients import CLIENTS
from kept.cli.extras import EXTRAS
from kept.errors import OptionError

ASKED = Asked("127.0.0.1", 0, None)


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments))


def test_everything_is_looked_at(tmp_path: Path) -> None:
    found = run("doctor", "--json", "--port", "0", "--prefix-store", str(tmp_path))
    listed = {each["name"]: each for each in json.loads(found.stdout)["findings"]}
    assert {"native module", "threads", "memory", "prefix store", "port", "clock"} <= set(listed)
    assert all(each["remedy"] for each in listed.values() if each["state"] != "ok")
    assert found.exit_code == int(any(each["state"] == "error" for each in listed.values()))
    words = run("doctor", "--port", "0", "--prefix-store", str(tmp_path)).stdout
    assert f"prefix store: {tmp_path}" in words
    assert words.rstrip().endswith("warnings")


def test_a_port_in_use_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        found = run("doctor", "--port", str(number))
    assert found.exit_code == 1
    assert f"port: {number} of 127.0.0.1 cannot be had" in found.stdout
    assert "give --port" in found.stdout


Disk = namedtuple("Disk", "free")


def test_each_ill_has_a_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def changed(check: Callable[[Asked], Finding | None], asked: Asked = ASKED) -> Finding:
        found = check(asked)
        assert found is not None
        assert found.state != "ok", found
        assert found.remedy
        return found

    monkeypatch.setattr("kept.machine.NATIVE_AVAILABLE", False)
    assert changed(checkups.native_module).state == "error"
    assert checkups.instructions(ASKED) is None
    monkeypatch.setattr("kept.machine.num_cores", lambda: 2)
    monkeypatch.setattr("kept.ops.num_threads", lambda: 4)
    assert "KEPT_NUM_THREADS" in changed(checkups.threads).remedy
    monkeypatch.setattr("os.getloadavg", lambda: (9.0, 9.0, 9.0))
    changed(checkups.load)
    monkeypatch.setattr("kept.system.memory", lambda: (8 << 30, 4 << 30))
    assert changed(checkups.memory, Asked("", 0, 5 << 30)).state == "error"
    assert changed(checkups.memory, Asked("", 0, 7 << 29)).state == "warning"
    assert checkups.memory(Asked("", 0, 1 << 30)).state == "ok"
    texts = {
        "/sys/kernel/mm/transparent_hugepage/enabled": "always madvise [never]",
        "/proc/meminfo": "SwapTotal: 2097152 kB\nSwapFree: 1048576 kB",
        "/proc/self/mounts": f"a / ext4 rw 0 0\nb {tmp_path} nfs4 rw 0 0",
    }
    monkeypatch.setattr(checkups, "_read", texts.get)
    changed(checkups.huge_pages)
    assert "1.0 GiB" in changed(checkups.swap).text
    there = Asked("", 0, None, str(tmp_path / "x" / "y"))
    assert "nfs4" in changed(checkups.store, there).text
    texts["/proc/self/mounts"] = f"b {tmp_path} tmpfs rw 0 0"
    assert "memory" in changed(checkups.store, there).remedy
    texts["/proc/self/mounts"] = "a / ext4 rw 0 0"
    assert checkups.store(there).state == "ok"
    monkeypatch.setattr("shutil.disk_usage", lambda _: Disk(1 << 20))
    assert "1.0 MiB free" in changed(checkups.store, there).text
    (tmp_path / "x").write_text("no folder")
    assert changed(checkups.store, there).state == "error"
    monkeypatch.setattr("resource.getrlimit", lambda _: (256, 1 << 20))
    assert "ulimit -n 65536" in changed(checkups.open_files).remedy
    monkeypatch.setattr("kept.cli.extras.find_spec", lambda name: None)
    assert "kept-llm[" in changed(checkups.extras).remedy
    monkeypatch.setattr("time.time", lambda: 0.0)
    assert changed(checkups.clock).state == "error"


@contextmanager
def answering(status: int, body: bytes) -> Iterator[str]:
    """The address of a server that says this to any GET."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *given: Any) -> None:
            """Nothing."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize("client", CLIENTS)
def test_a_client_is_told_where_and_never_the_key(
    client: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_KEY", "a-secret-key")
    given = ("--url", "http://box:81/v1/", "--model", 'a "b"', "--key", "SOME_KEY")
    found = run("connect", client, *given)
    assert found.exit_code == 0, found.output
    assert "http://box:81" in found.stdout
    assert "SOME_KEY" in found.stdout
    assert "a-secret-key" not in found.output
    if client == "codex":
        assert tomllib.loads(found.stdout)["model"] == 'a "b"'
    if found.stdout.startswith("# Python"):
        ast.parse(found.stdout)
    else:  # clients refuse an empty key, also where the server wants none
        assert '"$SOME_KEY"' not in found.stdout


def test_the_server_says_what_it_is_called() -> None:
    with answering(200, b'{"data": [{"id": "my-model"}]}') as url:
        assert "my-model" in run("connect", "aider", "--url", url).stdout


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("nobody",), "is no client known here"),
        (("codex", "--url", "ftp://x"), "http://127.0.0.1:8000"),
        (("codex", "--url", "http://a:b@x"), "http://127.0.0.1:8000"),
        (("codex", "--url", "http://x/api"), "has a path"),
        (("codex", "--url", "http://x:99999"), "is no address"),
        (("codex", "--url", "http://127.0.0.1:1"), "start `kept serve`"),
        (("codex", "--key", "sk-12345678", "--model", "x"), "environment variable"),
    ],
)
def test_what_cannot_be_is_said(given: tuple[str, ...], said: str) -> None:
    found = run("connect", *given)
    assert found.exit_code != 0
    assert said in " ".join(found.output.split()) + str(found.exception or "")
    assert "sk-12345678" not in found.output


def test_a_server_that_wants_a_key_is_understood() -> None:
    with answering(401, b"") as url:
        found = run("connect", "codex", "--url", url)
    assert "--key" in found.output + str(found.exception or "")


@pytest.mark.parametrize("key", ["a-secret-key\n", "a secret-key", "a-secret-key\u20ac"])
def test_a_key_that_is_none_is_not_quoted(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEPT_API_KEY", key)
    with answering(200, b"") as url:
        found = run("connect", "codex", "--url", url)
    told = found.output + str(found.exception or "")
    assert "--key" in told
    assert "secret" not in told


def test_what_speaks_no_http_is_no_server() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def greet() -> None:
            with listener.accept()[0] as caller:
                caller.recv(1 << 16)
                caller.sendall(b"SSH-2.0-OpenSSH_9.6\r\n")

        thread = threading.Thread(target=greet)
        thread.start()
        found = run("connect", "codex", "--url", f"http://127.0.0.1:{listener.getsockname()[1]}")
        thread.join()
    assert isinstance(found.exception, OptionError | SystemExit)
    assert "no server of kept" in found.output + str(found.exception)


def test_no_store_is_asked_for() -> None:
    found = run("doctor", "--json", "--port", "0", "--prefix-store", "off")
    listed = {each["name"]: each for each in json.loads(found.stdout)["findings"]}
    assert (listed["prefix store"]["state"], listed["prefix store"]["text"]) == ("ok", "off")


@pytest.mark.parametrize("host", ["192.0.2.1", "\udcff"])
def test_a_host_that_is_none_of_this_machine(host: str) -> None:
    found = checkups.port(Asked(host, 0, None))
    assert found.state == "error"
    assert "--host" in found.remedy


def test_extras_are_those_of_the_package() -> None:
    """A part whose packages are not all asked for would be told to be there."""
    project = Path(__file__).parents[2] / "pyproject.toml"
    extras = tomllib.loads(project.read_text())["project"]["optional-dependencies"]
    for name, needed in EXTRAS.items():
        listed = {re.split(r"[\[<>=]", each)[0].replace("-", "_") for each in extras[name]}
        assert listed == set(needed), name
