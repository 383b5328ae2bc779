"""What hypothesis draws of engines and of requests that come to them."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from kept import machine
from laws.serving import Ask, Setting
from laws.tiny import CONFIGS, FORMATS, VOCAB

# Around the ends of blocks.
LENGTHS = (1, 2, 5, 40, 63, 64, 65, 100, 127, 128, 129)
CODECS = (None, None, "bfloat16", "int8", "k8v4", "int4", ("int4", "float32"))
ISAS: list[str] = []
if machine.NATIVE_AVAILABLE:
    from kept import _native

    ISAS = _native.isa_names()
TOKENS = st.integers(0, VOCAB - 1)
SEEDS = st.integers(0, 3)
ENDS: dict[str, st.SearchStrategy[Any]] = {
    "eos_token_id": st.lists(TOKENS, min_size=1, max_size=9, unique=True),
    "min_new_tokens": st.integers(1, 4),
}
CHOICES: dict[str, st.SearchStrategy[Any]] = {
    "temperature": st.sampled_from([0.3, 1.0, 4.0]),
    "top_k": st.sampled_from([0, 1, 3, 50]),
    "top_p": st.sampled_from([0.2, 0.9]),
    "min_p": st.sampled_from([0.05, 0.5]),
}
PENALTIES: dict[str, st.SearchStrategy[Any]] = {
    "repetition_penalty": st.sampled_from([0.7, 1.3]),
    "no_repeat_ngram_size": st.integers(1, 2),  # of one token: soon no token is left
    "suppress_tokens": st.lists(TOKENS, min_size=1, max_size=60, unique=True),
    "logprobs": st.sampled_from([0, 2, 5]),
}
BEAMS: dict[str, st.SearchStrategy[Any]] = {
    "early_stopping": st.sampled_from([True, False, "never"]),
    "length_penalty": st.sampled_from([0.5, 2.0]),
    "do_sample": st.just(True),
}


@st.composite
def some_options(draw: st.DrawFn, kinds: str, lengths: tuple[int, ...]) -> dict[str, Any]:
    """Options of one request, of one of some kinds: Greedy, Sample, several of these, or Beams."""
    kind = draw(st.sampled_from(kinds))
    length = draw(st.sampled_from(lengths))
    optional = ENDS | PENALTIES
    found: dict[str, Any] = {"max_new_tokens": length, "seed": draw(SEEDS)}
    if kind in "Ss":
        found |= {"do_sample": True, "top_k": 0}
        optional = optional | CHOICES
    if kind == "s":
        found["num_return_sequences"] = draw(st.integers(2, 3))
    elif kind == "B":
        found["num_beams"] = draw(st.integers(2, 3))
        found["num_return_sequences"] = draw(st.integers(1, 2))
        optional = optional | BEAMS
    names = draw(st.sets(st.sampled_from(sorted(optional)), max_size=3))
    if kind != "B":
        found["prompt_lookup_num_tokens"] = draw(st.sampled_from([0, 0, 1, 5, 48]))
        found["num_assistant_tokens"] = draw(st.sampled_from([0, 1, 5, 48]))
    found |= {name: draw(optional[name]) for name in sorted(names)}
    if "min_new_tokens" in found:
        found["min_new_tokens"] = min(found["min_new_tokens"], length)
    return found


def seldom(what: st.SearchStrategy[Any], out_of: int) -> st.SearchStrategy[Any]:
    """One of `what`, else None."""
    return st.integers(1, out_of).flatmap(lambda n: what if n == 2 else st.none())


def some_asks(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Ask]:
    """Requests, some of whose fields are of these."""
    usual = {
        "at": st.one_of(st.just(0), st.integers(0, 12), st.integers(0, 50)),
        "text": st.integers(0, 1),
        "length": st.sampled_from(LENGTHS),
        "changed": seldom(st.sampled_from([0, 30, 62, 63, 64, 99, 127]), 3),
        "follows": seldom(st.integers(0, 7), 3),
        "cut": st.sampled_from([0, 0, 1, 3, 70]),
        "tail": st.lists(TOKENS, max_size=3).map(tuple),
        "options": some_options("GGSSsB", (1, 2, 5, 9, 20, 66)),
        "tenant": st.sampled_from("ab"),
        "priority": st.sampled_from([0, 0, 0, 1, -1]),
        "salt": st.sampled_from(["", "", "", "other"]),
        "interactive": st.booleans(),
        "cancelled": seldom(st.integers(0, 30), 6),
        "deadline": seldom(st.integers(-1, 30), 9),
        "unspellable": seldom(st.integers(0, 6), 9),
    }
    return st.builds(Ask, **{**usual, **fields})


def some_settings(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Setting]:
    """Engines, some of whose fields are of these."""
    usual = {
        "model": st.sampled_from([*CONFIGS, "deepseek_v3", "poisoned"]),
        "format": st.sampled_from(FORMATS),
        "isa": st.sampled_from([None, *ISAS]),
        "codec": st.sampled_from(CODECS),
        "slots": st.integers(1, 5),
        "threads": st.sampled_from([1, 1, 1, 2]),
        "spare": st.sampled_from([0, 0, 0, 1, 3, 20]),
        "chunk": st.sampled_from([1, 7, 16, 64, 512]),
        "max_step_time": seldom(st.sampled_from([1e-6, 1e-3]), 3),
        "context": seldom(st.sampled_from([70, 128, 140]), 5),
        "hop": st.none(),
        "forgotten": seldom(st.integers(1, 40), 4),
        "fails": seldom(st.tuples(st.integers(1, 30), st.sampled_from(ERRORS)), 6),
        "seconds": st.lists(STEP_SECONDS, min_size=1, max_size=5).map(tuple),
        "reckless": st.one_of(st.none(), st.integers(0, 99)),
        "drafts": st.booleans(),
    }
    return st.builds(Setting, **{**usual, **fields})


ERRORS = (RuntimeError("a pass that fails"), MemoryError("no memory for a pass"))
STEP_SECONDS = st.sampled_from([1e-4, 1e-3, 1e-2])
NEVER = st.none()

SETTINGS = some_settings()
SOME_ASKS = st.lists(some_asks(), min_size=2, max_size=7)
# Many that grow at once, in a pool with room for little more than one of them.
CROWDED_SETTINGS = some_settings(
    slots=st.sampled_from([3, 5, 9]),
    spare=st.sampled_from([0, 0, 1]),
    chunk=st.sampled_from([7, 64, 512]),
    forgotten=seldom(st.integers(1, 60), 9),
    context=NEVER,
    fails=NEVER,
)


def crowd(kinds: str) -> st.SearchStrategy[list[Ask]]:
    """Texts of some kinds that grow beyond a block."""
    each = some_asks(
        at=st.integers(0, 12),
        length=st.sampled_from([5, 30, 40, 62, 63, 64]),
        follows=NEVER,
        options=some_options(kinds, (30, 66)),
        cancelled=seldom(st.integers(0, 60), 9),
        deadline=NEVER,
        unspellable=NEVER,
    )
    return st.lists(each, min_size=3, max_size=6)


CROWDS = st.one_of(crowd("GSS"), crowd("SsB"))
UNSHARED_SETTINGS = st.one_of(
    some_settings(
        model=st.sampled_from(["dynamic", "longrope"]),
        context=NEVER,
        chunk=st.sampled_from([7, 64]),
    ),
    some_settings(context=st.sampled_from([70, 100]), hop=st.just(20), chunk=st.just(64)),
)
# Windows that have passed much of a text, which others go on from in the middle.
WINDOW_SETTINGS = some_settings(
    model=st.sampled_from(["gemma2", "gemma3", "mistral", "qwen3"]),
    spare=st.sampled_from([0, 1, 3, 20]),
    chunk=st.sampled_from([40, 64, 512]),
    context=NEVER,
    fails=NEVER,
    forgotten=NEVER,
)
LONG_ASKS = st.lists(
    some_asks(
        at=st.integers(0, 12),
        length=st.sampled_from([64, 100, 200, 257, 330]),
        changed=seldom(st.sampled_from([99, 128, 200, 250, 320]), 3),
        cut=st.sampled_from([0, 1, 70, 130]),
        options=some_options("GGSsB", (2, 9, 140)),
        longest=st.just(420),
    ),
    min_size=3,
    max_size=6,
)
