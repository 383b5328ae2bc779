"""Several tokens a step: the same texts with drafts and without, in turn.

    python benchmarks/drafts.py                                    # gemma-3-270m's shape, minutes
    python benchmarks/drafts.py --shape qwen2.5-0.5b --quantize int8
    python benchmarks/drafts.py --texts prose --batch 1,16
    python benchmarks/drafts.py --texts model-0.9,model-0.6,model-0 --batch 1,4

A model of a published shape with random weights writes texts that are laid down before: where a row
has read token i of a text, its likeliest token is said to be token i + 1, after the model has
computed its logits as ever. So a step takes what it takes with trained weights, and the texts are
those that drafts are about:

    copy      a file of 600 tokens of Python, held out, behind itself
    edit      the same with five changes: tokens replaced, left out and put in
    prose     parts of Python's own documentation, of which every sequence has another
    noise     random tokens, which repeat nothing
    model-p   prose, drafted by a model of a quarter of the width that drafts what comes with the
              probability p, and something else without saying how sure it is

The prompts are read first, and not timed. Both ways must write what was laid down. Their steps
take turns, so that what else the machine does meets both; times are of whole steps, medians over
the turns.
"""

from __future__ import annotations

import argparse
import pydoc_data.topics
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import torch
from results import write_json

from kept import LLM, SamplingParams
from kept.batch import Batch
from kept.bench.random_weights import random_model
from kept.bench.shapes import SHAPES, shape_config
from kept.bench.standard_library import is_held_out, read_modules
from kept.bench.subject import random_subject
from kept.cache import Cache, make_cache
from kept.engine import ContextRule, DraftModel, Engine, Group, Request, make_group
from kept.machine import describe_machine
from kept.models import CausalLM, NextLogits, RepeatedStep
from kept.models.packing import prepare

FILE = 600  # tokens


@dataclass(frozen=True)
class Script:
    """A prompt, and the text that comes behind it."""

    prompt: list[int]
    text: list[int]


class Scripted:
    """Says of a row that has read a token of a script that the next one is the likeliest.

    Sequence i of a run is in slot i, as all come at once and take the free slots in order. right:
    how often it does, else it names another token.
    """

    def __init__(self, model: CausalLM, right: float = 1.0) -> None:
        self._model, self._next, self._repeat = model, model.next_logits, model.repeat
        self.tokens: list[list[int]] = []
        self.starts: list[int] = []  # of each slot the token of its script that is its first
        self._right = right

    @contextmanager
    def speaking(self) -> Iterator[None]:
        """Have the model speak so."""
        vars(self._model).update(next_logits=self._next_logits, repeat=self._repeated)
        try:
            yield
        finally:
            del vars(self._model)["next_logits"], vars(self._model)["repeat"]

    def _next_logits(self, batch: Batch, cache: Cache | None = None, top_k: int = 0) -> NextLogits:
        found = self._next(batch, cache, top_k)
        assert batch.wanted is not None
        slot_of = [
            s for s, count in zip(batch.slots, batch.counts, strict=True) for _ in range(count)
        ]
        positions = batch.positions.tolist()
        rows = [(slot_of[row], positions[row] + 1) for row in batch.wanted.tolist()]
        return self._said(found, rows)

    def _repeated(self, slots: tuple[int, ...], cache: Cache, top_k: int = 0) -> Any:
        step = self._repeat(slots, cache, top_k)
        return None if step is None else ScriptedStep(step, self, slots, cache.lengths)

    def _said(self, found: NextLogits, rows: Sequence[tuple[int, int]]) -> NextLogits:
        return replace(found, best=[(0.0, self._word(*row)) for row in rows], likeliest=None)

    def _word(self, slot: int, at: int) -> int:
        text = self.tokens[slot]
        at += self.starts[slot] if self.starts else 0
        word = text[min(at, len(text) - 1)]
        is_right = Random(f"{slot} {at}").random() < self._right
        return word if is_right else (word + 1) % self._model.config.vocab_size


