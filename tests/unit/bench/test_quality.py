"""Weight formats: what the variants hold, and what their scores mean."""

import math
from dataclasses import astuple
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import kept
from kept import machine
from kept.bench import quality
from kept.bench.eviction import Kept, measure_evictions
from kept.bench.quality import FORMATS, Progress, Score, load_variant, measure_quality
from kept.bench.random_weights import random_model
from kept.bench.windows import cut_windows
from kept.errors import OptionError
from kept.models import CausalLM, load_model, open_checkpoint, quantize_checkpoint
from kept.models.layers import Embedding, Linear
from kept.ops.quantize import dequantize, quantize

BUNDLED = Path(kept.__file__).parent / "bundled"
TINY = {
    "model_type": "gpt2",
    "vocab_size": 61,
    "n_embd": 16,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 640,
}


@pytest.fixture
def documents() -> list[list[int]]:
    """Two documents of the tiny model's vocabulary, one longer than any window."""
    return [torch.randint(61, (n,)).tolist() for n in (700, 30)]


@pytest.fixture
def models() -> dict[str, CausalLM]:
    """Two different models of one shape; the second stands for rounded weights."""
    return {name: random_model(TINY, torch.float32, seed) for seed, name in enumerate(FORMATS[:2])}


def log_probabilities(model: CausalLM, tokens: tuple[int, ...]) -> Tensor:
    with torch.no_grad():
        return model(torch.tensor([tokens]), use_cache=False).logits[0].log_softmax(-1).double()


def test_scores_are_those_of_whole_windows(
    models: dict[str, CausalLM], documents: list[list[int]]
) -> None:
    windows = [w for document in documents for w in cut_windows(document, 600)]
    found = measure_quality(models, windows)
    losses: dict[str, list[Tensor]] = {name: [] for name in models}
    divergences, agreeing = [], 0
    for window in windows:
        targets = torch.tensor(window.tokens[1:])[-window.num_scored :]
        one, other = (
            log_probabilities(model, window.tokens[:-1])[-window.num_scored :]
            for model in models.values()
        )
        for name, rows in zip(models, (one, other), strict=True):
            losses[name].append(-rows[torch.arange(len(targets)), targets])
        divergences.append((one.exp() * (one - other)).sum(-1))
        agreeing += int((one.argmax(-1) == other.argmax(-1)).sum())
    fp32, bf16 = (torch.cat(losses[name]) for name in models)
    assert found.num_windows == len(windows) == 3
    assert not found.interrupted
    score = found.scores["bf16"]
    assert score.num_tokens == len(fp32) == 728
    assert found.scores["fp32"].perplexity == pytest.approx(math.exp(fp32.mean()), rel=1e-5)
    assert score.perplexity == pytest.approx(math.exp(bf16.mean()), rel=1e-5)
    change = float(bf16.mean().exp() / fp32.mean().exp())
    assert score.change == pytest.approx(change - 1, rel=1e-3, abs=1e-6)
    error = float((bf16 - fp32).std(correction=0)) / math.sqrt(728) * change
    assert score.change_error == pytest.approx(error, rel=1e-3)
    assert score.mean_divergence == pytest.approx(float(torch.cat(divergences).mean()), rel=1e-3)
    assert score.agreeing == pytest.approx(agreeing, abs=2)  # near ties may fall either way
    assert score.agreement == score.agreeing / 728


