"""What a draft model takes beside the model that it drafts for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kept.cli.description import Description, describe_model
from kept.errors import OptionError
from kept.format import dtype_name, format_bytes, format_count


@dataclass(frozen=True, slots=True)
class DraftPlan:
    """weight_bytes: as it is loaded, in `dtype`. token_bytes: of its keys and values, which come
    out of what texts have no need of, so that they are in no total."""

    name: str
    num_parameters: int
    dtype: str
    weight_bytes: int
    token_bytes: int

    @property
    def line(self) -> str:
        """It in a line, for people."""
        return (
            f"{self.name}: {format_count(self.num_parameters)} parameters, "
            f"{format_bytes(self.weight_bytes)} in {self.dtype}, and up to {self.token_bytes:,} "
            "bytes per token of room that texts do not need"
        )

    def to_json(self) -> dict[str, Any]:
        """It as `--json` has it."""
        return {
            "model": self.name,
            "num_parameters": self.num_parameters,
            "dtype": self.dtype,
            "weight_bytes": self.weight_bytes,
            "bytes_per_token": self.token_bytes,
        }


def plan_draft(source: str | None, found: Description) -> DraftPlan | None:
    """The plan of a draft model, a folder or a hub id, for a model; None: there is none.

    Raises OptionError where either is an encoder-decoder model or their vocabularies differ, and as
    `describe_model`.
    """
    if source is None:
        return None
    draft = describe_model(source)
    for described, what in ((found, "drafts for"), (draft, "is")):
        if described.is_encoder_decoder:
            raise OptionError(
                f"--draft-model {source} {what} an encoder-decoder model, and only decoders have "
                "draft models; leave it out"
            )
    _check_vocabulary(source, found, draft)
    dtype = draft.dtype()
    return DraftPlan(
        draft.name,
        draft.num_parameters,
        draft.quantized or dtype_name(dtype),
        draft.weight_bytes(dtype),
        draft.token_bytes()[dtype_name(dtype)],
    )


def _check_vocabulary(source: str, found: Description, draft: Description) -> None:
    from kept.llm.draft_model import check_tokens
    from kept.text import find_tokenizer

    size, own = found.model.config.vocab_size, draft.model.config.vocab_size
    if found.folder is not None and draft.folder is not None:
        check_tokens(source, find_tokenizer(found.folder), find_tokenizer(draft.folder))
    elif size != own:
        raise OptionError(
            f"--draft-model {source} knows {own:,} tokens and the model {size:,}; take a draft "
            "model of its family"
        )
