"""The tokenizer: byte-level BPE of 4,096 tokens, trained on the train part of the corpus.

    python training/tokenizer.py

A piece that merges may grow into is a run of newlines, or a word with the punctuation around it and
the blanks before it. Indentation therefore joins the word it indents, which saves about one token
a line, and a line's end stays a token of its own: a prompt that ends in a newline is cut where the
training text is cut.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from corpus import read_modules, split
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

VOCAB_SIZE = 4096
CONTEXT = 2048
END_OF_TEXT = "<|endoftext|>"
PIECES = r"\n+|[ \t]*[^\s]+|\s+"

# The model only knows source files, so a conversation is written as one: what people say becomes
# comments, what the model said is code.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}"
    "{{ message['content'] }}\n\n\n"
    "{% else %}"
    "# {{ message['content'] | trim | replace('\n', '\n# ') }}\n"
    "{% endif %}"
    "{% endfor %}"
)

RUNS = Path(__file__).parent / "runs"


def train_tokenizer(texts: list[str]) -> Tokenizer:
    """Learn the merges from these texts; token 0 separates documents."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[AddedToken(END_OF_TEXT, special=True, normalized=False)],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def tokenizer_config() -> dict[str, object]:
    """The fields of `tokenizer_config.json`."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": END_OF_TEXT,
        "eos_token": END_OF_TEXT,
        "pad_token": END_OF_TEXT,
        "add_bos_token": False,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": CONTEXT,
        "chat_template": CHAT_TEMPLATE,
    }


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write `tokenizer.json` and `tokenizer_config.json`, as transformers reads them."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    text = json.dumps(tokenizer_config(), indent=2, ensure_ascii=False)
    (folder / "tokenizer_config.json").write_text(text + "\n", encoding="utf-8")


def main() -> None:
    """Train on the train part, save, and print bytes per token of both parts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=RUNS / "tokenizer", help="folder to write")
    arguments = parser.parse_args()
    train, held_out = split(read_modules())
    tokenizer = train_tokenizer([module.text for module in train])
    save_tokenizer(tokenizer, arguments.out)
    for name, part in (("train", train), ("held-out", held_out)):
        encoded = tokenizer.encode_batch([module.text for module in part])
        tokens = sum(len(one.ids) for one in encoded)
        size = sum(module.num_bytes for module in part)
        print(f"{name:9} {tokens:10,} tokens, {size / tokens:.3f} bytes per token")


if __name__ == "__main__":
    main()
