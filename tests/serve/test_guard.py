"""Who may ask: keys, hosts, origins; and what is too much."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from http.client import HTTPConnection
from typing import Any

import pytest

from kept import LLM, OptionError
from kept.serve.guard import check_depth
from kept.serve.refusal import Refusal
from kept.serve.running import bind
from kept.serve.settings import Settings
from kept.serve.tenants import NOBODY, Keys, own_reason

from .serving import Served, served

ALICE, BOB = "alice-key-0123456789", "bob-key-0123456789"


@pytest.fixture(scope="module")
def guarded(llm: LLM) -> Iterator[Served]:
    with served(llm, api_key=[f"alice:{ALICE}", BOB], max_body="64KiB", max_depth=20) as found:
        yield found


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Authorization": f"Bearer {ALICE}"}, 200),
        ({"authorization": f"bearer   {BOB}"}, 200),
        ({"x-api-key": ALICE}, 200),
        ({"x-api-key": ALICE, "Authorization": f"Bearer {ALICE}"}, 200),
        ({"x-api-key": ALICE, "Authorization": f"Bearer {BOB}"}, 401),
        ({"Authorization": f"Bearer {ALICE[:-1]}"}, 401),
        ({"Authorization": f"Bearer {ALICE}x"}, 401),
        ({"Authorization": "Bearer"}, 401),
        ({"Authorization": f"Basic {ALICE}"}, 401),
        ({"Authorization": ALICE}, 401),
        ({"x-api-key": f"alice:{ALICE}"}, 401),
        ({"x-api-key": "bøb"}, 401),
    ],
)
def test_keys(guarded: Served, headers: dict[str, str], status: int) -> None:
    raw = {name: value.encode("latin-1") for name, value in headers.items()}
    assert guarded.http.get("/v1/models", headers=raw).status_code == status


def test_tenants_share_nothing_and_hear_nothing_of_each_other(guarded: Served) -> None:
    body = {"prompt": "# a secret of somebody\n" * 20, "max_tokens": 1}
    found = [
        guarded.http.post("/v1/completions", json=body, headers={"x-api-key": key}).json()["usage"]
        for key in (ALICE, BOB, ALICE, BOB)
    ]
    cached = [usage["prompt_tokens_details"]["cached_tokens"] for usage in found]
    assert cached[:2] == [0, 0]
    assert cached[2] == cached[3] > 50
    assert found[1]["kept"]["miss_reason"] == "nothing known begins like it"
    apart = {**body, "cache_salt": "mine"}
    salted = guarded.http.post("/v1/completions", json=apart, headers={"x-api-key": ALICE}).json()
    assert salted["usage"]["prompt_tokens_details"]["cached_tokens"] == 0


def test_own_reason() -> None:
    assert own_reason("known under another salt from token 70 on") == "known up to token 70"
    assert own_reason("diverged at token 5: 'a' for 'b'") == "diverged at token 5: 'a' for 'b'"
    assert own_reason(None) is None


def test_keys_as_they_are_given() -> None:
    keys = Keys.of(["team:long-enough-1", "team:long-enough-2", "long-enough-3"], "secret")
    one, two = keys.tenant_of(b"long-enough-1"), keys.tenant_of(b"long-enough-2")
    assert one == two != keys.tenant_of(b"long-enough-3")
    assert one is not None
    assert (one.name, len(one.salt)) == ("team", 64)
    assert Keys.of(["team:long-enough-1"], "other").tenant_of(b"long-enough-1") != one
    assert keys.tenant_of(None) is None
    assert keys.tenant_of(b"") is None
    assert Keys().tenant_of(None) == NOBODY
    for bad in ("short", "", "has spaces in it", "nön-ascii-key", "na me:long-enough"):
        with pytest.raises(OptionError, match="openssl rand"):
            Keys.of([bad])


def test_beyond_loopback_a_key_is_required() -> None:
    with pytest.raises(OptionError, match="--api-key-file"):
        bind(Settings(host="0.0.0.0", port=0))
    bind(Settings(host="0.0.0.0", port=0, api_key=(ALICE,))).close()
    with pytest.raises(OptionError, match="no address"):
        bind(Settings(host="999.1.1.1", port=0))
    with bind(Settings(port=0)) as taken, pytest.raises(OptionError, match="cannot be had"):
        bind(Settings(port=taken.getsockname()[1]))


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "", "[::1", "a:b:c"])
def test_other_names_are_refused(server: Served, host: str) -> None:
    assert server.http.get("/health", headers={"host": host}).status_code in (400, 421)


def test_origins(server: Served, llm: LLM) -> None:
    def status(origin: str, of: Served = server) -> int:
        return of.http.get("/v1/models", headers={"origin": origin}).status_code

    assert status(server.url) == 200
    assert status("http://evil.example") == 403
    assert status("null") == 403
    assert "access-control-allow-origin" not in server.http.get("/v1/models").headers
    with served(llm, allowed_origins=["https://chat.example.org"]) as other:
        answer = other.http.get("/v1/models", headers={"origin": "https://chat.example.org"})
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == "https://chat.example.org"
        asked = other.http.options(
            "/v1/chat/completions",
            headers={
                "origin": "https://chat.example.org",
                "access-control-request-method": "POST",
                "access-control-request-headers": "authorization, content-type",
            },
        )
        assert asked.status_code == 204
        assert "authorization" in asked.headers["access-control-allow-headers"].lower()


def test_what_is_too_much(guarded: Served) -> None:
    def post(**more: Any) -> Any:
        return guarded.http.post(
            "/v1/completions",
            headers={"x-api-key": ALICE, "content-type": "application/json"},
            **more,
        )

    assert post(content=b"x" * (65 << 10)).status_code == 413
    assert post(content=iter([b"x" * 40_000, b"x" * 40_000])).status_code == 413
    deep = b'{"prompt": ' + b"[" * 30 + b"]" * 30 + b"}"
    assert post(content=deep).json()["error"]["code"] == "too_deep"
    assert post(content=b'{"prompt": "' + b"[" * 50 + b'", "max_tokens": 1}').status_code == 200
    assert post(content=b"{").json()["error"]["code"] == "invalid_json"
    assert post(content=b'{"prompt": "\\ud800"}').status_code == 400
    assert post(content=b'{"prompt": "a", "temperature": NaN}').status_code == 400
    assert post(content=b'{"prompt": "a", "seed": 1' + b"0" * 5000 + b"}").status_code == 400
    big = guarded.http.get("/health", headers={"x": "y" * (65 << 10)})
    assert big.status_code in (400, 431)


def test_depth_is_that_of_brackets_outside_of_strings() -> None:
    check_depth(b'["[[[[[\\"[[[[", {"a": "}"}]', 2)
    check_depth(b"[" * 3 + b"]" * 3 + b"[" * 3, 3)
    with pytest.raises(Refusal):
        check_depth(b'["a", [[{"b": 1}]]]', 3)


def test_the_log_says_who_and_how_much_and_not_what(
    llm: LLM, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with served(llm, access_log=True, api_key=[f"alice:{ALICE}"]) as server:
        server.http.headers["x-api-key"] = ALICE
        body = {"prompt": "hush_hush", "max_tokens": 3}
        answer = server.http.post("/v1/completions", json=body, headers={"x-request-id": "mine-1"})
        assert answer.headers["x-request-id"] == "mine-1"
        bad = {"x-request-id": "a b\tc" * 30}
        assert server.http.get("/v1/models", headers=bad).headers["x-request-id"].startswith("req_")
    text = capfd.readouterr().err
    entry = next(json.loads(line) for line in text.splitlines() if '"mine-1"' in line)
    assert (entry["status"], entry["tenant"], entry["completion_tokens"]) == (200, "alice", 3)
    assert "hush" not in text + caplog.text
    assert ALICE not in text + caplog.text


@pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", "", None])
def test_plain_curl_is_understood_and_forms_of_pages_are_not(
    server: Served, kind: str | None
) -> None:
    """What `curl -d` sends; a form of another page comes with an origin, or with "null"."""
    body = json.dumps({"model": "kept", "prompt": "def f", "max_tokens": 2})
    headers = {} if kind is None else {"content-type": kind}
    url = server.url
    assert ask_raw(server, "/v1/completions", body, headers) == 200
    for name, value in (
        ("origin", url),
        ("referer", f"{url}/"),
        ("sec-fetch-site", "same-origin"),
        ("cookie", "a=b"),
    ):
        assert ask_raw(server, "/v1/completions", body, {**headers, name: value}) == 400, name
    for origin in ("null", "http://evil.example"):
        assert ask_raw(server, "/v1/completions", body, {**headers, "origin": origin}) == 403


def test_other_types_are_no_json(server: Served) -> None:
    body = json.dumps({"prompt": "def f", "max_tokens": 2})
    for kind in ("text/plain", "multipart/form-data; boundary=a", "application/xml"):
        assert ask_raw(server, "/v1/completions", body, {"content-type": kind}) == 400
    json_too = {"content-type": "Application/JSON; charset=utf-8"}
    assert ask_raw(server, "/v1/completions", body, json_too) == 200


def ask_raw(server: Served, path: str, body: str, headers: dict[str, str]) -> int:
    """The status of an answer, with no headers but these."""
    host, port = server.url.removeprefix("http://").split(":")
    connection = HTTPConnection(host, int(port), timeout=60)
    try:
        connection.putrequest("POST", path, skip_accept_encoding=True)
        for name, value in {"content-length": str(len(body)), **headers}.items():
            connection.putheader(name, value)
        connection.endheaders(body.encode())
        return connection.getresponse().status
    finally:
        connection.close()


@pytest.mark.parametrize("name", ["others", "shared"])
def test_names_that_views_use_for_several_are_nobodys(name: str) -> None:
    """A tenant called so would see others' texts as its own, and they its."""
    with pytest.raises(OptionError, match=f"'{name}', which the page .* another name"):
        Keys.of([f"{name}:{ALICE}"])
    assert Keys.of([f"{name}2:{ALICE}"])
