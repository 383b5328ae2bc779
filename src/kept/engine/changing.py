"""One thread at a time changes an engine, and what an exception leaves half done is put right."""

from __future__ import annotations

import threading
import weakref
from abc import abstractmethod
from collections.abc import Callable, Generator
from contextlib import nullcontext
from typing import TypeVar

import torch

from kept.engine.lending import Lending
from kept.engine.request import Event, Request
from kept.models import CausalLM
from kept.ops import one_torch_thread, plain_torch

Found = TypeVar("Found")


def _holding(native: bool) -> Generator[None]:
    one_thread = one_torch_thread() if native else nullcontext()
    with torch.inference_mode(), plain_torch(), one_thread:
        yield


class _TorchUse:
    """What holds torch to what `Changing._use_torch` says, once that is asked for.

    It lets go as it is freed. So the change's own frame alone has it, and it ends with that
    wherever Ctrl-C comes: what the engine kept would leave its thread without gradients.
    """

    def __init__(self, native: bool) -> None:
        self._native = native
        self._held: Generator[None] | None = None

    def begin(self) -> None:
        if self._held is None:
            self._held = _holding(self._native)
            next(self._held)

    def end(self) -> None:
        if self._held is not None:
            self._held.close()


class Changing(Lending):
    """The side of an `Engine` that begins and ends changes, each in the model's turn."""

    model: CausalLM
    _events: list[Event]  # since the last step, of which so many have been told
    _num_told = 0
    _changed_by: int | None = None  # the thread in the middle of a change
    _torch: weakref.ref[_TorchUse] | None = None  # of the change that goes on

    @abstractmethod
    def _mend(self) -> None:
        """Put right what an exception in the middle of a change has left."""

    @abstractmethod
    def _end(self, request: Request, error: Exception | None = None) -> None:
        """End an unfinished request as it stands."""

    def _change(self, do: Callable[[], Found]) -> Found:
        """Return what `do` does with the model and all of this to itself, and right, whatever came
        before. It calls `_use_torch` before it asks torch for anything."""
        # Another engine's step that this comes in the middle of, as where garbage is collected.
        outer = self.room.changing if self.model.is_running_here else None

        def change() -> Found:
            torch_in_use = _TorchUse(self.model.native is not None)
            try:
                self._torch = weakref.ref(torch_in_use)
                self._changed_by, self.room.changing = threading.get_ident(), self
                if not self._is_whole:
                    self._use_torch()
                    self._mend()
                self._is_whole = False
                found = do()
                self._call_back()
                self.room.withdraw(self)
                self._is_whole = True
                return found
            finally:
                self._changed_by, self.room.changing = None, outer
                torch_in_use.end()

        return self.model.run_alone(change)

    def _use_torch(self) -> None:
        """Have torch compute as by itself, without gradients, and beside the kernels on one thread,
        until the change is over. Steps that ask torch for nothing do without: after a pass of the
        kernels its code has left the processor's caches, and a first call takes as long as dozens
        of lines of Python."""
        torch_in_use = None if self._torch is None else self._torch()
        assert torch_in_use is not None, "a change is going on"
        torch_in_use.begin()

    @property
    def _is_changing_here(self) -> bool:
        """Whether this thread is in the middle of a change."""
        return self._changed_by == threading.get_ident() and self.model.is_running_here

    def _call_back(self) -> None:
        """Tell requests that want to know what has happened to them."""
        while self._num_told < len(self._events):  # which what is told may add to
            event = self._events[self._num_told]
            told = event.request.on_event  # which another thread may take away
            if told is not None:
                self._call(event, told)
            self._num_told += 1

    def _call(self, event: Event, told: Callable[[Event], object]) -> None:
        try:
            told(event)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            event.request.on_event = None
            if isinstance(error, Exception):
                self._end(event.request, error)
                return
            self._end(event.request, RuntimeError(f"its on_event raised {error!r}"))
            raise
