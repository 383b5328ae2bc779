"""`/kept/cache` and `/kept/live`: each tenant sees its own, and what it sees adds up."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import httpx2
import numpy as np
import pytest

from kept import LLM, machine
from kept.serve.live import Teller, Watch
from kept.serve.looking import Eyes, cells_of, changes_of, owners_seen

from .serving import Served, served

pytestmark = pytest.mark.skipif(
    not machine.NATIVE_AVAILABLE, reason="installed without a C++ compiler"
)
PROMPT = "class Reader:\n    def read(self, size):\n        return self.file.read(size)\n" * 6
ALICE, BOB = ({"x-api-key": f"{name}-0123456789"} for name in ("alice", "bob"))


@pytest.fixture
def alone(llm: LLM) -> Iterator[Served]:
    llm.forget()
    with served(llm) as found:
        yield found


@pytest.fixture(scope="module")
def shared(llm: LLM) -> Iterator[Served]:
    llm.forget()
    with served(llm, api_key=("alice:alice-0123456789", "bob:bob-0123456789")) as found:
        for headers, more in ((ALICE, "# of alice\n"), (BOB, "# of bob\n")):
            body = {"prompt": PROMPT + more, "max_tokens": 4}
            answer = found.http.post("/v1/completions", json=body, headers=headers)
            assert answer.status_code == 200
        yield found


def listed(of: Served, **more: Any) -> list[dict[str, Any]]:
    answer = of.http.get("/kept/cache", **more)
    assert answer.status_code == 200
    found: list[dict[str, Any]] = answer.json()["data"]
    return found


def heard(
    of: Served, is_last: Callable[[Any], bool], do: Any = None, **more: Any
) -> list[tuple[str, Any]]:
    """The events of a feed up to the last one asked for; `do` is called behind the first.

    How many they are is a matter of how long what is done takes: the feed tells of it now and then.
    """
    events: list[tuple[str, Any]] = []
    name = ""
    with of.http.stream("GET", "/kept/live", **more) as answer:
        for line in answer.iter_lines():
            if line.startswith("event: "):
                name = line[7:]
            elif line.startswith("data: "):
                events.append((name, json.loads(line[6:])))
                if len(events) == 1 and do is not None:
                    do()
                if is_last(events[-1][1]):
                    break
    return events


def test_entries_are_texts_and_dropping_one_has_it_computed_again(alone: Served) -> None:
    assert listed(alone) == []
    alone.complete(PROMPT, max_tokens=4)
    alone.complete("import os\n", max_tokens=4)
    last, first = listed(alone)
    assert first["tokens"] > last["tokens"] > 0
    assert first["last_used"] <= last["last_used"] <= time.time() + 1
    assert (first["owner"], first["source"], first["in_use"]) == ("", "computed", False)
    assert first["own_tokens"] == first["tokens"]
    assert listed(alone, params={"limit": 1}) == [last]
    answer = alone.http.delete(f"/kept/cache/{first['id']}")
    assert answer.json() == {"id": first["id"], "object": "kept.cache_entry", "deleted": True}
    assert alone.http.delete(f"/kept/cache/{first['id']}").status_code == 404
    assert [entry["id"] for entry in listed(alone)] == [last["id"]]
    again = alone.complete(PROMPT, max_tokens=4).json()["usage"]
    assert again["prompt_tokens_details"]["cached_tokens"] == 0


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/kept/cache?limit=0"), ("GET", "/kept/cache?limit=x"), ("DELETE", "/kept/cache/a.b")],
)
def test_what_is_no_number_or_id_is_refused(shared: Served, method: str, path: str) -> None:
    assert shared.http.request(method, path, headers=ALICE).status_code == 400


def test_a_tenant_sees_and_drops_its_own_alone(shared: Served) -> None:
    [hers], [his] = listed(shared, headers=ALICE), listed(shared, headers=BOB)
    assert (hers["owner"], his["owner"]) == ("alice", "bob")
    nobody = "0" * len(his["id"])
    refused = [shared.http.delete(f"/kept/cache/{id}", headers=ALICE) for id in (his["id"], nobody)]
    assert [x.status_code for x in refused] == [404, 404]
    said = [x.text.replace(id, "") for x, id in zip(refused, (his["id"], nobody), strict=True)]
    assert said[0] == said[1]
    assert listed(shared, headers=BOB)[0]["id"] == his["id"]
    for path in ("/kept/cache", "/kept/live"):
        assert shared.http.get(path).status_code == 401
    assert shared.http.delete(f"/kept/cache/{his['id']}").status_code == 401


def test_a_feed_tells_a_tenant_nothing_of_another(shared: Served) -> None:
    [(name, told)] = heard(shared, lambda told: True, headers=BOB)
    assert name == "state"
    engine = told["engine"]
    assert "alice" not in json.dumps(told)
    assert [note["tenant"] for note in engine["ended"]] == ["bob"]
    assert engine["ended"][0]["miss_reason"] == "unknown"  # alice's text begins as bob's does
    assert {share["tenant"] for share in engine["tenants"]} == {"bob", "others"}
    assert all(step[3:] == [0] * 5 for step in engine["steps"])
    assert "counters" not in engine
    [blocks] = engine["maps"]
    assert set(blocks["owners"]) == {"", "bob", "others"}
    others = blocks["owners"].index("others")
    hidden = [cell for _, _, cell in blocks["changes"] if cell >> 9 == others]
    assert hidden
    assert all((cell >> 3) & 63 == 1 and not cell & 4 for cell in hidden)


def test_a_feed_joined_together_is_what_the_engine_shows(alone: Served) -> None:
    alone.complete(PROMPT, max_tokens=2)

    [engine] = alone.service.engines
    steps_before = engine.counters.steps

    def more() -> None:
        answer = alone.complete([PROMPT + "#", "import re"], max_tokens=60)
        assert answer.status_code == 200
        assert alone.has_idle_engines()

    def shows_all(told: Any) -> bool:
        seen = told["engine"]
        steps = engine.counters.steps
        return not seen["running"] and seen["counters"]["steps"] == steps > steps_before

    events = heard(alone, shows_all, more)
    assert [name for name, _ in events] == ["state", *["change"] * (len(events) - 1)]
    assert len(events) > 1
    cells: list[int] = []
    numbers = [step[0] for _, told in events for step in told["engine"]["steps"]]
    assert numbers == sorted(set(numbers))
    for _, told in events:
        [blocks] = told["engine"]["maps"]
        cells = [] if blocks["is_whole"] else cells
        cells += [0] * (blocks["num_seen"] - len(cells))
        for first, count, value in blocks["changes"]:
            cells[first : first + count] = [value] * count
    view = engine.view()
    names, owners = owners_seen(view, Eyes(None))
    assert cells == cells_of(view.blocks[0], names, owners).tolist()


def test_changes_bring_one_map_to_another() -> None:
    draw = Random(3)
    for _ in range(200):
        before = np.array([draw.randrange(3) for _ in range(draw.randrange(9))], np.int32)
        now = np.array([draw.randrange(3) for _ in range(draw.randrange(14))], np.int32)
        if len(now) < len(before):
            before, now = now, before
        cells = [*before.tolist(), *[0] * (len(now) - len(before))]
        for first, count, value in changes_of(before, now):
            assert count > 0
            cells[first : first + count] = [value] * count
        assert cells == now.tolist()


def test_nobody_looks_where_nobody_listens(alone: Served) -> None:
    alone.complete("import os", max_tokens=2)
    watch = Watch.__new__(Watch)

    async def listen() -> tuple[int, bool]:
        watch.__init__(alone.service)  # type: ignore[misc]
        views = watch.views()
        told = Teller(Eyes(None)).tell(await anext(views))
        await views.aclose()
        assert watch._task is not None
        await asyncio.wait_for(watch._task, 5)
        return told["engine"]["num_texts"], watch.num_listeners == 0

    assert asyncio.run(listen()) == (1, True)


def test_only_so_many_may_look(alone: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kept.serve.live.MOST_LISTENERS", 1)

    def second() -> None:
        with httpx2.Client(base_url=alone.url) as other:
            answer = other.get("/kept/live")
        assert answer.status_code == 429
        assert answer.json()["error"]["code"] == "too_many_listeners"

    heard(alone, lambda told: True, second)
