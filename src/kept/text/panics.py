"""Calls into the tokenizers library, whose panics are no `Exception` and pass every handler.

A file of another's making can bring a part of the library to panic: a table that ends early, a
template that names a missing token, a step of length zero. The library then raises a
`BaseException` that would end a server's thread.
"""

from __future__ import annotations

from types import TracebackType
from typing import Final

from kept.errors import KeptError, TokenizerError


class refusing:
    """Turn what the library raises inside into a `TokenizerError` that begins with `what`.

    kept's own errors pass, and so do Ctrl-C and the interpreter's exit.
    """

    __slots__ = ("_remedy", "_what")

    def __init__(self, what: str, remedy: str) -> None:
        """`remedy` ends the message."""
        self._what, self._remedy = what, remedy

    def __enter__(self) -> None:
        return None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None or isinstance(error, KeptError):
            return
        # The library raises the bare class, or the panic.
        if isinstance(error, Exception) or type(error).__name__ == "PanicException":
            raise TokenizerError(f"{self._what} ({error}); {self._remedy}") from error


ENCODING: Final = refusing(
    "the tokenizer cannot encode this text", "tokenizer.json is damaged, or lacks an unknown token"
)
DECODING: Final = refusing(
    "the tokenizer cannot decode these tokens", "tokenizer.json is damaged, download it again"
)
