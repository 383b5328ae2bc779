"""A sample of what `scripts/scan_transformers` holds over every causal model: one of each way that
a model attends, and that its layers store."""

import pytest

from kept.integrations.transformers.versions import IS_5

from .scan import families, scan

EXACT = (
    "cohere2",  # windows and none
    "deepseek_v2" if IS_5 else "deepseek_v3",  # keys and values of unequal width
    "gpt2",
    "llama",
    "phi3",
)
EXACT_IN_5 = (
    "gemma4_text",  # head sizes that differ by layer
    "glm4_moe_lite",
    "longcat_flash",  # two attentions a layer
    "minicpm3",
    "moshi",  # a window in its config that its masks do without
)
# Their attention is their own, or adds up more than kept's does; a cache they take all the same.
REFUSED = {
    "bloom": "attention interface",
    "falcon": "attention interface",
    "gptj": "attention interface",
    "gpt_neo": "attention interface",
    "megatron-bert": "attention interface",
    "roformer": "attention interface",
    "gpt_oss": "s_aux",
    "llama4_text": "chunks",
}


@pytest.mark.parametrize("family", EXACT + EXACT_IN_5 * IS_5)
def test_these_are_exact(family):
    found = scan(family)
    assert found.cache.startswith("exact"), found
    assert found.attention.startswith("exact"), found


@pytest.mark.parametrize("family", REFUSED)
def test_these_are_refused_by_name(family):
    found = scan(family)
    assert found.cache.startswith("exact"), found
    assert found.attention.startswith("refused: OptionError"), found
    assert REFUSED[family] in found.attention


def test_what_stores_no_keys_is_refused():
    found = scan("mamba")
    assert not IS_5 or "linear_attention" in found.cache
    assert "attention interface" in found.attention


def test_there_is_a_model_of_each():
    assert {*EXACT, *REFUSED} <= set(families())
