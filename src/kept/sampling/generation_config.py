"""What a checkpoint's generation_config.json may ask for, and what kept must refuse of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from kept.errors import OptionError

# Each field with the values that change nothing; absent, null and empty are always among them.
_ALWAYS: Final[Mapping[str, tuple[object, ...]]] = {
    "bad_words_ids": (),
    "begin_suppress_tokens": (),
    "constraints": (),
    "dola_layers": (),
    "encoder_no_repeat_ngram_size": (0,),
    "encoder_repetition_penalty": (1,),
    "exponential_decay_length_penalty": (),
    "force_words_ids": (),
    "forced_bos_token_id": (),
    "forced_decoder_ids": (),
    "forced_eos_token_id": (),
    "guidance_scale": (1,),
    "max_time": (),
    "num_beam_groups": (1,),
    "penalty_alpha": (0,),
    "sequence_bias": (),
    "suppress_tokens": (),
    "token_healing": (False,),
    "watermarking_config": (),
}
_WHEN_SAMPLING: Final[Mapping[str, tuple[object, ...]]] = {
    "epsilon_cutoff": (0,),
    "eta_cutoff": (0,),
    "top_h": (),
    "typical_p": (1,),
}
_WITH_BEAMS: Final[Mapping[str, tuple[object, ...]]] = {
    "diversity_penalty": (0,),
    "renormalize_logits": (False,),
}

# Kinds of cache that transformers offers and that hold the same keys and values as the dynamic one.
_SAME_AS_DYNAMIC: Final = frozenset(
    {
        *("dynamic", "offloaded", "hybrid", "hybrid_chunked", "offloaded_hybrid"),
        *("offloaded_hybrid_chunked", "sliding_window", "paged"),
    }
)
_SAME_AS_STATIC: Final = frozenset({"static", "offloaded_static"})


def refuse_unsupported(config: Mapping[str, object], *, do_sample: bool, num_beams: int) -> None:
    """Raise `OptionError` if `config` asks for what kept lacks and the output would depend on it.

    Fields that act only when sampling, or only on beams, are looked at only there. Fields that are
    metadata, that concern speed or memory, or that are unknown, pass.
    """
    fields = dict(_ALWAYS)
    if do_sample:
        fields |= _WHEN_SAMPLING
    if num_beams > 1:
        fields |= _WITH_BEAMS
    for name, neutral in fields.items():
        value = config.get(name)
        if value is None or value in neutral or value in ([], (), {}):
            continue
        limit = f"only {neutral[0]!r}" if neutral else "nothing"
        raise OptionError(
            f"generation_config.json sets {name}={value!r}, which kept does not implement "
            f"({limit} is accepted there); remove the field to generate without it"
        )


def without_transformers_caches(config: Mapping[str, object]) -> Mapping[str, object]:
    """Return `config` with transformers' kinds of cache named as kept's that generate the same.

    "sliding", which only kept has, stays.

    Raises `OptionError` for a kind that would change the output ("quantized") or is not known.
    """
    kind = config.get("cache_implementation")
    if kind is None or kind == "sliding":
        return config
    if not isinstance(kind, str):
        raise OptionError(
            f"generation_config.json sets cache_implementation={kind!r:.100}, which must be the "
            "name of a cache; pass cache_implementation as dynamic, static, sliding or evicting"
        )
    if kind in _SAME_AS_DYNAMIC:
        return {**config, "cache_implementation": "dynamic"}
    if kind in _SAME_AS_STATIC:
        return {**config, "cache_implementation": "static"}
    raise OptionError(
        f"generation_config.json sets cache_implementation={kind!r}, which kept does not "
        "implement; pass cache_implementation as dynamic, static, sliding or evicting"
    )
