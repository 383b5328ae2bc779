"""Which directory an LLM's prefixes outlive it in."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kept.engine import Completion
from kept.errors import CacheError, OptionError
from kept.format import format_bytes, parse_bytes
from kept.models import CausalLM, Checkpoint
from kept.models.identity import instructions_of, kernels_of, weights_of
from kept.options import STORE_BYTES, CacheOptions
from kept.paths import read_path
from kept.sampling import SamplingParams
from kept.store import PrefixStore
from kept.store.seal import read_key

if TYPE_CHECKING:
    from kept.llm.llm import LLM

log = logging.getLogger("kept")

LEAST_BYTES = 1 << 20


def read_store_bytes(asked: int | str | None) -> int:
    """The bytes that a store may take. Raises OptionError for what is no size, or too little."""
    if asked is None:
        asked = STORE_BYTES
    is_number = isinstance(asked, int) and not isinstance(asked, bool)
    if not is_number and not isinstance(asked, str):
        raise OptionError(
            f"store_bytes={asked!r:.100} is a {type(asked).__name__}; give bytes, as a number or "
            "as in 20GiB"
        )
    found = parse_bytes(asked) if isinstance(asked, str) else asked
    if found < LEAST_BYTES:
        raise OptionError(
            f"store_bytes={asked!r} is less than {format_bytes(LEAST_BYTES)}, in which no text is "
            "stored; give more, or leave prefix_store out"
        )
    return found


def check_store(
    folder: object, num_bytes: int | str | None, key: bytes | str | None
) -> tuple[Path, int, bytes | None] | None:
    """The options of a store, None: there is none. Raises OptionError for what will not do, and
    for options of a store without one."""
    if folder is None:
        if num_bytes is not None or key is not None:
            name = "store_bytes" if key is None else "store_key"
            raise OptionError(f"{name} is of a prefix_store, and none is given; give both")
        return None
    path = read_path(folder, "the prefix store").expanduser()
    return path, read_store_bytes(num_bytes), read_key(key)


def open_store(
    asked: tuple[Path, int, bytes | None] | None,
    checkpoint: Checkpoint,
    model: CausalLM,
    loaded_as: tuple[object, ...],
    name: str,
) -> PrefixStore | None:
    """The store of a model that is loaded; None where none is asked for, and where torch runs the
    model, of which the log tells. Raises OptionError for a folder that cannot be had."""
    if asked is None:
        return None
    folder, limit, key = asked
    if model.native is None:
        log.warning(
            "prefix_store=%s is not used: torch runs this model, and what it rounds depends on "
            "what else is computed beside a text",
            folder,
        )
        return None
    store = PrefixStore(folder, limit, key=key)
    weights = weights_of(checkpoint, model, loaded_as, folder)
    store.identify(weights, instructions_of(model), kernels_of(), name)
    return store


def store_prompt(
    llm: LLM,
    prompt: str | Sequence[int],
    cache_options: CacheOptions,
    progress: Callable[[int, int], None] | None = None,
) -> Completion:
    """Read a prompt and store its keys, before anybody asks; returns once they are in files.

    progress: called with the tokens that have been read and their total. Ctrl-C keeps what has been
    read. Raises as `LLM.generate`, OptionError where the cache of these options is none whose texts
    are found again, and CacheError where the files could not be written.
    """
    assert llm.store is not None
    params = SamplingParams(max_new_tokens=1, do_sample=False, ignore_eos=True)
    resolved, caching = llm.resolve(params, {}, cache_options)
    if not llm.finds_texts(caching, resolved):
        raise OptionError(
            f"cache_implementation={caching.cache_implementation!r} shares nothing between texts, "
            "so nothing is stored; use the dynamic cache, and leave overflow at stop"
        )
    before = llm.store.counters.dropped_blocks
    generation = llm.begin(prompt, resolved, caching)
    [text] = generation.continuations
    try:
        generation.begin()
        while not generation.finished:
            generation.advance()
            if progress is not None:
                progress(text.num_computed, text.history.num_prompt)
    finally:
        generation.end()
        is_done = llm.store.flush()
    generation.raise_failure()
    if not is_done or llm.store.counters.dropped_blocks > before:
        raise CacheError(
            f"{llm.store.folder} did not take all of it in ("
            f"{', '.join(llm.store.counters.faults) or 'it does not answer'}); make room on the "
            "disk, or give more store_bytes"
        )
    return text.completion()


def system_prefix(llm: LLM, system: str) -> list[int]:
    """The tokens that every conversation under a system message begins with. Raises as
    `LLM.render_chat`."""
    assert llm.tokenizer is not None
    texts = [
        llm.render_chat(
            [{"role": "system", "content": system}, {"role": "user", "content": content}]
        )
        for content in ("A", "7 b")
    ]
    one, other = (llm.tokenizer.encode(text, add_special_tokens=False) for text in texts)
    length = next(
        (i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b),
        min(len(one), len(other)),
    )
    return one[:length]
