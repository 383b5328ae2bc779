"""What a PNG's bytes say of it."""

import struct
from pathlib import Path


def png_size(path: Path) -> tuple[int, int]:
    """Width and height; fails unless the file is a whole PNG with something in it."""
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    assert data[-8:-4] == b"IEND"
    assert len(data) > 10_000
    width, height = struct.unpack(">II", data[16:24])
    return width, height
