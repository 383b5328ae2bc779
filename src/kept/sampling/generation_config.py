"""What a checkpoint's files say about generating, and what kept must refuse of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from kept.errors import OptionError
from kept.sampling.transformers_fields import DONE, HARMLESS, ONLY_IN_FILES, REFUSED

_OF_MODEL_CONFIG: Final = (DONE | REFUSED.keys() | HARMLESS.keys()) - {
    # Training writes false here to save memory. With a cache the same text comes sooner.
    "use_cache",
    "transformers_version",
}


def settings_of_model_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings in a config.json, which count where there is no generation_config.json.

    As in transformers' `GenerationConfig.from_model_config`: a field of the model's own, else of
    the first decoder's config inside; `null` is not set.
    """
    names = ("decoder", "generator", "text_config")
    inner: object = next((config[name] for name in names if config.get(name)), None)
    places = [config, inner] if isinstance(inner, Mapping) else [config]
    found = {
        name: place[name]
        for place in reversed(places)
        for name in _OF_MODEL_CONFIG
        if place.get(name) is not None
    }
    if config.get("force_bos_token_to_be_generated"):  # the name of old BARTs
        found["forced_bos_token_id"] = found.get("bos_token_id")
    return found


def refuse_unsupported(
    config: Mapping[str, object], source: str, *, do_sample: bool, num_beams: int
) -> None:
    """Raise `OptionError` if `config` asks for what kept lacks and the output would depend on it.

    Fields that act only when sampling, or only on beams, are looked at only there. Fields that are
    metadata, that concern speed or memory, or that are unknown, pass. source: the file's name.
    """
    acts = {"always": True, "sampling": do_sample, "beams": num_beams > 1}
    for name, refusal in REFUSED.items():
        value = config.get(name)
        if acts[refusal.when] and not _is_neutral(value, refusal.neutral):
            limit = f"only {refusal.neutral[0]!r}" if refusal.neutral else "nothing"
            raise OptionError(
                f"{source} sets {name}={value!r:.200}, which kept does not implement "
                f"({limit} is accepted there); {_in_file(refusal.instead)}"
            )


def _in_file(instead: str) -> str:
    return instead.replace("leave it out", "remove the field")


def _is_neutral(value: Any, neutral: tuple[object, ...]) -> bool:
    # Arrays compare number by number, and numpy's numbers do so with empty lists.
    if getattr(value, "ndim", None) == 0 and not getattr(value, "is_meta", False):
        value = value.item()
    if value is None or isinstance(value, int | float):
        return value is None or value in neutral
    if isinstance(value, list | tuple | dict):
        return not value
    return 0 in getattr(value, "shape", ())


def check_keywords(options: Mapping[str, Any], known: frozenset[str]) -> dict[str, Any]:
    """The options of a call, without those of transformers' that change nothing.

    Raises `OptionError` for one that kept lacks and for one that nobody knows.
    """
    found = {name: value for name, value in options.items() if name in known}
    for name in options.keys() - known - HARMLESS.keys():
        value, refusal = options[name], REFUSED.get(name)
        if name in ONLY_IN_FILES:
            raise OptionError(f"{name} is no option of a call; {ONLY_IN_FILES[name]}")
        if refusal is None:
            raise OptionError(f"no option is called {name}; there are {', '.join(sorted(known))}")
        if not _is_neutral(value, refusal.neutral):
            raise OptionError(
                f"{name}={value!r:.200} is an option of transformers that kept does not implement; "
                f"{refusal.instead}"
            )
    return found
