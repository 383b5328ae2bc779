"""What kept makes of every field of transformers' GenerationConfig, wherever it stands.

A field stands in generation_config.json, in an old config.json or among keyword arguments. It is
done (an option of kept's has its name and meaning), refused (its value would change the text), or
harmless (it changes no text). A test holds the table against the installed transformers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from kept.options import CACHE_FIELDS
from kept.sampling.fields import FIELDS
from kept.sampling.rules import RULE_FIELDS

When = Literal["always", "sampling", "beams"]


@dataclass(frozen=True, slots=True)
class Refusal:
    """neutral: values that change nothing, beside None and empty ones. when: where it acts.
    instead: what to do."""

    neutral: tuple[object, ...] = ()
    when: When = "always"
    instead: str = "leave it out to generate without it"


# Read from files only: as keyword arguments kept has another name for them.
ONLY_IN_FILES: Final[Mapping[str, str]] = {
    "max_length": "pass max_new_tokens, which does not count the prompt",
    "min_length": "pass min_new_tokens, which does not count the prompt",
    "decoder_start_token_id": "write it into generation_config.json",
}
_OPTIONS: Final = frozenset(field.name for field in (*FIELDS, *RULE_FIELDS, *CACHE_FIELDS))
_KEPTS_OWN: Final = frozenset(
    {
        *("ignore_eos", "seed", "logprobs", "kv_dtype", "sliding_window", "num_sinks"),
        *("kv_budget", "eviction_score", "num_recent", "overflow", "slide_hop"),
        *("presence_penalty", "frequency_penalty"),
        *("json_schema", "regex", "grammar", "skip_special_tokens"),
    }
)
DONE: Final[frozenset[str]] = (_OPTIONS - _KEPTS_OWN) | set(ONLY_IN_FILES)

REFUSED: Final[Mapping[str, Refusal]] = {
    "constraints": Refusal(),
    "diversity_penalty": Refusal((0,), "beams"),
    "dola_layers": Refusal(),
    "force_words_ids": Refusal(),
    "forced_decoder_ids": Refusal(),  # of transformers 4
    "guidance_scale": Refusal((1,)),
    "max_time": Refusal(instead="end a stream() when its time is over"),
    "num_beam_groups": Refusal((1,)),
    "penalty_alpha": Refusal((0,)),
    "token_healing": Refusal((False,)),
    "watermarking_config": Refusal(),
}

_REPORTS: Final = "says what generate() returns beside the tokens; kept has a Completion"
_ASSISTED: Final = "drafts by an assistant or a lookup, which the model confirms or rejects"
_SPEED: Final = "concerns speed or memory"
HARMLESS: Final[Mapping[str, str]] = {
    "assistant_confidence_threshold": _ASSISTED,
    "assistant_early_exit": _ASSISTED,
    "assistant_ensemble_weight": "would mix in what an assistant model says",
    "assistant_lookbehind": _ASSISTED,
    "bos_token_id": "an empty prompt begins with the tokenizer's",
    "cache_config": "describes a quantized cache, which is refused itself",
    "compile_config": _SPEED,
    "continuous_batching_config": _SPEED,
    "disable_compile": _SPEED,
    "is_assistant": _ASSISTED,
    "low_memory": _SPEED,
    "max_matching_ngram_size": _ASSISTED,
    "num_assistant_tokens_schedule": _ASSISTED,
    "output_attentions": _REPORTS,
    "output_hidden_states": _REPORTS,
    "output_logits": _REPORTS,
    "output_scores": _REPORTS,
    "pad_token_id": "pads what is computed together; kept pads nothing",
    "prefill_chunk_size": _SPEED,
    "remove_invalid_values": "hides infinite and undefined logits, which kept reports as an error",
    "return_dict_in_generate": _REPORTS,
    "speculation_type": _ASSISTED,
    "target_lookbehind": _ASSISTED,
    "transformers_version": "metadata",
    "use_mtp": _ASSISTED,
}
