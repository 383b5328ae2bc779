"""What a user holds: a model, its tokenizer, and the ways to generate from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kept.engine import Completion, GenerationInterrupted
from kept.errors import KeptError
from kept.llm.conversation import Conversation, usable
from kept.llm.generation import Generation, remember
from kept.llm.loaded import Progress
from kept.llm.options import check_single
from kept.llm.prompts import Prompt, Prompts, start_token
from kept.llm.reading import Message, Reading
from kept.llm.stream import Stream
from kept.options import CacheOptions, ResolvedCacheOptions
from kept.sampling import ResolvedParams, SamplingParams


class LLM(Reading):
    """A language model loaded from a Hugging Face checkpoint.

    model: the decoder, with its encoder if it has one, callable on padded tensors. tokenizer: None
    if the folder has none. store: the prefix store, None: there is none. Threads may share it:
    what they ask for runs in one batch.
    """

    def generate(
        self,
        prompts: Prompts,
        params: SamplingParams | None = None,
        *,
        cache_options: CacheOptions | None = None,
        attention_mask: Any = None,
        adapter: str | None = None,
        src_lang: str | None = None,
        tgt_lang: str | None = None,
        progress: Progress | None = None,
        **options: Any,
    ) -> list[Completion]:
        """Continue one or many prompts; an encoder-decoder model answers them.

        prompts: a string, a list of token ids, or a list of either, of any lengths; a tensor or
            array of ids; or the output of a transformers tokenizer.
        attention_mask: of the prompts' shape, 0 where they are padding, on either side. Ids that
            look padded are refused without it.
        adapter: the name of one of `adapters` that the texts go through, None: none.
        src_lang, tgt_lang: the languages of prompts of text and of what is written, by their codes
            in a tokenizer of mBART, mBART-50, NLLB or M2M-100, as "eng_Latn". None: as the
            checkpoint says.
        params, cache_options, options: a SamplingParams, a CacheOptions, fields of both as
            keywords, or all of these (keywords win).
        progress: called after each step with the finished and all completions.

        Returns the completions, prompt after prompt, `num_return_sequences` of each. Raises
        OptionError for options that contradict each other or the model, ContextLengthError for a
        prompt beyond the context, before anything is computed. Raises GenerationInterrupted on
        Ctrl-C, and GenerationError where a text cannot go on (no token is left to choose from, its
        logits are not finite), once all others are done; their `completions` holds every text, and
        so it does in any other exception that ends a call half way.
        """
        resolved, caching = self.resolve(params, options, cache_options)
        seed = options.get("seed", None if params is None else params.seed)
        read = self._read(prompts, attention_mask, src_lang=src_lang)
        resolved, start = self.towards(resolved, tgt_lang, _forced(params, options))
        found = self._begin(
            read, resolved, caching, vary=seed is None, adapter=adapter, start=start
        )
        return found.run(progress)

    def stream(
        self,
        prompt: Prompt | Mapping[str, Any],
        params: SamplingParams | None = None,
        *,
        cache_options: CacheOptions | None = None,
        attention_mask: Any = None,
        adapter: str | None = None,
        src_lang: str | None = None,
        tgt_lang: str | None = None,
        **options: Any,
    ) -> Stream:
        """Continue one prompt, handing out text as it is written.

        Returns a Stream to iterate, whose `completion` is the result. Raises as `generate`, and
        OptionError for beams or several return sequences, whose text is known only at the end.
        """
        resolved, caching = self.resolve(params, options, cache_options)
        check_single(resolved)
        read = self._read(prompt, attention_mask, single=True, src_lang=src_lang)
        resolved, start = self.towards(resolved, tgt_lang, _forced(params, options))
        found = self._begin(read, resolved, caching, interactive=True, adapter=adapter, start=start)
        return Stream(found)

    def chat(
        self,
        messages: Sequence[Message],
        params: SamplingParams | None = None,
        *,
        cache_options: CacheOptions | None = None,
        template_options: Mapping[str, Any] | None = None,
        adapter: str | None = None,
        **options: Any,
    ) -> Completion:
        """Answer a conversation: `chat_stream` to its end.

        Raises as `chat_stream`, and GenerationInterrupted, which holds the text so far, on Ctrl-C.
        """
        stream = self.chat_stream(
            messages,
            params,
            cache_options=cache_options,
            template_options=template_options,
            adapter=adapter,
            **options,
        )
        try:
            for _ in stream:
                continue
        except KeyboardInterrupt:
            raise GenerationInterrupted([stream.completion]) from None
        return stream.completion

    def chat_stream(
        self,
        messages: Sequence[Message],
        params: SamplingParams | None = None,
        *,
        cache_options: CacheOptions | None = None,
        template_options: Mapping[str, Any] | None = None,
        adapter: str | None = None,
        **options: Any,
    ) -> Stream:
        """Answer a conversation, handing out text as it is written.

        messages: dicts with "role" and "content", oldest first, put through the checkpoint's chat
            template. Keys are kept: a turn computes only what no text before it began with, also
            after an edit to the history. `completion.cached_tokens` says how much that was. Where
            the cache is not of blocks, the keys of one conversation are kept, and the log says why
            nothing could be reused.
        template_options: what the template takes besides, such as `tools`, `documents` or
            `enable_thinking`.
        adapter: as in `generate`.

        An answer ends where the settings say, and at the end of sequence or turn that only
        tokenizer, config.json or template know, unless `eos_token_id` or `ignore_eos` is given.

        Raises OptionError for an encoder-decoder model, TemplateError where there is no template
        or it refuses the messages; else as `stream`.
        """
        resolved, caching = self.resolve(params, options, cache_options)
        check_single(resolved)
        asked = SamplingParams() if params is None else params
        eos = options.get("eos_token_id", asked.eos_token_id)
        ends = eos is None and not options.get("ignore_eos", asked.ignore_eos)
        tokens = self.read_chat(messages, template_options=template_options)
        if ends:
            resolved = self.with_turn_ends(resolved)
        if self._engines.finds_texts(caching, resolved):
            found = self._begin([tokens], resolved, caching, interactive=True, adapter=adapter)
            return Stream(found)
        kept = self._last.take()
        try:
            asked_for = self.model.find_adapter(adapter)
            going_on = usable(kept, caching, tokens, self.model.config.context, asked_for)
            generation = self._begin([tokens], resolved, caching, going_on, adapter=adapter)
        except KeptError:  # of a check: what was kept has not been touched
            self._last.put(kept)
            raise
        return Stream(generation, lambda ended: self._last.put(remember(ended, caching)))

    def begin(
        self,
        prompt: Prompt,
        params: ResolvedParams,
        caching: ResolvedCacheOptions,
        adapter: str | None = None,
    ) -> Generation:
        """One prompt on its way, for who wants to see how far it is. Raises as `generate`."""
        read = self._read(prompt, None, single=True)
        return self._begin(read, params, caching, adapter=adapter)

    def begin_tokens(
        self,
        tokens: Sequence[int],
        params: ResolvedParams,
        caching: ResolvedCacheOptions,
        *,
        interactive: bool = False,
        adapter: str | None = None,
        start: int | None = None,
    ) -> Generation:
        """As `begin`, for tokens that `read` or `read_chat` gave. interactive: somebody reads
        along. start: as `towards` gave it."""
        return self._begin(
            [tokens], params, caching, interactive=interactive, adapter=adapter, start=start
        )

    def _begin(
        self,
        prompts: Sequence[Sequence[int]],
        params: ResolvedParams,
        caching: ResolvedCacheOptions,
        conversation: Conversation | None = None,
        vary: bool = False,
        interactive: bool = False,
        adapter: str | None = None,
        start: int | None = None,
    ) -> Generation:
        own = start_token(self.model, self.checkpoint)
        return Generation(
            self.model,
            self.tokenizer,
            prompts,
            params,
            caching,
            self._engines,
            start=own if start is None else start,
            vary=vary,
            conversation=conversation,
            interactive=interactive,
            adapter=self.model.find_adapter(adapter),
        )


def _forced(params: SamplingParams | None, options: Mapping[str, Any]) -> object:
    """What a caller says a text begins with."""
    asked = None if params is None else params.forced_bos_token_id
    return options.get("forced_bos_token_id", asked)
