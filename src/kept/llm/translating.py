"""The language of a translation, for models that have a token for each."""

from __future__ import annotations

from dataclasses import replace

from kept.errors import OptionError, TokenizerError
from kept.sampling import ResolvedParams
from kept.text import Tokenizer, find_language_option


def towards(
    params: ResolvedParams, tokenizer: Tokenizer | None, tgt_lang: str | None, forced: object
) -> tuple[ResolvedParams, int | None]:
    """Options of a text in that language, and the token that a decoder starts from; None: its own.

    As transformers does: mBART starts from the language's token, the others say it first
    (`forced_bos_token_id`). forced: the latter as the caller gives it. Raises OptionError for a
    language that there is not, and where both are given.
    """
    if tgt_lang is None:
        return params, None
    if tokenizer is None:
        raise TokenizerError(
            f"tgt_lang={tgt_lang!r:.80} names a language by its token, and this checkpoint has no "
            "tokenizer; pass the token itself as forced_bos_token_id"
        )
    languages = find_language_option(tokenizer.languages, "tgt_lang")
    token = languages.find("tgt_lang", tgt_lang)
    if languages.starts:
        return params, token
    if forced is not None:
        raise OptionError(
            f"tgt_lang={tgt_lang!r} and forced_bos_token_id={forced!r} both say what a text begins "
            "with; leave one of the two out"
        )
    return replace(params, rules=replace(params.rules, forced_bos_token_id=token)), None
