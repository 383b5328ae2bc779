"""Prompts and conversations to tokens, by a checkpoint's tokenizer and chat template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from kept.answers import form_of
from kept.errors import CheckpointNotFoundError, OptionError
from kept.llm.loaded import Loaded
from kept.llm.options import read_template_options
from kept.llm.padding import padding_of
from kept.llm.prompts import Prompt, Prompts, read_prompts
from kept.llm.translating import towards
from kept.llm.turn_ends import turn_end, with_turn_ends
from kept.sampling import ResolvedParams
from kept.text import ChatTemplate

Message = Mapping[str, Any]


class Reading(Loaded):
    """The side of an `LLM` that reads what it is asked."""

    def render_chat(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        template_options: Mapping[str, Any] | None = None,
    ) -> str:
        """The prompt a chat template makes of messages, which ends where an answer begins, or
        inside the last message."""
        if self.model.is_encoder_decoder:
            raise OptionError(
                f"{self.checkpoint.folder} is an encoder-decoder model: it answers one prompt, and "
                "there is no conversation to go on with; use generate() (kept generate)"
            )
        options = read_template_options(template_options)
        return self.chat_template.render(
            messages,
            add_generation_prompt=add_generation_prompt and not continue_final_message,
            continue_final_message=continue_final_message,
            **options,
        )

    def read_chat(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        template_options: Mapping[str, Any] | None = None,
    ) -> list[int]:
        """The tokens of what `render_chat` makes of messages. Raises as that does."""
        prompt = self.render_chat(
            messages,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            template_options=template_options,
        )
        assert self.tokenizer is not None
        ids = self.tokenizer.encode(prompt, add_special_tokens=False)
        [tokens] = read_prompts(ids, self.tokenizer, self.model.config.vocab_size)
        return tokens

    def with_turn_ends(self, params: ResolvedParams) -> ResolvedParams:
        """Options under which an answer also ends at the end of sequence or turn that only
        tokenizer, config.json or template know."""
        assert self.tokenizer is not None
        form = form_of(self.chat_template.templates.values())
        # What ends content ends no turn, though it stands behind an answer.
        turn_end = None if self._turn_end in form.marks else self._turn_end
        named = form.ends or (self.tokenizer.special_tokens.get("eos_token"), turn_end)
        return with_turn_ends(params, self.tokenizer, named, self.checkpoint.config)

    @cached_property
    def chat_template(self) -> ChatTemplate:
        """The checkpoint's template. Raises TemplateError where there is none."""
        if self.tokenizer is None:
            raise CheckpointNotFoundError(
                f"{self.checkpoint.folder} has no tokenizer.json, which a chat needs; add it"
            )
        return ChatTemplate.from_folder(self.checkpoint.folder, self.tokenizer.special_tokens)

    @cached_property
    def _turn_end(self) -> str | None:
        assert self.tokenizer is not None
        return turn_end(self.chat_template, self.tokenizer)

    def read(self, prompt: Prompt, src_lang: str | None = None) -> list[int]:
        """The tokens of one prompt, a text or ids, with nothing taken for padding. Arguments and
        errors as of `generate`."""
        size = self.model.config.vocab_size
        [tokens] = read_prompts(prompt, self.tokenizer, size, single=True, src_lang=src_lang)
        return tokens

    def towards(
        self, params: ResolvedParams, tgt_lang: str | None, forced: object = None
    ) -> tuple[ResolvedParams, int | None]:
        """Options of a text in that language, and what its decoder starts from; see
        `translating.towards`."""
        return towards(params, self.tokenizer, tgt_lang, forced)

    def _read(
        self, prompts: Prompts, mask: Any, single: bool = False, src_lang: str | None = None
    ) -> list[list[int]]:
        padding, size = padding_of(self.checkpoint, self.tokenizer), self.model.config.vocab_size
        return read_prompts(prompts, self.tokenizer, size, mask, padding, single, src_lang)
