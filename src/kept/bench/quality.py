"""What rounding costs: one text scored by one model, its weights or its cache in each format.

Perplexity says how much worse the text is predicted; the divergence how far all predictions have
moved from those of fp32, for better or worse, so it tells formats apart on far less text.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor

from kept.batch import Batch
from kept.bench.subject import refuse_encoders
from kept.bench.windows import Window
from kept.cache import Cache, make_cache
from kept.errors import OptionError
from kept.models import CausalLM, load_model, open_checkpoint
from kept.models.quantized_format import quantized_format
from kept.ops.quantize import INT4_GROUP, QUANTIZED_FORMATS

WeightFormat = Literal["fp32", "bf16", "int8", "int4", "stored"]
FORMATS: tuple[WeightFormat, ...] = get_args(WeightFormat)
# Of codes and group scales; int8's scale a row, 32 / in bits, is left out. What is stored has bits
# of its own.
BITS: Mapping[WeightFormat, float] = {
    "fp32": 32,
    "bf16": 16,
    "int8": 8,
    "int4": 4 + 16 / INT4_GROUP,
}

Progress = Callable[[int, int], None]

_CHUNK = 256  # rows read at a time
# Of one variant's logits: with 262,144 tokens of vocabulary those of 256 rows would be 268 MB, and
# every variant's are held at once.
_PIECE_BYTES = 16 << 20


def load_variant(
    source: str | Path | None,
    format: WeightFormat,
    progress: Progress | None = None,
    packing: Progress | None = None,
    activations: str = "auto",
) -> CausalLM:
    """A checkpoint's model with its weights in one format; None is the bundled model.

    fp32 and bf16 are the dtype of the whole model. int8 and int4 round its fp32 weights, the
    embedding and the head included, and compute as `kept.LLM(source, quantize=format)` does.
    stored: as `kept.LLM(source)` holds them where nothing is asked for, blocks of a GGUF file that
    stay as they are among them. activations: of these three, as there.
    progress: called with the bytes read and their total; packing: with the weights quantized, or
    packed for the kernels, and their total.

    Raises what `kept.LLM` raises for a checkpoint, WeightsError for weights that cannot be
    quantized, and OptionError for a checkpoint that holds them quantized or has an encoder.
    """
    checkpoint = open_checkpoint(source)
    refuse_encoders(checkpoint)
    held = quantized_format(checkpoint.folder, checkpoint.config)
    if held is not None:
        raise OptionError(
            f"{checkpoint.folder} holds its weights as {held}, and not those in fp32 that formats "
            "are compared with; name the checkpoint it was made from"
        )
    if format == "stored":
        return load_model(checkpoint, activations=activations, progress=progress, packing=packing)
    return load_model(
        checkpoint,
        dtype=torch.bfloat16 if format == "bf16" else torch.float32,
        quantize=format if format in QUANTIZED_FORMATS else None,
        activations=activations if format in QUANTIZED_FORMATS else "auto",
        progress=progress,
        packing=packing,
    )


@dataclass(frozen=True, slots=True)
class Score:
    """Sums over scored tokens, in nats. Each token's excess is its loss less that under fp32.

    divergence: Kullback-Leibler, of the format's predictions from fp32's. agreeing: tokens for
    which both find the same most likely.
    """

    num_tokens: int = 0
    nats: float = 0.0
    excess: float = 0.0
    excess_squares: float = 0.0
    divergence: float = 0.0
    agreeing: int = 0

    def __add__(self, other: Score) -> Score:
        return Score(
            self.num_tokens + other.num_tokens,
            self.nats + other.nats,
            self.excess + other.excess,
            self.excess_squares + other.excess_squares,
            self.divergence + other.divergence,
            self.agreeing + other.agreeing,
        )

    @property
    def perplexity(self) -> float:
        """The exponential of the mean loss; infinite where that is too large for a float."""
        return _exp(self.nats / self.num_tokens)

    @property
    def change(self) -> float:
        """How much higher the perplexity is than that of fp32, as a share of it."""
        return _exp(self.excess / self.num_tokens) - 1

    @property
    def change_error(self) -> float:
        """The standard error of `change`, as if tokens were independent."""
        mean = self.excess / self.num_tokens
        variance = max(self.excess_squares / self.num_tokens - mean**2, 0.0)
        return _exp(mean) * math.sqrt(variance / self.num_tokens)

    @property
    def mean_divergence(self) -> float:
        """Nats a token."""
        return self.divergence / self.num_tokens

    @property
    def agreement(self) -> float:
        """The share of tokens for which the most likely one is the same as under fp32."""
        return self.agreeing / self.num_tokens


@dataclass(slots=True)
class Quality:
    """What was measured, over the windows that every format finished.

    scores: by the format of the weights, over a cache of the model's dtype. kv_scores: by what the
    cache stores, under weights in fp32.
    """

    scores: dict[WeightFormat, Score] = field(default_factory=dict)
    kv_scores: dict[str, Score] = field(default_factory=dict)
    num_windows: int = 0
    interrupted: bool = False


def measure_quality(
    models: Mapping[WeightFormat, CausalLM],
    windows: Sequence[Window],
    progress: Progress | None = None,
    *,
    kv_dtypes: Sequence[str] = (),
) -> Quality:
    """Score windows with each model, and with each kind of cache, side by side.

    models: must hold "fp32", which all else is compared with. kv_dtypes: see `make_cache`.
    progress: called with the tokens scored and their total.

    Ctrl-C ends it: the result then holds the windows that were finished and says `interrupted`.
    """
    names: list[WeightFormat] = ["fp32", *(name for name in models if name != "fp32")]
    variants = [_Variant(models[name]) for name in names]
    variants += [_Variant(models["fp32"], kv_dtype) for kv_dtype in kv_dtypes]
    scores, result = [Score()] * len(variants), Quality()
    total, done = sum(window.num_scored for window in windows), 0
    try:
        with models["fp32"].running():
            for window in windows:
                sums = list(scores)
                targets = _ids(window.tokens[-window.num_scored :])
                for rows in zip(
                    *(_predictions(variant, window) for variant in variants), strict=True
                ):
                    here, targets = targets[: len(rows[0])], targets[len(rows[0]) :]
                    for index, found in enumerate(rows):
                        sums[index] += score(found, rows[0], here)
                    done += len(here)
                    if progress is not None:
                        progress(done, total)
                scores, result.num_windows = sums, result.num_windows + 1
    except KeyboardInterrupt:
        result.interrupted = True
    result.scores = dict(zip(names, scores, strict=False))
    result.kv_scores = dict(zip(kv_dtypes, scores[len(names) :], strict=True))
    return result


@dataclass(frozen=True, slots=True)
class _Variant:
    """A model, and what its cache stores; None: the model's dtype."""

    model: CausalLM
    kv_dtype: str | None = None


