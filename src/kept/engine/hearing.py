"""What a consumer of a request hears: pieces of its texts, yielded or passed on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from kept.engine.continuation import Continuation
from kept.engine.request import Request
from kept.sampling import TokenLogprobs


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


class Hearing:
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
        tokens = tuple(text.history.generated(begin, end))
        if tokens or piece or is_last:
            so_far.num_tokens, so_far.is_over = end, is_last
            found.append(Piece(index, piece, tokens, logprobs, is_last, foreseen))
    return found


def _text(continuation: Continuation) -> tuple[str, tuple[tuple[int, int], ...]]:
    """What has become certain of a text, and which characters of it were foreseen."""
    pieces, foreseen = continuation.take_new()
    if True not in foreseen:
        return "".join(pieces), ()
    text, ranges = "", list[tuple[int, int]]()
    for piece, is_foreseen in zip(pieces, foreseen, strict=True):
        if is_foreseen and ranges and ranges[-1][1] == len(text):
            ranges[-1] = ranges[-1][0], len(text) + len(piece)
        elif is_foreseen and piece:
            ranges.append((len(text), len(text) + len(piece)))
        text += piece
    return text, tuple(ranges)
