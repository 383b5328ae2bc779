"""A generation whose queries, keys, values and attention weights are written down."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from kept.batch import pack
from kept.cache import make_cache
from kept.engine import ContextRule
from kept.errors import ContextLengthError, OptionError
from kept.llm import LLM
from kept.models.record import Record
from kept.ops import AttentionSpec
from kept.sampling import ResolvedParams, TokenHistory, derive_seed, sample

Progress = Callable[[int, int], None]

# Every pair of tokens is drawn and written out, for every layer.
MAX_TOKENS = 128


@dataclass(frozen=True, slots=True)
class RecordedStep:
    """Tokens [start, end) were read, and `drawn` was chosen from the logits of the last."""

    start: int
    end: int
    drawn: int


@dataclass(frozen=True, slots=True)
class Recording:
    """What a generation did, in fp32 on the CPU, layer by layer; S tokens were read.

    token_ids: the S tokens, prompt first, and the last drawn one, which was not read. attention:
    (L,) of (H, S, S), zero where nothing is seen. queries: (L,) of (S, H, D). specs: (L,).
    keys, values: (L,) of (G, S, D).
    """

    token_ids: tuple[int, ...]
    num_prompt: int
    steps: tuple[RecordedStep, ...]
    finish_reason: Literal["stop", "length"]
    attention: tuple[Tensor, ...]
    queries: tuple[Tensor, ...]
    specs: tuple[AttentionSpec, ...]
    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]

    @property
    def num_read(self) -> int:
        """S."""
        return self.steps[-1].end


def record_generation(
    llm: LLM, prompt: list[int], params: ResolvedParams, progress: Progress | None = None
) -> Recording:
    """Generate with a cache that keeps everything in fp32, and write down what happens.

    progress: called with the tokens drawn and their limit. Raises OptionError for more tokens than
    can be shown, or an encoder-decoder model, ContextLengthError for a prompt beyond the context.
    """
    model = llm.model
    if model.is_encoder_decoder:
        raise OptionError(
            f"{llm.checkpoint.folder} is an encoder-decoder model, whose cache holds a prompt that "
            "its encoder read once, and kept explain shows how a decoder goes through one; name a "
            "decoder"
        )
    context = model.config.context
    if len(prompt) > context:
        raise ContextLengthError(
            f"the prompt has {len(prompt)} tokens and the model's context is {context}; shorten it"
        )
    limit = ContextRule(context).limit(len(prompt), params.new_token_limit(len(prompt)))
    if limit > MAX_TOKENS:
        raise OptionError(
            f"the prompt has {len(prompt)} tokens and {limit - len(prompt)} are to follow, and "
            f"every pair of tokens is shown: give a prompt and --max-new-tokens of at most "
            f"{MAX_TOKENS} together"
        )
    cache = make_cache(
        model.kv_shapes,
        dtype=model.dtype,
        kv_dtype="float32",
        device=model.device,
        keeps_all=True,
    )
    history = TokenHistory(prompt)
    steps: list[RecordedStep] = []
    records: list[Record] = []
    finish: Literal["stop", "length"] = "length"
    with model.running(), torch.no_grad():
        while len(history) < limit and finish == "length":
            start, end = cache.lengths[0], len(history)
            new = history.tokens[start:].tolist()
            batch = pack([new], past=[start], last_of=[True], device=model.device)
            record = Record(want_attention=True)
            logits = model.run(batch, cache, record)
            [drawn] = sample(
                logits, [params], [history], [(derive_seed(params.seed, 0), end)]
            ).token_ids
            history.append(drawn)
            steps.append(RecordedStep(start, end, drawn))
            records.append(record)
            if drawn in params.eos_token_ids:
                finish = "stop"
            if progress is not None:
                progress(len(steps), limit - len(prompt))
    stored = [cache.layer(index)[0] for index in range(len(cache.layers))]
    return Recording(
        token_ids=tuple(history.tokens.tolist()),
        num_prompt=len(prompt),
        steps=tuple(steps),
        finish_reason=finish,
        attention=tuple(_weights(records, i) for i in range(cache.num_layers)),
        queries=tuple(
            torch.cat([_plain(r.queries[i][0]) for r in records]) for i in range(cache.num_layers)
        ),
        specs=tuple(spec for _, spec in records[0].queries),
        keys=tuple(_plain(keys) for keys, _ in stored),
        values=tuple(_plain(values) for _, values in stored),
    )


def _weights(records: list[Record], layer: int) -> Tensor:
    """(H, S, S) of a layer: the rows of all steps, filled up with zeros for what was to come."""
    total = sum(record.queries[layer][0].shape[0] for record in records)
    rows = []
    for record in records:
        [weights] = record.attention[layer][1]  # (1, H, T, S'): one sequence, one group
        rows.append(torch.nn.functional.pad(_plain(weights[0]), (0, total - weights.shape[-1])))
    return torch.cat(rows, dim=1)


def _plain(x: Tensor) -> Tensor:
    return x.detach().float().cpu()