def _predictions(variant: _Variant, window: Window) -> Iterator[Tensor]:
    model = variant.model
    cache = make_cache(
        model.kv_shapes,
        dtype=model.dtype,
        kv_dtype=variant.kv_dtype,
        device=model.device,
    )
    return predictions(model, cache, window)


@torch.inference_mode()
def predictions(model: CausalLM, cache: Cache, window: Window) -> Iterator[Tensor]:
    """Log-probabilities (rows, V) of a window's scored tokens, in order and in pieces, which are
    the same whatever the cache, an empty one of one slot."""
    tokens = window.tokens[:-1]
    unscored = len(tokens) - window.num_scored
    rows = min(_CHUNK, max(1, _PIECE_BYTES // (4 * model.config.vocab_size)))
    starts = [*range(0, unscored, _CHUNK), *range(unscored, len(tokens), rows)]
    for start, stop in zip(starts, [*starts[1:], len(tokens)], strict=True):
        wanted, found = start >= unscored, []
        while start < stop:
            most = cache.max_step(0)
            end = stop if most is None else min(stop, start + most)
            found.append(model.run(_chunk(tokens, start, end, wanted), cache))
            start = end
        if wanted:
            logits = found[0] if len(found) == 1 else torch.cat(found)
            found.clear()  # of the two only one stays while other variants compute theirs
            scores = logits.log_softmax(-1)
            del logits
            yield scores
            del scores


def _ids(numbers: Sequence[int]) -> Tensor:
    return torch.tensor(numbers, dtype=torch.int64, device="cpu")


def _chunk(tokens: Sequence[int], start: int, stop: int, wanted: bool) -> Batch:
    return Batch(
        tokens=_ids(tokens[start:stop]),
        positions=_ids(range(start, stop)),
        starts=(0, stop - start),
        slots=(0,),
        totals=(len(tokens),),
        wanted=None if wanted else _ids(()),
    )


def score(found: Tensor, reference: Tensor, targets: Tensor) -> Score:
    """found, reference: (rows, V) log-probabilities; targets: (rows,) what came."""
    loss, expected = (-x.gather(1, targets[:, None]).double() for x in (found, reference))
    excess = loss - expected
    divergence = (reference.exp() * (reference - found)).sum(-1)
    return Score(
        num_tokens=len(targets),
        nats=float(loss.sum()),
        excess=float(excess.sum()),
        excess_squares=float(excess.square().sum()),
        divergence=float(divergence.double().sum()),
        agreeing=int((found.argmax(-1) == reference.argmax(-1)).sum()),
    )


def _exp(x: float) -> float:
    try:
        return math.exp(x)
    except OverflowError:
        return math.inf
