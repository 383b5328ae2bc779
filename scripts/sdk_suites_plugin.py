"""What `scripts/sdk_suites` changes in requests that were written for a server of examples."""

from __future__ import annotations

import json
import os
import re
import urllib.request
from collections import Counter
from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import pytest

BASE = os.environ["TEST_API_BASE_URL"]
MOST = 16  # tokens
PUT_IN = "no server could answer without it"

# Fields of requests that are left out, and why. A path stands for all that end like it.
LEFT_OUT: Mapping[str, Mapping[str, str]] = {
    "/v1/messages": {
        "container": "nothing runs at the server",
        "inference_geo": "a model runs where its server stands",
        "output_config.format": "its schema in the example is none",
    },
    "/responses": {
        "access_programs": "there are none",
        "background": "answers are given to who waits for them",
        "background_options": "answers are given to who waits for them",
        "context_management": "a prompt is read as it stands",
        "conversation": "there are none; it excludes previous_response_id, too",
        "image": "text alone is read",
        "moderation": "nothing is judged",
        "previous_response_id": "names none that there is",
        "prompt": "there are no stored prompts",
    },
    "/responses/input_tokens": {
        "conversation": "there are none; it excludes previous_response_id, too",
        "personality": "a prompt is read as it stands",
        "previous_response_id": "names none that there is",
    },
    "/chat/completions": {
        "moderation": "nothing is judged",
        "web_search_options": "nothing is looked up",
    },
    "/completions": {
        "echo": "the first token has no log-probability, a null that the client's type forgot",
        "suffix": "the model goes on at ends alone",
    },
    "/embeddings": {"dimensions": "a vector is as long as the model has it"},
}
# Fields that are put in where a test gives none.
PUT: Mapping[str, Mapping[str, Any]] = {
    "/responses": {"input": "hello", "max_output_tokens": MOST},
    "/responses/input_tokens": {"input": "hello"},
    "/chat/completions": {"max_tokens": MOST},
}
EXCLUDED: Mapping[str, str] = {}

_changes: Counter[str] = Counter()


def pytest_configure(config: pytest.Config) -> None:
    """Stand between each client and what it sends."""
    for name in ("openai", "anthropic"):
        try:
            base = __import__(f"{name}._base_client", fromlist=["BaseClient"]).BaseClient
        except ImportError:
            continue
        _wrap(base)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out what no change to a request would help."""
    for item in items:
        for name, reason in EXCLUDED.items():
            if re.search(name, item.nodeid):
                item.add_marker(pytest.mark.skip(reason=reason))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say what was changed, and why."""
    for change, count in sorted(_changes.items()):
        terminalreporter.write_line(f"changed in {count} requests: {change}")
    for report in terminalreporter.stats.get("skipped", []):
        if isinstance(report.longrepr, tuple):
            terminalreporter.write_line(f"left out: {report.nodeid}: {report.longrepr[2]}")


def _wrap(base: Any) -> None:
    build = base._build_request

    def changed(self: Any, options: Any, **more: Any) -> Any:
        _change(options)
        return build(self, options, **more)

    base._build_request = changed


def _change(options: Any) -> None:
    if getattr(options, "_is_changed", False):
        return
    object.__setattr__(options, "_is_changed", True)
    path = options.url.split("?")[0]
    if match := re.fullmatch(r"(.*/responses/)(resp_\w+|response_id)(/input_items)?", path):
        options.url = options.url.replace(match[2], _stored())
        _changes["/responses/ID: the id of a response that there is"] += 1
    if not isinstance(options.json_data, dict):
        return
    body = dict(options.json_data)
    for name, reason in LEFT_OUT.get(path, {}).items():
        if _pop(body, name):
            _changes[f"{path} without {name}: {reason}"] += 1
    if body.get("max_tokens", 0) > MOST:
        body["max_tokens"] = MOST
        _changes[f"{path} with max_tokens={MOST}: to be done in time"] += 1
    if not body.get("stream") and _pop(body, "stream_options"):
        _changes[f"{path} without stream_options: where nothing streams, they are of nothing"] += 1
    if body.get("encoding_format") == "base64":
        body["encoding_format"] = "float"
        _changes[f"{path} as float: base64 is held to be no list before the client decodes it"] += 1
    for name in ("max_tokens", "max_completion_tokens"):
        if body.get(name) == 0:
            body[name] = MOST
            _changes[f"{path} with {name}={MOST}: 0, as in the example, asks for nothing"] += 1
    if _mend_schemas(body):
        _changes[f"{path} with properties of tools as strings: 'bar' is no schema"] += 1
    for name, value in PUT.get(path, {}).items():
        if body.get(name) is None:
            body[name] = value
            _changes[f"{path} with {name}={value!r}: {PUT_IN}, or not in time"] += 1
    options.json_data = body


def _mend_schemas(body: dict[str, Any]) -> bool:
    """Make a schema of what is none among the properties of tools; whether there was any."""
    tools, found = deepcopy(body.get("tools") or []), False
    for tool in tools:
        properties = tool.get("input_schema", {}).get("properties") or {}
        for name, schema in properties.items():
            if not isinstance(schema, dict | bool):
                properties[name], found = {"type": "string"}, True
    if found:
        body["tools"] = tools
    return found


def _pop(body: dict[str, Any], name: str) -> bool:
    """Take a field out, `a.b` out of the object a; whether it was there."""
    first, _, rest = name.partition(".")
    if not rest or not isinstance(body.get(first), dict):
        return body.pop(name, None) is not None
    body[first] = dict(body[first])
    return _pop(body[first], rest)


def _stored() -> str:
    """The id of a new response."""
    body = json.dumps({"input": "hello", "max_output_tokens": 1}).encode()
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{BASE}/responses", body, headers)
    with urllib.request.urlopen(request) as answer:
        found: str = json.load(answer)["id"]
    return found
