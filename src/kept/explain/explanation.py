"""All that `kept explain` says of a generation: what it did, what it took, what could go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from kept.bench.work import Costs
from kept.errors import OptionError
from kept.explain.codecs import CodecEffect, codec_effects
from kept.explain.counts import Count, count_step
from kept.explain.policies import KeptStep, keep_heavy_hitters, keep_window
from kept.explain.recording import Progress, Recording, record_generation
from kept.explain.tokens import spell_tokens
from kept.llm import LLM
from kept.llm.prompts import read_prompts
from kept.sampling import SamplingParams

DIGITS = 6  # of a weight, in rows and so in everything that follows from them
MEAN = None  # as a head: the mean over all of a layer's heads


@dataclass(frozen=True, slots=True)
class Settings:
    """What to explain.

    seed None: the likeliest token each time; else draw with it. layer None: the middle one; head
    None: the mean over heads. window, budget None: see `explain`. kv_dtypes: codecs to compare.
    """

    max_new_tokens: int = 10
    seed: int | None = None
    layer: int | None = None
    head: int | None = MEAN
    window: int | None = None
    sinks: int = 2
    budget: int | None = None
    kv_dtypes: tuple[str, ...] = ("bfloat16", "int8", "int4")


@dataclass(frozen=True, slots=True)
class View:
    """The attention of one head of a layer, or of its mean (head None).

    rows: S lists, rows[i] the i + 1 weights of token i.
    """

    layer: int
    head: int | None
    rows: list[list[float]]

    @property
    def name(self) -> str:
        """In words."""
        which = "mean of all heads" if self.head is None else f"head {self.head}"
        return f"layer {self.layer}, {which}"


@dataclass(frozen=True, slots=True)
class StepCounts:
    """A step's counts, for each layer (L,) and for the whole model."""

    layers_with: tuple[Count, ...]
    layers_without: tuple[Count, ...]
    model_with: Count
    model_without: Count


@dataclass(frozen=True, slots=True)
class Policy:
    """A cache that forgets, on the shown view.

    kind: "window" or "heavy". agreeing: how many drawn tokens are the same with kept's own cache of
    this kind before the first other one; None where there is no such cache.
    """

    kind: Literal["window", "heavy"]
    name: str
    size: int
    sinks: int
    steps: tuple[KeptStep, ...]
    agreeing: int | None


@dataclass(frozen=True, slots=True)
class CodecResult:
    """A codec's effect, and how many drawn tokens are the same with it (see `Policy`)."""

    effect: CodecEffect
    agreeing: int


@dataclass(frozen=True, slots=True)
class Explanation:
    """Everything, ready to be shown.

    name: of the model. texts: of the tokens, the last drawn one, which was not read, too.
    """

    name: str
    llm: LLM
    settings: Settings
    recording: Recording
    texts: tuple[str, ...]
    counts: tuple[StepCounts, ...]
    shown: View
    views: tuple[View, ...]
    policies: tuple[Policy, ...]
    codecs: tuple[CodecResult, ...]
    window: int
    budget: int

    @property
    def num_drawn(self) -> int:
        """Tokens that were generated."""
        return len(self.recording.steps)


