"""Whatever is passed to a public function, or stands in a file, what comes out is kept's own error.

Each door is called as it should be, with one argument replaced by one strange value after another.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from kept import (
    LLM,
    Cache,
    CacheOptions,
    EvictionPolicy,
    SamplingParams,
    from_legacy,
    make_cache,
    to_legacy,
)
from kept.cache import KVShape, Offloaded, file_tensors, load_cache
from kept.errors import CacheError, KeptError
from kept.models import quantize_checkpoint
from kept.options import CACHE_FIELDS
from kept.sampling import check_keywords, fields
from kept.sampling.rules import RULE_FIELDS
from kept.sampling.transformers_fields import REFUSED

JSON: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 3, 2**31, 2**70, 10**400, 0.0, 1.0, 1.5, -1e308),
    *(math.nan, math.inf, "", " ", ".", "x", "\0", "\ud800", "a" * 5000, "a/" * 3000),
    *([], [None], [[]], [1], [0, 0], ["a"], [-1, 2], {}, {"a": 1}, {"a": {"b": []}}),
)
STRANGE: tuple[Any, ...] = (
    *(value for value in JSON if value != 2**31),  # a machine may have the memory for so many
    *(b"x", bytearray(b"x"), {1: 2}, (), (0,), (1, 2, 3), ((),), set(), range(3), object(), int),
    *(torch.tensor(1.0), torch.tensor(1), torch.zeros(2, 2), torch.zeros(0)),
    *(torch.empty(2, device="meta"), torch.empty((), device="meta"), torch.eye(2).to_sparse()),
    *(torch.tensor([1, 0]), torch.zeros(2, 2, 2, 2, dtype=torch.complex64)),
    *(np.array(1), np.array([1.5]), np.array([1, 2]), np.zeros(0), np.int64(1), np.float32(2)),
    *(Path("."), Path("\0"), torch.float16, torch.int8, torch.device("meta"), Ellipsis),
)
SHAPES = (KVShape(2, 4), KVShape(2, 4))
KEYS = torch.ones(2, 2, 3, 4)
NEW = KEYS[:, :, :1]


def filled() -> Cache:
    cache = make_cache(SHAPES, num_slots=2)
    for layer in range(len(SHAPES)):
        cache.update(KEYS, KEYS, layer)
    return cache


def method(name: str) -> Callable[..., object]:
    return lambda *arguments: getattr(filled(), name)(*arguments)


Door = tuple[Callable[..., object], Mapping[str, Any] | tuple[Any, ...]]
SIZES = {"num_slots": 2, "device": "cpu", "dtype": torch.float32, "place": None}


def doors(folder: Path) -> dict[str, Door]:
    """Every public function that takes no model, and arguments that it takes."""
    saved = folder / "cache"
    filled().save(saved)
    methods = {
        "save": (folder / "other",),
        "max_step": (0,),
        "lease": ((0, 1),),
        "truncate": (1,),
        "select": ([0],),
        "repeat": (2,),
        "reorder": ([1, 0],),
        "concatenate": ([filled()],),
        "layer": (0, 0),
        "held": (0,),
        "update": (NEW, NEW, 0),
        "put": (NEW, NEW, 0),
    }
    kinds: dict[str, dict[str, Any]] = {
        "dynamic": {"kv_dtype": "int8"},
        "static": {"max_cache_len": 8},
        "sliding": {"sliding_window": 8, "num_sinks": 1},
        "evicting": {"budget": 8, "policy": "key-norm", "grain": 4},
    }
    return {
        **{
            f"make {k}": (make_cache, {"shapes": SHAPES, "kind": k, **v, **SIZES})
            for k, v in kinds.items()
        },
        **{f"Cache.{name}": (method(name), arguments) for name, arguments in methods.items()},
        "fingerprint": (lambda text: filled().save(folder / "other", fingerprint=text), ("",)),
        "shape": (lambda *sizes: make_cache([KVShape(*sizes)]), (2, 4, None, None, False)),
        "shapes": (lambda shape: make_cache([shape]), (KVShape(2, 4),)),
        "load_cache": (
            load_cache,
            {"path": saved, "shapes": SHAPES, "fingerprint": "", "device": "cpu", "place": None},
        ),
        "from_legacy": (from_legacy, {"layers": [(KEYS, KEYS)] * 2, "kv_dtype": "int8"}),
        "a pair": (lambda pair: from_legacy([pair]), ((KEYS, KEYS),)),
        "a tensor": (lambda keys, values: from_legacy([(keys, values)]), (KEYS, KEYS)),
        "to_legacy": (to_legacy, (filled(),)),
        "policy": (EvictionPolicy, ("key-norm", 1, 1)),
        "place": (Offloaded, (folder, 1000)),
        "model": (LLM, {"source": folder / "none", "device": None, "revision": None}),
        "offloading": (LLM, {"offload_folder": folder, "offload_memory": 0}),
        "memory": (LLM, {"source": folder / "none", "kv_memory": "1GiB"}),
        "quantize": (quantize_checkpoint, (folder / "none", folder / "out", "int8")),
        **{
            f.name: (lambda value, n=f.name: SamplingParams(**{n: value}), (None,))
            for f in (*fields.FIELDS, *RULE_FIELDS)
        },
        **{
            f.name: (lambda value, n=f.name: CacheOptions(**{n: value}), (None,))
            for f in CACHE_FIELDS
        },
        **{
            name: (lambda value, n=name: check_keywords({n: value}, frozenset()), (None,))
            for name in REFUSED
        },
    }


def call(function: Callable[..., object], arguments: Any) -> object:
    return function(**arguments) if isinstance(arguments, dict) else function(*arguments)


def test_what_a_public_function_cannot_take_is_an_error_of_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # some of the values are names of files
    refused = 0
    for name, (function, arguments) in doors(tmp_path).items():
        named = isinstance(arguments, dict)
        for at in arguments if named else range(len(arguments)):
            for value in STRANGE:
                changed: Any = dict(arguments) if named else list(arguments)
                changed[at] = value
                try:
                    call(function, changed)
                except KeptError:
                    refused += 1
                except Exception as error:
                    pytest.fail(f"{name}, {at} = {value!r:.80}: {type(error).__name__}: {error}")
    assert refused > 5000


KINDS: tuple[dict[str, Any], ...] = (
    {"kind": "static", "max_cache_len": 8},
    {"kind": "evicting", "budget": 4},
    {"kind": "sliding", "sliding_window": 4},
)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind["kind"])
def test_a_description_of_any_values_loads_or_is_damaged(
    kind: dict[str, Any], tmp_path: Path
) -> None:
    """As somebody would write it who can make checksums."""
    place, refused = tmp_path / "cache", 0
    cache = make_cache(SHAPES, num_slots=2, **kind)
    for layer in range(len(SHAPES)):
        cache.update(KEYS, KEYS, layer)
    cache.save(place)
    tensors = load_file(place)
    with safe_open(str(place), framework="pt") as handle:
        metadata = handle.metadata()
    right = json.loads(metadata["description"])
    [layout] = right["layouts"]
    changes = [{field: value} for field in right for value in JSON]
    changes += [{"layouts": [{**layout, field: value}]} for field in layout for value in JSON]
    for change in changes:
        text = json.dumps({**right, **change})
        described = {"description": text, "checksum": file_tensors.checksum_of_text(text)}
        save_file(tensors, place, metadata | described)
        try:
            load_cache(place, SHAPES)
        except CacheError:
            refused += 1
    assert refused > 300


def test_a_generation_config_of_any_values_is_resolved_or_refused() -> None:
    names = [field.name for field in (*fields.FIELDS, *CACHE_FIELDS)]
    names += ["max_length", "min_length"]
    names += ["bad_words_ids", "suppress_tokens", "guidance_scale", "watermarking_config"]
    refused = 0
    for name in names:
        for value in JSON:
            for resolve in (
                partial(SamplingParams().resolve, vocab_size=50),
                CacheOptions().resolve,
            ):
                try:
                    resolve({name: value})
                except KeptError:
                    refused += 1
    assert refused > 300
