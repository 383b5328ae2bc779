"""Cache files that are damaged, foreign or cannot be written: an error, never a wrong tensor."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from kept.batch import pack
from kept.cache import Cache, KVShape, file_tensors, load_cache, make_cache, saving
from kept.errors import CacheError, OptionError
from kept.ops import KV_CODECS, KVDtype

SHAPES = (KVShape(1, 3), KVShape(2, 4, 3))
CROSSED = (KVShape(1, 3), KVShape(1, 3), KVShape(1, 3, cross=True))


def filled(codec: KVDtype = "int4", kind: str = "sliding") -> Cache:
    """Two slots, the second layer of a window; ragged where the kind is dynamic."""
    cache = make_cache(SHAPES, kind, num_slots=2, kv_dtype=codec)
    for count in (4, 1):
        for layer, shape in enumerate(SHAPES):
            x = torch.randn(2, shape.num_kv_heads, count, shape.head_dim)
            cache.update(x, -x, layer)
    cache.truncate([5, 4] if kind == "dynamic" else [5, 5])
    return cache


def same(a: Cache, b: Cache) -> bool:
    alike = (a.name, a.codec, a.shapes, a.lengths) == (b.name, b.codec, b.shapes, b.lengths)
    begin = max(0, max(a.lengths) - 3)  # which a window still holds
    slots = [
        pair
        for index in range(len(a.layers))
        for pair in zip(a.layer(index, begin), b.layer(index, begin), strict=True)
    ]
    return alike and all(
        torch.equal(x, y) for one, other in slots for x, y in zip(one, other, strict=True)
    )


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Cache, bytes, Path]:
    """A cache, its file's bytes, and a place to put changed ones."""
    folder = tmp_path_factory.mktemp("caches")
    cache = filled()
    cache.save(folder / "whole", fingerprint="a")
    return cache, (folder / "whole").read_bytes(), folder / "changed"


def refused_or_same(saved: tuple[Cache, bytes, Path], content: bytes) -> None:
    cache, _, place = saved
    place.write_bytes(content)
    try:
        found = load_cache(place, SHAPES, fingerprint="a")
    except CacheError as error:
        assert str(place) in str(error)  # noqa: PT017  # either outcome is right
    else:
        assert same(found, cache)


def test_a_changed_byte_is_an_error_or_changes_nothing(saved: tuple[Cache, bytes, Path]) -> None:
    content = saved[1]
    for index in range(len(content)):
        flipped = bytearray(content)
        flipped[index] ^= 1 << index % 8
        refused_or_same(saved, bytes(flipped))


def test_every_changed_byte_of_a_tensor_is_an_error(saved: tuple[Cache, bytes, Path]) -> None:
    _, content, place = saved
    begin = 8 + int.from_bytes(content[:8], "little")
    assert begin < len(content)
    for index in range(begin, len(content)):
        flipped = bytearray(content)
        flipped[index] ^= 1 << index % 8
        place.write_bytes(flipped)
        with pytest.raises(CacheError, match=r"damaged: tensor \S+ is not the one.*delete it"):
            load_cache(place, SHAPES, fingerprint="a")


def test_every_truncation_is_an_error(saved: tuple[Cache, bytes, Path]) -> None:
    _, content, place = saved
    for length in range(0, len(content), 7):
        place.write_bytes(content[:length])
        with pytest.raises(CacheError, match="damaged"):
            load_cache(place, SHAPES, fingerprint="a")


@settings(max_examples=200)
@given(data=st.data())
def test_stretches_of_noise(saved: tuple[Cache, bytes, Path], data: st.DataObject) -> None:
    content = bytearray(saved[1])
    begin = data.draw(st.integers(0, len(content)))
    noise = data.draw(st.binary(max_size=40))
    match data.draw(st.sampled_from(("over", "in", "out"))):
        case "over":
            content[begin : begin + len(noise)] = noise
        case "in":
            content[begin:begin] = noise
        case "out":
            del content[begin : begin + len(noise)]
    refused_or_same(saved, bytes(content))


