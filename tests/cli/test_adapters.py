"""`--adapter NAME=FOLDER` of the commands that write text."""

from pathlib import Path

import pytest
from lora import write_adapter
from transformers import LlamaForCausalLM

from cli.running import kept
from kept import LLM

PROMPT = "def add(a"


@pytest.fixture(scope="module")
def adapters(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    base, home = LlamaForCausalLM.from_pretrained(folder), tmp_path_factory.mktemp("adapters")
    for seed, name in enumerate(("one", "two")):
        write_adapter(home / name, base, seed=seed, size=1.0)
    return {name: home / name for name in ("one", "two")}


def flags(adapters: dict[str, Path]) -> list[str]:
    return [x for name, path in adapters.items() for x in ("--adapter", f"{name}={path}")]


def test_texts_go_through_the_one_that_is_named(folder: Path, adapters: dict[str, Path]) -> None:
    llm = LLM(folder, adapters=adapters)
    texts = {
        name: llm.generate(PROMPT, max_new_tokens=12, adapter=name)[0].text
        for name in (None, "one", "two")
    }
    assert len(set(texts.values())) == 3
    asked = ("generate", PROMPT, "-m", folder, "--max-new-tokens", 12, "--no-echo")
    only = {"one": adapters["one"]}
    for given in (flags(only), [*flags(adapters), "--use-adapter", "one"]):
        result = kept(*asked, *given)
        assert result.stdout == texts["one"].removesuffix("\n") + "\n", result.stderr
    answer = llm.chat([{"role": "user", "content": "hi"}], adapter="two", max_new_tokens=5).text
    talk = ("chat", "-m", folder, "--max-new-tokens", 5, "--use-adapter", "two", *flags(adapters))
    assert kept(*talk, stdin="hi\n").stdout.rstrip("\n") == answer.rstrip("\n")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--adapter", "one"], "NAME=FOLDER"),
        (["--adapter", "a=x", "--adapter", "a=y"], "'a' twice"),
        (["--adapter", "a=x", "--adapter", "b=y"], "--use-adapter says which (a, b)"),
        (["--adapter", "a=x", "--use-adapter", "b"], "none of the --adapter given: a"),
        (["--use-adapter", "b"], "none is"),
        (["--adapter", "a=/none"], "no folder here"),
    ],
)
def test_what_is_refused(folder: Path, given: list[str], message: str) -> None:
    result = kept("generate", PROMPT, "-m", folder, *given)
    assert result.exit_code != 0
    assert message in " ".join(result.stderr.split())
