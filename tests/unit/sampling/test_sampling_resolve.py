"""Any options with any checkpoint resolve to a consistent whole, or to an error by name."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from kept.errors import OptionError
from kept.sampling import ResolvedParams, SamplingParams

_OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "max_new_tokens": st.integers(1, 400),
        "min_new_tokens": st.integers(0, 400),
        "do_sample": st.booleans(),
        "temperature": st.floats(0, 4),
        "top_k": st.integers(0, 100),
        "top_p": st.floats(0, 1, exclude_min=True),
        "min_p": st.floats(0, 1),
        "repetition_penalty": st.floats(0.1, 4),
        "no_repeat_ngram_size": st.integers(0, 5),
        "num_beams": st.integers(1, 4),
        "length_penalty": st.floats(-2, 2),
        "early_stopping": st.sampled_from([True, False, "never"]),
        "num_return_sequences": st.integers(1, 4),
        "stop_strings": st.lists(st.text(min_size=1), max_size=3),
        "eos_token_id": st.integers(0, 50) | st.lists(st.integers(0, 50), min_size=1, max_size=3),
    },
)


@given(options=_OPTIONS, config=_OPTIONS)
def test_resolving_gives_a_consistent_whole_or_names_an_option(
    options: dict[str, Any], config: dict[str, Any]
) -> None:
    params = _resolve_or_error(options, config)
    if isinstance(params, OptionError):
        assert any(f"{name}=" in str(params) for name in options | config)
        return
    _check_consistent(params)
    for name, value in options.items():
        if name not in {"stop_strings", "eos_token_id"}:
            assert getattr(params, name) == value or _is_idle(name, params)
    again = SamplingParams(**options, seed=1).resolve(config)
    assert params == again


def _resolve_or_error(
    options: dict[str, Any], config: dict[str, Any]
) -> ResolvedParams | OptionError:
    try:
        return SamplingParams(**options, seed=1).resolve(config)
    except OptionError as error:
        return error


def _check_consistent(params: ResolvedParams) -> None:
    assert params.min_new_tokens <= params.max_new_tokens
    assert params.temperature > 0
    assert params.do_sample or params.num_beams > 1 or params.num_return_sequences == 1
    assert params.num_beams == 1 or params.num_return_sequences <= params.num_beams


def _is_idle(name: str, params: ResolvedParams) -> bool:
    return name in {"temperature", "top_k", "top_p", "min_p"} and not params.do_sample
