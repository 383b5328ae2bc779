"""The merges that a SentencePiece vocabulary stands for, of which a file has pieces and scores."""

from __future__ import annotations

from collections.abc import Mapping
from operator import itemgetter
from pathlib import Path

from kept.errors import TokenizerError

_MAX_WORK = 1 << 28  # characters; 262,144 tokens of Gemma need a twentieth of it


def derive_merges(
    vocabulary: Mapping[str, int], scores: Mapping[str, float] | None, path: Path
) -> list[tuple[str, str]]:
    """Every pair of tokens that makes a token, those of the highest score first, or without scores
    those of the lowest id, as transformers orders them (`generate_merges`).

    Raises TokenizerError for tokens too long to be cut at every place.
    """
    if sum(len(token) ** 2 for token in vocabulary) > _MAX_WORK:
        raise TokenizerError(
            f"the tokens of {path} are longer than any vocabulary's; download the file again"
        )
    found: list[tuple[float, int, int, tuple[str, str]]] = []
    for token, score in (vocabulary if scores is None else scores).items():
        local = [
            (token[:cut], token[cut:])
            for cut in range(1, len(token))
            if token[:cut] in vocabulary and token[cut:] in vocabulary
        ]
        if len(local) > 1:
            local.sort(key=lambda pair: (vocabulary[pair[0]], vocabulary[pair[1]]))
        found += [(score, len(pair[0]), len(pair[1]), pair) for pair in local]
    found.sort(key=itemgetter(0, 1, 2), reverse=scores is not None)
    return [each[3] for each in found]
