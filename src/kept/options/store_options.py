"""Where prefixes outlive a process unless somebody says otherwise."""

from __future__ import annotations

from typing import Final

PREFIX_STORE: Final = "~/.cache/kept/prefixes"
STORE_BYTES: Final = "20GiB"