def rewritten(saved: tuple[Cache, bytes, Path], change: Callable[[dict[str, Any]], object]) -> Path:
    """The file as somebody would write it who can make checksums. Changes its description."""
    _, content, place = saved
    place.write_bytes(content)
    with safe_open(str(place), framework="pt") as handle:
        metadata = handle.metadata()
    description = json.loads(metadata["description"])
    change(description)
    text = json.dumps(description)
    metadata |= {"description": text, "checksum": file_tensors.checksum_of_text(text)}
    save_file(load_file(place), place, metadata)
    return place


WINDOW = {"layout": "blocks", "window": 3, "sinks": 0, "begins": [0, 0]}
RING = {"layout": "ring", "window": 3, "sinks": 0, "slack": 0}


def whole(length: Any) -> dict[str, Any]:
    return {"layout": "contiguous", "max_length": length}


def evicting(budget: int, grain: int = 4) -> dict[str, Any]:
    rule = {"budget": budget, "grain": grain, "score": "key-norm", "sinks": 1, "recent": 1}
    return {"layout": "evicting", **rule}


def put(**fields: Any) -> Callable[[dict[str, Any]], None]:
    return lambda description: description.update(fields)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put(codec=["int8", "int2"]), "stores keys as 'int8' and values as 'int2'.*there are .*i"),
        (put(codec=["int8", "int4"]), "tensor layers.0.keys.codes is not"),
        (put(codec="int8"), "describes no cache"),
        (put(codec=[["int4"], 3]), "describes no cache"),
        (put(unquantized_sinks=2), "holds unquantized_sinks=2, .*; make the cache anew"),
        (put(unquantized_sinks=[2]), r"holds unquantized_sinks=\[2\]"),
        (put(lengths=[5, 6]), "cannot hold|not the one|cannot go back"),
        (put(lengths=[5]), "describes no cache"),
        (put(lengths=[]), "describes no cache"),
        (put(lengths=[-1, 5]), "describes no cache"),
        (put(lengths="many"), "describes no cache"),
        (put(layout_of=[0, 2]), "describes no cache"),
        (put(layout_of=[1, 0]), "window of None where a layer has 3"),
        (put(layout_of=[0]), "describes no cache|layers"),
        (put(layouts=[{"layout": "paged"}] * 2), "describes no cache"),
        (put(layouts=[whole(None), {**WINDOW, "window": 0}]), "no cache"),
        (put(layouts=[whole(None), {**WINDOW, "begins": [64, 0]}]), "no cache"),
        (put(layouts=[whole(None), {**WINDOW, "window": 4}]), "window of 4 where a layer has 3"),
        (put(layouts=[whole(None), RING]), "tokens in rings.*make the cache anew and save it"),
        (put(layouts=[{"layout": "contiguous", "max_length": 3}] * 2), "describes no cache"),
        (put(layouts=[]), "describes no cache"),
        (put(shapes=[]), "0 layers"),
        (put(shapes=[{"heads": 3}]), "describes no cache"),
        (put(checksums={}), "does not hold the tensors"),
        (lambda d: d.pop("kind"), "describes no cache"),
        # Sizes are held against the file before they are allocated.
        (
            put(lengths=[2**31, 5], layout_of=[0, 0], layouts=[whole(None)]),
            "by the lengths 2147483648, 5 it would be",
        ),
        (put(lengths=[2**31] * 2, inputs=[2**40]), "describes no cache"),
        (put(lengths=[2**62, 5]), "describes no cache"),
        (put(lengths=[1e400, 5]), "describes no cache"),
        (put(lengths=["5", 5]), "describes no cache"),
        (put(lengths=[True, 5]), "describes no cache"),
        (
            put(layouts=[whole(2**40), WINDOW]),
            "slots of 1,099,511,627,776 tokens.*this machine has",
        ),
        (put(layouts=[whole(2**62), WINDOW]), "describes no cache"),
        (put(layouts=[whole(1e400), WINDOW]), "describes no cache"),
        (put(layouts=[evicting(2**40), WINDOW]), "would be .*1099511627776"),
        (put(layouts=[evicting(8, grain=2**62), WINDOW]), "describes no cache"),
        (put(layouts=[whole(None), {**WINDOW, "window": 2**62}]), "describes no cache"),
        (put(layouts=[whole(None), WINDOW] * 2), "describes no cache"),
        (put(kind=5), "describes no cache"),
        (put(fingerprint=None), "describes no cache"),
        (put(checksums=[["a", 5]]), "describes no cache"),
    ],
)
def test_descriptions_that_make_no_sense(
    saved: tuple[Cache, bytes, Path], change: Callable[[dict[str, Any]], None], message: str
) -> None:
    with pytest.raises(CacheError, match=message):
        load_cache(rewritten(saved, change), SHAPES, fingerprint="a")


