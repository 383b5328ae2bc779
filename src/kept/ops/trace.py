"""Writes a model's operations down instead of carrying them out.

A model's own code runs once over stand-ins for its rows; each operation of `kept.ops` that meets
one adds a line here, and `kept.ops.program` turns the lines into one native call. Where a sum or an
activation follows a matrix product it joins the product's line, since the kernels do both at once:

    x + linear(h, w)       linear ... add to x's rows, in place
    gated(linear(h, w))    linear ... gate
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from kept.ops.packed import PackedMatrix
from kept.ops.spec import AttentionSpec, HeadSpec


@dataclass
class Embed:
    """Rows of a table by token, and of another by position."""

    table: PackedMatrix
    positions: Tensor | None
    out: Buffer


@dataclass
class Norm:
    """Root-mean-square norm, or layer norm where there is a bias."""

    x: Buffer
    weight: Tensor
    bias: Tensor | None
    eps: float
    out: Buffer
    wanted: bool


@dataclass
class Linear:
    """A matrix product and what becomes of it: store, add, activate, gate or logits."""

    x: Buffer
    weight: PackedMatrix
    out: Buffer
    epilogue: str = "store"
    activation: str = "none"
    wanted: bool = False


@dataclass
class Place:
    """Queries, keys and values of a projection, normalised, rotated and stored."""

    qkv: Buffer
    queries: Buffer
    layer: int
    heads: HeadSpec
    q_norm: Tensor | None
    k_norm: Tensor | None
    rope_dim: int


@dataclass
class Attend:
    """Attention over what a layer stores."""

    queries: Buffer
    layer: int
    heads: HeadSpec
    spec: AttentionSpec
    out: Buffer


Line = Embed | Norm | Linear | Place | Attend


@dataclass(eq=False)
class Buffer:
    """Rows of `width` numbers that lines read and write. feeds: what linear layers read it."""

    width: int
    feeds: list[PackedMatrix] = field(default_factory=list)


@dataclass
class Trace:
    """The lines so far. starts: which line each layer begins with."""

    lines: list[Line] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)


@dataclass(eq=False)
class Rows:
    """Stands in for a tensor (N, width). wanted: the rows whose logits are wanted, alone."""

    trace: Trace
    buffer: Buffer
    wanted: bool = False
    product: Linear | None = None  # the line these rows are made by, while it can still be joined
    spent: bool = False  # a sum has taken their place

    def __add__(self, other: Rows) -> Rows:
        """A residual sum, in the place of the rows on the left."""
        if isinstance(other.buffer, PositionBuffer):
            embed = self.trace.lines[-1]
            assert isinstance(embed, Embed)
            embed.positions = other.buffer.table
            return self
        line = other.joined("add")
        line.out = self.read()
        self.spent = True
        return Rows(self.trace, self.buffer, self.wanted)

    def read(self) -> Buffer:
        """The buffer, for a line that reads or adds to it."""
        assert not self.spent, "rows are not used again once something has been added to them"
        return self.buffer

    def joined(self, epilogue: str, activation: str = "none") -> Linear:
        """Give the product these rows come from another ending."""
        line = self.product
        assert line is not None, "only a product can be joined"
        assert line is self.trace.lines[-1], "a product is joined before anything else is done"
        line.epilogue, line.activation, self.product = epilogue, activation, None
        return line

    def flatten(self, start: int) -> Rows:
        """Rows are flat already."""
        assert start == 1
        return self

    def only_wanted(self) -> Rows:
        """These rows, of which the next line reads the wanted ones."""
        return Rows(self.trace, self.read(), wanted=True)


@dataclass(eq=False)
class PositionBuffer(Buffer):
    """Stands for rows of a table of positions, which join the embedding's line."""

    table: Tensor | None = None


@dataclass(frozen=True)
class Ids:
    """Stands in for the token ids or the positions of a batch, (N,)."""

    trace: Trace
    are_positions: bool


@dataclass(frozen=True)
class TracedBatch:
    """Stands in for a batch."""

    tokens: Ids
    positions: Ids


@dataclass(frozen=True)
class TracedRope:
    """Stands in for the rotary tables of a batch. dim: R."""

    dim: int


