"""Linear layers on matrix tiles: right, and the same bits for a row whatever rows come with it.

The tiles are this CPU's own where it has AMX, and emulated everywhere.
"""

from itertools import accumulate, pairwise

import pytest
import torch
from thinning import FULL
from torch import Tensor

from kept import OptionError, machine
from kept.batch import pack
from kept.cache import make_cache
from kept.models import CausalLM, build_model
from kept.ops import PackedMatrix, use_threads
from kept.ops.backend import isa

from .driving import Rig, pack_as
from .test_linear import check, inputs, product

if not machine.NATIVE_AVAILABLE:
    pytest.skip("installed without a C++ compiler", allow_module_level=True)
from kept import _native

NAMES = [*(name for name in _native.isa_names() if name == "amx"), "amx_emulated"]
formats = pytest.mark.parametrize("format", ["bf16", "int8", "int4"])


@pytest.fixture(params=NAMES)
def tiles(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """An instruction set with tiles, which the programs of the test run on."""
    name: str = request.param
    monkeypatch.setenv("KEPT_ISA", name)
    return name


def stored(x: Tensor, w: PackedMatrix, threads: int = 1) -> Tensor:
    """Rows x (N, K) times the matrix, plus its bias, by the kernels: (N, outputs) fp32."""
    rig = Rig()
    out = rig.linear(rig.rows(x, bf16=True), w)
    program, _ = rig.run(len(x), threads=threads)
    return program.rows(out, len(x))


def some(format: str, num_in: int, num_out: int) -> PackedMatrix:
    return pack_as(format, torch.randn(num_out, num_in), bias=torch.randn(num_out))


@pytest.mark.parametrize("format", ["bf16", "int8", "int4", "mxfp4", "q4_0"])
# Inputs around whole tiles and stretches of codes; outputs around whole panels and pairs of them.
@pytest.mark.parametrize(
    ("num_in", "num_out"), [(1, 1), (33, 65), (100, 31), (300, 97), (1030, 34)]
)
def test_every_number_of_rows(tiles: str, format: str, num_in: int, num_out: int) -> None:
    w, x = some(format, num_in, num_out), inputs("bf16", 70, num_in)
    whole = stored(x, w)
    bias = None if w.bias is None else w.bias[:num_out]
    check(whole, *product(x, w, bias))
    for row in (0, 15, 16, 31, 32, 69):
        assert torch.equal(stored(x[row : row + 1], w), whole[row : row + 1])
    for count in range(1, 70):
        if not (FULL or count % 5 == 0 or count % 16 in (0, 1, 15)):
            continue
        assert torch.equal(stored(x[:count], w), whole[:count])
        if count % 7 == 0:  # the same rows, each elsewhere in a tile
            assert torch.equal(stored(x[count:], w), whole[count:])


@formats
def test_more_panels_than_go_together(tiles: str, format: str) -> None:
    """Many rows go through groups of panels, the last of which is smaller and may be odd."""
    for num_in, num_out in ((40, 1100), (3000, 350)):
        w, x = some(format, num_in, num_out), inputs("bf16", 50, num_in)
        whole = stored(x, w)
        bias = None if w.bias is None else w.bias[:num_out]
        check(whole, *product(x, w, bias))
        for count in (1, 20, 33):
            assert torch.equal(stored(x[:count], w), whole[:count])


@formats
# More rows than read weights together; more inputs of them than a cache holds, so that the sums of
# a group of panels wait for the next stretch, with one group of panels and with two.
@pytest.mark.parametrize(
    ("rows", "num_in", "num_out"), [(530, 40, 40), (500, 1100, 70), (500, 1100, 540)]
)
def test_more_rows_than_go_together(
    tiles: str, format: str, rows: int, num_in: int, num_out: int
) -> None:
    if num_out > 500 and tiles != "amx" and not FULL:
        pytest.skip("takes long in plain C++")
    w, x = some(format, num_in, num_out), inputs("bf16", rows, num_in)
    whole = stored(x, w)
    for first in range(0, rows, 61):
        few = slice(first, first + 3)
        assert torch.equal(stored(x[few], w), whole[few])


@pytest.mark.parametrize("kind", ["silu", "gelu_new", "relu"])
@pytest.mark.parametrize("num_in", [40, 700])
def test_gates_between_products(tiles: str, kind: str, num_in: int) -> None:
    """Of many rows they are worked out beside the next panel: fewer rows than steps, and more."""
    bias, eye = torch.randn(140), pack_as("bf16", torch.eye(70))
    w = pack_as("bf16", torch.randn(140, num_in) / 8, gated=True, bias=bias)
    x = inputs("bf16", 70, num_in)

    def gates(rows: Tensor) -> Tensor:
        rig = Rig()
        gated = rig.linear(rig.rows(rows, bf16=True), w, "gate", kind)
        out = rig.linear(gated, eye)
        return rig.run(len(rows))[0].rows(out, len(rows))

    whole = gates(x)
    for first, last in ((0, 1), (69, 70), (0, 16), (9, 26), (30, 63), (2, 70)):
        assert torch.equal(gates(x[first:last]), whole[first:last])


@formats
def test_any_number_of_threads(tiles: str, format: str) -> None:
    w = some(format, 96, 230)
    for count in (1, 16, 40):
        x = inputs("bf16", count, 96)
        alone = stored(x, w)
        for threads in (2, 3, 9):  # the last: more than there are panels
            assert torch.equal(stored(x, w, threads), alone)


def test_what_is_not_finite_stays_in_its_row(tiles: str) -> None:
    w, x = some("bf16", 64, 40), inputs("bf16", 20, 64)
    clean = stored(x, w)
    others = [i for i in range(20) if i != 3]
    for strange in (torch.nan, torch.inf, torch.finfo(torch.bfloat16).max):
        poisoned = x.clone()
        poisoned[3] = strange
        found = stored(poisoned, w)
        assert torch.equal(found[others], clean[others])
        assert not found[3].isfinite().all()


LLAMA = {
    "model_type": "llama",
    "vocab_size": 97,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-6,
}


def tiny_model(format: str) -> CausalLM:
    model = build_model(LLAMA).to_empty(device="cpu").bfloat16().eval()
    generator = torch.Generator().manual_seed(3)
    for parameter in model.parameters():
        numbers = torch.randn(parameter.shape, generator=generator)
        parameter.data = (
            numbers / 5 if parameter.dim() > 1 else torch.ones_like(numbers)
        ).bfloat16()
    model.pack(lambda weight, gated, bias: pack_as(format, weight.float(), gated=gated, bias=bias))
    return model


def logits_of(model: CausalLM, sequences: list[list[int]], chunks: list[int]) -> list[Tensor]:
    """Of every token, where each step takes the next chunk of every sequence that has more."""
    cache = make_cache(model.kv_shapes, num_slots=len(sequences), dtype=model.dtype)
    found: list[list[Tensor]] = [[] for _ in sequences]
    for begin, end in pairwise(accumulate(chunks, initial=0)):
        parts = {i: s[begin:end] for i, s in enumerate(sequences) if len(s) > begin}
        batch = pack(list(parts.values()), past=[begin] * len(parts), slots=list(parts))
        rows = model.run(batch, cache).split([len(part) for part in parts.values()])
        for i, part in zip(parts, rows, strict=True):
            found[i].append(part)
    return [torch.cat(parts) for parts in found]


@formats
@torch.no_grad()
def test_a_model_has_one_set_of_bits(tiles: str, format: str) -> None:
    """Alone and among others, at once and in chunks, on one thread and on three."""
    model = tiny_model(format)
    sequences = [torch.randint(0, 97, (length,)).tolist() for length in (50, 37, 18)]
    use_threads(1)
    alone = [logits_of(model, [s], [50])[0] for s in sequences]
    assert all(x.isfinite().all() and x.std() > 0.1 for x in alone)
    for threads in (1, 3):
        use_threads(threads)
        for chunks in ([50], [1] * 50, [17, 1, 32], [5, 11, 16, 18]):
            for x, expected in zip(logits_of(model, sequences, chunks), alone, strict=True):
                assert torch.equal(x, expected)


@torch.no_grad()
def test_a_model_is_near_what_other_kernels_make(
    tiles: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = torch.randint(0, 97, (40,)).tolist()
    (found,) = logits_of(tiny_model("bf16"), [tokens], [40])
    monkeypatch.setenv("KEPT_ISA", "portable")
    (expected,) = logits_of(tiny_model("bf16"), [tokens], [40])
    torch.testing.assert_close(found, expected, atol=0.05, rtol=0.05)


def test_what_a_cpu_lacks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEPT_ISA", "amx")
    features = _native.cpu_features()
    if features["amx_bf16"] and features["avx512_bf16"] and features["avx512_vbmi"]:
        assert _native.isa_names()[0] == isa() == "amx"
    else:
        with pytest.raises(OptionError, match=r"KEPT_ISA='amx' cannot be had on this CPU; it has"):
            isa()


def test_the_emulation_is_never_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _native.emulated_isa_names() == ["amx_emulated"]
    assert "amx_emulated" not in _native.isa_names()
    monkeypatch.delenv("KEPT_ISA", raising=False)
    assert isa() == _native.isa_names()[0]
    monkeypatch.setenv("KEPT_ISA", "amx_emulated")
    assert isa() == "amx_emulated"