@pytest.fixture(scope="module")
def crossed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Cache, bytes, Path]:
    """`saved` of a cache whose slots attend inputs of 2 and 3 tokens."""
    folder = tmp_path_factory.mktemp("caches")
    cache = make_cache(CROSSED, num_slots=2, kv_dtype=("int8", "float32"))
    with cache.step(pack([[0], [0, 0]], sources=[[1, 2], [3, 4, 5]])) as stores:
        for store, count in zip(stores, (3, 3, 5), strict=True):
            store.append(*torch.randn(2, count, 1, 3))
    cache.save(folder / "whole", fingerprint="a")
    return cache, (folder / "whole").read_bytes(), folder / "changed"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put(inputs=[2, 10**12]), "tensor inputs.1.layers.2.keys.codes is not"),
        (put(inputs=[3, 2]), "tensor inputs.0.layers.2.keys.codes is not"),
        (put(inputs=[2]), "describes no cache"),
        (put(inputs=[2, 3, 4]), "describes no cache"),
        (put(inputs=[2, 0]), "describes no cache"),
        (put(input_of=[0, 2]), "describes no cache"),
        (put(input_of=[0, 0]), "describes no cache"),
        (put(input_of=[-2, 1]), "describes no cache"),
        (put(input_of=[0, 1, 1]), "describes no cache"),
        (put(input_of=[]), "describes no cache"),
        (lambda d: d.pop("inputs"), "describes no cache"),
    ],
)
def test_inputs_that_make_no_sense(
    crossed: tuple[Cache, bytes, Path], change: Callable[[dict[str, Any]], object], message: str
) -> None:
    with pytest.raises(CacheError, match=message):
        load_cache(rewritten(crossed, change), CROSSED, fingerprint="a")


def test_every_changed_byte_of_an_input_is_an_error(crossed: tuple[Cache, bytes, Path]) -> None:
    cache, content, place = crossed
    place.write_bytes(content)
    loaded = load_cache(place, CROSSED, fingerprint="a")
    assert loaded.input_lengths == cache.input_lengths == (2, 3)
    begin = 8 + int.from_bytes(content[:8], "little")
    for index in range(begin, len(content)):
        flipped = bytearray(content)
        flipped[index] ^= 1 << index % 8
        place.write_bytes(flipped)
        with pytest.raises(CacheError, match=r"damaged: tensor \S+ is not the one.*delete it"):
            load_cache(place, CROSSED, fingerprint="a")


@pytest.mark.parametrize(
    ("shapes", "fingerprint", "message"),
    [
        (SHAPES[:1], "a", "holds 2 layers and this model has 1; load it"),
        ((SHAPES[0], KVShape(2, 8, 3)), "a", r"head_dim=4.* in layer 1 .*head_dim=8"),
        ((SHAPES[0], KVShape(2, 4)), "a", r"window=3.* in layer 1 .*window=None"),
        (SHAPES, "", "saved with the fingerprint 'a', not ''"),
        (SHAPES, "b", "saved with the fingerprint 'a', not 'b'"),
    ],
)
def test_another_model(
    saved: tuple[Cache, bytes, Path],
    shapes: tuple[KVShape, ...],
    fingerprint: str,
    message: str,
) -> None:
    _, content, place = saved
    place.write_bytes(content)
    with pytest.raises(CacheError, match=message):
        load_cache(place, shapes, fingerprint=fingerprint)


