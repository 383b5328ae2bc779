"""A cache's options: ranges at the door, precedence over the checkpoint, contradictions."""

from __future__ import annotations

import dataclasses
import inspect
import pickle
import subprocess
import sys
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kept.errors import OptionError
from kept.options import CACHE_FIELDS, CacheImplementation, CacheOptions, ResolvedCacheOptions


def test_the_table_is_of_the_fields() -> None:
    names = [field.name for field in CACHE_FIELDS]
    for kind in (CacheOptions, ResolvedCacheOptions):
        assert [field.name for field in dataclasses.fields(kind)] == names  # type: ignore[arg-type]
    assert list(inspect.signature(CacheOptions).parameters) == names


def test_every_field_is_documented() -> None:
    told = " ".join((CacheOptions.__doc__ or "").split())
    for field in CACHE_FIELDS:
        assert f"{field.name}: {field.text} {field.more}".rstrip() in told
        assert "Default: " in field.text


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("use_cache", v) for v in (0, "no")],
        *[("cache_implementation", v) for v in ("hybrid", 1)],
        *[
            ("kv_dtype", v)
            for v in ("int5", "float64", 8, ("int8",), ("k8v4", "int8"), ["int8", 4])
        ],
        *[("sliding_window", v) for v in (0, 1.0)],
        *[("num_sinks", v) for v in (-1,)],
        *[("max_cache_len", v) for v in (0, True)],
        *[("kv_budget", v) for v in (0, [], [1, 0], "512", 1.0, b"1", np.float32(1))],
        *[("eviction_score", v) for v in ("h2o", 1)],
        *[("num_recent", v) for v in (-1,)],
        *[("overflow", v) for v in ("wrap", True)],
        *[("slide_hop", v) for v in (0,)],
    ],
)
def test_a_value_out_of_range_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(OptionError, match=rf"^{name}.*; pass"):
        CacheOptions(**{name: value})


def test_what_is_no_option_of_a_cache_is_refused() -> None:
    with pytest.raises(
        OptionError, match=r"^CacheOptions has no temperature; there are .*kv_dtype"
    ):
        CacheOptions(temperature=1)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"slide_hop": 8}, "slide_hop=8"),
        ({"slide_hop": 8, "overflow": "stop"}, "slide_hop=8"),
        ({"sliding_window": 8}, r"sliding_window=8.*cache_implementation='dynamic'"),
        ({"num_sinks": 4, "cache_implementation": "static"}, "num_sinks=4"),
        ({"max_cache_len": 64}, "max_cache_len=64"),
        ({"max_cache_len": 64, "cache_implementation": "sliding"}, "max_cache_len=64"),
        ({"cache_implementation": "evicting"}, "needs kv_budget"),
        ({"use_cache": False, "cache_implementation": "dynamic"}, "cache_implementation"),
        ({"use_cache": False, "max_cache_len": 64}, "max_cache_len=64"),
        ({"use_cache": False, "kv_dtype": "int8"}, "kv_dtype='int8' describes a cache"),
    ],
)
def test_options_that_contradict_each_other_are_refused(
    options: dict[str, Any], named: str
) -> None:
    cache_options = CacheOptions(**options)
    with pytest.raises(OptionError, match=named):
        cache_options.resolve()


@pytest.mark.parametrize(
    ("options", "config", "named"),
    [
        ({"cache_implementation": "static"}, {"use_cache": False}, "use_cache=False .from"),
        ({}, {"cache_implementation": "quantized"}, "generation_config.json sets cache_impl"),
        ({}, {"cache_implementation": 1}, "must be the name of a cache"),
        ({"cache_implementation": "static"}, {"max_cache_len": 0}, "json's max_cache_len=0"),
    ],
)
def test_what_the_checkpoint_says_is_checked_and_named(
    options: dict[str, Any], config: dict[str, object], named: str
) -> None:
    with pytest.raises(OptionError, match=named):
        CacheOptions(**options).resolve(config)


