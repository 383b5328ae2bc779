"""What a program is made of: the lines that a traced model leaves, and the buffers between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from kept.ops.activations import Activations
from kept.ops.adapters import Adapters
from kept.ops.bias import Bias
from kept.ops.buffers import Buffer, CodeBuffer
from kept.ops.latent import LatentSpec
from kept.ops.mixture import Routing
from kept.ops.packed import PackedMatrix
from kept.ops.spec import AttentionSpec, HeadSpec


@dataclass
class Embed:
    """Rows of a table by token, scaled, and of another by position. others_first: tokens that the
    table has no row for have its first."""

    table: PackedMatrix
    positions: Tensor | None
    out: Buffer
    scale: float = 1.0
    others_first: bool = False


@dataclass
class Norm:
    """Root-mean-square norm, or layer norm where there is a bias. add: to the rows of `out`. scale:
    of the normalised rows. begin: the first of the columns that are normalised, as many as there
    are weights."""

    x: Buffer
    weight: Tensor
    bias: Tensor | None
    eps: float
    out: Buffer
    wanted: bool
    add: bool = False
    scale: float = 1.0
    begin: int = 0


@dataclass
class Round:
    """Rows that are added to, as a linear layer reads them; or rows times a factor, and times the
    columns of others from `begin` on."""

    x: Buffer
    out: Buffer
    factor: float = 1.0
    by: Buffer | None = None
    begin: int = 0


@dataclass
class Quantize:
    """Activations as int8 codes, for products of whole numbers."""

    x: Buffer
    out: CodeBuffer
    wanted: bool


@dataclass
class Shrink:
    """The numbers of rows in the ranks of their adapters, for the product that comes next. weight:
    its matrix."""

    x: Buffer
    weight: PackedMatrix
    adapters: Adapters


@dataclass
class Linear:
    """A matrix product and what becomes of it: store, add, activate, gate or logits.

    softcap: of logits, 0: none. adapters: what rows take on; `Shrink` comes before. scale: of that
    sum, before anything else becomes of it.
    """

    x: Buffer
    weight: PackedMatrix
    out: Buffer
    epilogue: str = "store"
    activation: str = "none"
    wanted: bool = False
    softcap: float = 0.0
    scale: float = 1.0
    adapters: Adapters | None = None


@dataclass
class Place:
    """Queries, keys and values of a projection, normalised, rotated and stored.

    only: "queries", and `layer` is whose keys they are to attend, or "keys", and `queries` is left
    alone; None: all three. rope_dim: R, 0: not rotated. rope_begin: which number of a row of the
    step's tables its angles begin with. rope_stride: numbers of such a row, None: R / 2. crossing:
    the layer is a cross layer.
    """

    qkv: Buffer
    queries: Buffer
    layer: int
    heads: HeadSpec
    q_norm: Tensor | None
    k_norm: Tensor | None
    rope_dim: int
    rope_begin: int = 0
    rope_stride: int | None = None
    only: Literal["queries", "keys"] | None = None
    crossing: bool = False
    v_norm: Tensor | None = None


@dataclass
class PlaceLatent:
    """What all heads attend one latent by, normed, rotated and stored; see `ops.split_latent`.
    rope_begin, rope_stride: as of a `Place`."""

    absorbed: Buffer
    turning: Buffer
    compressed: Buffer
    queries: Buffer
    layer: int
    spec: LatentSpec
    norm: Tensor
    rope_begin: int
    rope_stride: int
    crossing: bool = False
    only: None = None

    @property
    def heads(self) -> HeadSpec:
        """What attention sees of them."""
        return self.spec.heads


@dataclass
class HeadProducts:
    """Each head's matrix by its own columns of a row, so many apart from the next one's."""

    x: Buffer
    weights: Sequence[PackedMatrix]
    stride: int
    out: Buffer


@dataclass
class Attend:
    """Attention over what a layer stores. crossing: a cross layer, of the inputs of a step."""

    queries: Buffer
    layer: int
    heads: HeadSpec
    spec: AttentionSpec
    out: Buffer
    bias: Bias | None = None
    crossing: bool = False


@dataclass
class Choose:
    """The choice of each row among experts, by its scores. has_shared: behind these lies the gate
    of a shared expert. bias: on scores, for the choice alone."""

    scores: Buffer
    num_experts: int
    routing: Routing
    has_shared: bool
    bias: Tensor | None = None


@dataclass
class Gather:
    """Rows, once for each expert that they chose, those of an expert together."""

    x: Buffer
    out: Buffer


@dataclass
class Experts:
    """Products of gathered rows with the matrices of their experts. ungathered: where a step of one
    row reads it; None: x comes from other experts' products."""

    x: Buffer
    ungathered: Buffer | None
    weights: Sequence[PackedMatrix]
    out: Buffer
    epilogue: str
    activation: str = "none"


@dataclass
class Combine:
    """The weighed sum over a row's experts, and what a shared one made of it. add: to the rows of
    `out`."""

    x: Buffer
    shared: Buffer | None
    out: Buffer
    add: bool = False


@dataclass
class Columns:
    """Columns of rows from `begin` on, times a weight (width,), to those of `out` from `to` on.
    add: to what is there."""

    x: Buffer
    begin: int
    width: int
    out: Buffer
    to: int
    weight: Tensor | None = None
    add: bool = False


@dataclass
class Match:
    """Rows x, made as large as those of `like`, to the columns of `out` from `to` on; see
    `ops.spread`."""

    x: Buffer
    like: Buffer
    least: float
    out: Buffer
    to: int
    add: bool = False


@dataclass
class Predict:
    """Streams side by side in x, in place; see `ops.predict`."""

    x: Buffer
    num_streams: int
    routes: Buffer
    weight: Tensor


@dataclass
class Correct:
    """Streams side by side in x, in place; see `ops.correct`."""

    x: Buffer
    num_streams: int
    routes: Buffer
    weight: Tensor
    active: Buffer
    index: int


@dataclass
class GateSparsely:
    """Gates far above the mean of their row, and what they gate; see `ops.gated_sparsely`."""

    gates: Buffer
    ups: Buffer
    deviations: float
    activation: str
    out: Buffer


Line = (
    Embed
    | Norm
    | Round
    | Quantize
    | Shrink
    | Linear
    | Place
    | PlaceLatent
    | HeadProducts
    | Attend
    | Choose
    | Gather
    | Experts
    | Combine
    | Columns
    | Match
    | Predict
    | Correct
    | GateSparsely
)


@dataclass
class Trace:
    """The lines so far. starts: which line each layer begins with. activations: "int8": they are
    quantized before they meet quantized weights. residual: the rows that every layer adds to."""

    lines: list[Line] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    activations: Activations = "bfloat16"
    residual: Buffer | None = None
