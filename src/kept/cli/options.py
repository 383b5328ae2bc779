"""The options commands share: which model, and how to generate."""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from kept.sampling import SamplingParams

MODEL = "Model"
LENGTH = "When to stop"
CHOICE = "How to choose each token"
BEAMS = "Beam search"
REPORT = "What to report"
CACHE = "Cache and context"


class EarlyStopping(StrEnum):
    """When a beam search ends."""

    TRUE = "true"
    FALSE = "false"
    NEVER = "never"


class CacheImplementation(StrEnum):
    """The kinds of cache a generation can ask for."""

    DYNAMIC = "dynamic"
    STATIC = "static"
    SLIDING = "sliding"
    EVICTING = "evicting"


class EvictionScore(StrEnum):
    """Which tokens an evicting cache prefers."""

    WINDOW = "window"
    KEY_NORM = "key-norm"
    ATTENTION = "attention"
    EXPECTED_ATTENTION = "expected-attention"


class KVDtype(StrEnum):
    """What keys and values can be stored as."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"
    INT8 = "int8"
    K8V4 = "k8v4"
    INT4 = "int4"


class QuantizedFormat(StrEnum):
    """What weights can be rounded to."""

    INT8 = "int8"
    INT4 = "int4"


class Overflow(StrEnum):
    """What happens at the end of the context."""

    STOP = "stop"
    SLIDE = "slide"


def option(panel: str, text: str, *names: str, metavar: str | None = None) -> Any:
    """A typer option; `text` says its unit and its default, which typer cannot know."""
    return typer.Option(
        *names, help=text, rich_help_panel=panel, metavar=metavar, show_default=False
    )


_REVISION = "Branch, tag or commit of a hub id. Default: main."
_DTYPE = (
    "auto, float32, bfloat16 or float16. Default: auto, the checkpoint's own, but on a CPU "
    "bfloat16 for float16."
)


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Which model, and how to hold it."""

    model: Annotated[
        str | None,
        option(
            MODEL,
            "A checkpoint's folder, or a hub id such as Qwen/Qwen2.5-0.5B, fetched once and kept "
            "in the hub's cache. Default: the small bundled model of Python code.",
            "--model",
            "-m",
        ),
    ] = None
    revision: Annotated[str | None, option(MODEL, _REVISION)] = None
    dtype: Annotated[str | None, option(MODEL, _DTYPE)] = None
    quantize: Annotated[
        QuantizedFormat | None,
        option(
            MODEL,
            "Round the weights to int8 or int4, about a half and 0.28 of bfloat16's bytes, while "
            "loading. `kept quantize` does so once and for all. Default: as they are stored.",
        ),
    ] = None
    device: Annotated[
        str | None, option(MODEL, "cpu, cuda, cuda:1, mps, as torch names them. Default: cpu.")
    ] = None
    kv_folder: Annotated[
        str | None,
        option(
            CACHE,
            "Keep keys and values in files of this folder, with --kv-memory of them in memory. "
            "Default: all in memory.",
        ),
    ] = None
    kv_memory: Annotated[
        str | None,
        option(
            CACHE,
            "How much of the keys and values is in memory at a time; goes with --kv-folder. "
            "Default: all.",
            metavar="<bytes, or as 512MiB, 2GiB>",
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class SamplingOptions:
    """A flag for every field of SamplingParams. None: the checkpoint's value, else the default."""

    max_new_tokens: Annotated[
        int | None, option(LENGTH, "At most this many tokens after the prompt. Default: 256.")
    ] = None
    min_new_tokens: Annotated[
        int | None,
        option(LENGTH, "No end-of-sequence token before this many tokens. Default: 0."),
    ] = None
    stop_strings: Annotated[
        list[str] | None,
        option(
            LENGTH,
            "The text ends before this string; may be given several times. Default: none.",
            "--stop-strings",
            metavar="TEXT",
        ),
    ] = None
    eos_token_id: Annotated[
        list[int] | None,
        option(
            LENGTH,
            "The id of a token that ends the text; may be given several times. Default: the "
            "checkpoint's.",
            "--eos-token-id",
            metavar="ID",
        ),
    ] = None
    ignore_eos: Annotated[
        bool, option(LENGTH, "Go on past end-of-sequence tokens. Default: off.", "--ignore-eos")
    ] = False
    do_sample: Annotated[
        bool | None,
        option(
            CHOICE,
            "Draw each token, or take the likeliest. Default: draw if the checkpoint says so or "
            "--temperature, --top-k, --top-p or --min-p is given.",
            "--do-sample/--no-do-sample",
        ),
    ] = None
    temperature: Annotated[
        float | None,
        option(CHOICE, "Divide logits by this, 0 or more; 0 never draws. Default: 1."),
    ] = None
    top_k: Annotated[
        int | None, option(CHOICE, "Only the k likeliest tokens; 0 is off. Default: 50.")
    ] = None
    top_p: Annotated[
        float | None,
        option(
            CHOICE,
            "Only the likeliest tokens that together reach this probability, above 0 and at most "
            "1. Default: 1, off.",
        ),
    ] = None
    min_p: Annotated[
        float | None,
        option(
            CHOICE,
            "Only tokens at least this fraction as likely as the likeliest, 0 to 1. Default: 0, "
            "off.",
        ),
    ] = None
    repetition_penalty: Annotated[
        float | None,
        option(CHOICE, "Above 1 makes tokens that were there less likely. Default: 1, off."),
    ] = None
    no_repeat_ngram_size: Annotated[
        int | None,
        option(CHOICE, "No run of this many tokens occurs twice. Default: 0, off."),
    ] = None
    seed: Annotated[
        int | None,
        option(CHOICE, "Makes draws repeatable, 0 to 2^64 - 1. Default: a new one each time."),
    ] = None
    num_beams: Annotated[
        int | None, option(BEAMS, "Beams to search with. Default: 1, no beam search.")
    ] = None
    length_penalty: Annotated[
        float | None,
        option(BEAMS, "Scores are divided by length to this power. Default: 1."),
    ] = None
    early_stopping: Annotated[
        EarlyStopping | None,
        option(
            BEAMS,
            "End as soon as there are enough finished beams (true), when no better one is likely "
            "(false), or only when none is possible (never). Default: false.",
        ),
    ] = None
    num_return_sequences: Annotated[
        int | None, option(REPORT, "Texts for each prompt. Default: 1.")
    ] = None
    logprobs: Annotated[
        int | None,
        option(
            REPORT,
            "With --json: each token's log-probability (natural) under the model, and those of "
            "this many likeliest tokens. Default: not reported.",
        ),
    ] = None
    use_cache: Annotated[
        bool | None,
        option(
            CACHE,
            "Keep keys and values between steps, or compute them anew. Default: keep.",
            "--use-cache/--no-cache",
        ),
    ] = None
    cache_implementation: Annotated[
        CacheImplementation | None,
        option(
            CACHE,
            "Keep all and grow (dynamic), a fixed length (static), only the last tokens "
            "(sliding), or a budget of chosen ones (evicting). Default: dynamic.",
        ),
    ] = None
    kv_dtype: Annotated[
        KVDtype | None,
        option(
            CACHE,
            "What keys and values are stored as; int8 and int4 take half and a quarter of "
            "bfloat16's memory, k8v4 (int8 keys, int4 values) is between them, and all round more. "
            "Default: the model's dtype.",
        ),
    ] = None
    max_cache_len: Annotated[
        int | None,
        option(CACHE, "Tokens a static cache holds. Default: prompt and new tokens."),
    ] = None
    sliding_window: Annotated[
        int | None,
        option(CACHE, "Tokens a sliding cache holds. Default: the model's window."),
    ] = None
    num_sinks: Annotated[
        int | None,
        option(
            CACHE,
            "First tokens a sliding or evicting cache never drops. Default: 0 of a sliding one, 4 "
            "of an evicting one.",
        ),
    ] = None
    kv_budget: Annotated[
        str | None,
        option(
            CACHE,
            "Tokens of each sequence that an evicting cache keeps: one number, or one for each "
            "layer, as 512,256,256,128. Default: none, it needs one.",
            metavar="<number, or a list with commas>",
        ),
    ] = None
    eviction_score: Annotated[
        EvictionScore | None,
        option(
            CACHE,
            "Which tokens an evicting cache prefers: those of short keys (key-norm), those that "
            "have received most attention (attention, H2O), those that the last tokens' queries "
            "let expect most (expected-attention), or the last ones (window). Default: attention.",
        ),
    ] = None
    num_recent: Annotated[
        int | None,
        option(
            CACHE,
            "Last tokens an evicting cache never drops. Default: half of what the first ones "
            "leave of the budget.",
        ),
    ] = None
    overflow: Annotated[
        Overflow | None,
        option(CACHE, "At the end of the context: stop, or slide on. Default: stop."),
    ] = None
    slide_hop: Annotated[
        int | None,
        option(
            CACHE,
            "With --overflow slide, re-read the window every this many tokens, for models whose "
            "positions are absolute. Default: a quarter of the context.",
        ),
    ] = None

    def to_params(self) -> SamplingParams:
        """The options as the library takes them. Raises OptionError for a value out of range."""
        from kept.sampling import SamplingParams

        given = {field.name: getattr(self, field.name) for field in fields(self)}
        if self.early_stopping is not None and self.early_stopping != EarlyStopping.NEVER:
            given["early_stopping"] = self.early_stopping == EarlyStopping.TRUE
        if self.kv_budget is not None:
            given["kv_budget"] = _read_budget(self.kv_budget)
        return SamplingParams(**{name: v for name, v in given.items() if v not in (None, [], ())})


def _read_budget(text: str) -> int | tuple[int, ...]:
    try:
        found = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is neither a whole number of tokens nor a list of them, as 512,256,256,128",
            param_hint="--kv-budget",
        ) from None
    return found[0] if len(found) == 1 else found
