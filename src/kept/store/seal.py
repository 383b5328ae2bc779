"""Encrypting files with a key: AES-256-GCM, each file under a key of its own.

A file's key is HKDF-SHA256 of the user's key and the file's 32 random bytes. Under it each record
has its number as the nonce: 0 is the header, and 1 on are the blocks as they lie. So no nonce comes
twice under a key, however many files there are. A sealed record is 16 bytes longer.
"""

from __future__ import annotations

import hashlib
import os
import re
from importlib.util import find_spec
from typing import Final

from kept.errors import OptionError

SALT_BYTES: Final = 32
TAG_BYTES: Final = 16
_HEX = re.compile(r"\s*[0-9a-fA-F]{64}\s*")
_FORMS = "give 32 bytes, or 64 hex digits, as `openssl rand -hex 32` prints them"


class SealError(Exception):
    """A record was not sealed with this key, or has been changed."""


class FileSeal:
    """Seals and opens the records of one file."""

    def __init__(self, key: bytes, salt: bytes) -> None:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF

        derived = HKDF(algorithm=SHA256(), length=32, salt=salt, info=b"kept prefix store")
        self._aead = AESGCM(derived.derive(key))

    def close(self, number: int, data: bytes | memoryview) -> bytes:
        """A record, sealed."""
        return self._aead.encrypt(number.to_bytes(12, "little"), data, None)

    def open(self, number: int, data: bytes | memoryview) -> bytes:
        """What was sealed as this record. Raises SealError."""
        from cryptography.exceptions import InvalidTag

        try:
            return self._aead.decrypt(number.to_bytes(12, "little"), data, None)
        except InvalidTag as error:
            raise SealError(f"record {number}") from error


def new_salt() -> bytes:
    """For a new file."""
    return os.urandom(SALT_BYTES)


def read_key(value: bytes | str | None) -> bytes | None:
    """The key that a caller gave. Raises OptionError for what is none, and where the package that
    encrypts is not installed."""
    if value is None:
        return None
    key = bytes.fromhex(value) if isinstance(value, str) and _HEX.fullmatch(value) else value
    if not isinstance(key, bytes) or len(key) != 32:
        kind = f"{len(value)} characters" if isinstance(value, str) else type(value).__name__
        raise OptionError(f"the store's key is no key ({kind}); {_FORMS}")
    if find_spec("cryptography") is None:
        raise OptionError(
            "a store's key needs the package cryptography; pip install 'kept-llm[encrypt]', or "
            "leave the key out"
        )
    return key


def secret_of(key: bytes | None) -> str:
    """What the keys of blocks depend on besides, so that nobody without the key can guess texts
    from the names of files; empty where nothing is encrypted."""
    return "" if key is None else hashlib.sha256(b"kept names" + key).hexdigest()
