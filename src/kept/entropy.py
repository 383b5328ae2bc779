"""The system's random bytes, taken many at a time.

Each call for some is one to the system, which lets go of the interpreter: a thread beside one that
computes may wait for milliseconds to have it back.
"""

from __future__ import annotations

import os
from collections import deque
from typing import Final

_BYTES: Final = 16  # of one that is handed out
_AT_ONCE: Final = 256
_waiting: deque[bytes] = deque()


def random_bytes(count: int) -> bytes:
    """As many bytes, at most 16, that nobody has had. Any thread may ask."""
    assert count <= _BYTES, f"{count} bytes are more than are handed out at once"
    while True:
        try:
            return _waiting.popleft()[:count]
        except IndexError:
            found = os.urandom(_BYTES * _AT_ONCE)
            _waiting.extend(found[i : i + _BYTES] for i in range(0, len(found), _BYTES))


def random_name(count: int) -> str:
    """As many bytes, at most 16, in hexadecimal digits."""
    return random_bytes(count).hex()


# A child that had its parent's would hand out the same.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_waiting.clear)
