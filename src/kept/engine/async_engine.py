"""An engine for callers in an asyncio loop: one thread of its own takes the steps."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from dataclasses import dataclass
from weakref import WeakValueDictionary

from kept.engine.continuation import Continuation
from kept.engine.engine import Engine
from kept.engine.posting import Post
from kept.engine.request import Event, Request
from kept.errors import EngineError, OptionError
from kept.sampling import TokenLogprobs
from kept.turns import Turn

log = logging.getLogger("kept.engine")


@dataclass(frozen=True, slots=True)
class Piece:
    """What one text of a request has come to since its last piece.

    index: of the text among those of the request. text: what has become certain of it. token_ids:
    those drawn since, which may spell more than `text`. logprobs: one for each of them, where they
    are asked for. is_last: the text has ended, and no piece of it comes any more. foreseen: which
    characters of `text`, in half-open ranges, come of tokens that needed no step of their own, as
    drafts had foreseen what they go on from.
    """

    index: int
    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprobs, ...] = ()
    is_last: bool = False
    foreseen: tuple[tuple[int, int], ...] = ()


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
        post, news = self._post(), _Hearing(request, pass_on)
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


class _Hearing:
    """The news of a request, and what has been taken of its texts."""

    def __init__(self, request: Request, pass_on: Callable[[Piece], bool] | None) -> None:
        self._request, self._pass_on = request, pass_on
        self._taken = [_Taken() for _ in request.group.results]
        self._event = asyncio.Event()
        self._has_begun = self._is_waiting = False
        self._back: list[Piece] = []  # that could not be passed on
        self._error: Exception | None = None  # by which one could not

    def pieces(self) -> list[Piece]:
        """What there is to be yielded; more is news. Raises what passing one on has raised."""
        self._event.clear()
        if self._error is not None:
            raise self._error
        back, self._back = self._back, []
        found = back + _pieces(self._request, self._taken)
        self._has_begun = self._has_begun or bool(found)
        return found

    async def wait(self) -> None:
        """Return once there may be more."""
        self._is_waiting = self._has_begun
        try:
            await self._event.wait()
        finally:
            self._is_waiting = False

    def set(self) -> None:
        """See `News`."""
        takes = self._pass_on if self._is_waiting and not self._event.is_set() else None
        if takes is None or self._request.finished or not self._passes(takes):
            self._event.set()

    def _passes(self, pass_on: Callable[[Piece], bool]) -> bool:
        """Whether all that is new could be passed on."""
        found = _pieces(self._request, self._taken)
        try:
            for number, piece in enumerate(found):
                if piece.is_last or not pass_on(piece):
                    self._back = found[number:]
                    return False
        except Exception as error:
            self._error = error
            return False
        return True


@dataclass(slots=True)
class _Taken:
    """What has been handed out of one text."""

    num_tokens: int = 0
    is_over: bool = False


def _pieces(request: Request, taken: list[_Taken]) -> list[Piece]:
    """What there is of each text beyond what is `taken` of it, which is brought up to date.

    Another thread may draw meanwhile. It adds a token, its log-probabilities, its text, and ends:
    so they are read the other way round, and none comes without those before it.
    """
    found = []
    for index, (text, so_far) in enumerate(zip(request.group.results, taken, strict=True)):
        if so_far.is_over:
            continue
        is_last = text.finish_reason is not None
        piece, foreseen = _text(text)
        begin, end = so_far.num_tokens, text.history.num_generated
        logprobs: tuple[TokenLogprobs, ...] = ()
        if text.params.logprobs is not None:
            logprobs = tuple(text.logprobs[begin:end])
            end = begin + len(logprobs)
        first = text.history.num_prompt
        tokens = tuple(text.history.tokens[first + begin : first + end].tolist())
        if tokens or piece or is_last:
            so_far.num_tokens, so_far.is_over = end, is_last
            found.append(Piece(index, piece, tokens, logprobs, is_last, foreseen))
    return found


def _text(continuation: Continuation) -> tuple[str, tuple[tuple[int, int], ...]]:
    """What has become certain of a text, and which characters of it were foreseen."""
    text, ranges = "", list[tuple[int, int]]()
    for piece, is_foreseen in iter(continuation.take_marked, ("", False)):
        if is_foreseen and ranges and ranges[-1][1] == len(text):
            ranges[-1] = ranges[-1][0], len(text) + len(piece)
        elif is_foreseen:
            ranges.append((len(text), len(text) + len(piece)))
        text += piece
    return text, tuple(ranges)
