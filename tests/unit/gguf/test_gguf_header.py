"""GGUF headers: what is read, and that no count, length, size or place in one is believed.

CVE-2026-7482 read weights from beyond the end of what a file held, CVE-2026-27940 took too little
memory for sizes whose sum went past the range of an integer: both are refused here before anything
is allocated.
"""

from __future__ import annotations

import os
import resource
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import pytest
from gguf.quants import _type_traits

from kept.errors import CheckpointNotFoundError, UnsupportedFormatError, WeightsError
from kept.gguf import BLOCK_TYPES, is_gguf, read_header, read_headers, shard_names

U32, STRING, ARRAY = 4, 8, 9


def text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(data)) + data


def tensor(
    name: str, shape: tuple[int, ...], kind: int = 0, offset: int = 0, dimensions: int | None = None
) -> bytes:
    """shape: innermost first, as the file has it."""
    count = len(shape) if dimensions is None else dimensions
    sizes = struct.pack(f"<{len(shape)}Q", *shape)
    return text(name) + struct.pack("<I", count) + sizes + struct.pack("<IQ", kind, offset)


def pair(key: str, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


def file(
    *parts: bytes,
    version: int = 3,
    tensors: int = 0,
    keys: int = 0,
    data: int = 0,
    magic: bytes = b"GGUF",
) -> bytes:
    head = magic + struct.pack("<IQQ", version, tensors, keys) + b"".join(parts)
    return head + bytes(-len(head) % 32) + bytes(data)


@pytest.fixture
def little_memory() -> Iterator[None]:
    """Any attempt to take a GiB more than there is ends in a MemoryError, which no test expects."""
    limits = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 30), limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, limits)


def read(data: bytes, folder: Path) -> Any:
    path = folder / "model.gguf"
    path.write_bytes(data)
    return read_header(path)


def test_what_a_file_says(tmp_path: Path) -> None:
    array = struct.pack("<IQ", STRING, 2) + text("a") + text("é")
    floats = struct.pack("<IQ2f", 6, 2, 1.5, -2.0)
    flags = struct.pack("<IQ3B", 7, 3, 1, 0, 1)
    for version in (2, 3):
        found = read(
            file(
                pair("x", U32, struct.pack("<I", 7)),
                pair("list", ARRAY, array),
                pair("floats", ARRAY, floats),
                pair("flags", ARRAY, flags),
                pair("on", 7, b"\1"),
                pair("far", 10, struct.pack("<Q", 2**63)),
                tensor("b", (32, 2), kind=8, offset=32),
                tensor("a", (4, 2), offset=0),
                version=version,
                tensors=2,
                keys=6,
                data=100,
            ),
            tmp_path,
        )
        assert found.metadata == {
            "x": 7,
            "list": ["a", "é"],
            "floats": [1.5, -2.0],
            "flags": [True, False, True],
            "on": True,
            "far": 2**63,
        }
        assert list(found.tensors) == ["a", "b"]
        a, b = found.tensors.values()
        assert (a.shape, a.type.name, a.num_bytes, a.row_bytes) == ((2, 4), "F32", 32, 16)
        assert (b.shape, b.type.name, b.num_bytes, b.start - a.start) == ((2, 32), "Q8_0", 68, 32)


