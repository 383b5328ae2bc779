"""What eviction costs: a text and recall tasks, over caches that keep a part of their tokens.

The text is scored where tokens have left, in the second half of full windows. The tasks are those
of `recall_tasks.py`, read by a small model that was trained for them: one that fails at them with a
whole cache could not tell what a cache forgets.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from kept.batch import pack
from kept.bench.quality import Score, predictions, score
from kept.bench.recall_tasks import RecallTask
from kept.bench.windows import Window
from kept.cache import Cache, EvictionPolicy, make_cache
from kept.models import CausalLM, load_model, open_checkpoint

Progress = Callable[[int, int], None]

# What is compared, under the names that the tables have.
POLICIES: Mapping[str, EvictionPolicy] = {
    "window": EvictionPolicy("window", sinks=0, recent=0),
    "sinks + window": EvictionPolicy("window", sinks=4, recent=0),
    "key-norm": EvictionPolicy("key-norm"),
    "attention": EvictionPolicy("attention"),
    "expected-attention": EvictionPolicy("expected-attention"),
}
RECALL_MODEL = Path(__file__).parent / "recall_model"
_TEXTS = 8  # of a task, read side by side
_GRAINS = 8  # evictions while as many tokens are read as the budget has, at least


@dataclass(frozen=True, slots=True)
class Kept:
    """A cache to measure: a policy by name, and the share of the context that it keeps."""

    policy: str
    share: float

    def budget(self, context: int) -> int:
        """Tokens that it keeps of so many."""
        return max(1, round(self.share * context))

    def make(self, model: CausalLM, context: int, num_slots: int = 1) -> Cache:
        """An empty cache. Raises OptionError for too small a budget."""
        budget = self.budget(context)
        return make_cache(
            model.kv_shapes,
            "evicting",
            num_slots=num_slots,
            budget=budget,
            policy=POLICIES[self.policy],
            grain=min(64, max(1, budget // _GRAINS)),
            dtype=model.dtype,
            device=model.device,
        )


@dataclass(frozen=True, slots=True)
class Recall:
    """Questions that were answered right, of those asked."""

    right: int = 0
    asked: int = 0

    def __add__(self, other: Recall) -> Recall:
        return Recall(self.right + other.right, self.asked + other.asked)

    @property
    def share(self) -> float:
        """From 0 to 1."""
        return self.right / self.asked


@dataclass(slots=True)
class Evictions:
    """What was measured; None is the cache that keeps everything.

    scores: over the windows that every cache finished. recall: by task, over the texts that every
    cache finished.
    """

    scores: dict[Kept | None, Score] = field(default_factory=dict)
    recall: dict[str, dict[Kept | None, Recall]] = field(default_factory=dict)
    num_windows: int = 0
    interrupted: bool = False


def load_recall_model() -> CausalLM:
    """The model of recall tasks, in fp32."""
    return load_model(open_checkpoint(RECALL_MODEL), dtype=torch.float32)


def late_windows(windows: Sequence[Window], context: int) -> list[Window]:
    """Of each window the scored tokens that have at least context / 2 tokens before them."""
    found = []
    for window in windows:
        late = len(window.tokens) - 1 - context // 2
        if late > 0:
            found.append(Window(window.tokens, min(window.num_scored, late)))
    return found


def measure_evictions(
    model: CausalLM,
    windows: Sequence[Window],
    context: int,
    caches: Sequence[Kept],
    progress: Progress | None = None,
) -> Evictions:
    """Score windows of at most `context` tokens over each cache, side by side.

    progress: called with the tokens scored and their total. Raises OptionError for too small a
    budget. Ctrl-C ends it: the result then holds the windows that were finished and says so.
    """
    variants: list[Kept | None] = [None, *caches]
    for kept in caches:
        kept.make(model, context)
    result = Evictions(dict.fromkeys(variants, Score()))
    total, done = sum(window.num_scored for window in windows), 0
    try:
        with model.running():
            for window in windows:
                targets = torch.tensor(
                    window.tokens[-window.num_scored :], dtype=torch.int64, device="cpu"
                )
                sums = dict(result.scores)
                rows = [predictions(model, _cache(model, x, context), window) for x in variants]
                for pieces in zip(*rows, strict=True):
                    here, targets = targets[: len(pieces[0])], targets[len(pieces[0]) :]
                    for variant, piece in zip(variants, pieces, strict=True):
                        sums[variant] += score(piece, pieces[0], here)
                    done += len(here)
                    if progress is not None:
                        progress(done, total)
                result.scores = sums
                result.num_windows += 1
    except KeyboardInterrupt:
        result.interrupted = True
    return result


def measure_recall(
    result: Evictions,
    model: CausalLM,
    tasks: Sequence[RecallTask],
    caches: Sequence[Kept],
    num_texts: int,
    progress: Progress | None = None,
) -> None:
    """Ask the questions of each task's texts over each cache; mutates the result.

    progress: called with the texts read and their total. Ctrl-C ends it as `measure_evictions`.
    """
    variants: list[Kept | None] = [None, *caches]
    done, total = 0, len(tasks) * num_texts
    try:
        for task in tasks:
            generator = torch.Generator().manual_seed(0)
            found = dict.fromkeys(variants, Recall())
            for begin in range(0, num_texts, _TEXTS):
                texts = task.draw(min(_TEXTS, num_texts - begin), generator).tolist()
                found = {x: n + answer(model, task, texts, x) for x, n in found.items()}
                result.recall[task.name] = found
                done += len(texts)
                if progress is not None:
                    progress(done, total)
    except KeyboardInterrupt:
        result.interrupted = True


@torch.inference_mode()
def answer(
    model: CausalLM, task: RecallTask, texts: Sequence[Sequence[int]], kept: Kept | None
) -> Recall:
    """How many questions of a task's texts the model answers right over a cache."""
    cache = _cache(model, kept, task.length, len(texts))
    length, found = 0, []
    with model.running():
        while length < task.length - 1:
            most = cache.max_step(0)
            end = task.length - 1 if most is None else min(task.length - 1, length + most)
            batch = pack([text[length:end] for text in texts], past=[length] * len(texts))
            logits = model.run(batch, cache)
            found.append(logits.argmax(-1).view(len(texts), -1))
            length = end
    values = torch.tensor([text[task.answers] for text in texts], dtype=torch.int64, device="cpu")
    # What follows token i is said at i.
    likeliest = torch.cat(found, dim=1)[:, task.answers.start - 1 :: task.answers.step]
    return Recall(int((likeliest == values).sum()), values.numel())


def _cache(model: CausalLM, kept: Kept | None, context: int, num_slots: int = 1) -> Cache:
    if kept is not None:
        return kept.make(model, context, num_slots)
    return make_cache(model.kv_shapes, num_slots=num_slots, dtype=model.dtype, device=model.device)
