"""`/v1/embeddings`: means of the last hidden states."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from kept.llm.scoring import mean_state
from kept.serve.openai.fields import Ids, ShortText, Wire
from kept.serve.refusal import not_done
from kept.serve.service import Service

MAX_INPUTS: Final = 2048


class EmbeddingRequest(Wire):
    """The body of `/v1/embeddings`."""

    input: (
        str
        | Annotated[list[str], Field(min_length=1, max_length=MAX_INPUTS)]
        | Ids
        | Annotated[list[Ids], Field(min_length=1, max_length=MAX_INPUTS)]
    )
    model: ShortText = ""
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[int, Field(ge=1, le=1 << 20)] | None = None
    user: ShortText | None = None

    @model_validator(mode="after")
    def _is_understood(self) -> Self:
        if self.input == "":
            raise not_done("input", "is empty; give a text")
        return self

    @property
    def texts(self) -> list[str | tuple[int, ...]]:
        """What is to be embedded, one or several."""
        given: Any = self.input
        if isinstance(given, str):
            return [given]
        if isinstance(given[0], int):
            return [tuple(given)]
        return [each if isinstance(each, str) else tuple(each) for each in given]


async def embeddings_body(service: Service, body: EmbeddingRequest) -> dict[str, Any]:
    """The answer: each a vector of length one. Raises Refusal, and what reading a text raises."""
    texts, adapter = body.texts, service.adapter_of(body.model)
    tokens = await service.tokens_of(texts)
    data = []
    for index, each in enumerate(tokens):
        vector = await service.score(lambda each=each: embed(service, each, adapter))  # type: ignore[misc]
        if body.dimensions not in (None, vector.size):
            raise not_done("dimensions", f"is not {vector.size}, which is how many there are")
        data.append(
            {
                "object": "embedding",
                "index": index,
                "embedding": base64.b64encode(vector.tobytes()).decode()
                if body.encoding_format == "base64"
                else vector.tolist(),
            }
        )
    count = sum(map(len, tokens))
    return {
        "object": "list",
        "data": data,
        "model": adapter or service.models[0],
        "usage": {"prompt_tokens": count, "total_tokens": count},
    }


def embed(service: Service, tokens: Sequence[int], adapter: str | None = None) -> Any:
    """The vector of a text, (E,) little-endian fp32 of length one."""
    model = service.llm.model
    found = mean_state(model, tokens, service.caching, model.find_adapter(adapter))
    norm = float(np.linalg.norm(found.astype(np.float64)))
    return np.asarray(found / max(norm, 1e-30), dtype="<f4")
