"""What crosses into C++ is held there against what kernels will read and write, in every build."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from kept import _native
from kept.ops import AttentionSpec, HeadSpec, isa, one_block_each
from kept.ops.native_shape import native_shape

HEADS = HeadSpec(2, 1, 20)
SHAPE = native_shape(HEADS, AttentionSpec(1.0))
ROWS, SLOTS, CAPACITY = 3, 2, 8
INT8, INT4, FP32 = _native.Codec.int8, _native.Codec.int4, _native.Codec.fp32


def fp32(*size: int) -> Tensor:
    return torch.zeros(size, dtype=torch.float32)


def ids(*numbers: int) -> Tensor:
    return torch.tensor(numbers, dtype=torch.int64)


def whole(codec: _native.Codec = FP32) -> tuple[Tensor | None, ...]:
    size = SLOTS, 1, CAPACITY
    if codec == FP32:
        return (fp32(*size, 20), None) * 2
    kind, width, scales = (torch.int8, 20, 1) if codec == INT8 else (torch.uint8, 10, 1)
    side = torch.zeros(*size, width, dtype=kind), torch.zeros(*size, scales, dtype=torch.bfloat16)
    return side * 2


# What a placing is told of norms: none of queries or keys.
UNNORMED = None, None, None, 0.0, False, False


def program() -> _native.Program:
    """A table of 5 rows, heads of 20 that rotate 8, and a head of 5."""
    made = _native.Program(isa())
    shape = _native.weights(_native.Format.fp32, False, 5, 80)
    data = _native.zeros(shape.num_panels * shape.bytes_per_panel)
    table = _native.weights(_native.Format.fp32, False, 5, 80, data)
    head = _native.weights(
        _native.Format.fp32,
        False,
        5,
        40,
        _native.zeros(shape.num_panels * shape.bytes_per_panel),
    )
    qkv, queries = made.add_buffer(80, False), made.add_buffer(64, False)
    out = made.add_buffer(40, False)
    made.embed(made.add_weights(table), None, 0, qkv, 1.0)
    made.place(qkv, queries, 0, SHAPE, *UNNORMED, 8, 0, 4, False, False)
    made.attend(queries, 0, SHAPE, out)
    made.linear(
        out,
        made.add_weights(head),
        _native.Epilogue.logits,
        _native.Activation.none,
        made.add_buffer(5, False),
        False,
        0.0,
        1.0,
    )
    return made


def step(codec: _native.Codec = FP32, **other: Any) -> _native.Step:
    buffers, layouts = other.pop("buffers", whole(codec)), other.pop("follows", [0])
    given: dict[str, Any] = {
        "rows": ROWS,
        "tokens": ids(0, 1, 4),
        "positions": ids(0, 1, 0),
        "starts": [0, 2, 3],
        "tables": [one_block_each([0, 1])],
        "lengths": [[2, 1]],
        "wanted": None,
        "num_wanted": ROWS,
        "cos": fp32(2, 4),
        "sin": fp32(2, 4),
        "rope_rows": ids(0, 1, 0),
        "layouts": [(CAPACITY, 0, -1)],
        "layers": _native.layers(codec, codec, [buffers], layouts),
        "logits": fp32(ROWS, 5),
        "vocabulary": 5,
        "top_k": 0,
        "inputs": [],
        "input_lengths": [],
        "input_of": [],
    }
    return _native.step(**{**given, **other})


def is_refused(wrong: Callable[[], Any]) -> bool:
    try:
        wrong()
    except ValueError:
        return True
    return False


@pytest.mark.parametrize("codec", [FP32, INT8, INT4], ids=str)
def test_what_fits_runs(codec: _native.Codec) -> None:
    program().run(step(codec), 0, 4)


STEPS: dict[str, Callable[[], Any]] = {
    "tokens of int32": lambda: step(tokens=ids(0, 1, 4).int()),
    "too few tokens": lambda: step(tokens=ids(0, 1)),
    "tokens with gaps": lambda: step(tokens=ids(0, 0, 1, 1, 4, 4)[::2]),
    "tokens elsewhere": lambda: step(tokens=ids(0, 1, 4).to("meta")),
    "no tokens": lambda: step(tokens=None),
    "logits of bfloat16": lambda: step(logits=fp32(ROWS, 5).bfloat16()),
    "logits of float64": lambda: step(logits=fp32(ROWS, 5).double()),
    "too few logits": lambda: step(logits=fp32(ROWS, 4)),
    "another vocabulary": lambda: step(vocabulary=4),
    "no logits": lambda: step(logits=None),
    "more wanted than rows": lambda: step(num_wanted=4, logits=fp32(4, 5)),
    "no rotary tables": lambda: step(cos=None, sin=None, rope_rows=None),
    "fewer sines than cosines": lambda: step(sin=fp32(1, 4)),
    "tables of float64": lambda: step(cos=fp32(2, 4).double(), sin=fp32(2, 4).double()),
    "a slot too far": lambda: step(tables=[one_block_each([0, 2])]),
    "a slot below zero": lambda: step(tables=[one_block_each([-1, 0])]),
    "no table": lambda: step(tables=[]),
    "a table of fewer sequences": lambda: step(tables=[one_block_each([0])]),
    "a table of no blocks": lambda: step(tables=[np.zeros((2, 0), dtype=np.int32)]),
    "blocks that are no tiles": lambda: step(tables=[np.zeros((2, 2), dtype=np.int32)]),
    "another capacity": lambda: step(layouts=[(9, 0, -1)]),
    "more tokens than entries": lambda: step(buffers=(fp32(2, 1, 8, 20)[:, :, 7:], None) * 2),
    "a layout too far": lambda: step(follows=[1]),
    "no layers": lambda: step(layers=_native.layers(FP32, FP32, [], [])),
    "more heads": lambda: step(buffers=(fp32(2, 2, 8, 20), None) * 2),
    "wider heads": lambda: step(buffers=(fp32(2, 1, 8, 24), None) * 2),
    "heads of bfloat16": lambda: step(buffers=(fp32(2, 1, 8, 20).bfloat16(), None) * 2),
    "entries with gaps": lambda: step(buffers=(fp32(2, 1, 16, 20)[:, :, ::2], None) * 2),
    "scales beside floats": lambda: step(buffers=(fp32(2, 1, 8, 20), fp32(2, 1, 8, 1)) * 2),
    "codes without scales": lambda: step(INT8, buffers=(whole(INT8)[0], None) * 2),
    "too few scales": lambda: step(
        INT8, buffers=(whole(INT8)[0], torch.zeros(2, 1, 7, 1).bfloat16()) * 2
    ),
}


@pytest.mark.parametrize("name", STEPS)
def test_a_step_that_would_leave_its_memory_is_refused(name: str) -> None:
    assert is_refused(lambda: program().run(STEPS[name](), 0, 4))


def an_input(length: int, layers: int = 1, codec: _native.Codec = FP32) -> _native.Layers:
    made = fp32(1, 1, length, 20)
    side = (made if codec == FP32 else made.bfloat16(), None)
    return _native.layers(codec, codec, [side * 2] * layers, [0] * layers)


def crossing(**other: Any) -> _native.Step:
    """Sequences of two tokens and of one attend inputs of two tokens and of one."""
    given = {"inputs": [an_input(1), an_input(2)], "input_lengths": [1, 2], "input_of": [1, 0]}
    return step(**{**given, **other})


def test_encoder_inputs_that_would_leave_their_memory_are_refused() -> None:
    made = _native.Program(isa())
    qkv, queries, out = (made.add_buffer(width, False) for width in (80, 64, 40))
    keys = _native.attention_shape(0, 1, 20, 1.0, False, -1, 0, 0.0)
    made.place(qkv, queries, 0, keys, *UNNORMED, 0, 0, 0, False, True)
    reach = 3
    made.attend(queries, 0, SHAPE, out, fp32(2, 2 * (reach + 64) - 1), reach, None, True)
    made.run(crossing(), 0, 2)
    made.run(crossing(input_of=[0, 0]), 1, 2)
    both = _native.layers(FP32, FP32, [whole()] * 2, [0, 0])

    def repeated(input_of: list[int]) -> _native.Repeat:
        one = {"rows": 2, "tokens": ids(1, 2), "positions": ids(0, 0), "rope_rows": ids(0, 0)}
        of = {"starts": [0, 1, 2], "lengths": [[1, 1]], "num_wanted": 2, "input_of": input_of}
        return _native.Repeat(attends, crossing(**one, **of), [0, 0])

    attends = _native.Program(isa())
    asked, given = (attends.add_buffer(width, False) for width in (64, 40))
    attends.attend(asked, 0, SHAPE, given, fp32(2, 2 * (reach + 64) - 1), reach, None, True)
    repeated([0, 1]).run([1, 2])
    for wrong in (
        lambda: made.run(step(), 0, 2),
        lambda: made.run(crossing(input_of=[0, 0]), 0, 1),  # rows of two sequences to one input
        lambda: made.run(crossing(input_of=[0, 1]), 0, 1),
        lambda: made.run(crossing(input_of=[0, 2]), 1, 2),
        lambda: made.run(crossing(input_of=[0, -1]), 1, 2),
        lambda: made.run(crossing(input_of=[0]), 1, 2),
        lambda: made.run(crossing(input_lengths=[1, 3]), 1, 2),
        lambda: made.run(crossing(input_lengths=[1, 0]), 1, 2),
        lambda: crossing(input_lengths=[1]),
        lambda: crossing(inputs=[an_input(1), an_input(2, layers=2)]),
        lambda: crossing(inputs=[an_input(1), an_input(2, codec=_native.Codec.bf16)]),
        lambda: made.run(crossing(inputs=[both, both]), 1, 2),  # of more slots than one
        lambda: made.attend(
            queries, 0, SHAPE, out, fp32(2, 2 * (reach + 64) - 2), reach, None, True
        ),
        lambda: made.attend(queries, 0, SHAPE, out, fp32(1), -1, None, True),
        lambda: repeated([0, 2]).run([1, 2]),
        lambda: repeated([0]).run([1, 2]),
        lambda: made.attend(queries, 0, SHAPE, out, fp32(1), 1 << 40, None, True),
    ):
        assert is_refused(wrong)


def test_rows_that_do_not_exist_are_refused() -> None:
    for wrong in (
        {"tokens": ids(0, 1, 5)},
        {"rope_rows": ids(0, 1, 2)},
        {"rope_rows": ids(0, -1, 0)},
        {"cos": fp32(3), "sin": fp32(3), "rope_rows": ids(0, 0, 0)},  # less than one row of tables
        {"wanted": ids(0, 3), "num_wanted": 2},
    ):
        with pytest.raises(IndexError):
            program().run(step(**wrong), 0, 4)


def test_a_repeated_step_stays_within_its_tables() -> None:
    made = program()
    last = step(
        rows=2,
        tokens=None,
        positions=None,
        rope_rows=None,
        starts=[0, 1, 2],
        lengths=[[1, 1]],
        num_wanted=2,
    )
    repeat = _native.Repeat(made, last, [0, 0])
    repeat.run([1, 2])
    with pytest.raises(IndexError):  # the tables have rows for two positions
        repeat.run([1, 2])


def test_a_repeated_step_has_a_position_for_each_sequence() -> None:
    last = step(
        rows=1, tokens=None, positions=None, rope_rows=None, starts=[0, 1],
        tables=[one_block_each([0])], lengths=[[1]], num_wanted=1,
    )  # fmt: skip
    assert is_refused(lambda: _native.Repeat(program(), last, []))
    assert is_refused(lambda: _native.Repeat(program(), last, [0, 1]))


def test_operations_that_outgrow_their_rows_are_refused() -> None:
    made = _native.Program(isa())
    narrow, wide = made.add_buffer(32, False), made.add_buffer(80, False)
    shape = _native.weights(_native.Format.fp32, False, 80, 80)
    data = _native.zeros(shape.num_panels * shape.bytes_per_panel)
    weights = made.add_weights(_native.weights(_native.Format.fp32, False, 80, 80, data))
    store, none = _native.Epilogue.store, _native.Activation.none
    tries: tuple[Callable[[], Any], ...] = (
        lambda: made.add_weights(shape),
        lambda: made.embed(weights, None, 0, narrow, 1.0),
        lambda: made.embed(weights, fp32(2, 79), 2, wide, 1.0),
        lambda: made.norm(wide, fp32(79), None, 0.0, wide, False, False),
        lambda: made.norm(wide, fp32(80).bfloat16(), None, 0.0, wide, False, False),
        lambda: made.norm(wide, fp32(80), None, 0.0, narrow, False, False),
        lambda: made.norm(wide, fp32(80), None, 0.0, wide, False, False, 1, 80),
        lambda: made.norm(wide, fp32(8), None, 0.0, wide, False, False, -1, 8),
        lambda: made.norm(wide, fp32(8), None, 0.0, wide, False, False, 0, 9),
        lambda: made.round(wide, narrow),
        lambda: made.round(wide, 7),
        lambda: made.round(narrow, narrow, 1.0, wide, 49),
        lambda: made.round(narrow, narrow, 1.0, wide, -1),
        lambda: made.linear(narrow, weights, store, none, wide, False, 0.0, 1.0),
        lambda: made.linear(wide, weights, store, none, narrow, False, 0.0, 1.0),
        lambda: made.linear(wide, weights, store, none, 7, False, 0.0, 1.0),
        lambda: made.place(narrow, wide, 0, SHAPE, *UNNORMED, 0, 0, 0, False, False),
        lambda: made.place(wide, narrow, 0, SHAPE, *UNNORMED, 0, 0, 0, False, False),
        lambda: made.place(wide, wide, 0, SHAPE, fp32(19), *UNNORMED[1:], 0, 0, 0, False, False),
        lambda: made.place(wide, wide, 0, SHAPE, *UNNORMED, 8, 1, 4, False, False),
        lambda: made.place(wide, wide, 0, SHAPE, *UNNORMED, 1, 0, 0, False, False),
        lambda: made.place(
            wide, wide, 0, SHAPE, fp32(39), fp32(20), None, 0.0, True, False, 0, 0, 0, False, False
        ),
        lambda: made.attend(narrow, 0, SHAPE, wide),
        lambda: made.attend(wide, 0, SHAPE, wide, None, 0, fp32(1)),
        lambda: made.read_buffer(wide, 1, fp32(1, 80)),
        lambda: made.write_queries(wide, 1, SHAPE, True, fp32(1, 39)),
        lambda: made.write_queries(wide, 1, SHAPE, True, fp32(1, 40).bfloat16()),
        lambda: made.write_queries(narrow, 1, SHAPE, True, fp32(1, 40)),
    )
    for wrong in tries:
        assert is_refused(wrong)


def test_results_are_read_into_what_holds_them() -> None:
    made = program()
    made.run(step(top_k=2), 0, 4)
    assert [x.shape for x in made.top] == [(3, 2), (3, 2)]
    for wrong in (
        lambda: made.read_buffer(2, 3, fp32(2, 40)),
        lambda: made.read_buffer(9, 3, fp32(3, 40)),
        lambda: made.read_queries(1, 3, SHAPE, True, fp32(3, 39)),
        lambda: made.run(step(), 0, 5),
    ):
        assert is_refused(wrong)


def test_matrices_of_other_sizes_are_refused() -> None:
    int8, int4 = (_native.weights(_native.Format[name], False, 40, 40) for name in ("int8", "int4"))
    plain = _native.weights(_native.Format.bf16, False, 40, 40)
    room = {x: _native.zeros(x.num_panels * x.bytes_per_panel) for x in (int8, int4, plain)}
    codes, levels = torch.zeros(40, 40, dtype=torch.int8), torch.zeros(40, 40, dtype=torch.uint8)
    short, kernels, to_int8 = _native.zeros(64), isa(), _native.Format.int8
    tries: tuple[Callable[[], Any], ...] = (
        lambda: _native.pack_floats(plain, fp32(40, 39), room[plain]),
        lambda: _native.pack_floats(plain, fp32(40, 40).double(), room[plain]),
        lambda: _native.pack_floats(plain, fp32(40, 40).T[::2], room[plain]),
        lambda: _native.pack_floats(plain, fp32(40, 40), short),
        lambda: _native.pack_floats(int8, fp32(40, 40), room[int8]),
        lambda: _native.pack_codes(int8, levels, room[int8]),
        lambda: _native.pack_codes(int4, codes, room[int4]),
        lambda: _native.pack_codes(int4, levels[:39].contiguous(), room[int4]),
        lambda: _native.pack_outputs(int8, fp32(39), fp32(64)),
        lambda: _native.pack_outputs(int8, fp32(40), fp32(40)),
        lambda: _native.pack_group_scales(int4, fp32(40, 2), fp32(2, 2, 32)),
        lambda: _native.unpack(plain, fp32(40, 40)),
        lambda: _native.weights(_native.Format.int8, False, 40, 40, room[int8]),
        lambda: _native.weights(_native.Format.int8, False, 40, 40, short, fp32(64)),
        lambda: _native.weights(_native.Format.bf16, False, 40, 40, room[plain], bias=fp32(40)),
        lambda: _native.quantize(kernels, to_int8, fp32(39, 40), 40, 40, codes, fp32(40)),
        lambda: _native.quantize(kernels, to_int8, fp32(40, 40), 40, 40, codes, fp32(39)),
        lambda: _native.encode_heads(
            kernels, INT8, False, fp32(3, 20), 4, 20, codes, torch.zeros(4).bfloat16()
        ),
        lambda: _native.encode_heads(
            kernels, INT4, False, fp32(4, 20), 4, 20, codes, torch.zeros(4).bfloat16()
        ),
    )
    for wrong in tries:
        assert is_refused(wrong)
