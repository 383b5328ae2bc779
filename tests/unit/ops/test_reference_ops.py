"""The reference operations against their formulas, written out in float64."""

import math

import pytest
import torch
from torch import Tensor

from kept import ops
from kept.ops.reference import soften


def close(found: Tensor, expected: Tensor, atol: float = 1e-5) -> None:
    torch.testing.assert_close(found.double(), expected.double(), rtol=0, atol=atol)


@pytest.mark.parametrize("width", [6, 8])
def test_rotary_turns_pairs_of_halves(width: int) -> None:
    x = torch.randn(5, 3, 8)
    angles = torch.randn(5, width // 2, dtype=torch.float64)
    table = torch.cat((angles, angles), -1)[:, None]
    found = ops.rotary(x, table.cos().float(), table.sin().float())
    half = width // 2
    turned = torch.view_as_complex(torch.stack((x[..., :half], x[..., half:width]), -1).double())
    turned = turned * torch.polar(torch.ones_like(angles), angles)[:, None]
    close(found[..., :half], turned.real)
    close(found[..., half:width], turned.imag)
    assert torch.equal(found[..., width:], x[..., width:])


def test_attention_may_go_to_nothing() -> None:
    scores, idle = torch.randn(2, 3, 2, 4, 5), torch.randn(6)
    found = soften(scores, ops.AttentionSpec(1.0, idle=idle))
    every = torch.cat((scores, idle.view(3, 2, 1, 1).expand(2, 3, 2, 4, 1)), -1).double()
    close(found, every.exp()[..., :-1] / every.exp().sum(-1, keepdim=True))
    assert torch.equal(soften(scores, ops.AttentionSpec(1.0)), scores.softmax(-1))


def test_rotary_keeps_scores_relative() -> None:
    q, k = torch.randn(2, 1, 1, 6)

    def score(query_pos: int, key_pos: int) -> float:
        angles = torch.tensor([query_pos, key_pos])[:, None] / torch.tensor([1.0, 3.0, 20.0])
        table = torch.cat((angles, angles), -1)[:, None]
        a, b = ops.rotary(torch.cat((q, k)), table.cos(), table.sin())
        return float((a * b).sum())

    assert score(9, 4) == pytest.approx(score(105, 100), abs=1e-4)
    assert score(9, 4) != pytest.approx(score(9, 5), abs=1e-3)


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 1e-5), (torch.bfloat16, 3e-2)])
def test_rms_norm(dtype: torch.dtype, atol: float) -> None:
    x, weight = (30 * torch.randn(4, 9)).to(dtype), torch.randn(9).to(dtype)
    wide = x.double()
    expected = wide / (wide.pow(2).mean(-1, keepdim=True) + 0.1).sqrt() * weight.double()
    found = ops.rms_norm(x, weight, 0.1)
    assert found.dtype == dtype
    close(found, expected, atol)


def test_layer_norm() -> None:
    x, weight, bias = torch.randn(4, 9), torch.randn(9), torch.randn(9)
    wide = x.double()
    centred = wide - wide.mean(-1, keepdim=True)
    expected = centred / (centred.pow(2).mean(-1, keepdim=True) + 0.1).sqrt() * weight + bias
    close(ops.layer_norm(x, weight, bias, 0.1), expected)


@pytest.mark.parametrize("bias", [None, torch.linspace(-1, 1, 3)])
def test_linear(bias: Tensor | None) -> None:
    x, weight = torch.randn(4, 9), torch.randn(3, 9)
    expected = torch.einsum("ni,oi->no", x.double(), weight.double())
    close(ops.linear(x, weight, bias), expected if bias is None else expected + bias)


def tanh_gelu(x: Tensor) -> Tensor:
    return x / 2 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


FORMULAS = {
    "silu": lambda x: x / (1 + torch.exp(-x)),
    "swish": lambda x: x / (1 + torch.exp(-x)),
    "gelu": lambda x: x / 2 * (1 + torch.erf(x / math.sqrt(2))),
    "gelu_new": tanh_gelu,
    "gelu_pytorch_tanh": tanh_gelu,
    "gelu_fast": tanh_gelu,
    "relu": lambda x: x.clamp(min=0),
}


@pytest.mark.parametrize("name", ops.ACTIVATIONS)
def test_activations(name: str) -> None:
    x = torch.linspace(-6, 6, 101)
    close(ops.activate(x, name), FORMULAS[name](x.double()))


def test_gated_takes_the_gate_first() -> None:
    x = torch.randn(3, 10)
    gate, up = x.double()[:, :5], x.double()[:, 5:]
    close(ops.gated(x, "silu"), FORMULAS["silu"](gate) * up)
