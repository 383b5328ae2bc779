"""Removal of the spaces that WordPiece-style decoding puts before punctuation."""

from __future__ import annotations

CLEANUP_RULES = (
    (" .", "."),
    (" ?", "?"),
    (" !", "!"),
    (" ,", ","),
    (" ' ", "'"),
    (" n't", "n't"),
    (" 'm", "'m"),
    (" 's", "'s"),
    (" 've", "'ve"),
    (" 're", "'re"),
)


def clean_up(text: str) -> str:
    """Apply the rules of `clean_up_tokenization_spaces` (tokenizer_config.json), in their order."""
    for old, new in CLEANUP_RULES:
        text = text.replace(old, new)
    return text
