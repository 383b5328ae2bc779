"""What an `LLM` holds: a model, its tokenizer, room for keys, and what its checkpoint sets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Never

import torch

from kept.cache import check_num_slots
from kept.engine import PREFILL_CHUNK, DraftModel, Room
from kept.errors import OptionError
from kept.llm.conversation import LastConversation
from kept.llm.draft_model import check_asked, load_draft_model
from kept.llm.engines import Engines
from kept.llm.memory import RENAMED, read_kv_memory, read_place, room_for
from kept.llm.options import resolve_options
from kept.llm.storing import check_store, open_store
from kept.models import CausalLM, Checkpoint, load_adapters, load_model, open_checkpoint
from kept.options import CacheOptions, ResolvedCacheOptions, refuse_keywords
from kept.sampling import ResolvedParams, SamplingParams
from kept.store import PrefixStore
from kept.text import find_tokenizer

Progress = Callable[[int, int], None]


class Loaded:
    """The side of an `LLM` that is there before anything is asked."""

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
        adapters: Mapping[str, str | Path] | None = None,
        progress: Progress | None = None,
        packing: Progress | None = None,
        **others: Never,
    ) -> None:
        """Load a checkpoint.

        source: a folder, a GGUF file, a hub id ("org/name", or "org/name:file.gguf", fetched
            through huggingface_hub and kept in its cache), or None for the bundled model.
        dtype: "float32", "bfloat16", "float16", a torch dtype, or None for the checkpoint's own;
            float16 nobody asked for is computed in bfloat16 on a CPU, and the log says so.
        device: as torch names them; None is the CPU.
        quantize: "int8" or "int4" rounds the weights to a byte or half of one, with scales. Weights
            that others have quantized become int8 on a CPU where neither this nor a dtype is given,
            and the log says so.
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
        adapters: LoRA adapters of this model as peft saves them: a name for each folder. Every text
            goes through one of them (`adapter`), or through none, several in one batch. They are
            multiplied in fp32, whatever the model is quantized to, and what one has computed of a
            text is not found by another.
        progress: called with the weight bytes loaded and their total. packing: called with the
            weights packed for the native kernels and their total; quantizing takes a while. The
            two go on side by side.

        Raises CheckpointError and its kinds, or OptionError.
        """
        refuse_keywords("LLM", others, Loaded.__init__.__kwdefaults__ or (), RENAMED)
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
        load_adapters(self.model, self.checkpoint, adapters)
        self.tokenizer = find_tokenizer(self.checkpoint.folder, self.checkpoint.header)
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