class Largest(TorchDispatchMode):
    """How many rows of logits, or of anything else as wide, are in one tensor at most."""

    rows = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        found = func(*args, **(kwargs or {}))
        if isinstance(found, Tensor) and found.ndim > 1 and found.shape[-1] == 61:
            self.rows = max(self.rows, found.numel() // 61)
        return found


@pytest.mark.parametrize("evicting", [False, True])
def test_a_large_vocabulary_is_scored_in_pieces(
    models: dict[str, CausalLM],
    documents: list[list[int]],
    monkeypatch: pytest.MonkeyPatch,
    evicting: bool,
) -> None:
    windows = cut_windows(documents[0], 96)[:3]

    def measure() -> list[Score]:
        if evicting:
            found = measure_evictions(models["fp32"], windows, 96, [Kept("window", 0.5)])
            return list(found.scores.values())
        measured = measure_quality(models, windows, kv_dtypes=("int8",))
        return [*measured.scores.values(), *measured.kv_scores.values()]

    with Largest() as whole:
        expected = measure()
    monkeypatch.setattr(quality, "_PIECE_BYTES", 7 * 61 * 4 + 3)
    with Largest() as pieces:
        scores = measure()
    assert whole.rows > 7 >= pieces.rows > 0
    for score, wanted in zip(scores, expected, strict=True):
        assert astuple(score) == pytest.approx(astuple(wanted), rel=1e-5, abs=1e-5)


def test_fp32_does_not_differ_from_itself(
    models: dict[str, CausalLM], documents: list[list[int]]
) -> None:
    found = measure_quality(models, cut_windows(documents[1], 96)).scores["fp32"]
    assert (found.change, found.change_error, found.divergence, found.agreement) == (0, 0, 0, 1)


def test_caches_are_scored_under_fp32_weights(models: dict[str, CausalLM]) -> None:
    windows = cut_windows(torch.randint(61, (150,)).tolist(), 96)
    found = measure_quality(models, windows, kv_dtypes=("float32", "int8", "int4"))
    assert found.scores == measure_quality(models, windows).scores
    plain, int8, int4 = found.kv_scores.values()
    assert plain == found.scores["fp32"]
    assert 0 < int8.divergence < int4.divergence


def test_ctrl_c_keeps_the_finished_windows(
    models: dict[str, CausalLM], documents: list[list[int]]
) -> None:
    windows = cut_windows(documents[0], 96)
    seen = []

    def interrupt(done: int, total: int) -> None:
        seen.append((done, total))
        if len(seen) == 3:
            raise KeyboardInterrupt

    found = measure_quality(models, windows, interrupt)
    assert found.interrupted
    assert found.num_windows == 2
    assert found.scores == measure_quality(models, windows[:2]).scores
    assert seen == [(96, 699), (145, 699), (194, 699)]


def test_scores_that_overflow_are_infinite() -> None:
    score = Score(num_tokens=1, nats=1e4, excess=1e4)
    assert score.perplexity == score.change == math.inf


@pytest.mark.parametrize("format", ["int8", "int4"])
def test_a_variant_holds_rounded_matrices(format: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEPT_OPS", "reference")  # which keeps weights where they can be seen
    plain = load_model(open_checkpoint(None), dtype="float32")
    variant = load_variant(None, format)
    assert variant.dtype == torch.float32
    assert not variant.training
    assert variant.head.weight is variant.embedding.weight  # tied, as before
    num_matrices = 0
    for (name, before), after in zip(plain.named_modules(), variant.modules(), strict=True):
        for (leaf, old), new in zip(
            before.named_parameters(recurse=False), after.parameters(recurse=False), strict=True
        ):
            rounded = isinstance(before, Linear | Embedding) and leaf == "weight"
            num_matrices += rounded
            expected = dequantize(quantize(old, format)) if rounded else old
            assert torch.equal(new, expected), name
    assert num_matrices == 2 + 6 * 4


@pytest.mark.parametrize("format", FORMATS)
def test_every_variant_of_the_bundled_model_predicts_alike(format: str) -> None:
    """A few hundred tokens; the bounds leave room for the luck of so short a text."""
    text = (Path(kept.__file__).parent / "batch.py").read_text(encoding="utf-8")
    document = [0, *kept.LLM(BUNDLED).tokenizer.encode(text)][:300]
    models = {"fp32": load_variant(None, "fp32"), format: load_variant(BUNDLED, format)}
    score = measure_quality(models, cut_windows(document, 200)).scores[format]
    bound = {"fp32": 0.0, "bf16": 0.01, "int8": 0.02, "int4": 0.12, "stored": 0.02}[format]
    assert abs(score.change) <= bound
    assert score.mean_divergence <= bound
    assert score.agreement >= {"int4": 0.8}.get(format, 0.95)


def test_variants_compute_in_their_dtype() -> None:
    assert load_variant(None, "fp32").dtype == torch.float32
    assert load_variant(None, "bf16").dtype == torch.bfloat16


def test_progress_reaches_the_end() -> None:
    loading, packing = [], []

    def note(into: list[tuple[int, int]]) -> Progress:
        return lambda done, total: into.append((done, total))

    load_variant(None, "int4", note(loading), note(packing))
    assert loading[0][0] == 0
    assert loading[-1][0] == loading[-1][1] == 2 * 5180672
    assert 0 < packing[0][0] <= packing[-1][0] <= packing[-1][1] <= 5180672


@pytest.mark.skipif(not machine.NATIVE_AVAILABLE, reason="the native module packs")
def test_a_checkpoint_without_its_fp32_weights(tmp_path: Path) -> None:
    quantize_checkpoint(None, tmp_path / "out", "int8")
    with pytest.raises(OptionError, match=r"holds its weights as int8.*name the checkpoint it was"):
        load_variant(tmp_path / "out", "fp32")
