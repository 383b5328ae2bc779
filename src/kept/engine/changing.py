"""One thread at a time changes an engine, and what an exception leaves half done is put right."""

from __future__ import annotations

import threading
from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from kept.engine.lending import Lending
from kept.engine.request import Event, Request
from kept.models import CausalLM
from kept.ops import plain_torch


class Changing(Lending):
    """The side of an `Engine` that begins and ends changes, each in the model's turn."""

    model: CausalLM
    _events: list[Event]  # since the last step, of which so many have been told
    _num_told = 0
    _changed_by: int | None = None  # the thread in the middle of a change

    @abstractmethod
    def _mend(self) -> None:
        """Put right what an exception in the middle of a change has left."""

    @abstractmethod
    def _end(self, request: Request, error: Exception | None = None) -> None:
        """End an unfinished request as it stands."""

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Have the model and all of this to oneself, and right, whatever came before."""
        # Another engine's step that this comes in the middle of, as where garbage is collected.
        outer = self.room.changing if self.model.is_running_here else None
        with torch.inference_mode(), plain_torch(), self.model.running():
            try:
                self._changed_by, self.room.changing = threading.get_ident(), self
                if not self._is_whole:
                    self._mend()
                self._is_whole = False
                yield
                self._call_back()
                self.room.withdraw(self)
                self._is_whole, self._changed_by = True, None
            finally:
                self.room.changing = outer

    @property
    def _is_changing_here(self) -> bool:
        """Whether this thread is in the middle of a change, which an exception has not ended."""
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
