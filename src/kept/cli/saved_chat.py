"""The last conversation with each model, as `kept chat --resume` finds it.

It lies beside what is stored of its keys: CHATS in the prefix store's folder, a file for each
model, which its owner alone can read, and which the store's key seals.
"""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from dataclasses import dataclass
from secrets import token_hex
from typing import TYPE_CHECKING, Final

from kept.cli.streams import say
from kept.errors import CacheError

if TYPE_CHECKING:
    from kept.store import PrefixStore

CHATS: Final = ".chats"  # a name that the store leaves alone


@dataclass(frozen=True, slots=True)
class Saved:
    """A conversation: the system message, None: there is none, and questions with their answers."""

    system: str | None
    turns: tuple[tuple[str, str], ...]


class SavedChat:
    """Where the conversation with a model is saved. model: as people call it."""

    def __init__(self, store: PrefixStore, model: str) -> None:
        digest = hashlib.sha256(model.encode("utf-8", "surrogatepass")).hexdigest()[:24]
        self._path, self._key = store.folder / CHATS / f"{digest}.json", store.key

    def load(self) -> Saved:
        """The conversation that was saved last. Raises CacheError where there is none, or it cannot
        be read."""
        try:
            data = self._path.read_bytes()
        except FileNotFoundError as error:
            raise CacheError(
                "there is no conversation to resume with this model; leave --resume out"
            ) from error
        except OSError as error:
            raise CacheError(f"{self._path} cannot be read: {error.strerror}") from error
        try:
            found = json.loads(self._opened(data))
            turns = tuple((str(question), str(answer)) for question, answer in found["turns"])
            system = found["system"]
            return Saved(None if system is None else str(system), turns)
        except (ValueError, KeyError, TypeError) as error:
            raise CacheError(
                f"{self._path} holds no conversation that can be read; it is damaged, or was "
                "encrypted with another key (KEPT_STORE_KEY); leave --resume out"
            ) from error

    def save(self, saved: Saved) -> None:
        """Save it in place of the last one; a disk that cannot take it costs a remark."""
        text = json.dumps({"system": saved.system, "turns": saved.turns}).encode()
        beside = self._path.with_name(f"{self._path.name}.{token_hex(4)}")
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with open(handle, "wb") as file:
                file.write(self._closed(text))
            beside.replace(self._path)
        except OSError as error:
            with suppress(OSError):
                beside.unlink()
            say(f"the conversation is not saved: {error.strerror}; make room to resume it later")

    def _closed(self, text: bytes) -> bytes:
        from kept.store.seal import FileSeal, new_salt

        if self._key is None:
            return text
        salt = new_salt()
        return salt + FileSeal(self._key, salt).close(0, text)

    def _opened(self, data: bytes) -> bytes:
        from kept.store.seal import SALT_BYTES, FileSeal, SealError

        if self._key is None:
            return data
        try:
            return FileSeal(self._key, data[:SALT_BYTES]).open(0, data[SALT_BYTES:])
        except SealError as error:
            raise ValueError(str(error)) from error
