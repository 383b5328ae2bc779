"""An engine for callers in an asyncio loop: one thread of its own takes the steps."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from weakref import WeakValueDictionary

from kept.engine.engine import Engine
from kept.engine.hearing import Hearing, Piece
from kept.engine.posting import Post
from kept.engine.request import Event, Request
from kept.errors import EngineError, OptionError
from kept.turns import Turn

log = logging.getLogger("kept.engine")


class AsyncEngine:
    """Runs requests for any number of coroutines, of one loop or several.

    What a consumer does not take yet stays with the text itself, so however far it lags, that is
    one piece. First tokens and ends are told at once, others as `Post` says. Others may use the
    engine meanwhile. Close it with `aclose`, or `async with`.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._turn = Turn()  # which forks know for as long as it lives
        # Taken by itself, never by `with` the condition: Ctrl-C within that would leave it taken.
        self._lock = self._turn.lock
        self._changed = threading.Condition(self._lock)
        self._open: set[Request] = set()
        self._is_draining = self._is_closed = False
        self._failure: Exception | None = None  # by which the thread has ended
        self._posts = WeakValueDictionary[asyncio.AbstractEventLoop, Post]()
        self._thread = threading.Thread(target=self._run, name="kept engine", daemon=True)
        self._thread.start()

    async def __aenter__(self) -> AsyncEngine:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.aclose()

    @property
    def failure(self) -> Exception | None:
        """What its thread has ended by; None: it has not, or was closed."""
        if self._failure is None and not self._thread.is_alive() and not self._is_closed:
            return EngineError("its thread has ended, or is not in this forked process")
        return self._failure

    async def generate(
        self, request: Request, pass_on: Callable[[Piece], bool] | None = None
    ) -> AsyncGenerator[Piece, None]:
        """Run a request; yields pieces of its texts as they are written.

        pass_on: is called with a piece on the loop's thread, in place of it being yielded, once the
        first has been and while the next is awaited, unless it is the last of its text; False: it
        has to be yielded after all. To wake a task through generators takes longer than most of
        what is done with a piece. What it raises is raised here.

        It is cancelled if the iteration is left before its end, by `aclose` or a cancelled task. At
        the end its completions are final; a text that failed says so there. Raises OptionError once
        the engine drains or is closed, and for a request with an `on_event` of its own, EngineError
        where the engine's thread has ended by a failure that no request could be ended with, or is
        that of a forked process' parent; else what `Engine.submit` raises.
        """
        if request.on_event is not None:
            raise OptionError("generate hears of the request's events itself; leave on_event out")
        post, news = self._post(), Hearing(request, pass_on)
        request.on_event = lambda event: post.put(news, is_urgent=_is_urgent(event))
        try:
            self._submit(request)
            while True:
                is_over = request.finished  # before the pieces: none comes behind these then
                for piece in news.pieces():
                    yield piece
                if is_over:
                    return
                self._check()
                await news.wait()
        finally:
            self._leave(request)

    async def drain(self) -> None:
        """Take no more requests, and return once all there are have ended.

        Raises EngineError where the engine's thread has ended before them.
        """
        with self._lock:
            self._is_draining = True
        await asyncio.to_thread(self._wait_until_idle)
        self._check()

    async def aclose(self) -> None:
        """Take no more requests, cancel those there are, and return once the thread has ended."""
        with self._lock:
            self._is_draining = self._is_closed = True
            for request in self._open:
                self.engine.cancel(request)
            self._changed.notify_all()
        await asyncio.to_thread(self._thread.join)

    def _post(self) -> Post:
        loop = asyncio.get_running_loop()
        with self._lock:
            found = self._posts.get(loop)
            if found is None:
                found = self._posts[loop] = Post(loop)
            return found

    def _check(self) -> None:
        failure = self.failure
        if self._failure is not None:
            raise EngineError(
                f"the engine could not end its requests after a step had failed: {failure}; "
                "make another engine"
            ) from failure
        if failure is not None:
            raise EngineError(f"the engine takes no step: {failure}; make another AsyncEngine")

    def _submit(self, request: Request) -> None:
        with self._lock:
            self._check()
            if self._is_draining:
                raise OptionError("this engine drains or is closed; make another one")
            self.engine.submit(request)
            self._open.add(request)
            self._changed.notify_all()

    def _leave(self, request: Request) -> None:
        request.on_event = None
        with self._lock:
            if request in self._open and not request.finished:
                self.engine.cancel(request)
            self._open.discard(request)
            self._changed.notify_all()

    def _wait_until_idle(self) -> None:
        with self._lock:
            self._changed.wait_for(
                lambda: self._failure or all(request.finished for request in self._open)
            )

    def _run(self) -> None:
        """Step for as long as there is work; what a step raises ends the requests there are."""
        while True:
            with self._lock:
                self._changed.wait_for(lambda: self.engine.has_work or self._is_closed)
                if self._is_closed and not self.engine.has_work:
                    return
            try:
                self.engine.step()
            except Exception as error:
                with self._lock:
                    requests = list(self._open)
                try:
                    self.engine.end(requests, error)
                except Exception as failure:
                    self._fail(failure)
                    return
            except BaseException:  # of somebody's on_event, whose request has ended with it
                continue
            with self._lock:
                self._changed.notify_all()

    def _fail(self, failure: Exception) -> None:
        """Tell all who wait that no step will be taken any more."""
        log.error("the engine's thread ends by a failure", exc_info=failure)
        with self._lock:
            self._failure = failure
            self._is_draining = self._is_closed = True
            waiting = [(request, request.on_event) for request in self._open]
            self._changed.notify_all()
        for request, tell in waiting:
            if tell is not None:
                with suppress(RuntimeError):  # its loop has been closed
                    tell(Event(request, None))


def _is_urgent(event: Event) -> bool:
    """Whether somebody has waited for it and nothing else: a text's first token, or the end."""
    text = event.continuation
    return text is None or text.history.num_generated <= 1
