"""The bundled model is an ordinary, small Hugging Face folder that transformers reads alike."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from tokenizers import Tokenizer

import kept

BUNDLED = Path(kept.__file__).parent / "bundled"
TEXTS = [
    "def f(x):\n    return x\n",
    "class A:\r\n\tpass\r\n",
    "caf\u00e9 \u6f22\u5b57 \U0001f40d \U0001f468\u200d\U0001f469\u200d\U0001f467",
    "nul \x00 \x01 \x7f bell \x07",
    "  leading,   inner   and trailing   \n\n\n   \n\t ",
    "\ufeffbyte order mark \u2028 line separator \xa0 no-break",
    "",
    "\n",
    "<|endoftext|> in text",
]


@pytest.fixture(scope="module")
def config() -> dict[str, object]:
    content: dict[str, object] = json.loads((BUNDLED / "config.json").read_text(encoding="utf-8"))
    return content


def test_the_folder_holds_at_most_twelve_megabytes() -> None:
    assert sum(file.stat().st_size for file in BUNDLED.iterdir() if file.is_file()) <= 12_000_000


def test_the_config_names_the_model(config: dict[str, object]) -> None:
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["model_type"] == "llama"
    assert config["max_position_embeddings"] == 2048
    assert config["vocab_size"] == 4096
    assert config["tie_word_embeddings"] is True
    heads, groups = config["num_attention_heads"], config["num_key_value_heads"]
    assert isinstance(heads, int)
    assert isinstance(groups, int)
    assert heads > groups
    assert heads % groups == 0


def test_the_weights_are_bf16_finite_and_about_five_million() -> None:
    total = 0
    with safe_open(BUNDLED / "model.safetensors", framework="pt") as weights:
        for name in weights.keys():  # noqa: SIM118 - a safe_open handle is no mapping
            tensor = weights.get_tensor(name)
            assert tensor.dtype == torch.bfloat16
            assert torch.isfinite(tensor).all()
            total += tensor.numel()
    assert 4_500_000 <= total <= 5_900_000


@pytest.mark.parametrize("text", TEXTS)
def test_the_tokenizer_gives_every_text_back(text: str) -> None:
    tokenizer = Tokenizer.from_file(str(BUNDLED / "tokenizer.json"))
    ids = tokenizer.encode(text).ids
    assert tokenizer.decode(ids, skip_special_tokens=False) == text
    assert all(0 <= token < 4096 for token in ids)


def test_transformers_reads_the_tokenizer_alike() -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(BUNDLED)
    ours = Tokenizer.from_file(str(BUNDLED / "tokenizer.json"))
    assert theirs.eos_token_id == theirs.bos_token_id == 0
    for text in TEXTS:
        ids = theirs(text)["input_ids"]
        assert ids == ours.encode(text).ids
        assert theirs.decode(ids) == text


def test_the_chat_template_writes_comments_and_code() -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(BUNDLED)
    messages = [
        {"role": "user", "content": "Add two numbers.\nReturn the sum."},
        {"role": "assistant", "content": "def add(a, b):\n    return a + b"},
        {"role": "user", "content": "Subtract them."},
    ]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == (
        "# Add two numbers.\n# Return the sum.\n"
        "def add(a, b):\n    return a + b\n\n\n"
        "# Subtract them.\n"
    )


def test_transformers_loads_the_model_and_continues_a_function() -> None:
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModelForCausalLM.from_pretrained(BUNDLED, dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(BUNDLED)
    inputs = tokenizer("def fibonacci(n):", return_tensors="pt")
    with torch.no_grad():
        logits = model(**inputs).logits[0, -1]
    assert logits.shape == (4096,)
    assert tokenizer.decode([int(logits.argmax())]).startswith("\n")