def test_files_of_another_kind(tmp_path: Path) -> None:
    place = tmp_path / "x"
    with pytest.raises(CacheError, match="x is not a file; give one"):
        load_cache(place, SHAPES)
    with pytest.raises(CacheError, match="not a file"):
        load_cache(tmp_path, SHAPES)
    save_file({"weight": torch.zeros(2)}, place)
    with pytest.raises(CacheError, match="holds no cache of kept"):
        load_cache(place, SHAPES)
    for version in ("1", "2"):
        save_file({"weight": torch.zeros(2)}, place, {"kept_cache": version})
        message = f"version {version}, and this kept reads version 3.*make the cache anew"
        with pytest.raises(CacheError, match=message):
            load_cache(place, SHAPES)
    with pytest.raises(OptionError, match="device 'nope'"):
        load_cache(place, SHAPES, device="nope")


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CacheError, match=r"cannot be saved to .*a folder that exists"):
        filled().save(tmp_path / "none" / "x")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
def test_what_is_no_file_is_not_replaced(tmp_path: Path) -> None:
    place = tmp_path / "pipe"
    os.mkfifo(place)
    with pytest.raises(OptionError, match="is a device or a pipe"):
        filled().save(place)
    assert place.is_fifo()


@pytest.fixture(params=["fsync", "replace", "save_file"])
def failing(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A disk that is full at one point or another."""

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    place = saving if request.param == "save_file" else os
    with monkeypatch.context() as patch:
        patch.setattr(place, request.param, fail)
        yield request.param


def test_a_save_that_fails_leaves_the_old_file(tmp_path: Path, failing: str) -> None:
    place = tmp_path / "x"
    place.write_bytes(b"what was there")
    with pytest.raises(CacheError, match="No space left"):
        filled().save(place)
    assert place.read_bytes() == b"what was there"
    assert list(tmp_path.iterdir()) == [place]


def test_a_file_is_on_disk_before_it_is_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (done.append("fsync"), fsync(fd))[1])
    monkeypatch.setattr(os, "replace", lambda a, b: (done.append("replace"), replace(a, b))[1])
    filled().save(tmp_path / "x")
    assert done == ["fsync", "replace", "fsync"]


@pytest.mark.parametrize("codec", [*KV_CODECS, ("int4", "float16")])
def test_every_codec_of_a_grown_cache(codec: KVDtype, tmp_path: Path) -> None:
    cache = filled(codec, "dynamic")
    cache.save(str(tmp_path / "x"))
    assert same(load_cache(str(tmp_path / "x"), list(SHAPES)), cache)


def test_a_file_that_says_it_holds_no_unquantized_sinks(saved: tuple[Cache, bytes, Path]) -> None:
    """As every one does that an older kept wrote."""
    place = rewritten(saved, put(unquantized_sinks=0))
    assert same(load_cache(place, SHAPES, fingerprint="a"), saved[0])


def test_loading_in_inference_mode(tmp_path: Path) -> None:
    with torch.inference_mode():
        cache = filled()
        cache.save(tmp_path / "x")
        loaded = load_cache(tmp_path / "x", SHAPES)
    assert same(loaded, cache)
    loaded.reset()
    assert loaded.lengths == (0, 0)


@pytest.mark.parametrize("shapes", [None, 5, "layers", [(1, 3)], [None], {1: 2}])
def test_what_are_no_shapes(saved: tuple[Cache, bytes, Path], shapes: Any) -> None:
    with pytest.raises(OptionError, match=r"the shapes are .*; pass model\.kv_shapes"):
        load_cache(saved[2], shapes)


@pytest.mark.parametrize("path", [None, 5, b"cache"])
def test_what_is_no_path(path: Any) -> None:
    with pytest.raises(OptionError, match=r"the cache's file is named by .*; pass a path"):
        load_cache(path, SHAPES)
