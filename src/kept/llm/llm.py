"""What a user holds: a model, its tokenizer, and the ways to generate from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Never

import torch

from kept.cache import check_num_slots
from kept.engine import PREFILL_CHUNK, Completion, DraftModel, GenerationInterrupted, Room
from kept.errors import CheckpointNotFoundError, KeptError, OptionError
from kept.llm.conversation import Conversation, LastConversation, usable
from kept.llm.draft_model import check_asked, load_draft_model
from kept.llm.engines import Engines
from kept.llm.generation import Generation, remember
from kept.llm.memory import RENAMED, read_kv_memory, read_place, room_for
from kept.llm.options import check_single, read_template_options, resolve_options
from kept.llm.padding import padding_of
from kept.llm.prompts import Prompt, Prompts, read_prompts, start_token
from kept.llm.storing import check_store, open_store
from kept.llm.stream import Stream
from kept.llm.turn_ends import turn_end, with_turn_ends
from kept.models import CausalLM, Checkpoint, load_model, open_checkpoint
from kept.options import CacheOptions, ResolvedCacheOptions, refuse_keywords
from kept.sampling import ResolvedParams, SamplingParams
from kept.store import PrefixStore
from kept.text import ChatTemplate, find_tokenizer

Message = Mapping[str, Any]
Progress = Callable[[int, int], None]


class LLM:
    """A language model loaded from a Hugging Face checkpoint.

    model: the decoder, with its encoder if it has one, callable on padded tensors. tokenizer: None
    if the folder has none. store: the prefix store, None: there is none. Threads may share it:
    what they ask for runs in one batch.
    """

    def __init__(
        self,
        source: str | Path | None = None,
        *,
        dtype: str | torch.dtype | None = None,
        device: str | torch.device | None = None,
        quantize: str | None = None,
        activations: str = "auto",
        copy_weights: bool = False,
        revision: str | None = None,
        max_batch_size: int = 16,
        prefill_chunk: int = PREFILL_CHUNK,
        kv_memory: int | str | None = None,
        offload_folder: str | Path | None = None,
        offload_memory: int | None = None,
        prefix_store: str | Path | None = None,
        store_bytes: int | str | None = None,
        store_key: bytes | str | None = None,
        draft_model: str | Path | None = None,
        progress: Progress | None = None,
        packing: Progress | None = None,
        **others: Never,
    ) -> None:
        """Load a checkpoint.

        source: a folder, a hub id ("org/name", fetched through huggingface_hub and kept in its
            cache), or None for the bundled model.
        dtype: "float32", "bfloat16", "float16", a torch dtype, or None for the checkpoint's own;
            float16 nobody asked for is computed in bfloat16 on a CPU, and the log says so.
        device: as torch names them; None is the CPU.
        quantize: "int8" or "int4" rounds the weights to a byte or half of one, with scales.
        activations: as what they meet weights of int8 or int4: "bfloat16", "int8", or "auto", the
            faster on this machine's instruction set.
        copy_weights: copy the weights of a folder that `kept quantize` wrote into this process's
            memory, rather than use them where the file is mapped and other processes share them.
            Loading takes longer, and decoding a few percent less where the system has huge pages
            for memory and not for the file. Of any other checkpoint they are always copied.
        revision: branch, tag or commit of a hub id.
        max_batch_size: sequences computed side by side. prefill_chunk: prompt tokens per pass.
        kv_memory: the most bytes that keys and values of all texts may take together, in every kind
            of cache: a number, or a string as "2GiB" or "40%" of this machine's memory. None: half
            of what is free now, or what memory holds where that is not known.
        offload_folder, offload_memory: keep keys and values in files of this folder, with at most
            so many bytes of them in memory, for contexts that memory does not hold. Both, or
            neither.
        prefix_store, store_bytes: a directory that keeps what is computed of texts, at most so many
            bytes of it (a number or as "20GiB", the default), for this process and others after it
            or beside it; what it has is read in place of computing it. None: memory alone.
            store_key: 32 bytes, or 64 hex digits, that encrypt what is kept there.
        draft_model: a folder or hub id of a smaller model of the same vocabulary, which drafts what
            this one then verifies, several tokens a step, where that is measured to be worth while
            (`num_assistant_tokens`). Texts stay the same bit for bit. Its keys and values come out
            of kv_memory too, at most its share of what both store of a token. None: none.
        progress: called with the weight bytes loaded and their total. packing: called with the
            weights packed for the native kernels and their total; quantizing takes a while. The
            two go on side by side.

        Raises CheckpointError and its kinds, or OptionError.
        """
        refuse_keywords("LLM", others, LLM.__init__.__kwdefaults__ or (), RENAMED)
        for name, value in (("max_batch_size", max_batch_size), ("prefill_chunk", prefill_chunk)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise OptionError(f"{name}={value!r}: give a whole number of at least 1")
        check_num_slots(max_batch_size, "max_batch_size")
        self.kv_memory = read_kv_memory(kv_memory, device)
        self.place = read_place(offload_folder, offload_memory)
        stored = check_store(prefix_store, store_bytes, store_key)
        self.checkpoint: Checkpoint = open_checkpoint(source, revision=revision)
        self.model: CausalLM = load_model(
            self.checkpoint,
            dtype=dtype,
            device=device,
            quantize=quantize,
            activations=activations,
            copy_weights=copy_weights,
            progress=progress,
            packing=packing,
        )
        self.tokenizer = find_tokenizer(self.checkpoint.folder)
        self.max_batch_size, self.prefill_chunk = max_batch_size, prefill_chunk
        name = "the bundled model" if source is None else str(source)
        loaded_as = dtype, quantize
        self.store: PrefixStore | None = open_store(
            stored, self.checkpoint, self.model, loaded_as, name
        )
        self.draft_model: CausalLM | None = load_draft_model(
            draft_model,
            self.model,
            self.tokenizer,
            device=device,
            progress=progress,
            packing=packing,
        )
        self._wants_draft_model = draft_model is not None
        room = Room(room_for(self.kv_memory, self.model.device))
        self._engines = Engines(
            self.model,
            max_batch_size,
            prefill_chunk,
            room,
            self.place,
            self.store,
            None if self.draft_model is None else DraftModel.measured(self.draft_model),
        )
        self._last = LastConversation(room)

    def generate(
        self,
        prompts: Prompts,
        params: SamplingParams | None = None,
        *,
        cache_options: CacheOptions | None = None,
        attention_mask: Any = None,
        progress: Progress | None = None,
        **options: Any,
    ) -> list[Completion]:
        """Continue one or many prompts; an encoder-decoder model answers them.

        prompts: a string, a list of token ids, or a list of either, of any lengths; a tensor or
            array of ids; or the output of a transformers tokenizer.
        attention_mask: of the prompts' shape, 0 where they are padding, on either side. Ids that
            look padded are refused without it.
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
        read = self._read(prompts, attention_mask)
        return self._begin(read, resolved, caching, vary=seed is None).run(progress)

    def stream(
        self,
        prompt: Prompt | Mapping[str, Any],
        params: SamplingParams | None = None,
        *,
        cache_options: CacheOptions | None = None,
        attention_mask: Any = None,
        **options: Any,
    ) -> Stream:
        """Continue one prompt, handing out text as it is written.

        Returns a Stream to iterate, whose `completion` is the result. Raises as `generate`, and
        OptionError for beams or several return sequences, whose text is known only at the end.
        """
        resolved, caching = self.resolve(params, options, cache_options)
        check_single(resolved)
        read = self._read(prompt, attention_mask, single=True)
        return Stream(self._begin(read, resolved, caching, interactive=True))

    def chat(
        self,
        messages: Sequence[Message],
        params: SamplingParams | None = None,
        *,
        cache_options: CacheOptions | None = None,
        template_options: Mapping[str, Any] | None = None,
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
            return Stream(self._begin([tokens], resolved, caching, interactive=True))
        kept = self._last.take()
        try:
            going_on = usable(kept, caching, tokens, self.model.config.context)
            generation = self._begin([tokens], resolved, caching, going_on)
        except KeptError:  # of a check: what was kept has not been touched
            self._last.put(kept)
            raise
        return Stream(generation, lambda ended: self._last.put(remember(ended, caching)))

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
        named = self.tokenizer.special_tokens.get("eos_token"), self._turn_end
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

    def forget(self) -> None:
        """Forget the keys of all texts that have ended, so that the next prompts are read anew, or
        from the prefix store where there is one."""
        self._last.drop()
        self._engines.forget()

    def resolve(
        self,
        params: SamplingParams | None,
        options: Mapping[str, Any],
        cache_options: CacheOptions | None = None,
    ) -> tuple[ResolvedParams, ResolvedCacheOptions]:
        """Options made concrete by the checkpoint's generation_config.json.

        options: fields of both kinds of options, which win over them.
        """
        size = self.model.config.vocab_size
        found = resolve_options(self.checkpoint, size, params, cache_options, options)
        given = None if params is None else params.num_assistant_tokens
        asked = options.get("num_assistant_tokens", given)
        check_asked(asked, self.draft_model, self._wants_draft_model)
        return found

    def finds_texts(self, caching: ResolvedCacheOptions, params: ResolvedParams) -> bool:
        """Whether what is computed under these options is found again by later calls."""
        return self._engines.finds_texts(caching, params)

    def begin(
        self, prompt: Prompt, params: ResolvedParams, caching: ResolvedCacheOptions
    ) -> Generation:
        """One prompt on its way, for who wants to see how far it is. Raises as `generate`."""
        return self._begin(self._read(prompt, None, single=True), params, caching)

    def read(self, prompt: Prompt) -> list[int]:
        """The tokens of one prompt, a text or ids, with nothing taken for padding. Raises as
        `generate`."""
        [tokens] = read_prompts(prompt, self.tokenizer, self.model.config.vocab_size, single=True)
        return tokens

    def begin_tokens(
        self,
        tokens: Sequence[int],
        params: ResolvedParams,
        caching: ResolvedCacheOptions,
        *,
        interactive: bool = False,
    ) -> Generation:
        """As `begin`, for tokens that `read` or `read_chat` gave. interactive: somebody reads
        along."""
        return self._begin([tokens], params, caching, interactive=interactive)

    def _read(self, prompts: Prompts, mask: Any, single: bool = False) -> list[list[int]]:
        padding, size = padding_of(self.checkpoint, self.tokenizer), self.model.config.vocab_size
        return read_prompts(prompts, self.tokenizer, size, mask, padding, single)

    def _begin(
        self,
        prompts: Sequence[Sequence[int]],
        params: ResolvedParams,
        caching: ResolvedCacheOptions,
        conversation: Conversation | None = None,
        vary: bool = False,
        interactive: bool = False,
    ) -> Generation:
        return Generation(
            self.model,
            self.tokenizer,
            prompts,
            params,
            caching,
            self._engines,
            start=start_token(self.model, self.checkpoint),
            vary=vary,
            conversation=conversation,
            interactive=interactive,
        )
