"""A checkpoint's chat template: messages to the text of a prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Template
from jinja2.exceptions import TemplateError as JinjaTemplateError
from jinja2.exceptions import TemplateSyntaxError

from kept.errors import TemplateError, TokenizerError
from kept.gguf import is_gguf, read_header
from kept.json_file import read_json_object, read_text
from kept.text.messages import REASONING_FIELDS, plain, prepare_messages
from kept.text.template_budget import ExceededError, budget_for
from kept.text.template_environment import make_environment

_MAX_TEMPLATE = 1 << 18  # characters
_CONTINUE_MARK = "CONTINUE_FINAL_MESSAGE_TAG "


class ChatTemplate:
    """Renders messages as transformers' `apply_chat_template(tokenize=False)` does.

    Templates are compiled when first used, in a sandbox. Threads may share it.
    """

    def __init__(
        self,
        templates: str | Mapping[str, str],
        special_tokens: Mapping[str, str] | None = None,
        *,
        source: str = "chat_template",
    ) -> None:
        """Take one template, or several by name.

        `special_tokens` (bos_token ...) are variables of every template; `source` names the file
        in errors. Raises `TemplateError` when there is no template.
        """
        self.templates = {"default": templates} if isinstance(templates, str) else dict(templates)
        self.special_tokens = dict(special_tokens or {})
        self.source = source
        self._compiled: dict[str, Template] = {}
        if not self.templates:
            raise TemplateError(f"{source} holds no chat template; give at least one")

    @classmethod
    def from_folder(
        cls, folder: Path, special_tokens: Mapping[str, str] | None = None
    ) -> ChatTemplate:
        """Load the templates of a checkpoint folder, or of a GGUF file (`tokenizer.chat_template`).

        Reads chat_template.jinja and additional_chat_templates/*.jinja, and only without them
        `chat_template` of tokenizer_config.json.
        Raises `TemplateError` naming the files and the remedy when there is none, `TokenizerError`
        when one cannot be read.
        """
        folder = Path(folder)
        if is_gguf(folder):
            return cls(_of_gguf(folder), special_tokens, source=str(folder))
        default = folder / "chat_template.jinja"
        files = {"default": default} if default.is_file() else {}
        for path in sorted((folder / "additional_chat_templates").glob("*.jinja")):
            files[path.name.removesuffix(".jinja")] = path
        if files:
            texts = {name: read_text(path, TokenizerError) for name, path in files.items()}
            # A mark of the encoding is no text of the prompt.
            templates = {name: text.removeprefix("\ufeff") for name, text in texts.items()}
            return cls(templates, special_tokens, source=str(default))
        config_path = folder / "tokenizer_config.json"
        config = read_json_object(config_path, TokenizerError, optional=True)
        declared = config.get("chat_template")
        if declared is None:
            raise TemplateError(
                f"{folder} has no chat template: neither chat_template.jinja nor chat_template in "
                "tokenizer_config.json. It may be a base model, to be used with generate; to chat "
                "with it, write chat_template.jinja into the folder"
            )
        return cls(_named(declared, config_path), special_tokens, source=str(config_path))

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = False,
        continue_final_message: bool | str = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        template: str | None = None,
        **variables: Any,
    ) -> str:
        """Give the text of a conversation.

        `add_generation_prompt` adds the header of the assistant's answer. `continue_final_message`
        ends the text inside the last message (True: its content, else the named field) so that the
        model goes on with it. `tools` are JSON schemas, `variables` whatever else the template
        reads. `template` picks one by name: by default "tool_use" with tools if there is one, else
        "default".
        Raises `TemplateError` for messages of another shape, for a template that fails or refuses
        the messages, and for options that exclude each other.
        """
        if add_generation_prompt and continue_final_message:
            raise TemplateError(
                "add_generation_prompt and continue_final_message exclude each other: one begins "
                "a new message, the other goes on with the last; set only one"
            )
        name = self._choose(template, tools)
        chat = prepare_messages(messages)
        field = "content" if continue_final_message is True else continue_final_message
        final = _mark_final(chat[-1], field, self.templates[name]) if field else ""
        text = self._run(
            name,
            {
                **self.special_tokens,
                **plain(variables, "variables"),
                "messages": chat,
                "tools": _schemas(tools, "tools"),
                "documents": _schemas(documents, "documents"),
                "add_generation_prompt": add_generation_prompt,
            },
        )
        return _cut_at_mark(text, final) if field else text

    def _choose(self, template: str | None, tools: object) -> str:
        if template is None:
            template = (
                "tool_use" if tools is not None and "tool_use" in self.templates else "default"
            )
        if template not in self.templates:
            raise TemplateError(
                f"{self.source} has no chat template named {template!r}; "
                f"pass template= one of: {', '.join(sorted(self.templates))}"
            )
        return template

    def _run(self, name: str, variables: Mapping[str, Any]) -> str:
        where = f"chat template {name!r} of {self.source}"
        try:
            if len(self.templates[name]) > _MAX_TEMPLATE:
                raise ExceededError(
                    f"it is {len(self.templates[name]):,} characters long, and at most "
                    f"{_MAX_TEMPLATE:,} are allowed"
                )
            with budget_for(variables):
                if name not in self._compiled:
                    self._compiled[name] = make_environment().from_string(self.templates[name])
                return self._compiled[name].render(variables)
        except ExceededError as error:
            raise TemplateError(
                f"{where} asks for too much: {error.message}. Templates of chat models stay far "
                "below; is this one intact and from a source you trust?"
            ) from error
        except TemplateSyntaxError as error:
            raise TemplateError(
                f"{where} is not valid Jinja (line {error.lineno}: {error.message}); "
                "correct the template"
            ) from error
        except JinjaTemplateError as error:
            raise TemplateError(
                f"{where} refused or failed: {error.message or error}; check the messages' roles, "
                "their order and the variables the template reads"
            ) from error
        except Exception as error:  # a template can raise whatever an expression of it raises
            raise TemplateError(
                f"{where} failed with {type(error).__name__}: {error}; "
                "check the messages and the template"
            ) from error


def _of_gguf(path: Path) -> dict[str, str]:
    key = "tokenizer.chat_template"
    found = {
        name.removeprefix(key).removeprefix(".") or "default": text
        for name, text in read_header(path).metadata.items()
        if name == key or name.startswith(f"{key}.")
    }
    wrong = next((name for name, text in found.items() if not isinstance(text, str)), None)
    if wrong is not None:
        raise TemplateError(f"chat template {wrong!r} in {path} is no text; download it again")
    if not found:
        raise TemplateError(
            f"{path} has no chat template ({key}). It may be a base model, to be used with "
            "generate; to chat with it, write it into a folder by `kept quantize` and put a "
            "chat_template.jinja there"
        )
    return found


def _named(declared: Any, path: Path) -> str | dict[str, str]:
    if isinstance(declared, str):
        return declared
    if isinstance(declared, Mapping):
        declared = [{"name": name, "template": text} for name, text in declared.items()]
    try:
        named = {entry["name"]: entry["template"] for entry in declared}
    except (TypeError, KeyError) as error:
        raise TemplateError(
            f"chat_template in {path} is neither text nor a list of objects with name and template"
        ) from error
    for name, text in named.items():
        if not isinstance(text, str):
            raise TemplateError(f"chat template {name!r} in {path} is {text!r}; it must be text")
    return named


def _schemas(values: Sequence[Mapping[str, Any]] | None, option: str) -> list[Any] | None:
    if values is None:
        return None
    for i, value in enumerate(values):
        if not isinstance(value, Mapping):
            raise TemplateError(
                f"{option}[{i}] is a {type(value).__name__}; give a JSON object"
                + (" (the schema of the function)" if option == "tools" else "")
            )
    return [plain(value, f"{option}[{i}]") for i, value in enumerate(values)]


def _mark_final(message: dict[str, Any], field: str, template: str) -> str:
    """Put the mark behind the text to be continued, and give that text; mutates `message`."""
    final = message.get(field)
    if not isinstance(final, str | list | tuple):
        raise TemplateError(
            f"continue_final_message: the last message has no text under {field!r} to go on with"
        )
    fields = [field]
    if field in REASONING_FIELDS:
        fields = [name for name in REASONING_FIELDS if message.get(name) == final]
    if not any(name in template for name in fields):
        raise TemplateError(
            f"continue_final_message names {field!r}, which the chat template does not read; "
            "name a field it does"
        )
    if isinstance(final, str):
        message.update(dict.fromkeys(fields, final + _CONTINUE_MARK))
        return final
    for block in reversed(final):
        if isinstance(block, dict) and "text" in block:
            text = str(block["text"])
            block["text"] = text + _CONTINUE_MARK
            return text
    raise TemplateError(
        "continue_final_message: the last message has no block of text to go on with"
    )


def _cut_at_mark(text: str, final: str) -> str:
    mark = _CONTINUE_MARK.strip()
    if final.strip() not in text or mark not in text:
        raise TemplateError(
            "continue_final_message: the chat template leaves out or changes the end of the last "
            "message, so there is no place to go on from; use add_generation_prompt"
        )
    cut = text.rindex(mark)
    # A template that trims messages has trimmed the mark's space: it would trim the text's end too.
    return text[:cut] if text.startswith(_CONTINUE_MARK, cut) else text[:cut].rstrip()