class ScriptedStep:
    """A repeated step of a model that speaks so."""

    def __init__(
        self, step: RepeatedStep, of: Scripted, slots: Sequence[int], lengths: Sequence[int]
    ) -> None:
        self._step, self._of = step, of
        self._rows = [(slot, lengths[slot]) for slot in slots]

    @property
    def room(self) -> int:
        """See `RepeatedStep`."""
        return self._step.room

    def run(self, tokens: list[int]) -> NextLogits:
        """See `RepeatedStep.run`."""
        found = self._step.run(tokens)
        self._rows = [(slot, length + 1) for slot, length in self._rows]
        return self._of._said(found, self._rows)


def edited(file: Sequence[int], draws: Random) -> list[int]:
    """The file with five changes, far from one another."""
    found, places = list(file), [len(file) * (i + 1) // 6 for i in range(5)]
    for number, place in reversed(list(enumerate(places))):
        new = [draws.choice(file) for _ in range((2, 4, 0, 1, 6)[number])]
        found[place : place + (2, 0, 3, 1, 3)[number]] = new
    return found


def scripts(kind: str, count: int, num_new: int, vocab_size: int) -> list[Script]:
    """Texts of a kind, one for each sequence."""
    draws, tokenizer = Random(7), LLM().tokenizer
    assert tokenizer is not None
    if kind == "noise":
        texts = [[draws.randrange(vocab_size) for _ in range(num_new + 128)] for _ in range(count)]
        return [Script(text[:128], text[128:]) for text in texts]
    if kind == "prose":
        topics = "\n".join(pydoc_data.topics.topics.values())
        tokens = tokenizer.encode(topics)
        apart = (len(tokens) - num_new - 128) // count
        parts = [tokens[i * apart :][: num_new + 128] for i in range(count)]
        return [Script(part[:128], part[128:]) for part in parts]
    long = [m for m in read_modules() if is_held_out(m.path) and 4000 < len(m.text) < 40_000]
    found = []
    for module in draws.sample(long, count):
        file = tokenizer.encode(module.text)[:FILE]
        asked = tokenizer.encode("\n\nThe same file again:\n")
        found.append(Script([*file, *asked], file if kind == "copy" else edited(file, draws)))
    return found


class Run:
    """One engine that writes some texts. seconds: of its steps behind the prompts."""

    def __init__(
        self,
        model: CausalLM,
        texts: Sequence[Script],
        most: int,
        draft: DraftModel | None = None,
    ) -> None:
        """most: drafts a step, 0: none. draft: who drafts, None: the texts themselves."""
        self.texts = texts
        self.tokens = [[*script.prompt, *script.text] for script in texts]
        cache = make_cache(model.kv_shapes, num_slots=len(texts), dtype=model.dtype)
        rule = ContextRule(model.config.context)
        self.engine, self.groups = Engine(model, cache, rule, draft=draft), list[Group]()
        self.seconds = 0.0
        for index, script in enumerate(texts):
            params = SamplingParams(
                max_new_tokens=len(script.text),
                do_sample=False,
                prompt_lookup_num_tokens=0 if draft else most,
                num_assistant_tokens=most if draft else 0,
            ).resolve(vocab_size=model.config.vocab_size)
            self.groups.append(make_group(script.prompt, params, rule, index))
            self.engine.submit(Request(self.groups[-1], salt=str(index)))

    def begin(self) -> None:
        """Read the prompts."""
        while not all(group.results[0].first_token_at for group in self.groups):
            self.engine.step()
        self._before = self.engine.counters.steps

    def step(self) -> None:
        """Take a step, if any is left."""
        if self.engine.has_work:
            begin = time.perf_counter()
            self.engine.step()
            self.seconds += time.perf_counter() - begin

    def figures(self) -> dict[str, float]:
        """What it came to, once it has written what was laid down."""
        done = [group.results[0].completion().token_ids for group in self.groups]
        if done != [tuple(script.text) for script in self.texts]:
            raise SystemExit("a text is not what was laid down")
        counters = self.engine.counters
        return {
            "seconds": self.seconds,
            "steps": counters.steps - self._before,
            "drafted": counters.drafted_tokens,
            "accepted": counters.accepted_tokens,
        }


def compare(
    model: CausalLM,
    texts: Sequence[Script],
    turns: int,
    most: int,
    draft: tuple[CausalLM, float] | None = None,
) -> dict[str, list[float]]:
    """Figures of each turn, without drafts and with. draft: a model that drafts, and how often it
    is right."""
    found: dict[str, list[float]] = {}
    measured = None if draft is None else DraftModel.measured(draft[0])
    with ExitStack() as speaking:
        scripted = Scripted(model)
        speaking.enter_context(scripted.speaking())
        drafter = None if draft is None else Scripted(*draft)
        if drafter is not None:
            speaking.enter_context(drafter.speaking())
        for _ in range(turns):
            by = None if measured is None else replace(measured, worth=deepcopy(measured.worth))
            runs = {"off": Run(model, texts, 0), "on": Run(model, texts, most, by)}
            for one in runs.values():
                scripted.tokens = one.tokens
                one.begin()
            if drafter is not None:
                drafter.tokens = runs["on"].tokens
                drafter.starts = Starts(runs["on"].engine)
            order = list(runs.values())
            while any(one.engine.has_work for one in order):
                for one in order:
                    one.step()
                order.reverse()
            for name, one in runs.items():
                for what, figure in one.figures().items():
                    found.setdefault(f"{name} {what}", []).append(figure)
    return found


class Starts(Sequence[int]):
    """From which token of its text on each slot of an engine's draft model is."""

    def __init__(self, engine: Engine) -> None:
        assert engine._drafting.by_model is not None
        self._slots = engine._drafting.by_model.keys.slots

    def __len__(self) -> int:
        return len(self._slots)

    def __getitem__(self, slot: Any) -> Any:
        return self._slots[slot].start


def smaller(shape: str) -> CausalLM:
    """A model of a quarter of the width, as deep."""
    config = dict(shape_config(shape))
    for name in ("hidden_size", "intermediate_size", "n_embd"):
        if name in config:
            config[name] //= 4
    if "head_dim" not in config:
        config["head_dim"] = (
            shape_config(shape)["hidden_size"] // config["num_attention_heads"] // 4
        )
    model = random_model(config, torch.bfloat16, seed=1)
    prepare(model, None)
    return model


def main() -> None:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=sorted(SHAPES), default="gemma-3-270m")
    parser.add_argument("--quantize", choices=("int8", "int4"), help="the weights")
    parser.add_argument("--texts", default="copy,edit,prose,noise")
    parser.add_argument("--batch", default="1,4,16,64")
    parser.add_argument("--new", type=int, default=256, help="tokens of prose and noise")
    parser.add_argument("--drafts", type=int, default=16, help="a step, at most")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    subject = random_subject(given.shape, "bfloat16", quantize=given.quantize)
    print(f"{given.shape}, {subject.weight_format}, {describe_machine().cpu}")
    print("| text | sequences | ms a token off | on | times as fast | steps off | on | accepted |")
    print("|---|---|---|---|---|---|---|---|")
    record = {}
    draft = smaller(given.shape) if "model" in given.texts else None
    for kind in given.texts.split(","):
        right = float(kind.partition("-")[2]) if kind.startswith("model") else None
        for count in map(int, given.batch.split(",")):
            laid_down = kind if right is None else "prose"
            texts = scripts(laid_down, count, given.new, subject.model.config.vocab_size)
            by = None if draft is None or right is None else (draft, right)
            found = compare(subject.model, texts, given.turns, given.drafts, by)
            record[f"{kind} {count}"] = found
            off, on = (statistics.median(found[f"{name} seconds"]) for name in ("off", "on"))
            ratios = [a / b for a, b in zip(found["off seconds"], found["on seconds"], strict=True)]
            num = len(texts[0].text)
            steps = [statistics.median(found[f"{name} steps"]) for name in ("off", "on")]
            drafted, accepted = (
                statistics.median(found[f"on {what}"]) for what in ("drafted", "accepted")
            )
            print(
                f"| {kind} | {count} | {1e3 * off / num:.2f} | {1e3 * on / num:.2f} | "
                f"{off / on:.3f} ({min(ratios):.3f} to {max(ratios):.3f}) | {steps[0]:.0f} | "
                f"{steps[1]:.0f} | {accepted:.0f} of {drafted:.0f} |",
                flush=True,
            )
    write_json(given, record)


if __name__ == "__main__":
    main()