def explain(
    llm: LLM, name: str, prompt: str, settings: Settings, progress: Progress | None = None
) -> Explanation:
    """Generate, and explain it.

    name: of the model. progress: called with the tokens drawn and their limit, those of the
    generations that the first one is compared with among them.

    A window that is not given is a third of the tokens read, a budget that is not given what the
    window and the sinks come to. Raises OptionError for a layer or head that is not there, a value
    out of range, or more tokens than can be shown; what `LLM.generate` raises.
    """
    _check(llm, settings)
    [ids] = read_prompts(prompt, llm.tokenizer, llm.model.config.vocab_size)
    asked = SamplingParams(
        max_new_tokens=settings.max_new_tokens,
        do_sample=settings.seed is not None,
        seed=settings.seed if settings.seed is not None else 0,
    )
    runs = _Runs(progress, 1 + len({0, settings.sinks}) + len(settings.kv_dtypes))
    params, _ = llm.resolve(asked, {})
    recording = record_generation(llm, ids, params, runs.first)
    runs.end(len(recording.steps))
    window = settings.window or max(1, recording.num_read // 3)
    budget = settings.budget or min(window + settings.sinks, recording.num_read)
    layers = len(recording.attention)
    layer = layers // 2 if settings.layer is None else settings.layer
    views = _views(recording, layer)
    shown = next(v for v in views if (v.layer, v.head) == (layer, settings.head))
    comparison = _Comparison(llm, ids, asked, recording, runs)
    return Explanation(
        name=name,
        llm=llm,
        settings=settings,
        recording=recording,
        texts=spell_tokens(llm.tokenizer, recording.token_ids),
        counts=_counts(llm, recording),
        shown=shown,
        views=views,
        policies=_policies(shown, recording, window, settings.sinks, budget, comparison),
        codecs=tuple(
            CodecResult(effect, comparison.agreeing(kv_dtype=effect.name))
            for effect in codec_effects(recording, llm.model.kv_shapes, list(settings.kv_dtypes))
        ),
        window=window,
        budget=budget,
    )


def _check(llm: LLM, settings: Settings) -> None:
    config = llm.model.config
    for name, value, least in (
        ("--max-new-tokens", settings.max_new_tokens, 1),
        ("--window", settings.window, 1),
        ("--sinks", settings.sinks, 0),
        ("--budget", settings.budget, 1),
        ("--layer", settings.layer, 0),
        ("--head", settings.head, 0),
    ):
        if value is not None and value < least:
            raise OptionError(f"{name} {value}: give at least {least}")
    for name, value, count in (
        ("layer", settings.layer, config.num_layers),
        ("head", settings.head, config.num_heads),
    ):
        if value is not None and value >= count:
            raise OptionError(
                f"--{name} {value}: this model has {count} {name}s; give one from 0 to {count - 1}"
            )


def _views(recording: Recording, layer: int) -> tuple[View, ...]:
    """Every layer's mean, and after it each head of the chosen layer."""
    found = []
    for index, weights in enumerate(recording.attention):
        found.append(View(index, None, triangle(weights.mean(0))))
        if index == layer:
            found += [View(index, head, triangle(w)) for head, w in enumerate(weights)]
    return tuple(found)


def triangle(weights: Tensor) -> list[list[float]]:
    """The lower triangle of weights (S, S), a list a row, rounded as they are shown."""
    rows = weights.double().tolist()
    return [[round(w, DIGITS) for w in row[: i + 1]] for i, row in enumerate(rows)]


def _counts(llm: LLM, recording: Recording) -> tuple[StepCounts, ...]:
    whole, layers = Costs.of(llm.model), Costs.of_layers(llm.model)
    return tuple(
        StepCounts(
            tuple(count_step(each, step.start, step.end, True) for each in layers),
            tuple(count_step(each, step.start, step.end, False) for each in layers),
            count_step(whole, step.start, step.end, True),
            count_step(whole, step.start, step.end, False),
        )
        for step in recording.steps
    )


@dataclass(slots=True)
class _Runs:
    """Progress over several generations: the first one token by token, the others run by run."""

    progress: Progress | None
    num_runs: int
    num_ended: int = 0

    def first(self, done: int, limit: int) -> None:
        """Tokens of the first run."""
        if self.progress is not None:
            self.progress(done, limit * self.num_runs)

    def end(self, num_tokens: int) -> None:
        """A run has come to its end."""
        self.num_ended += 1
        if self.progress is not None:
            self.progress(num_tokens * self.num_ended, num_tokens * self.num_runs)


@dataclass(frozen=True, slots=True)
class _Comparison:
    """The same generation with one of kept's other caches."""

    llm: LLM
    prompt: list[int]
    params: SamplingParams
    recording: Recording
    runs: _Runs

    def agreeing(self, **options: Any) -> int:
        """How many tokens are the same, in front of the first that is another."""
        drawn = [step.drawn for step in self.recording.steps]
        [completion] = self.llm.generate([self.prompt], self.params, **options)
        self.runs.end(len(drawn))
        pairs = zip(drawn, completion.token_ids, strict=False)
        return next((i for i, (a, b) in enumerate(pairs) if a != b), len(drawn))


def _policies(
    view: View,
    recording: Recording,
    window: int,
    sinks: int,
    budget: int,
    comparison: _Comparison,
) -> tuple[Policy, ...]:
    steps = [(step.start, step.end) for step in recording.steps]
    found = []
    for held in dict.fromkeys((0, sinks)):
        name = f"window {window}" + (f", {held} sink{'s' * (held > 1)}" if held else "")
        kept = tuple(keep_window(view.rows, steps, window, held))
        agreeing = _agreeing_window(comparison, window, held)
        found.append(Policy("window", name, window, held, kept, agreeing))
    kept = tuple(keep_heavy_hitters(view.rows, steps, budget))
    found.append(Policy("heavy", f"heavy hitters {budget}", budget, 0, kept, None))
    return tuple(found)


def _agreeing_window(comparison: _Comparison, window: int, sinks: int) -> int | None:
    own: Sequence[int | None] = [shape.window for shape in comparison.llm.model.kv_shapes]
    if sinks and any(w is not None for w in own):
        return None  # the model's own window hides the sinks; such a cache cannot be made
    return comparison.agreeing(
        cache_implementation="sliding", sliding_window=window, num_sinks=sinks, kv_dtype="float32"
    )
