"""A file of the store: some consecutive blocks of one text, whole, described, never changed.

    offset  bytes
    0       8      "keptkv\\r\\n"
    8       4      version of this format           little-endian, as all numbers
    12      4      H
    16      8      XXH3-64 of the 16 bytes before, the 32 behind, and the header as it lies
    24      32     the salt of the file's encryption, zeros where there is none
    56      H      header: JSON
    56 + H         the blocks of the first group of layers, one after the other, then those of the
                   next group

    a block of a group      layer 0: keys, values; layer 1: keys, values; ...
    keys of a layer         the parts of their codec, each (G, 64, width), as they lie in memory

The header says all that the numbers depend on: `Namespace` (model, instruction set, kernels, codec,
windows, block), a hash of the salt, the key of the block before, and the tokens; and of each block
of each group its XXH3-128. Keys chain over all of these (`blocks/keys.py`), so that who knows the
key before and the tokens knows that the file is of its own text, under its own salt and model.
Tokens behind the last one of a block that is not full are zeros. With a key, header and blocks are
sealed (`seal.py`), and each is 16 bytes longer. A file is written beside its place and moved there;
nobody waits for the disk, so a file may be torn by a crash of the machine: checksums tell.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from xxhash import xxh3_64_digest, xxh3_128_hexdigest

from kept.blocks import BLOCK, Namespace, blocks_of
from kept.blocks.keys import TOKEN_BYTES, next_key, token_bytes
from kept.store.names import name_of, tag_of
from kept.store.seal import SALT_BYTES, TAG_BYTES, FileSeal, SealError, new_salt

MAGIC: Final = b"keptkv\r\n"
VERSION: Final = 1
FIXED: Final = 56  # bytes before the header
MOST_HEADER: Final = 1 << 20  # bytes
_FRONT = struct.Struct("<8sII")


class FileError(Exception):
    """A file is not what it should be. reason: as `StoreCounters.faults` names it."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Header:
    """What a file says of itself. before: the key of the block or root that it follows, 32 bytes.
    start: the text's tokens before it. group_bytes: of a block of each group. checksums: of each
    group, of each block. name: how its model is called, for people."""

    namespace: Namespace
    salt: str
    before: bytes
    start: int
    tokens: tuple[int, ...]
    group_bytes: tuple[int, ...]
    checksums: tuple[tuple[str, ...], ...]
    name: str = ""

    @property
    def num_blocks(self) -> int:
        """How many blocks it holds."""
        return blocks_of(len(self.tokens))

    @property
    def keys(self) -> list[bytes]:
        """Of the block before, and of its own."""
        tokens, size = token_bytes(self.tokens), TOKEN_BYTES * BLOCK
        found = [self.before]
        for begin in range(0, len(tokens), size):
            found.append(next_key(found[-1], tokens[begin : begin + size]))
        return found

    @property
    def file_name(self) -> str:
        """What its file is called."""
        before, *own = map(tag_of, self.keys)
        return name_of(before, own, (len(self.tokens) - 1) % BLOCK + 1)

    def data_bytes(self, sealed: bool) -> int:
        """Bytes of all blocks in the file."""
        return sum(self.num_blocks * (size + TAG_BYTES * sealed) for size in self.group_bytes)

    def offset(self, group: int, position: int, sealed: bool) -> int:
        """Where a block of a group begins, counted from where the first does."""
        sizes = [size + TAG_BYTES * sealed for size in self.group_bytes]
        return self.num_blocks * sum(sizes[:group]) + position * sizes[group]

    def record(self, group: int, position: int) -> int:
        """The number of a block of a group among what is sealed."""
        return 1 + group * self.num_blocks + position

    def to_json(self) -> bytes:
        """Its bytes in a file."""
        space = self.namespace
        found = {
            "model": space.model, "isa": space.isa, "kernels": space.kernels, "codec": space.codec,
            "windows": list(space.windows), "block": space.block, "salt": self.salt,
            "before": self.before.hex(), "start": self.start, "tokens": self.tokens,
            "group_bytes": self.group_bytes, "checksums": self.checksums, "name": self.name,
        }  # fmt: skip
        return json.dumps(found, separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Header:
        """What `to_json` wrote. Raises ValueError, KeyError or TypeError for anything else."""
        x: dict[str, Any] = json.loads(data)
        space = Namespace(
            x["model"], x["isa"], x["kernels"], x["codec"], tuple(x["windows"]), x["block"]
        )
        found = cls(
            space,
            str(x["salt"]),
            bytes.fromhex(x["before"]),
            int(x["start"]),
            tuple(map(int, x["tokens"])),
            tuple(map(int, x["group_bytes"])),
            tuple(map(tuple, x["checksums"])),
            str(x["name"]),
        )
        counts = {len(of) for of in found.checksums}
        if counts != {found.num_blocks} or len(found.checksums) != len(found.group_bytes):
            raise ValueError("checksums do not fit the blocks")
        if min(found.group_bytes) < 1 or not found.tokens or space.block != BLOCK:
            raise ValueError("no blocks")
        return found


def salt_digest(salt: str) -> str:
    """What a file says of its salt, which may be a secret."""
    return hashlib.sha256(salt.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def checksum(data: bytes | memoryview) -> str:
    """Of a block of a group, as it lies in memory."""
    return xxh3_128_hexdigest(data)


def pack(header: Header, blocks: Sequence[Sequence[memoryview]], key: bytes | None) -> list[bytes]:
    """The pieces of a file, in order. blocks: of each group, of each block its bytes."""
    text, file_salt = header.to_json(), bytes(SALT_BYTES)
    pieces: list[Any] = [block for group in blocks for block in group]
    if key is not None:
        file_salt = new_salt()
        seal = FileSeal(key, file_salt)
        text = seal.close(0, text)
        pieces = [seal.close(number, x) for number, x in enumerate(pieces, 1)]
    front = _FRONT.pack(MAGIC, VERSION, len(text))
    found = xxh3_64_digest(front + file_salt + text)
    return [front + found + file_salt + text, *pieces]


def header_bytes(start: bytes) -> int:
    """Bytes of the header, by the first `FIXED` bytes of a file. Raises FileError."""
    if len(start) < FIXED:
        raise FileError("truncated", f"it has {len(start)} bytes")
    magic, version, size = _FRONT.unpack_from(start)
    if magic != MAGIC:
        raise FileError("damaged", "it does not begin as a file of the store does")
    if version != VERSION:
        raise FileError("stale", f"it is of version {version}, and this kept reads {VERSION}")
    if size > MOST_HEADER:
        raise FileError("damaged", f"its header would have {size:,} bytes")
    return int(size)


def unpack(start: bytes, size: int, key: bytes | None) -> tuple[Header, FileSeal | None]:
    """The header of a file, and what opens its blocks. start: its bytes up to the header's end.
    size: of the whole file. Raises FileError."""
    end = FIXED + header_bytes(start)
    if len(start) < end:
        raise FileError("truncated", "it ends within its header")
    front, found, file_salt = start[:16], start[16:24], start[24:56]
    text = start[FIXED:end]
    if xxh3_64_digest(front + file_salt + text) != found:
        raise FileError("damaged", "its header does not match its checksum")
    is_sealed = any(file_salt)
    if is_sealed != (key is not None):
        raise FileError("sealed", "it is encrypted" if is_sealed else "it is not encrypted")
    seal = None if key is None else FileSeal(key, file_salt)
    try:
        header = Header.from_json(text if seal is None else seal.open(0, text))
    except SealError as error:
        raise FileError("sealed", "its header was encrypted with another key") from error
    except (ValueError, KeyError, TypeError) as error:
        raise FileError("damaged", f"its header cannot be read: {error}") from error
    whole = end + header.data_bytes(seal is not None)
    if size != whole:
        reason = "truncated" if size < whole else "damaged"
        raise FileError(reason, f"it has {size:,} bytes, and {whole:,} are described")
    return header, seal
