"""Which special tokens a checkpoint folder declares, and under which names.

They come, later ones first to lose, from `tokenizer_config.json`, the older
`special_tokens_map.json` and `added_tokens.json`, and the defaults of the tokenizer class. The
order of precedence is the one transformers 5 uses, so that ids and templates agree with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tokenizers import AddedToken

from kept.errors import TokenizerError
from kept.text.tokenizer_classes import RULES

NAMED_TOKENS = (
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
)

_EXTRA = ("extra_special_tokens", "additional_special_tokens")
_ADDED_TOKEN_FIELDS = ("content", "single_word", "lstrip", "rstrip", "normalized", "special")


@dataclass(frozen=True, slots=True)
class SpecialTokens:
    """The special tokens of a folder.

    `named` maps bos_token, eos_token, image_token ... to tokens; `extra` are special tokens without
    a name; `added` are the tokens, special or not, to be put at the given ids.
    """

    named: Mapping[str, AddedToken]
    extra: tuple[AddedToken, ...]
    added: Mapping[int, AddedToken]

    def to_add(self, present: Iterable[AddedToken]) -> list[AddedToken]:
        """Give what to add to a tokenizer with the added tokens `present`, in this order.

        A token that is there keeps its spaces and its kind, whatever it is named.
        """
        adding = [self.added[i] for i in sorted(self.added)]
        texts = {token.content for token in [*present, *adding]}
        for token in [*self.named.values(), *self.extra]:
            if token.content not in texts and token not in adding:
                adding.append(token)
        names = {token.content for token in self.named.values()}
        for token in adding:
            token.special = token.special or token.content in names
        return adding

    def texts(self) -> dict[str, str]:
        """Give the named tokens as text, in the order and under the names templates see."""
        return {name: token.content for name, token in self.named.items()}


def resolve_special_tokens(
    config: Mapping[str, Any],
    special_tokens_map: Mapping[str, Any],
    added_tokens: Mapping[str, int],
    library_added: Mapping[int, AddedToken],
    tokenizer_class: str,
) -> SpecialTokens:
    """Resolve the special tokens of a folder.

    `config` is tokenizer_config.json, `special_tokens_map` and `added_tokens` the files of those
    names, `library_added` the added tokens of tokenizer.json by id. When `config` has
    `added_tokens_decoder` it alone counts, as it replaced the two older files.
    Raises `TokenizerError` when an entry is neither a string nor a token object.
    """
    rules = RULES.get(tokenizer_class)
    declared: dict[str, Any] = {**(rules.tokens if rules else {}), **config}
    added: dict[int, AddedToken] = {}
    if "added_tokens_decoder" in config:
        for token_id, entry in config["added_tokens_decoder"].items():
            added[int(token_id)] = _token(entry, f"added_tokens_decoder[{token_id}]")
    else:
        declared.update(special_tokens_map)
        extra_texts = {_token(e, "extra_special_tokens").content for e in _extra_list(declared)}
        special_texts = extra_texts | {
            _token(declared[name], name).content for name in NAMED_TOKENS if declared.get(name)
        }
        for text, token_id in added_tokens.items():
            special = text in special_texts
            added[token_id] = AddedToken(text, normalized=not special, special=special)
        added.update(library_added)

    known = {token.content: token for token in added.values()}
    named: dict[str, AddedToken] = {}
    for name, entry in _named_entries(declared).items():
        token = _token(entry, name)
        named[name] = known.get(token.content, token) if name in NAMED_TOKENS else token
    entries = _extra_list(declared)
    if (
        rules is not None
        and rules.numbered
        and not any(isinstance(declared.get(key), list) for key in _EXTRA)
    ):
        count = declared.get("extra_ids")
        entries = [f"<extra_id_{i}>" for i in range(100 if count is None else count)]
    extra = tuple(_token(entry, "extra_special_tokens") for entry in entries)
    return SpecialTokens(named, extra, added)


def _named_entries(declared: Mapping[str, Any]) -> dict[str, Any]:
    entries = {name: declared[name] for name in NAMED_TOKENS if declared.get(name) is not None}
    for name, entry in declared.items():
        if name.endswith("_token") and name not in NAMED_TOKENS and _is_token(entry):
            entries[name] = entry
    extra = declared.get("extra_special_tokens")
    if isinstance(extra, Mapping):
        entries.update(extra)
    return entries


def _extra_list(declared: Mapping[str, Any]) -> list[Any]:
    for key in _EXTRA:
        value = declared.get(key)
        if isinstance(value, list | tuple) and value:
            return list(value)
    return []


def _is_token(entry: Any) -> bool:
    return isinstance(entry, str) or (isinstance(entry, Mapping) and "content" in entry)


def _token(entry: Any, where: str) -> AddedToken:
    if isinstance(entry, str):
        return AddedToken(entry, special=True, normalized=False)
    if _is_token(entry):
        fields = {name: entry[name] for name in _ADDED_TOKEN_FIELDS if name in entry}
        return AddedToken(**fields)
    raise TokenizerError(
        f"{where} is {entry!r} in the tokenizer's configuration; "
        "a special token is a string or an object with a content field"
    )
