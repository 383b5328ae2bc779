"""The options of drawing a text's tokens, as flags."""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from kept.cli.options import BEAMS, CHOICE, LENGTH, REPORT, option
from kept.errors import OptionError

if TYPE_CHECKING:
    from kept.sampling import SamplingParams


class EarlyStopping(StrEnum):
    """When a beam search ends."""

    TRUE = "true"
    FALSE = "false"
    NEVER = "never"


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
    prompt_lookup_num_tokens: Annotated[
        int | None,
        option(
            CHOICE,
            "Draft at most this many tokens a step, up to 48, of what came behind the same tokens "
            "before, where that makes the same text sooner; 0 is off. Default: 0.",
        ),
    ] = None
    num_assistant_tokens: Annotated[
        int | None,
        option(
            CHOICE,
            "Draft at most this many tokens a step, up to 48, by the model of --draft-model, where "
            "that makes the same text sooner; 0 is off. Default: 16.",
        ),
    ] = None
    json_schema: Annotated[
        Path | None,
        option(
            CHOICE,
            "The text is JSON that the JSON schema in this file holds for valid. Needs the package "
            "llguidance, as the next two do. Default: any text.",
            metavar="FILE",
        ),
    ] = None
    regex: Annotated[
        str | None,
        option(
            CHOICE,
            "The text is what this regular expression matches from end to end. Default: any text.",
            metavar="PATTERN",
        ),
    ] = None
    grammar: Annotated[
        Path | None,
        option(
            CHOICE,
            "The text is one of the grammar in this file, in llguidance's dialect of Lark. "
            "Default: any text.",
            metavar="FILE",
        ),
    ] = None
    skip_special_tokens: Annotated[
        bool | None,
        option(
            REPORT,
            "Leave special tokens out of the text, or show them. Default: leave them out.",
            "--skip-special-tokens/--no-skip-special-tokens",
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

    def to_params(self) -> SamplingParams:
        """The options as the library takes them. Raises OptionError for a value out of range."""
        from kept.sampling import SamplingParams

        given = {field.name: getattr(self, field.name) for field in fields(self)}
        for name in ("json_schema", "grammar"):
            if given[name] is not None:
                given[name] = _read(name, given[name])
        if self.early_stopping is not None and self.early_stopping != EarlyStopping.NEVER:
            given["early_stopping"] = self.early_stopping == EarlyStopping.TRUE
        return SamplingParams(**{name: v for name, v in given.items() if v not in (None, [], ())})


def _read(name: str, path: Path) -> str:
    """A file that an option names."""
    flag = f"--{name.replace('_', '-')} {path}"
    if path.exists() and not path.is_file():
        raise OptionError(f"{flag} is no regular file; give one that holds UTF-8 text")
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(f"{flag} cannot be read: {error}; give a file of UTF-8 text") from error
