"""Answers that nobody begins to hear: what was taken in for them goes all the same."""

from __future__ import annotations

import asyncio
import json
from collections.abc import MutableMapping
from typing import Any

import pytest

from kept import LLM
from kept.serve.app import make_app
from kept.serve.service import Service
from kept.serve.settings import Settings

HELLO = [{"role": "user", "content": "add"}]
STREAMS = {
    "/v1/chat/completions": {"messages": HELLO, "max_tokens": 4, "stream": True},
    "/v1/completions": {"prompt": "def add", "max_tokens": 4, "stream": True},
    "/v1/messages": {"messages": HELLO, "max_tokens": 4, "stream": True},
    "/v1/responses": {"input": "add", "max_output_tokens": 4, "stream": True},
    "/api/chat": {"model": "kept", "messages": HELLO, "options": {"num_predict": 4}},
}


async def ask(app: Any, path: str, body: dict[str, Any], fails_at: int, *, leaves: bool) -> None:
    """A request, of whose answer the message of that number cannot be sent, or during which the
    task that answers is cancelled."""
    text = json.dumps(body).encode()
    headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": path, "headers": headers}
    scope |= {"query_string": b"", "raw_path": path.encode(), "root_path": "", "scheme": "http"}
    scope |= {"asgi": {"version": "3.0"}, "http_version": "1.1"}
    messages = [{"type": "http.request", "body": text}]
    number = 0

    async def receive() -> MutableMapping[str, Any]:
        if messages:
            return messages.pop()
        return await asyncio.Event().wait()  # type: ignore[return-value]

    async def send(message: MutableMapping[str, Any]) -> None:
        nonlocal number
        number += 1
        if number > fails_at:
            if leaves:
                task.cancel()
                await asyncio.sleep(0)
            raise OSError("the connection is lost")

    task = asyncio.ensure_future(app(scope, receive, send))
    await asyncio.wait([task])
    if not task.cancelled():
        task.exception()


@pytest.mark.parametrize("path", STREAMS)
def test_an_answer_that_is_never_begun_leaves_its_place(path: str, llm: LLM) -> None:
    service = Service(llm, Settings(access_log=False))
    app = make_app(service)

    async def run() -> None:
        for fails_at in (0, 1):
            for leaves in (False, True):
                await ask(app, path, dict(STREAMS[path]), fails_at, leaves=leaves)
                assert service.admission.num_open == 0, (fails_at, leaves)
        await service.aclose()

    asyncio.run(run())


def test_an_answer_whose_asker_is_cancelled_as_it_comes_leaves_its_place(llm: LLM) -> None:
    """Wherever a cancelled task stands, also just behind the end of its prompt's reading."""
    service = Service(llm, Settings(access_log=False))
    app = make_app(service)
    body = dict(STREAMS["/v1/completions"])

    async def run() -> None:
        for rounds in range(0, 60, 3):
            task = asyncio.ensure_future(ask(app, "/v1/completions", body, 99, leaves=False))
            for _ in range(rounds):
                await asyncio.sleep(0)
            for other in asyncio.all_tasks() - {asyncio.current_task(), task}:
                other.cancel()
            await asyncio.wait([task])
            assert service.admission.num_open == 0, rounds
        await service.aclose()

    asyncio.run(run())
