"""`GET /kept/live`: what the engine does, for the page to show as it happens.

    watcher: Engine.view, at most four times a second ── Sight ── each listener: what has changed
                                                                  since what it was sent last

The watcher looks while anybody listens, and rests a hundred times as long as a look has taken, so
that looking costs a hundredth of the engine's time however much there is to see. A listener that is
slow skips views; what it is sent always joins on to what it has.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import numpy as np
from fastapi import APIRouter, Request
from starlette.responses import Response

from kept.engine import Engine, EngineView
from kept.serve.http import service_of, tenant_of
from kept.serve.looking import (
    Cells,
    Eyes,
    cells_of,
    changes_of,
    owners_seen,
    requests_seen,
    shares_seen,
    step_row,
    wall_clock,
)
from kept.serve.refusal import Refusal
from kept.serve.service import Service
from kept.serve.sse import EventStream, sse

LEAST_REST: Final = 0.25  # seconds between two looks
SHARE: Final = 100  # times as long as a look has taken
MOST_LISTENERS: Final = 32
LAST_STEPS: Final = 240  # that one who comes is told
LAST_ENDED: Final = 50

router = APIRouter(tags=["kept"])


@router.get("/kept/live", response_model=None)
async def live(request: Request) -> Response:
    """A stream of events: `state` with all there is to see, then `change` with what is new."""
    service = service_of(request)
    watch: Watch | None = getattr(request.app.state, "watch", None)
    if watch is None:
        watch = request.app.state.watch = Watch(service)
    if watch.num_listeners >= MOST_LISTENERS:
        raise Refusal(
            f"{MOST_LISTENERS} pages look at this server already; close one of them",
            429,
            "too_many_listeners",
            headers={"Retry-After": "5"},
        )
    eyes = eyes_of(request)
    return EventStream(lambda _: _events(watch, eyes, service.models[0]))


def eyes_of(request: Request) -> Eyes:
    """What who asks may see."""
    several = service_of(request).keys.has_several
    return Eyes(tenant_of(request).name if several else None)


async def _events(watch: Watch, eyes: Eyes, model: str) -> AsyncGenerator[bytes, None]:
    teller, has_begun = Teller(eyes), False
    async with aclosing(watch.views()) as views:
        async for view in views:
            told, name = teller.tell(view), "change" if has_begun else "state"
            yield sse(told if has_begun else {"model": model, **told}, name)
            has_begun = True


class Watch:
    """Looks at a service's engine for as long as anybody listens."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._last: EngineView | None = None
        self._next: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._number = 0  # of looks that have shown something new
        self._task: asyncio.Task[None] | None = None
        self.num_listeners = 0

    async def views(self) -> AsyncGenerator[EngineView | None, None]:
        """The view there is, then each newer one; None: no engine has run anything yet."""
        self.num_listeners += 1
        seen = 0
        try:
            if self._task is None or self._task.done():
                self._number, self._task = 0, asyncio.create_task(self._look())
            task = self._task
            while not task.done():
                if self._number > seen:
                    seen = self._number
                    yield self._last
                else:
                    await asyncio.wait({self._next, task}, return_when=asyncio.FIRST_COMPLETED)
            await task  # raises what it has failed with
        finally:
            self.num_listeners -= 1

    async def _look(self) -> None:
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(1, thread_name_prefix="kept watcher") as looker:
            while self.num_listeners and not self._service.is_draining:
                engine, before, rest = _busiest(self._service.engines), self._last, LEAST_REST
                now = None
                if engine is not None:
                    look = partial(engine.view, texts=False)
                    now = await loop.run_in_executor(looker, look)
                    rest = max(rest, SHARE * now.seconds)
                self._last = now
                if not self._number or _is_news(before, now):
                    self._number += 1
                    self._next.set_result(None)
                    self._next = loop.create_future()
                await asyncio.sleep(rest)
        self._last = None


def _is_news(before: EngineView | None, now: EngineView | None) -> bool:
    """Whether there is anything to see that was not there before."""
    if before is None or now is None:
        return before is not now
    return (
        bool(now.running or now.num_waiting)
        or now.snapshot.counters.steps != before.snapshot.counters.steps
        or now.ended[-1:] != before.ended[-1:]
        or now.num_texts != before.num_texts
    )


def _busiest(engines: list[Engine]) -> Engine | None:
    """The engine that has done most: the one that lives on."""
    return max(engines, key=lambda engine: engine.counters.steps, default=None)


@dataclass(slots=True)
class Teller:
    """What one listener has been told. Each `tell` is of what is new since."""

    eyes: Eyes
    step: int = 0
    ended: float = 0.0
    names: list[str] = field(default_factory=list)
    cells: list[Cells] = field(default_factory=list)

    def tell(self, view: EngineView | None) -> dict[str, Any]:
        """The data of an event."""
        if view is None:
            return {"engine": None}
        return {"engine": {**self._now(view), **self._new(view), "maps": self._maps(view)}}

    def _now(self, view: EngineView) -> dict[str, Any]:
        """What is told whole each time."""
        counters, memory = view.snapshot.counters, view.memory
        told: dict[str, Any] = {
            "at": wall_clock(view.at),
            "memory": {
                "limit": memory.limit,
                "taken": memory.taken,
                "held": memory.held,
                "findable": memory.findable,
            },
            "running": requests_seen(view.running, self.eyes),
            "waiting": requests_seen(view.waiting, self.eyes),
            "num_running": len(view.running),
            "num_waiting": view.num_waiting,
            "num_texts": sum(
                count
                for owner, count in zip(view.owners, view.num_texts, strict=True)
                if self.eyes.sees(owner.tenant)
            ),
            "tenants": shares_seen(view, self.eyes),
        }
        if self.eyes.tenant is None:
            told["counters"] = {
                "steps": counters.steps,
                "computed_tokens": counters.computed_tokens,
                "generated_tokens": counters.generated_tokens,
                "cached_tokens": counters.cached_tokens,
                "misses": counters.misses,
                "parked": counters.parked,
                "evicted_blocks": counters.evicted_blocks,
                "drafted_tokens": counters.drafted_tokens,
                "accepted_tokens": counters.accepted_tokens,
            }
        return told

    def _new(self, view: EngineView) -> dict[str, Any]:
        """Steps and requests that have ended since."""
        steps = [step for step in view.steps if step.number > self.step][-LAST_STEPS:]
        ended = [note for note in view.ended if (note.ended or 0.0) > self.ended]
        self.step = max([self.step, *(step.number for step in steps)])
        self.ended = max([self.ended, *(note.ended or 0.0 for note in ended)])
        return {
            "steps": [step_row(step, self.eyes) for step in steps],
            "ended": requests_seen(ended[-LAST_ENDED:], self.eyes),
        }

    def _maps(self, view: EngineView) -> list[dict[str, Any]]:
        names, numbers = owners_seen(view, self.eyes)
        cells = [cells_of(blocks, names, numbers) for blocks in view.blocks]
        before = self.cells
        is_whole = names != self.names or len(cells) != len(before)
        if is_whole:
            before = [np.zeros(0, np.int32) for _ in cells]
        self.names, self.cells = names, cells
        return [
            {
                "window": blocks.window,
                "block_bytes": blocks.block_bytes,
                "num_blocks": blocks.num_blocks,
                "num_seen": len(now),
                "owners": names,
                "is_whole": is_whole,
                "changes": changes_of(old, now),
            }
            for blocks, old, now in zip(view.blocks, before, cells, strict=True)
        ]
