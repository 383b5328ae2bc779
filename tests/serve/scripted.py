"""A model that says what a script has it say, in the marks of some family's answers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import kept
from kept import LLM
from kept.text import Tokenizer

MARKS: Final = ("<think>", "</think>", "<tool_call>", "</tool_call>")
_END: Final = "<|endoftext|>"
_CONTEXT: Final = 20  # tokens that decide the next one
# As Qwen 3's: tools are shown, reasoning of earlier turns is not, and enable_thinking=false opens
# and closes it.
_QWEN: Final = (
    "{% if tools %}# Tools: {% for tool in tools %}{{ tool | tojson }}\n{% endfor %}"
    "Answer with <tool_call> and </tool_call> around a call.\n{% endif %}"
    "{% for m in messages %}{{ m.role }}: "
    "{% if m.content %}{{ m.content.split('</think>')[-1].lstrip('\n') }}{% endif %}"
    "{% for call in m.tool_calls or [] %}"
    '\n<tool_call>\n{"name": "{{ call.function.name }}", "arguments": '
    "{{ call.function.arguments | tojson }}}\n</tool_call>{% endfor %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}assistant:\n"
    "{% if enable_thinking is defined and enable_thinking is false %}"
    "<think>\n\n</think>\n\n{% endif %}{% endif %}"
)


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a family's conversations look.

    marks: of its answers. template: a short one of its kind. said: what a question is in it.
    opening: what a prompt ends with, behind the last message. end: of an answer, where its text has
    none of its own. are_special: whether the marks are special tokens.
    """

    marks: tuple[str, ...]
    template: str
    said: str
    opening: str
    end: str = _END
    are_special: bool = True


QWEN: Final = Dialect(MARKS, _QWEN, "user: {}", "\nassistant:\n", are_special=False)


def scripted(folder: Path, script: Mapping[str, str], dialect: Dialect = QWEN) -> LLM:
    """The bundled model with marks for tokens, which answers the last message of a user by the
    script; as it likes where its options forbid that."""
    said = {dialect.said.format(asked): text for asked, text in script.items()}
    write(folder, said, dialect=dialect)
    return LLM(folder)


def write(
    folder: Path,
    script: Mapping[str, str],
    context: int | None = None,
    dialect: Dialect = QWEN,
) -> None:
    """The same as a folder, by what a conversation ends with: a whole last message behind its role,
    or the last `_CONTEXT` tokens of one. context: tokens, where it is to have more than it was
    trained for."""
    shutil.copytree(Path(kept.__file__).parent / "bundled", folder, dirs_exist_ok=True)
    _mark(folder / "tokenizer.json", dialect)
    _change(folder / "tokenizer_config.json", {"chat_template": dialect.template})
    if context is not None:
        _change(folder / "config.json", {"max_position_embeddings": context})
    tokenizer = Tokenizer.from_folder(folder)
    biases: dict[tuple[int, ...], int] = {}
    for ending, text in script.items():
        prompt = tokenizer.encode(f"{ending}{dialect.opening}")
        tokens = [*prompt, *tokenizer.encode(text + dialect.end)]
        for i in range(len(prompt), len(tokens)):
            before = tuple(tokens[max(i - _CONTEXT, 0) : i])
            assert biases.setdefault(before, tokens[i]) == tokens[i], (ending, text)
    found = [[[*before, token], 200.0] for before, token in biases.items()]
    _change(folder / "generation_config.json", {"sequence_bias": found})


def _mark(file: Path, dialect: Dialect) -> None:
    """Give the marks the ids of the last tokens that were learned, of which no other is made."""
    read = json.loads(file.read_text())
    vocab, merges = read["model"]["vocab"], read["model"]["merges"]
    first = len(vocab) - len(dialect.marks)
    del merges[-len(dialect.marks) :]
    read["model"]["vocab"] = {token: i for token, i in vocab.items() if i < first}
    for i, mark in enumerate(dialect.marks, first):
        read["model"]["vocab"][mark] = i
        flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        token = {"id": i, "content": mark, **flags, "special": dialect.are_special}
        read["added_tokens"].append(token)
    file.write_text(json.dumps(read))


def _change(file: Path, values: Mapping[str, object]) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))
