"""Arguments of the wrong type get an error that says what to pass, never a traceback of torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from kept import (
    LLM,
    CacheError,
    CacheOptions,
    ContextLengthError,
    KeptError,
    OptionError,
    SamplingParams,
    TemplateError,
    make_cache,
)
from kept.batch import pack
from kept.cache import KVShape

from .talker import make_talker
from .zoo import SHORT, Pair

USER = [{"role": "user", "content": "hello"}]
IDS = torch.tensor([[1, 2, 3]])


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> LLM:
    folder = tmp_path_factory.mktemp("talker")
    make_talker(folder, "llama")
    return LLM(folder)


@pytest.mark.parametrize("prompt", [b"abc", [b"a"], np.array(3), torch.tensor(3), {1, 2.5}])
def test_prompts(llm: LLM, prompt: Any) -> None:
    with pytest.raises(OptionError, match="a string or a list of token ids"):
        llm.generate(prompt, max_new_tokens=1)


def test_a_prompt_with_half_a_surrogate_pair(llm: LLM) -> None:
    with pytest.raises(OptionError, match=r"valid Unicode.*ud800"):
        llm.generate("a\ud800", max_new_tokens=1)


@pytest.mark.parametrize("params", [1, "greedy", {}, {"max_new_tokens": 1}])
def test_params(llm: LLM, params: Any) -> None:
    with pytest.raises(OptionError, match="pass SamplingParams"):
        llm.generate("a", params)


@pytest.mark.parametrize("cache_options", [1, "int8", {"kv_dtype": "int8"}])
def test_cache_options(llm: LLM, cache_options: Any) -> None:
    with pytest.raises(OptionError, match=r"cache_options is a .*; pass CacheOptions"):
        llm.generate("a", cache_options=cache_options)


def test_options_in_each_others_place(llm: LLM) -> None:
    with pytest.raises(OptionError, match="params is a CacheOptions; pass it as cache_options"):
        llm.generate("a", CacheOptions())  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="cache_options is a SamplingParams; pass it as params"):
        llm.stream("a", cache_options=SamplingParams())  # type: ignore[arg-type]


def test_keywords_win_over_both_kinds_of_options(llm: LLM) -> None:
    params, asked = SamplingParams(top_k=3, seed=1), CacheOptions(kv_dtype="int8", overflow="slide")
    resolved, caching = llm.resolve(params, {"top_k": 2, "kv_dtype": "int4"}, asked)
    assert (resolved.top_k, resolved.seed) == (2, 1)
    assert (caching.kv_dtype, caching.overflow) == ("int4", "slide")


@pytest.mark.parametrize("messages", [None, "hello", ["hello"], [None], 5])
def test_messages(llm: LLM, messages: Any) -> None:
    with pytest.raises(TemplateError, match="messages"):
        llm.chat(messages, max_new_tokens=1)


@pytest.mark.parametrize("options", [5, [], {1: 2}, {"messages": []}, {"add_generation_prompt": 0}])
def test_template_options(llm: LLM, options: Any) -> None:
    with pytest.raises(OptionError, match="template_options"):
        llm.chat(USER, template_options=options, max_new_tokens=1)


@pytest.mark.parametrize(
    "options", [{"device": "meta"}, {"max_batch_size": 1.5}, {"prefill_chunk": "8"}]
)
def test_loading_options(llm: LLM, options: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match=next(iter(options))):
        LLM(llm.checkpoint.folder, **options)


@pytest.mark.parametrize("source", [5, b"model", []])
def test_sources(source: Any) -> None:
    with pytest.raises(OptionError, match="the model is named by"):
        LLM(source)


FORWARDS: dict[str, Callable[[Any], object]] = {
    "input_ids is a list": lambda model: model([[1, 2]]),
    "input_ids is a torch.bool": lambda model: model(IDS.bool()),
    "input_ids is a torch.float32": lambda model: model(IDS.float()),
    "attention_mask is a list": lambda model: model(IDS, attention_mask=[[1, 1, 1]]),
    "position_ids is a torch.float32": lambda model: model(IDS, position_ids=IDS / 2),
    "input_ids is a meta tensor": lambda model: model(IDS.to("meta")),
    "input_ids is a torch.sparse_coo tensor": lambda model: model(IDS.to_sparse()),
    "attention_mask is a meta tensor": lambda model: model(IDS, IDS.to("meta")),
    "attention_mask is a torch.sparse_coo tensor": lambda model: model(IDS, IDS.to_sparse()),
    "position_ids is a meta tensor": lambda model: model(IDS, position_ids=IDS.to("meta")),
    "cache is a tuple": lambda model: model(IDS, cache=()),
}


@pytest.mark.parametrize("message", FORWARDS)
def test_forward(llm: LLM, message: str) -> None:
    with pytest.raises(KeptError, match=message):
        FORWARDS[message](llm.model)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: [KVShape(s.num_kv_heads, s.head_dim // 2)], "heads of .* in layer 1, and this"),
        (lambda s: [KVShape(s.num_kv_heads, s.head_dim * 2)], "heads of .* in layer 1, and this"),
        (lambda s: [KVShape(s.num_kv_heads + 1, s.head_dim)], "heads of .* in layer 1, and this"),
        (lambda s: [], "one of 1 layers, and this model has 2"),
        (lambda s: [s, s], "one of 3 layers, and this model has 2"),
    ],
)
def test_a_cache_of_another_model(
    backend: str, made: Callable[[str], Pair], change: Any, message: str
) -> None:
    model = made("llama").llm.model
    first, _ = model.kv_shapes
    cache = make_cache([first, *change(first)])
    for run in (lambda: model(IDS, cache=cache), lambda: model.next_logits(pack([[1, 2]]), cache)):
        with pytest.raises(CacheError, match=message + r".*make_cache\(model\.kv_shapes\)"):
            run()
    assert cache.lengths == (0,)


@pytest.mark.parametrize("past", [0, SHORT - 2])
def test_more_tokens_than_there_are_positions(
    backend: str, made: Callable[[str], Pair], past: int
) -> None:
    model = made("gpt2 short").llm.model
    cache = make_cache(model.kv_shapes)
    if past:
        model.run(pack([[1] * past]), cache)
    batch = pack([[1] * (SHORT + 1 - past)], past=[past])
    for held in (cache, None):
        with pytest.raises(ContextLengthError, match=f"position {SHORT} is past .* of {SHORT}; "):
            model.run(batch, held)
    assert cache.lengths == (past,)


def test_a_cache_that_has_become_another_models(backend: str, made: Callable[[str], Pair]) -> None:
    model = made("llama").llm.model
    cache, (first, _) = make_cache(model.kv_shapes), model.kv_shapes
    model(IDS, cache=cache)
    cache.reset()
    cache.reshape(1, KVShape(first.num_kv_heads + 1, first.head_dim))
    with pytest.raises(CacheError, match="in layer 1, and this"):
        model(IDS, cache=cache)
