"""A generation that hands out its text as it is written."""

from __future__ import annotations

from collections.abc import Callable, Generator

from kept.engine import Completion
from kept.llm.generation import Generation


class Stream:
    """Iterate it for pieces of text; `completion` is the result, or what there is of it so far.

    Pieces never end inside a character and never show the beginning of a stop string. Ctrl-C ends
    it cleanly and raises KeyboardInterrupt, with `completion` holding the text so far. So does an
    error, once what is certain has been handed out: GenerationError for one of this text.
    """

    def __init__(
        self, generation: Generation, on_end: Callable[[Generation], None] | None = None
    ) -> None:
        self._generation, self._on_end = generation, on_end

    def __iter__(self) -> Generator[str, None, None]:
        generation = self._generation
        continuation = generation.continuations[0]
        try:
            generation.begin()
            while True:
                is_over = generation.finished  # before the pieces: none comes behind these then
                while piece := continuation.take_text():
                    yield piece
                if is_over:
                    break
                generation.advance()
        except Exception as error:
            generation.end_with(error)
            raise
        finally:
            # Also when the caller stops listening, or Ctrl-C arrives between two pieces.
            if not generation.finished:
                generation.end()
            # Once: read a second time, the cache may be another turn's already.
            on_end, self._on_end = self._on_end, None
            if on_end is not None:
                on_end(self._generation)
        self._generation.raise_failure()

    @property
    def completion(self) -> Completion:
        """The result; "interrupted" while unfinished."""
        return self._generation.completions()[0]
