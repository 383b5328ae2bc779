"""The threads that step engines: one for each engine that has requests of clients."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from kept.engine import AsyncEngine, Engine


@dataclass(slots=True)
class _Runner:
    engine: AsyncEngine
    lives_on: bool
    users: int = 0


class Runners:
    """Starts a thread for an engine when its first request comes.

    The engine of a server's cache lives on and keeps its thread; one that was made for a single
    request ends with it.
    """

    def __init__(self) -> None:
        self._runners: dict[int, _Runner] = {}

    @asynccontextmanager
    async def running(self, engine: Engine, lives_on: bool) -> AsyncIterator[AsyncEngine]:
        """The thread of an engine, for as long as the block lasts."""
        key = id(engine)
        runner = self._runners.get(key)
        if runner is None:
            runner = self._runners[key] = _Runner(AsyncEngine(engine), lives_on)
        runner.users += 1
        try:
            yield runner.engine
        finally:
            runner.users -= 1
            if not runner.users and not lives_on:
                self._runners.pop(key, None)
                await runner.engine.aclose()

    @property
    def engines(self) -> list[Engine]:
        """Those that have a thread now."""
        return [runner.engine.engine for runner in self._runners.values()]

    @property
    def failure(self) -> Exception | None:
        """What an engine that was to live on has ended by; None: all of them go on."""
        failures = (x.engine.failure for x in self._runners.values() if x.lives_on)
        return next((failure for failure in failures if failure is not None), None)

    async def aclose(self) -> None:
        """Cancel what there is and end all threads."""
        runners, self._runners = list(self._runners.values()), {}
        for runner in runners:
            await runner.engine.aclose()
