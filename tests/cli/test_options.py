"""Every option of the library is a flag, and every flag arrives."""

import dataclasses
from pathlib import Path
from typing import Any, get_args

import pytest
import typer

from cli.running import kept
from kept import CacheOptions, OptionError, SamplingParams
from kept.cache.make import KINDS
from kept.cli import app
from kept.cli.cache_flags import CacheFlags
from kept.cli.options import ModelOptions
from kept.cli.sampling_options import EarlyStopping, SamplingOptions
from kept.ops import KV_CODECS
from kept.options import CACHE_FIELDS, KV_DTYPES, CacheImplementation
from kept.sampling.rules import RULE_FIELDS

# Rules over tokens are lists of ids: they come from a checkpoint or a program, not from a flag.
RULES = {field.name for field in RULE_FIELDS}
OF_PARAMS = [f.name for f in dataclasses.fields(SamplingParams) if f.name not in RULES]
OF_CACHE = [f.name for f in dataclasses.fields(CacheOptions)]
FIELDS = [*OF_PARAMS, *OF_CACHE]
# Flags that name a file, and what may be in it.
FILES = {"json_schema": '{"type": "object"}', "grammar": 'start: "a"'}
# Two values or more where the flag may be repeated.
VALUES: dict[str, tuple[list[str], Any]] = {
    "max_new_tokens": (["7"], 7),
    "min_new_tokens": (["2"], 2),
    "do_sample": ([], True),
    "temperature": (["0.5"], 0.5),
    "top_k": (["3"], 3),
    "top_p": (["0.9"], 0.9),
    "min_p": (["0.1"], 0.1),
    "repetition_penalty": (["1.2"], 1.2),
    "no_repeat_ngram_size": (["2"], 2),
    "num_beams": (["4"], 4),
    "length_penalty": (["-0.5"], -0.5),
    "early_stopping": (["true"], True),
    "num_return_sequences": (["2"], 2),
    "stop_strings": (["a b", "\n"], ("a b", "\n")),
    "eos_token_id": (["5", "3"], (3, 5)),
    "ignore_eos": ([], True),
    "prompt_lookup_num_tokens": (["16"], 16),
    "num_assistant_tokens": (["8"], 8),
    "skip_special_tokens": ([], True),
    "regex": (["a+"], {"kind": "regex", "text": "a+"}),
    "seed": ([str(2**64 - 1)], 2**64 - 1),
    "logprobs": (["0"], 0),
    "use_cache": ([], True),
    "cache_implementation": (["static"], "static"),
    "kv_dtype": (["k8v4"], "k8v4"),
    "sliding_window": (["16"], 16),
    "num_sinks": (["4"], 4),
    "max_cache_len": (["64"], 64),
    "kv_budget": (["512"], 512),
    "eviction_score": (["window"], "window"),
    "num_recent": (["32"], 32),
    "overflow": (["slide"], "slide"),
    "slide_hop": (["8"], 8),
}


def parse(*arguments: str) -> tuple[SamplingParams, CacheOptions]:
    """What `kept generate` makes of flags."""
    command = typer.main.get_command(app).commands["generate"]  # type: ignore[attr-defined]
    values = command.make_context("generate", ["prompt", *arguments]).params
    of_params, of_cache = (
        group(**{field.name: values[field.name] for field in dataclasses.fields(group)})
        for group in (SamplingOptions, CacheFlags)
    )
    return of_params.to_params(), of_cache.to_options()


def parsed(*arguments: str) -> dict[str, Any]:
    """The same by name."""
    params, cache_options = parse(*arguments)
    return dataclasses.asdict(params) | dataclasses.asdict(cache_options)


def test_the_flags_are_the_librarys_fields() -> None:
    assert {field.name for field in dataclasses.fields(SamplingOptions)} == set(OF_PARAMS)
    assert [field.name for field in dataclasses.fields(CacheFlags)] == OF_CACHE
    assert {*VALUES, *FILES} == set(FIELDS)


@pytest.mark.parametrize("name", VALUES)
def test_every_field_is_a_flag_in_kebab_case(name: str) -> None:
    values, expected = VALUES[name]
    flag = "--" + name.replace("_", "-")
    arguments = [part for value in values for part in (flag, value)] if values else [flag]
    assert parsed(*arguments) == {**parsed(), name: expected}


def _given(params: SamplingParams) -> dict[str, Any]:
    return {name: value for name, value in dataclasses.asdict(params).items() if value is not None}


@pytest.mark.parametrize("name", FILES)
def test_a_grammar_comes_from_a_file(name: str, tmp_path: Path) -> None:
    file, flag = tmp_path / "file", "--" + name.replace("_", "-")
    file.write_text(FILES[name])
    expected = SamplingParams(**{name: FILES[name]})  # type: ignore[arg-type]
    assert parsed(flag, str(file)) == {**parsed(), **_given(expected)}
    with pytest.raises(OptionError, match=f"{flag} .*missing cannot be read"):
        parsed(flag, str(tmp_path / "missing"))


def test_a_budget_may_be_one_for_each_layer() -> None:
    assert parsed("--kv-budget", "512,256,128")["kv_budget"] == (512, 256, 128)


def test_a_budget_that_is_no_number_is_refused() -> None:
    found = kept("generate", "x", "--kv-budget", "many")
    assert found.exit_code == 2
    assert "neither a whole number" in found.stderr


def test_no_flags_are_no_options() -> None:
    assert parse() == (SamplingParams(), CacheOptions())


@pytest.mark.parametrize(
    ("flag", "name", "expected"),
    [
        ("--no-cache", "use_cache", False),
        ("--no-do-sample", "do_sample", False),
        ("--early-stopping=false", "early_stopping", False),
        ("--early-stopping=never", "early_stopping", "never"),
    ],
)
def test_the_other_values(flag: str, name: str, expected: object) -> None:
    assert parsed(flag)[name] == expected


def test_the_choices_are_the_librarys() -> None:
    assert get_args(CacheImplementation) == KINDS
    assert set(KV_DTYPES) == set(KV_CODECS) - {"float64"}
    assert set(EarlyStopping) == {"true", "false", "never"}


def test_the_help_of_a_cache_is_the_tables_with_flags_for_options() -> None:
    shown = typer.main.get_command(app).commands["generate"]  # type: ignore[attr-defined]
    told = {p.name: p.help for p in shown.params}
    spelled = {f.name: f.text.replace('overflow="slide"', "--overflow slide") for f in CACHE_FIELDS}
    assert {name: told[name] for name in spelled} == spelled
    assert not [text for text in spelled.values() if '="' in text]


@pytest.mark.parametrize("command", ["generate", "chat"])
def test_the_help_tells_every_flag_and_its_default(command: str) -> None:
    shown = typer.main.get_command(app).commands[command]  # type: ignore[attr-defined]
    known = {
        name
        for group in (ModelOptions, CacheFlags, SamplingOptions)
        for name in group.__annotations__
    }
    options = {p.name: p for p in shown.params if p.name in known}
    assert set(options) == known
    for option in options.values():
        assert "Default: " in option.help
        assert option.rich_help_panel


@pytest.mark.parametrize("command", ["generate", "chat", "explain", "info", "plan", "bench"])
def test_help_is_no_error(command: str) -> None:
    result = kept(command, "--help")
    assert result.exit_code == 0
    assert "Usage" in result.stdout