def is_traced(x: object) -> bool:
    """Whether x stands in for something of a model's run."""
    return isinstance(x, Rows | Heads | Ids | TracedBatch)


@dataclass(frozen=True, eq=False)
class Heads:
    """Stands in for queries, keys or values (N, heads, D)."""

    rows: Rows
    place: Place


@dataclass(frozen=True)
class TracedView:
    """Stands in for a view of what a layer stores."""

    layer: int


@dataclass(frozen=True)
class TracedStore:
    """Stands in for where a layer stores its keys."""

    layer: int

    def append(self, k: Heads, v: Heads) -> TracedView:
        """The keys are stored by the line that made them."""
        assert k.place is v.place
        k.place.layer = self.layer
        return TracedView(self.layer)

    def observe(self, q: Heads, spec: AttentionSpec) -> None:
        """Queries are shown between two lines; see `NativeDecoder.run`."""


def embedding(ids: Ids, weight: PackedMatrix | Tensor) -> Rows:
    """See `ops.embedding`. A table of positions is a plain tensor."""
    if ids.are_positions:
        assert isinstance(weight, Tensor)
        return Rows(ids.trace, PositionBuffer(weight.shape[1], table=_widened(weight)))
    assert isinstance(weight, PackedMatrix)
    out = Rows(ids.trace, Buffer(weight.num_in))
    ids.trace.lines.append(Embed(weight, None, out.buffer))
    return out


def rms_norm(x: Rows, weight: Tensor, eps: float) -> Rows:
    """See `ops.rms_norm`."""
    return _norm(x, weight, None, eps)


def layer_norm(x: Rows, weight: Tensor, bias: Tensor, eps: float) -> Rows:
    """See `ops.layer_norm`."""
    return _norm(x, weight, _widened(bias), eps)


def _norm(x: Rows, weight: Tensor, bias: Tensor | None, eps: float) -> Rows:
    out = Rows(x.trace, Buffer(x.buffer.width), x.wanted)
    x.trace.lines.append(Norm(x.read(), _widened(weight), bias, eps, out.buffer, x.wanted))
    return out


def _widened(x: Tensor) -> Tensor:
    return x.detach().float().contiguous()


def linear(x: Rows, weight: PackedMatrix, bias: None = None) -> Rows:
    """See `ops.linear`; a bias is packed with the weights."""
    assert bias is None
    x.buffer.feeds.append(weight)
    out = Rows(x.trace, Buffer(weight.num_out), x.wanted)
    out.product = Linear(x.read(), weight, out.buffer, wanted=x.wanted)
    x.trace.lines.append(out.product)
    return out


def activate(x: Rows, activation: str) -> Rows:
    """See `ops.activate`."""
    x.joined("activate", activation)
    return x


def gated(x: Rows, activation: str) -> Rows:
    """See `ops.gated`."""
    line = x.joined("gate", activation)
    assert line.weight.gated, "gates are packed beside what they gate"
    out = Rows(x.trace, Buffer(line.weight.num_out // 2))
    line.out = out.buffer
    return out


def split_heads(
    qkv: Rows,
    heads: HeadSpec,
    rope: TracedRope | None,
    q_norm: Tensor | None,
    k_norm: Tensor | None,
) -> tuple[Heads, Heads, Heads]:
    """See `ops.split_heads`."""
    queries = Rows(qkv.trace, Buffer(heads.num_heads * -(-heads.head_dim // 32) * 32))
    q_weight, k_weight = (None if x is None else _widened(x) for x in (q_norm, k_norm))
    rope_dim = 0 if rope is None else rope.dim
    place = Place(qkv.read(), queries.buffer, -1, heads, q_weight, k_weight, rope_dim)
    qkv.trace.lines.append(place)
    found = Heads(queries, place)
    return found, found, found


def attend(q: Heads, view: TracedView, spec: AttentionSpec) -> Rows:
    """See `ops.attend`."""
    heads = q.place.heads
    out = Rows(q.rows.trace, Buffer(heads.num_heads * heads.head_dim))
    q.rows.trace.lines.append(Attend(q.rows.buffer, view.layer, heads, spec, out.buffer))
    return out
