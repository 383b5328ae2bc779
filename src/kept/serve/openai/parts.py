"""Contents in parts, of which only text can be read."""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field

from kept.serve.openai.fields import ShortText
from kept.serve.refusal import not_text

MAX_PARTS: Final = 65_536


class Part(BaseModel):
    """A part of a content; only text can be read."""

    model_config = ConfigDict(extra="allow", strict=True)
    type: ShortText
    text: str | None = None
    refusal: str | None = None


Parts = Annotated[list[Part], Field(max_length=MAX_PARTS)]


def text_of(
    content: str | Sequence[Part] | None, where: str, kinds: Container[str] | None = None
) -> str:
    """The text of a content. kinds: of the parts that may have any, None: all of them. Raises
    Refusal for another part."""
    if isinstance(content, str) or content is None:
        return content or ""
    found = []
    for i, part in enumerate(content):
        text = part.refusal if part.type == "refusal" else part.text
        if text is None or (kinds is not None and part.type not in kinds):
            raise not_text(f"{where}.{i}", part.type)
        found.append(text)
    return "\n".join(found)
