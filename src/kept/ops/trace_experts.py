"""A mixture of experts in a trace: the router's product, the choice, and what experts do in turn.

linear   scores
choose
gather   rows, or their codes
experts  gate_up, whose gates meet what they gate
quantize where activations are codes
experts  down
combine
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from kept.ops.buffers import Buffer, CodeBuffer
from kept.ops.lines import Choose, Combine, Experts, Gather, Linear, Quantize, Trace
from kept.ops.mixture import Expert, Router, Routing
from kept.ops.packed import PackedMatrix, pack_matrix
from kept.ops.trace import Rows


def experts(
    x: Rows,
    router: Router,
    choices: Sequence[Expert],
    routing: Routing,
    activation: str,
    shared: Rows | None = None,
) -> Rows:
    """See `ops.experts`; biases are packed with the weights."""
    trace, source, top_k = x.trace, x.read(), routing.top_k
    gate_ups, downs = (_matrices(choices, name) for name in ("gate_up", "down"))
    codes = _codes_of(trace, gate_ups[0])
    is_bf16 = codes is None and gate_ups[0].format != "fp32"
    scores = _score(trace, source, router, is_bf16)
    trace.lines.append(
        Choose(scores, len(choices), routing, shared is not None, _widened(router.choice_bias))
    )
    source = _quantized(trace, source, codes)
    source.feeds.append(gate_ups[0])
    gathered = replace(source, feeds=[gate_ups[0]], per_row=top_k)
    trace.lines.append(Gather(source, gathered))
    inner = Buffer(gate_ups[0].num_out // 2, per_row=top_k)
    trace.lines.append(Experts(gathered, source, gate_ups, inner, "gate", activation))
    inner = _quantized(trace, inner, codes)
    inner.feeds.append(downs[0])
    made = Buffer(downs[0].num_out, per_row=top_k)
    trace.lines.append(Experts(inner, None, downs, made, "store"))
    combine = Combine(made, None if shared is None else shared.read(), Buffer(made.width))
    trace.lines.append(combine)
    return Rows(trace, combine.out, made_by=combine)


def _widened(bias: Tensor | None) -> Tensor | None:
    return None if bias is None else bias.detach().float().contiguous()


def _matrices(choices: Sequence[Expert], name: str) -> list[PackedMatrix]:
    found = []
    for each in choices:
        matrix = getattr(each, name)
        assert isinstance(matrix, PackedMatrix)
        found.append(matrix)
    return found


def _codes_of(trace: Trace, weight: PackedMatrix) -> str | None:
    """In which order activations become codes for such weights, if they do."""
    return weight.code_order if trace.activations == "int8" else None


def _score(trace: Trace, source: Buffer, router: Router, is_bf16: bool) -> Buffer:
    """The router's product. It reads rows as experts do, or as they are before they become
    codes."""
    weight = pack_matrix(router.weight, "bf16" if is_bf16 else "fp32", bias=router.bias)
    source.feeds.append(weight)
    out = Buffer(weight.num_out)
    trace.lines.append(Linear(source, weight, out))
    return out


def _quantized(trace: Trace, source: Buffer, codes: str | None) -> Buffer:
    if codes is None:
        return source
    out = CodeBuffer(source.width, per_row=source.per_row, format=codes)
    trace.lines.append(Quantize(source, out, wanted=False))
    return out
