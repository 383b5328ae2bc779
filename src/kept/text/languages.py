"""The languages that a tokenizer has tokens of, for models that translate between many."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

import tokenizers

from kept.errors import OptionError
from kept.text.class_rules import LanguageRules

_MAX_SHOWN = 12  # languages in a message


@dataclass(frozen=True, slots=True)
class Languages:
    """Which token stands for each language, and where it goes.

    ids: by the language's code. end: of a sequence. behind: a text's language comes behind its end,
    else before the text. starts: a translation's language is what the decoder starts from, else
    the first token after that.
    """

    ids: Mapping[str, int]
    end: int
    behind: bool
    starts: bool

    def find(self, name: str, code: object) -> int:
        """The token of the language that an option of that name says.

        Raises OptionError for one that there is not.
        """
        found = self.ids.get(code) if isinstance(code, str) else None
        if found is None:
            near = get_close_matches(str(code), self.ids, _MAX_SHOWN, 0.5) or sorted(self.ids)
            more = "" if len(near) <= _MAX_SHOWN else f" and {len(near) - _MAX_SHOWN} more"
            raise OptionError(
                f"{name}={code!r:.80} is no language of this tokenizer; there are "
                f"{', '.join(near[:_MAX_SHOWN])}{more}"
            )
        return found

    def around(self, ids: Sequence[int], source: object) -> list[int]:
        """A text's tokens with its end and its language. Raises as `find`."""
        language = self.find("src_lang", source)
        return [*ids, self.end, language] if self.behind else [language, *ids, self.end]


def find_language_option(languages: Languages | None, name: str) -> Languages:
    """The languages that an option of that name chooses from. Raises OptionError for none."""
    if languages is None:
        raise OptionError(
            f"{name} is for models that translate between many languages, and this one's tokenizer "
            "has no tokens of any; leave it out, and say in the prompt what the model takes there"
        )
    return languages


def find_languages(
    backend: tokenizers.Tokenizer, rules: LanguageRules, behind: bool, end: str
) -> Languages:
    """Those of a tokenizer that has all its tokens. behind: whatever the rules say."""
    ids: dict[str, int] = {}
    for token_id, token in backend.get_added_tokens_decoder().items():
        if token.special and (found := re.search(rules.pattern, token.content)):
            ids[found[1]] = token_id
    end_id = backend.token_to_id(end)
    assert end_id is not None, "a class of languages ends its sequences"
    return Languages(ids, end_id, rules.behind or behind, rules.starts)