@pytest.mark.parametrize(
    ("options", "config", "expected"),
    [
        ({}, {"cache_implementation": "hybrid"}, "dynamic"),
        ({}, {"cache_implementation": "offloaded_static"}, "static"),
        ({}, {"cache_implementation": "sliding"}, "sliding"),
        ({"cache_implementation": "static"}, {"cache_implementation": "quantized"}, "static"),
        ({"use_cache": False}, {"cache_implementation": "quantized"}, None),
        ({}, {"use_cache": False, "cache_implementation": "hybrid"}, None),
    ],
)
def test_the_checkpoints_kind_of_cache(
    options: dict[str, Any], config: dict[str, object], expected: str | None
) -> None:
    assert CacheOptions(**options).resolve(config).cache_implementation == expected


def test_defaults() -> None:
    assert CacheOptions().resolve() == ResolvedCacheOptions(
        use_cache=True,
        cache_implementation="dynamic",
        kv_dtype=None,
        max_cache_len=None,
        sliding_window=None,
        num_sinks=0,
        kv_budget=None,
        eviction_score=None,
        num_recent=None,
        overflow="stop",
        slide_hop=None,
    )
    evicting = CacheOptions(cache_implementation="evicting", kv_budget=9).resolve()
    assert (evicting.num_sinks, evicting.eviction_score) == (4, "attention")


_OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "use_cache": st.booleans(),
        "cache_implementation": st.sampled_from(get_args(CacheImplementation)),
        "kv_dtype": st.sampled_from(["int8", "k8v4", ("int4", "float16")]),
        "max_cache_len": st.integers(1, 9),
        "sliding_window": st.integers(1, 9),
        "num_sinks": st.integers(0, 9),
        "kv_budget": st.integers(1, 9) | st.lists(st.integers(1, 9), min_size=1, max_size=3),
        "eviction_score": st.sampled_from(["window", "attention"]),
        "num_recent": st.integers(0, 9),
        "overflow": st.sampled_from(["stop", "slide"]),
        "slide_hop": st.integers(1, 9),
    },
)


def _resolve_or_error(
    options: CacheOptions, config: dict[str, Any]
) -> ResolvedCacheOptions | OptionError:
    try:
        return options.resolve(config)
    except OptionError as error:
        return error


@given(options=_OPTIONS, config=_OPTIONS)
def test_resolving_keeps_what_was_given_or_names_it(
    options: dict[str, Any], config: dict[str, Any]
) -> None:
    asked = CacheOptions(**options)
    found = _resolve_or_error(asked, config)
    if isinstance(found, OptionError):
        assert any(f"{name}=" in str(found) for name in options | config)
        return
    for name in options:
        assert getattr(found, name) == getattr(asked, name)
    assert (found.cache_implementation is None) is not found.use_cache
    for field in CACHE_FIELDS:
        if field.kinds and found.cache_implementation not in field.kinds:
            assert getattr(found, field.name) in (None, 0)
    again = CacheOptions(**dict(reversed(options.items()))).resolve(config)
    assert {found: 1}[again] == 1


def test_options_are_frozen_and_equal_by_value() -> None:
    options = CacheOptions(kv_budget=[3, np.int64(4)], kv_dtype=("int8", "int4"))
    same = CacheOptions(kv_budget=(3, 4), kv_dtype="k8v4")
    assert (options, hash(options)) == (same, hash(same))
    assert pickle.loads(pickle.dumps(options)) == dataclasses.replace(options) == options
    with pytest.raises(dataclasses.FrozenInstanceError):
        options.use_cache = True  # type: ignore[misc]


def test_a_pair_of_stored_dtypes_goes_by_its_name() -> None:
    for pair, expected in (
        (("int8", "int4"), "k8v4"),
        (["int8", "int8"], "int8"),
        (["int4", "bfloat16"], ("int4", "bfloat16")),
    ):
        assert CacheOptions(kv_dtype=pair).kv_dtype == expected  # type: ignore[arg-type]


def test_the_table_comes_without_torch_and_numpy() -> None:
    """`kept --help` reads it, and should not take seconds."""
    code = "import sys, kept.cli.app; print({'torch', 'numpy'} & {*sys.modules})"
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert found.stdout == "set()\n"
