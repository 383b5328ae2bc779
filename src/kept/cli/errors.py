"""How a command ends: the exit code, and one plain message on stderr.

0     done
1     a KeptError, or no memory
2     wrong options: typer's usage errors, and OptionError
130   Ctrl-C (128 + SIGINT)
141   whoever read the output has gone (128 + SIGPIPE), as `yes | head` ends
"""

from __future__ import annotations

import sys
import traceback
from typing import Any, Final

import typer
from typer.core import TyperGroup

from kept.cli.streams import drop_output, say, why_not_written
from kept.errors import ContextLengthError, KeptError, OptionError
from kept.interrupt import INTERRUPTED, interruptible

FAILED: Final = 1
USAGE: Final = 2
PIPE_CLOSED: Final = 141


class ReportingGroup(TyperGroup):
    """A group of commands whose errors become a message and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command; what it raises on purpose ends in `typer.Exit`."""
        try:
            with interruptible():
                try:
                    return super().invoke(ctx)
                finally:
                    sys.stdout.flush()  # here, where a closed pipe can still be reported
        except KeyboardInterrupt:  # GenerationInterrupted is one
            raise typer.Exit(INTERRUPTED) from None
        except BrokenPipeError:
            drop_output()
            raise typer.Exit(PIPE_CLOSED) from None
        except (KeptError, MemoryError, RuntimeError, OSError) as error:
            message = describe(error)
            if message is None:
                raise
            if ctx.params.get("debug"):
                traceback.print_exc()
            else:
                say(message)
            if why_not_written(error) is not None:
                drop_output()
            raise typer.Exit(exit_code(error)) from None


def exit_code(error: Exception) -> int:
    """2 for options, 1 for all else: a prompt that is too long is not a wrong option."""
    wrong_option = isinstance(error, OptionError) and not isinstance(error, ContextLengthError)
    return USAGE if wrong_option else FAILED


def describe(error: Exception) -> str | None:
    """The message for an error that is no bug: kept's own, and memory that cannot be had."""
    if isinstance(error, typer.Exit | typer.Abort):
        return None
    if isinstance(error, KeptError):
        return str(error)
    unwritten = why_not_written(error)
    if unwritten is not None:
        return unwritten
    # torch has no exception of its own for the CPU's memory, only this text.
    full = ("can't allocate memory", "out of memory")
    if isinstance(error, MemoryError) or any(words in str(error) for words in full):
        return "this machine has not enough memory for it; `kept plan` shows what fits"
    return None
