"""Showing a stream's text as it is written, through to its end, to an error or to Ctrl-C."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kept.engine import Completion
    from kept.llm import Stream


def show(stream: Stream, write: Callable[[str], None]) -> Completion:
    """Hand every piece to `write`; returns the completion, "interrupted" after Ctrl-C.

    After Ctrl-C the text that was withheld, the beginning of a stop string say, is written too;
    also before an error of the generation is raised.
    """
    num_shown = 0
    try:
        with closing(iter(stream)) as pieces:
            for piece in pieces:
                write(piece)
                num_shown += len(piece)
    except KeyboardInterrupt:
        write(stream.completion.text[num_shown:])
    except Exception as error:
        if hasattr(error, "completions"):
            write(stream.completion.text[num_shown:])
        raise
    return stream.completion
