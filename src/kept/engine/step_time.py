"""How long a forward pass takes, learned from those that were computed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

Fit = tuple[float, float, float]  # of a pass, of a row beyond the knee, of an attended token

KEEPS: Final = 31 / 32  # what an observation leaves of the weight of those of its size before it
STALE: Final = 1024  # observations after which a size that was not seen since counts half
LATELY: Final = 32  # observations
OUTLIER: Final = 4.0  # times what was expected, beyond which a pass tells of something else
MANY_ROWS: Final = 64  # of a pass that tells what prompts cost
TICK: Final = 1e-9  # seconds, the least that a pass takes
RIDGE: Final = 1e-6  # where sizes seen so far leave a term open


def attended_by(num_past: int, num_new: int) -> int:
    """Tokens attended by `num_new` rows behind `num_past`, all rows together."""
    return num_new * num_past + num_new * (num_new + 1) // 2


@dataclass(slots=True)
class Size:
    """Sums over the passes of about as many rows, the late ones weighing most."""

    last: int = 0
    n: float = 0.0
    r: float = 0.0
    a: float = 0.0
    t: float = 0.0
    rr: float = 0.0
    ra: float = 0.0
    aa: float = 0.0
    rt: float = 0.0
    at: float = 0.0
    tt: float = 0.0

    def add(self, r: float, a: float, t: float) -> None:
        """Weigh one pass in."""
        k = KEEPS
        self.n = k * self.n + 1.0
        self.r = k * self.r + r
        self.a = k * self.a + a
        self.t = k * self.t + t
        self.rr = k * self.rr + r * r
        self.ra = k * self.ra + r * a
        self.aa = k * self.aa + a * a
        self.rt = k * self.rt + r * t
        self.at = k * self.at + a * t
        self.tt = k * self.tt + t * t


class StepTime:
    """Predicts the seconds of a pass from its rows and the tokens that they attend.

        t = pass + row * max(rows - knee, 0) + token * attended

    A pass reads the weights once: rows cost nothing until arithmetic takes longer than that, at the
    knee (the roofline model, Williams et al. 2009). Each term is at least 0. The knee is the power
    of two that fits best; at 1 every row counts. Sums are kept for each power of two of rows, so
    that an hour of single tokens does not wash out what a prompt took. num_fits: how often terms
    have changed.
    """

    def __init__(self) -> None:
        self._sizes: dict[int, Size] = {}  # by the number of bits of rows
        self._count = 0
        self._fitted_at = 0
        self.num_fits = 0
        self._knee = 1
        self._fit: Fit = (0.0, 0.0, 0.0)

    @property
    def knows_prompts(self) -> bool:
        """Whether it has seen a pass of many rows."""
        return any(bits >= MANY_ROWS.bit_length() for bits in self._sizes)

    def knows_few(self, rows: int) -> bool:
        """Whether it has lately seen a pass of at most about twice so many rows. Where all were
        larger, what a pass takes beside its rows is anybody's guess."""
        few, since = (2 * rows).bit_length(), self._count - LATELY
        return any(bits <= few and size.last > since for bits, size in self._sizes.items())

    def observe(self, rows: int, attended: int, seconds: float) -> None:
        """Learn from a pass. One that took much longer than expected counts as a slow one only."""
        seconds = max(seconds, TICK)
        bits = rows.bit_length()
        size = self._sizes.get(bits)
        if size is None:
            size = self._sizes[bits] = Size()
        if size.n < 4.0:
            if size.n and seconds < 0.5 * size.t / size.n:
                size = self._sizes[bits] = Size()  # the first touched new memory, or compiled
        else:
            expected = max(self._at(rows, attended), size.t / size.n)
            seconds = min(seconds, OUTLIER * expected)
        size.add(rows, attended, seconds)
        self._count += 1
        size.last = self._count

    def predict(self, rows: int, attended: int) -> float:
        """Seconds of a pass; 0 before any was seen."""
        self._refit()
        return self._at(rows, attended)

    def _at(self, rows: int, attended: int) -> float:
        per_pass, per_row, per_token = self._fit
        return per_pass + per_row * max(rows - self._knee, 0) + per_token * attended

    def rows_within(
        self, seconds: float, rows: int, attended: int, num_past: int, most: int, least: int = 1
    ) -> int:
        """How many rows of a prompt keep a pass within `seconds`: from `least` to `most`.

        rows, attended: of the pass without them. num_past: tokens of the prompt that are computed.
        Before a pass of many rows was seen, as many as asked for, to learn from.
        """
        if not self.knows_prompts:
            return most
        low, high = min(least, most), most
        while low < high:
            middle = (low + high + 1) // 2
            total = attended + attended_by(num_past, middle)
            if self.predict(rows + middle, total) <= seconds:
                low = middle
            else:
                high = middle - 1
        return low

    def _refit(self) -> None:
        """Fit anew, at first after each pass and later after thirty-two."""
        if self._count < self._fitted_at + max(1, min(32, self._fitted_at // 4)):
            return
        self._fitted_at = self._count
        self.num_fits += 1
        largest = max(size.r / size.n for size in self._sizes.values())
        found = []
        knee = 1
        while knee == 1 or 2 * knee <= largest:
            found.append((knee, *self._fit_at(knee)))
            knee *= 2
        # Of knees that fit alike the lowest: it promises the least of rows that were not seen.
        enough = 1.02 * min(error for _, _, error in found) + 1e-12
        self._knee, self._fit, _ = next(x for x in found if x[2] <= enough)

    def _fit_at(self, knee: int) -> tuple[Fit, float]:
        """The terms for a knee by least squares over all sizes, and what error they leave."""
        m00 = m01 = m02 = m11 = m12 = m22 = v0 = v1 = v2 = tt = 0.0
        for size in self._sizes.values():
            age = (self._count - size.last) / STALE
            w = 0.5**age * (size.n / size.t) ** 2
            m00 += w * size.n
            m02 += w * size.a
            m22 += w * size.aa
            v0 += w * size.t
            v2 += w * size.at
            tt += w * size.tt
            if size.r > knee * size.n:
                m01 += w * (size.r - knee * size.n)
                m11 += w * (size.rr - 2 * knee * size.r + knee * knee * size.n)
                m12 += w * (size.ra - knee * size.a)
                v1 += w * (size.rt - knee * size.t)
        m = ((m00, m01, m02), (m01, m11, m12), (m02, m12, m22))
        fit = _at_least_0(m, (v0, v1, v2))
        error = tt
        for i in range(3):
            error += fit[i] * (sum(m[i][j] * fit[j] for j in range(3)) - 2 * (v0, v1, v2)[i])
        return fit, max(error, 0.0)


Matrix = tuple[Fit, Fit, Fit]


def _at_least_0(m: Matrix, v: Fit) -> Fit:
    """The x of least xᵀ m x - 2 xᵀ v, without terms that would be below 0."""
    kept = [i for i in range(3) if m[i][i] > 0]
    while kept:
        x = _solve([[m[i][j] for j in kept] for i in kept], [v[i] for i in kept])
        worst = min(range(len(x)), key=lambda i: x[i] * m[kept[i]][kept[i]] ** 0.5)
        if x[worst] >= 0:
            found = dict(zip(kept, x, strict=True))
            return found.get(0, 0.0), found.get(1, 0.0), found.get(2, 0.0)
        del kept[worst]
    return 0.0, 0.0, 0.0


def _solve(m: list[list[float]], v: list[float]) -> list[float]:
    """Solve by elimination, of a positive matrix with a little more on its diagonal."""
    n = len(v)
    scale = [m[i][i] ** -0.5 for i in range(n)]
    rows = [[m[i][j] * scale[i] * scale[j] for j in range(n)] for i in range(n)]
    right = [v[i] * scale[i] for i in range(n)]
    for i in range(n):
        rows[i][i] += RIDGE
    for i in range(n):
        for k in range(i + 1, n):
            factor = rows[k][i] / rows[i][i]
            for j in range(i, n):
                rows[k][j] -= factor * rows[i][j]
            right[k] -= factor * right[i]
    for i in reversed(range(n)):
        right[i] = (right[i] - sum(rows[i][j] * right[j] for j in range(i + 1, n))) / rows[i][i]
    return [right[i] * scale[i] for i in range(n)]
