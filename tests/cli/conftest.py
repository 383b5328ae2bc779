"""A tiny random Llama with a tokenizer and a chat template, as a checkpoint folder."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM

from kept.engine import Engine, Event

CORPUS = ["def add(a, b):\n    return a + b\n", "The quick brown fox jumps over the lazy dog."] * 4
CONTEXT = 192
TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@pytest.fixture(autouse=True)
def _no_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is kept in the home of whoever runs the tests."""
    monkeypatch.setenv("KEPT_PREFIX_STORE", "off")


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four query heads on two key/value heads of 8, two layers, context 192, float32."""
    path = tmp_path_factory.mktemp("models") / "tiny"
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|begin|>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    torch.manual_seed(7)
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        bos_token_id=0,
        eos_token_id=1,
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for weights in model.parameters():
            weights.mul_(4)  # so that greedy text is not one token over and over
    model.save_pretrained(path)
    tokenizer.save(str(path / "tokenizer.json"))
    config_json = {"bos_token": "<|begin|>", "eos_token": "<|end|>", "chat_template": TEMPLATE}
    (path / "tokenizer_config.json").write_text(json.dumps(config_json))
    return path


@pytest.fixture
def interrupt_after(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Let Ctrl-C arrive in place of the engine's step after this many."""

    def arm(num_steps: int) -> None:
        step, left = Engine._step, num_steps

        def stepping(engine: Engine) -> list[Event]:
            nonlocal left
            if left == 0:
                left = -1
                raise KeyboardInterrupt
            left -= 1
            return step(engine)

        monkeypatch.setattr(Engine, "_step", stepping)

    return arm
