"""The tokenizer of a checkpoint, whatever kind of files it has."""

from __future__ import annotations

from pathlib import Path

from kept.gguf import GGUFHeader, is_gguf, read_headers
from kept.text.gguf_tokenizer import gguf_tokenizer
from kept.text.piece_tokenizer import has_pieces, piece_tokenizer
from kept.text.pipeline import TOKENIZER_FILES
from kept.text.tokenizer import Tokenizer, tokenizer_class_of
from kept.text.tokenizer_config import read_tokenizer_config


def find_tokenizer(folder: Path, header: GGUFHeader | None = None) -> Tokenizer | None:
    """Load the tokenizer of a checkpoint folder, or of a GGUF file; None only where it has none.

    header: of the file, where it has been read.
    Raises `TokenizerError` as `Tokenizer.from_folder` does, also for a kind of file that kept does
    not read.
    """
    if is_gguf(folder):
        found = gguf_tokenizer(header or read_headers(folder))
        return None if found is None else Tokenizer(*found)
    if not any((folder / name).exists() for name in TOKENIZER_FILES):
        return None
    config = read_tokenizer_config(folder)
    name = tokenizer_class_of(config)
    if has_pieces(folder, name):
        return piece_tokenizer(folder, name, config)
    return Tokenizer.from_folder(folder)
