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

_EXTRA = "extra_special_tokens"
_OLDER_EXTRA = "additional_special_tokens"
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
    older = {} if "added_tokens_decoder" in config else special_tokens_map
    newer, texts = _split_own(config)
    declared, by_name = _declare({**(rules.tokens if rules else {}), **newer}, older)
    added: dict[int, AddedToken] = {}
    if "added_tokens_decoder" in config:
        for token_id, entry in config["added_tokens_decoder"].items():
            added[int(token_id)] = _token(entry, f"added_tokens_decoder[{token_id}]")
    else:
        special_texts = {_token(entry, _EXTRA).content for entry in declared.get(_EXTRA) or ()} | {
            _token(declared[name], name).content for name in NAMED_TOKENS if declared.get(name)
        }
        for text, token_id in added_tokens.items():
            special = text in special_texts
            added[token_id] = AddedToken(text, normalized=not special, special=special)
        added.update(library_added)

    known = {token.content: token for token in added.values()}
    named: dict[str, AddedToken] = {}
    loose = "mask_token" if rules is not None and rules.loose_mask else None
    for name, entry in (_named_entries(declared) | texts | by_name).items():
        token = _token(entry, name)
        if name == loose and isinstance(entry, str):
            token = AddedToken(entry, lstrip=True, normalized=True, special=True)
        named[name] = known.get(token.content, token) if name in NAMED_TOKENS else token
    extra = tuple(
        _token(entry, _EXTRA)
        for entry in _extra_list(declared, numbered=rules is not None and rules.numbered)
    )
    there = {token.content for token in extra}
    extra += tuple(_token(x, _EXTRA) for x in (rules.extra if rules else ()) if x not in there)
    return SpecialTokens(named, extra, added)


def _split_own(config: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Split into the entries and the texts under names of their own, which go last and win.

    Left out is what is no token to transformers: an object under a name of its own, untyped. In
    special_tokens_map.json an object needs no type.
    """
    texts = {n: entry for n, entry in config.items() if _is_own(n) and isinstance(entry, str)}
    entries = {
        name: entry
        for name, entry in config.items()
        if name not in texts
        and (
            not (_is_own(name) and isinstance(entry, Mapping))
            or entry.get("__type") == "AddedToken"
        )
    }
    return entries, texts


def _is_own(name: str) -> bool:
    return name.endswith("_token") and name not in NAMED_TOKENS


def _declare(
    newer: Mapping[str, Any], older: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Merge two files; returns their entries, and those that stand by name in place of a list."""
    declared = dict(newer)
    # Before the older file is read, and a null too: its list under the older key then counts for
    # nothing, as transformers (5.23) has it.
    if _OLDER_EXTRA in declared and not declared.get(_EXTRA):
        declared[_EXTRA] = declared.pop(_OLDER_EXTRA)
    by_name = _take_names(declared)
    listed = declared.get(_EXTRA) or []
    declared.update(older)
    if isinstance(older.get(_EXTRA), list):
        declared[_EXTRA] = [*listed, *older[_EXTRA]]
    return declared, by_name | _take_names(declared)


def _take_names(declared: dict[str, Any]) -> dict[str, Any]:
    """Take out the extra tokens that are no list but an object; mutates `declared`."""
    if isinstance(declared.get(_EXTRA), Mapping):
        return dict(declared.pop(_EXTRA))
    return {}


def _named_entries(declared: Mapping[str, Any]) -> dict[str, Any]:
    entries = {name: declared[name] for name in NAMED_TOKENS if declared.get(name) is not None}
    for name, entry in declared.items():
        if _is_own(name) and _is_token(entry):
            entries[name] = entry
    return entries


def _extra_list(declared: Mapping[str, Any], *, numbered: bool) -> list[Any]:
    """Give the extra tokens; a `numbered` class adds its own to a list under the older key only."""
    if _EXTRA in declared:
        return list(declared[_EXTRA] or ())
    entries = list(declared.get(_OLDER_EXTRA) or ())
    if numbered and not any("<extra_id_" in _token(e, _OLDER_EXTRA).content for e in entries):
        count = declared.get("extra_ids")
        entries += [f"<extra_id_{i}>" for i in range(100 if count is None else count)]
    return entries


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