HUGE = 2**64 - 1
DAMAGE: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "the magic number of 4 bytes reaches beyond its end"),
    "magic": (file(magic=b"GGML"), "begins with b'GGML'"),
    "cut": (file()[:20], "reaches beyond its end"),
    "tensors": (file(tensors=HUGE), "announces 18,446,744,073,709,551,615 tensors"),
    # Whose product with what each takes in memory is small again in 64 bits.
    "tensors that wrap": (file(tensors=2**64 // 24 + 1), "announces 768,614,336,404,564,651 ten"),
    "tensors beyond": (file(tensors=2, data=8), "announces 2 tensors where 24 bytes"),
    "keys": (file(keys=2**63), "announces 9,223,372,036,854,775,808 keys"),
    "keys beyond": (file(keys=9, data=64), "announces 9 keys of metadata"),
    "key": (file(struct.pack("<Q", 2**40), keys=1, data=64), "a key is 1,099,511,627,776 bytes"),
    "key beyond": (file(struct.pack("<Q", 60_000), keys=1, data=64), "a key of 60,000 bytes rea"),
    "key twice": (file(pair("x", 7, b"\1") * 2, keys=2), "'x' is in its metadata twice"),
    "string": (file(pair("x", STRING, struct.pack("<Q", HUGE)), keys=1, data=64), "'x' is 18,446"),
    "string of bytes": (file(pair("x", STRING, text(b"\xff")), keys=1, data=64), "is not UTF-8"),
    "array": (
        file(pair("x", ARRAY, struct.pack("<IQ", 0, HUGE)), keys=1, data=64),
        "announces 18,446,744,073,709,551,615 items of 'x'",
    ),
    "array of numbers that wraps": (
        file(pair("x", ARRAY, struct.pack("<IQ", 6, 2**62 + 1)), keys=1, data=64),
        "items of 'x'",
    ),
    "array of strings": (
        file(pair("x", ARRAY, struct.pack("<IQ", STRING, 4_000_000)), keys=1, data=64),
        "announces 4,000,000 items of 'x' where",
    ),
    "array of arrays": (
        file(pair("x", ARRAY, struct.pack("<IQ", ARRAY, 1)), keys=1, data=64),
        "items of type 9",
    ),
    "type of a value": (file(pair("x", 77, b""), keys=1, data=64), "a value of type 77"),
    "alignment": (
        file(pair("general.alignment", U32, struct.pack("<I", 0)), keys=1),
        "alignment is 0, and must be a power of 2",
    ),
    "alignment that is large": (
        file(pair("general.alignment", U32, struct.pack("<I", 2**31)), keys=1),
        "alignment is 2147483648",
    ),
    "alignment of text": (
        file(pair("general.alignment", STRING, text("32")), keys=1),
        "alignment is 32, and must",
    ),
    "no dimensions": (file(tensor("t", ()), tensors=1, data=64), "'t' has 0 dimensions"),
    "dimensions": (
        file(tensor("t", (1,), dimensions=HUGE >> 32), tensors=1, data=64),
        "'t' has 4,294,967,295 dimensions",
    ),
    "a dimension of 0": (file(tensor("t", (4, 0)), tensors=1, data=64), "does not consist of F32"),
    "blocks": (file(tensor("t", (48,), kind=8), tensors=1, data=64), "Q8_0 blocks of 32"),
    "size": (file(tensor("t", (32, 2)), tensors=1, data=64), "takes 256 bytes from byte"),
    "size that wraps": (
        file(tensor("t", (2**32, 2**32)), tensors=1, data=64),
        "takes 73,786,976,294,838,206,464 bytes",
    ),
    "offset": (file(tensor("t", (4,), offset=2**40), tensors=1, data=64), "is too far"),
    "offset that wraps": (
        file(tensor("t", (4,), offset=2**64 - 32), tensors=1, data=64),
        "is too far",
    ),
    "offset between": (
        file(tensor("t", (4,), offset=4), tensors=1, data=64),
        "no multiple of the alignment",
    ),
    "overlap": (
        file(tensor("a", (16,)), tensor("b", (4,), offset=32), tensors=2, data=64),
        "'a' and 'b' overlap",
    ),
    "twice": (
        file(tensor("a", (4,)), tensor("a", (4,), offset=32), tensors=2, data=64),
        "two tensors named 'a'",
    ),
    "name": (file(text("n" * 2000), tensors=1, data=64), "a tensor's name is 2,000 bytes"),
}


@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_header_is_named(name: str, tmp_path: Path) -> None:
    data, message = DAMAGE[name]
    with pytest.raises(WeightsError, match=message) as caught:
        read(data, tmp_path)
    assert "model.gguf" in str(caught.value)


def test_every_cut_is_noticed(tmp_path: Path) -> None:
    whole = file(
        pair("x", ARRAY, struct.pack("<IQ", STRING, 1) + text("a")),
        tensor("a", (4, 2)),
        tensors=1,
        keys=1,
        data=32,
    )
    read(whole, tmp_path)
    for length in range(len(whole)):
        with pytest.raises(WeightsError):
            read(whole[:length], tmp_path)


def test_what_kept_does_not_read_is_named(tmp_path: Path) -> None:
    for version, what in ((1, "version 1"), (4, "version 4"), (3 << 24, "a big-endian file")):
        with pytest.raises(UnsupportedFormatError, match=f"is GGUF, {what}, and kept reads"):
            read(file(version=version), tmp_path)
    for kind in (4, 9, 99):
        with pytest.raises(UnsupportedFormatError, match=f"'t' is stored in .* type {kind}, which"):
            read(file(tensor("t", (256,), kind=kind), tensors=1, data=999), tmp_path)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointNotFoundError):
        read_header(tmp_path / "model.gguf")
    os.mkfifo(tmp_path / "pipe.gguf")
    with pytest.raises(WeightsError, match="is a pipe"):
        read_header(tmp_path / "pipe.gguf")


def test_types_are_those_of_the_package() -> None:
    for number, type in BLOCK_TYPES.items():
        kind = gguf.GGMLQuantizationType(number)
        assert kind.name == type.name
        assert gguf.GGML_QUANT_SIZES[kind] == (type.weights, type.num_bytes)
        assert type.is_plain or kind in _type_traits


def test_names(tmp_path: Path) -> None:
    assert is_gguf(tmp_path / "a.gguf")
    assert is_gguf(tmp_path / "A.GGUF")
    assert not is_gguf(tmp_path / "gguf")
    (tmp_path / "folder.gguf").mkdir()
    assert not is_gguf(tmp_path / "folder.gguf")
    assert shard_names("m.gguf") == ["m.gguf"]
    names = ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"]
    assert shard_names(names[1]) == names
    assert shard_names("m-00001-of-99999.gguf") == ["m-00001-of-99999.gguf"]


def test_shards_that_do_not_belong_together(tmp_path: Path) -> None:
    one = file(tensor("a", (4,)), tensors=1, data=32)
    split = pair("split.count", U32, struct.pack("<I", 2))
    for i in (1, 2):
        (tmp_path / f"m-0000{i}-of-00002.gguf").write_bytes(one)
    with pytest.raises(WeightsError, match="one of 1 files, and its name says one of 2"):
        read_headers(tmp_path / "m-00001-of-00002.gguf")
    for i in (1, 2):
        whole = file(split, tensor("a", (4,)), tensors=1, keys=1, data=32)
        (tmp_path / f"m-0000{i}-of-00002.gguf").write_bytes(whole)
    with pytest.raises(WeightsError, match=r"'a' is both in m-00001-of-00002\.gguf and in m-"):
        read_headers(tmp_path / "m-00001-of-00002.gguf")
    (tmp_path / "m.gguf").write_bytes((tmp_path / "m-00001-of-00002.gguf").read_bytes())
    with pytest.raises(WeightsError, match="one of 2 files, and its name says one of 1"):
        read_headers(tmp_path / "m.gguf")
