r"""A one-neuron ResNet with computed weights that approximates any integrable function arbitrarily well in L1.

Lin and Jegelka (2018) prove that such networks exist; this module works out the details. Let f be given on the box
:math:`[a, b]^d`, cut into :math:`M^d` cells with sides :math:`h = (b - a) / M`. Let S be the step function that has on
each cell the value of f at the centre of the cell, and 0 outside the box. The network R agrees with S except on thin
slabs along the faces of cells, the *ramps*, of width :math:`\delta`. A block x <- x + V relu(Ux + u) bends the map
x -> x along one plane: beyond the plane, the slope along V changes from 1 to 1 + VU. The construction uses only such
blocks.

**1. Staircases.** Each coordinate is mapped separately to an approximate staircase: level k on cell k, with slope
:math:`q = \eta / h` inside cells, where :math:`\eta` is tiny. Both ends are dropped first. Then ramps are made from the
lowest to the highest; each ramp raises everything above it, so every threshold is known in advance. (The order from top
to bottom would also work. But then every later ramp magnifies the values that are already high before it is flattened,
and float64 loses a dozen digits.)

=====================  =============================================  ==========================================
block                  U, u, V                                        effect
=====================  =============================================  ==========================================
shift                  0, 1, -(a + delta)                             the first cell begins at 0
contract               1, 0, q - 1                                    slope q to the right of 0
drop on the left       -1, 0, -((D + 1) / delta - 1)                  from level 0 to below -D within delta
drop on the right      1, -p, -(1 + (p + D + 1) / (q delta))          the same at the right end, p = q(b - a - 2 delta)
floor                  -1, -D, 1                                      max(x, -D): all outside is now flat
ramp k: steepen        1, -r, s = rise / (q delta) - 1                slope rise / delta from r on
ramp k: flatten        1, -(r + rise), -s / (1 + s)                   slope q again, one level higher
=====================  =============================================  ==========================================

with rise = 1 - q(h - delta), so that the centres of neighbouring cells are exactly 1 apart. For ramp k = 1 to M - 1,
r = q(kh - 3 delta / 2) + (k - 1)(rise - q delta) is the height of the face between cells k - 1 and k at that time.

**2. Distinct levels.** One neuron that is always on adds :math:`\sum_{i>1} M^{i-1} x_i` to coordinate 1: cell
:math:`(k_1, ..., k_d)` gets the level :math:`n = 1 + \sum_i k_i M^{i-1}`, between 1 and :math:`M^d`. With
:math:`D_i = (W (M - 1 + \eta) + 2) / M^{i-1}`, where :math:`W = \sum_i M^{i-1}`, a single coordinate outside the box
brings the sum below 0, for any values of the others. One more block, max(x, 0), gives level 0 to all points outside.

**3. Moving the levels.** The value v of a cell has its place :math:`\tau(v) = -1 - T (v_{max} - v) / (v_{max} -
v_{min})` below all levels, where :math:`T = M^d + 1` and the extremes include 0. From top to bottom, level by level,
one neuron with the threshold t = n - 1/2 moves everything above the threshold, which is only level n, to its place:

.. math:: x \leftarrow x - c \, \mathrm{relu}(x - t), \qquad c = \frac{n - \tau}{n - t}.

Levels that have been moved are below every later threshold and do not change again.

**4. Clamps.** Between two levels, a ramp passes through every height, and the moves make it overshoot. Two blocks,
:math:`\max(x, \tau(v_{min}))` and :math:`\min(x, \tau(v_{max}))`, bring it back. The read-out inverts :math:`\tau`.

**The error.** Outside the ramps, a level may differ from its whole number by :math:`\eta W / 2`, because of the
remaining slope in its cell, and in the mean over the cell by at most half of that. A move multiplies this difference by
c - 1 < 4T, since :math:`n < T` and :math:`-\tau \le T + 1`, and the read-out multiplies it by :math:`\Delta / T`, where
:math:`\Delta = v_{max} - v_{min}`. Ramps cover at most :math:`d (M + 1) \delta (b - a)^{d-1}` of the box and nothing
outside, and no value on a ramp is wrong by more than :math:`\Delta`. Hence, without rounding,

.. math:: \|R - S\|_1 \le \Delta \left[ d (M + 1) \delta (b - a)^{d-1} + \eta W (b - a)^d \right].

The first term is at most 3/4 of ``error`` and the second at most 1/8. The remainder is reserved for rounding.

**Rounding.** Let :math:`u = 2^{-53}`. A block that multiplies the slope by a small :math:`\varphi` is x + V(x - c) with
V = :math:`\varphi - 1`. It subtracts two numbers of the size of x - c. Its result is :math:`\varphi` times as large but
keeps all of their rounding errors: u(x - c) for the difference, the same for the product, and the same for V itself.
When ramp j is made flat, a point at a distance z to the right of the ramp, in the units of x, has at most the height
z / :math:`\delta`. The error that remains is at most 3uz / :math:`\delta`. A length in x is multiplied by q there, so
the error corresponds to moving the point by 3uz / :math:`(q \delta)`. The contraction, with :math:`\varphi = q`, moves
it by 2uz / q. A level j is rounded by ju, which corresponds to a move by ju / q. The face k is reached after k - 1
ramps, which are at distances h, 2h, ... to its left. Hence it is moved by no more than

.. math:: |s_k| \le \frac{k (k - 1)}{2} \left( \frac{3 u h}{q \delta} + \frac{2 u}{q} \right) + \frac{2 u h k}{q} + 4 u
    \max(|a|, |b|).

As long as :math:`|s_k| \le \delta / 2`, the face stays on its ramp. Beyond that, the coordinate is on the wrong side of
the face over a length of :math:`|s_k| - \delta / 2`, or it stays on the ramp longer if float64 has no number in
between. This is why small errors are impossible: q and :math:`\delta` both fall with ``error``, so
:math:`|s_k| / \delta` grows with the inverse cube of ``error``. Let :math:`E = \text{error} / (\Delta (b - a)^d)`. No
face leaves its ramp if, approximately, :math:`E^3 \ge 43 u d^2 W M^2`. If the remaining slope is
:math:`\eta = \eta_{max} / W`, the condition is :math:`E^2 \ge 5.4 u d^2 W M^2 / \eta_{max}`.

These bounds add up the absolute values of errors that may have either sign. Nearly all networks are better, most of
them by far, so a check based on these bounds would refuse many errors that hold. Therefore :func:`construct` runs the
blocks of one staircase, in the arithmetic of the network, on points at all distances from every face, and records where
each point has moved to when the ramp of its face is made. For the face k of a coordinate, let :math:`\alpha_k` be the
length over which points are on the ramp or more than h / 2 away, and :math:`\beta_k` the length over which they are on
the wrong side of the face. The first costs at most :math:`\Delta`. The second costs the difference of the two cells;
let :math:`J_k` be its mean over all faces number k of a coordinate, summed over the coordinates. The condition is

.. math:: (b - a)^{d-1} \left[ d \Delta \left( \delta + \max \left( M \delta, \sum_k \alpha_k \right) \right)
    + \sum_k J_k \beta_k \right] + \Delta \eta W (b - a)^d \le \text{error}.

If the condition fails, cells may keep more slope, as far as ``error`` allows, because a larger q makes all :math:`s_k`
smaller. If it still fails, :func:`construct` raises InputError and names an error that is possible. The lengths are
found from one point in each of many intervals, so this is a measurement and not a proof. If there are more than
:data:`FACES` faces, an evenly spaced part of them is examined, and the values between are interpolated. Another order
of rounding, for example on another processor, gives other :math:`s_k` of the same size.

**The largest error does not fall.** On a ramp, the network passes through all values between two levels, often through
:math:`v_{min}`, so :math:`\sup |R - f|` stays about as large as f, however many cells there are. The theorem is about
L1. At a step, every continuous function has an error of at least half the step height somewhere.

**Number of blocks**: d(2M + 3) for the staircases, 1 for the sum if d > 1, 1 for the floor, :math:`M^d + 1` moves and 2
clamps; O(dM + M^d). With ``join``, neighbouring levels with the same value are first pressed into one, min(x, n - 1/4),
and then moved together: two blocks for each run of levels instead of one block for each level. For the indicator of a
disc, where each row of cells has at most three runs, O(M) moves remain.

**Differences from the paper's outline**: the outside of the box is dropped onto one level, which takes one move instead
of many. Levels are moved to places below all levels, so no block is needed to lift them.

Invariants (``tests/studies/universal_resnet/test_construction.py``, except for the last):

1. Each block has one neuron, and the number of blocks is as stated (``test_there_are_as_many_blocks_as_stated``).
2. At the centres of cells the network equals f, and outside the box it is 0
   (``test_centres_of_cells_are_met_and_the_outside_is_zero``).
3. The L1 distance to S is at most ``error`` (``test_the_stated_error_holds``), the L1 distance to f falls as the number
   of cells grows (``test_the_error_falls_as_cells_grow``), and the largest error does not fall
   (``test_the_largest_error_does_not_fall``).
4. An error that float64 cannot keep is refused (``test_an_error_holds_or_is_refused``). An error that is four times as
   large is not refused, or 16 times as large for functions whose ramps cost little
   (``test_errors_are_not_refused_without_need``). Rounding moves faces by no more than the bound
   (``test_faces_are_moved_by_no_more_than_the_bound``). All three tests are in
   ``tests/studies/universal_resnet/test_rounding_of_the_construction.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch

from bitsperdim.core.errors import InputError
from bitsperdim.studies.universal_resnet.nets import OneNeuronResNet

Function = Callable[[np.ndarray], np.ndarray]

MAX_CELLS = 100_000  # maximum number of cells of the whole box
MAX_SLOPE_LEFT = 2.0**-16  # allowed variation within the cells of one level, as a fraction of the gap between levels
MAX_SLOPE_IF_NEEDED = 2.0**-3  # allowed variation if rounding would do harm otherwise
RESOLUTION = 2.0**-46  # smallest relative width of a ramp whose ends float64 can distinguish, with a margin of six bits
NEAR, FAR, FACES = 32, 24, 250  # to examine rounding: near and far points on each side of a face, and faces
GOLDEN = (math.sqrt(5) - 1) / 2  # the fractional parts of its multiples are spread evenly
DEFAULT_ERROR = 1e-3  # fraction of the range of f times the volume of the box


@dataclass
class Plan:
    """The blocks of a network under construction.

    Attributes:
        d: number of dimensions.
        rows: U of each block, (d,).
        biases: u of each block.
        columns: V of each block, (d,).
        phases: name of each phase -> number of blocks up to its end, in order.
        gain: gain of the read-out, which uses only coordinate 1.
        offset: offset of the read-out.
        ramp_width: delta, in the units of x.
        error: stated L1 distance to the step function.
    """

    d: int
    rows: list[np.ndarray] = field(default_factory=list)
    biases: list[float] = field(default_factory=list)
    columns: list[np.ndarray] = field(default_factory=list)
    phases: dict[str, int] = field(default_factory=dict)
    gain: float = 0.0
    offset: float = 0.0
    ramp_width: float = 0.0
    error: float = 0.0

    def along(self, i: int, u: float, bias: float, v: float) -> None:
        """Add a block that reads and writes only coordinate i."""
        unit = np.eye(self.d)[i]
        self.add(u * unit, bias, v * unit)

    def add(self, row: np.ndarray, bias: float, column: np.ndarray) -> None:
        """Add a block."""
        self.rows.append(row)
        self.biases.append(bias)
        self.columns.append(column)

    def end(self, phase: str) -> None:
        """End a phase: all blocks so far belong to this phase or to an earlier one."""
        self.phases[phase] = len(self.rows)

    def network(self) -> OneNeuronResNet:
        """Return the network in float64 with fixed weights."""
        net = OneNeuronResNet(self.d, len(self.rows)).double()
        with torch.no_grad():
            net.rows[0] = torch.from_numpy(np.array(self.rows))
            net.biases[0] = torch.tensor(self.biases, dtype=torch.float64)
            net.columns[0] = torch.from_numpy(np.array(self.columns))
            net.read_out[0, 0], net.offset[0] = self.gain, self.offset
        return net.requires_grad_(False)


def construct(
    f: Function, d: int, lower: float, upper: float, cells: int, *, error: float | None = None, join: bool = False
) -> OneNeuronResNet:
    """Return a one-neuron ResNet that equals f at the centre of every cell of a box and is 0 outside, without training.

    Args:
        f: function that takes points (N, d) float64 and returns (N,) finite values.
        d: number of dimensions, 1 to 3.
        lower: lower end of the box in every dimension.
        upper: upper end of the box in every dimension.
        cells: M, the number of cells along each dimension.
        error: limit of the L1 distance to the step function of the cells; None: 0.001 of the range of the values
            (including 0) times the volume of the box.
        join: whether neighbouring levels with the same value are moved together, which saves blocks.

    Returns:
        The network in float64 with fixed weights. Its L1 distance to the step function of the cells is at most
        ``error``; its largest error does not fall as the number of cells grows.

    Raises:
        InputError: an argument is not allowed, or ``error`` is too small for float64; the message names an error that
            is possible.

    Reference:
        Lin and Jegelka (2018), the universal approximation theorem; the docstring of this module has the derivation.
    """
    return plan(f, d, lower, upper, cells, error=error, join=join).network()


def plan(
    f: Function, d: int, lower: float, upper: float, cells: int, *, error: float | None = None, join: bool = False
) -> Plan:
    """Return the blocks of :func:`construct` with the names of its steps; it has the same arguments and errors."""
    _check(d, lower, upper, cells)
    values = _values(f, centres(d, lower, upper, cells))
    side, n_cells, h = upper - lower, cells**d, (upper - lower) / cells
    v_min, v_max = min(0.0, float(values.min())), max(0.0, float(values.max()))
    height = v_max - v_min or 1.0
    if error is None:
        error = DEFAULT_ERROR * height * side**d
    if not (math.isfinite(error) and error > 0):
        raise InputError(f"error = {error} is not allowed; it must be a number above 0.")
    weights = float(cells) ** np.arange(d)  # (d,), M^(i-1)
    box = d, lower, upper, cells, height, _jumps(values, d, cells)
    widths = _widths(error, *box)
    if widths is None:
        possible = _possible(error, height * side**d, lambda larger: _widths(larger, *box) is not None)
        raise InputError(
            f"error = {error:g} is too small for float64 with {cells} cells along each of {d} dimensions; {possible}."
        )
    delta, eta = widths
    made = Plan(d, ramp_width=delta, error=error)
    q, drop = eta / h, (weights.sum() * (cells - 1 + eta) + 2) / weights  # (d,), D of each coordinate
    for i in range(d):
        _staircase(made, i, lower, upper, cells, q, delta, float(drop[i]))
        made.end(f"staircase {i + 1}")
    zero = q * (h / 2 - delta)  # height of the centre of the first cell
    base = zero - 1.0  # level n has the height base + n
    if d > 1:
        row = np.append(0.0, weights[1:])
        made.add(row, float(weights[1:] @ drop[1:]), np.eye(d)[0])
        base += float(weights[1:] @ (drop[1:] + zero))
    made.along(0, -1.0, base, 1.0)
    made.end("levels")
    room = n_cells + 1.0  # T
    places = -1.0 - room * (v_max - np.append(0.0, values)) / height  # (1 + M^d,), level 0 is the outside
    for lowest, highest in _runs(places) if join else ((n, n) for n in range(n_cells, -1, -1)):
        threshold, top = lowest - 0.5, float(lowest)
        if highest > lowest:
            top = lowest - 0.25  # below the whole lowest level, so that its slope vanishes too
            made.along(0, 1.0, -(base + top), -1.0)
        made.along(0, 1.0, -(base + threshold), -(top - float(places[lowest])) / (top - threshold))
    made.end("moves")
    made.along(0, -1.0, base - 1.0 - room, 1.0)
    made.along(0, 1.0, -(base - 1.0), -1.0)
    made.end("clamps")
    made.gain = height / room
    made.offset = v_max - made.gain * (base - 1.0)
    return made


def n_blocks(d: int, cells: int) -> int:
    """Return the number of blocks that :func:`construct` needs without ``join``."""
    return d * (2 * cells + 3) + (d > 1) + 1 + cells**d + 1 + 2


def centres(d: int, lower: float, upper: float, cells: int) -> np.ndarray:
    """Return the centres of all cells, (M^d, d); the first dimension varies fastest."""
    along = lower + (upper - lower) * (np.arange(cells) + 0.5) / cells
    axes = np.meshgrid(*[along] * d, indexing="ij")
    return np.stack([axis.ravel() for axis in reversed(axes)], -1)


def steps(f: Function, d: int, lower: float, upper: float, cells: int, x: np.ndarray) -> np.ndarray:
    """Return S, the step function of the cells, at x (N, d): f at the centre of each point's cell, 0 outside."""
    index = np.floor((x - lower) / (upper - lower) * cells)
    inside = ((index >= 0) & (index < cells)).all(-1)
    where = lower + (upper - lower) * (np.clip(index, 0, cells - 1) + 0.5) / cells
    return np.where(inside, _values(f, where), 0.0)


def _staircase(made: Plan, i: int, lower: float, upper: float, cells: int, q: float, delta: float, drop: float) -> None:
    """Add the blocks of step 1 for one coordinate."""
    h, last = (upper - lower) / cells, q * (upper - lower - 2 * delta)
    made.along(i, 0.0, 1.0, -(lower + delta))
    made.along(i, 1.0, 0.0, q - 1.0)
    made.along(i, -1.0, 0.0, -((drop + 1) / delta - 1.0))
    made.along(i, 1.0, -last, -(1.0 + (last + drop + 1) / (q * delta)))
    made.along(i, -1.0, -drop, 1.0)
    rise = 1.0 - q * (h - delta)
    steeper = rise / (q * delta) - 1.0
    for face in range(1, cells):
        start = q * (face * h - 1.5 * delta) + (face - 1) * (rise - q * delta)
        made.along(i, 1.0, -start, steeper)
        made.along(i, 1.0, -(start + rise), -steeper / (1.0 + steeper))


def _widths(
    error: float, d: int, lower: float, upper: float, cells: int, height: float, jumps: np.ndarray
) -> tuple[float, float] | None:
    """Return delta and eta with which the error holds in float64, or None if there are no such values."""
    side, h = upper - lower, (upper - lower) / cells
    delta = min(h / 4, 0.75 * error / (height * d * (cells + 1) * side ** (d - 1)))
    if delta < RESOLUTION * max(abs(lower), abs(upper)):
        return None
    allowed = error / (8 * height * side**d)
    for slope_left in sorted({min(MAX_SLOPE_LEFT, allowed), min(MAX_SLOPE_IF_NEEDED, allowed)}):
        eta = slope_left / float(sum(cells**i for i in range(d)))
        away, beyond = _astray(lower, upper, cells, eta / h, delta)
        on_ramps = delta + max(cells * delta, float(away.sum()))
        lost = side ** (d - 1) * (d * height * on_ramps + float(jumps @ beyond))
        if lost + slope_left * height * side**d <= error:
            return delta, eta
    return None


def _jumps(values: np.ndarray, d: int, cells: int) -> np.ndarray:
    """Return the mean difference of the cells on both sides of each face, (M,), summed over the coordinates."""
    grid = values.reshape((cells,) * d)
    total = np.zeros(cells)
    for axis in range(d):
        last = np.zeros_like(grid.take([0], axis))  # the value outside the box
        total += np.abs(np.diff(grid, axis=axis, append=last)).mean(tuple(i for i in range(d) if i != axis))
    return total


def _astray(lower: float, upper: float, cells: int, q: float, delta: float) -> tuple[np.ndarray, np.ndarray]:
    """Return two lengths for each face, (M,) each: points on its ramp or far away, and points beyond the face."""
    faces, lengths, x, found = moved_points(lower, upper, cells, q, delta)
    right = x > np.where(faces < cells, delta / 2, delta)[:, None]
    far = np.abs(found - x) > (upper - lower) / cells / 2
    away = far | ((found >= 0) & (found <= delta))
    beyond = ~away & (right == (found < 0))
    sums = ((lengths * where).sum(-1) for where in (away, beyond))
    of_ramps, of_cells = (np.interp(np.arange(1, cells + 1), faces, each) for each in sums)
    return of_ramps, of_cells


def moved_points(
    lower: float, upper: float, cells: int, q: float, delta: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return where rounding has moved points around the faces of one coordinate when the ramp of the face is made.

    Args:
        lower: lower end of the box.
        upper: upper end of the box.
        cells: M.
        q: slope inside cells.
        delta: width of ramps.

    Returns:
        The numbers of the F faces that are examined, from left to right; the last is M, the face of the box. The
        lengths of intervals (F, POINTS) that together cover half a cell on both sides of a face. A point in each
        interval, and the place to which it has moved, both measured from the beginning of the ramp. All lengths are in
        the units of x.
    """
    blocks = Plan(1)
    _staircase(blocks, 0, lower, upper, cells, q, delta, 0.0)
    columns = [float(column[0]) for column in blocks.columns]
    faces = np.arange(cells, 0, -max(1, cells // FACES))[::-1]
    at, begin = lower + (upper - lower) * faces / cells, np.where(faces < cells, -0.5, -1.0) * delta
    half = (upper - lower) / cells / 2
    outwards = np.append(delta / 8 * np.arange(NEAR), np.geomspace(delta / 8 * NEAR, max(half, delta * NEAR), FAR + 1))
    outwards = np.minimum(outwards, half)
    edges = np.concatenate([-outwards[:0:-1], outwards]) + delta / 2
    part = faces[:, None] * GOLDEN % 1  # position of the point within an interval
    x = (at + begin)[:, None] + edges[:-1] + part * np.diff(edges)
    expected = (x - at[:, None]) - begin[:, None]
    stream = x + columns[0]
    stream += columns[1] * np.maximum(stream, 0.0)
    found = np.empty_like(x)
    found[-1] = (stream[-1] + blocks.biases[3]) / q
    first = 0  # index of the next face
    for face in range(1, cells):
        steepen, flatten = 3 + 2 * face, 4 + 2 * face
        if faces[first] == face:
            found[first] = (stream[first] + blocks.biases[steepen]) / q
            first += 1
        rest = stream[first:-1]
        for block in (steepen, flatten):
            rest += columns[block] * np.maximum(rest + blocks.biases[block], 0.0)
    return faces, np.broadcast_to(np.diff(edges), x.shape), expected, found


def _possible(error: float, largest: float, holds: Callable[[float], bool]) -> str:
    """Return a clause that names a possible error above ``error``, at most ``largest``, or says that there is none."""
    for power in range(math.floor(math.log10(error)), math.floor(math.log10(largest)) + 1):
        for digits in ("1", "1.5", "2", "3", "5", "7"):
            larger = float(f"{digits}e{power}")
            if error < larger <= largest and holds(larger):
                return f"{larger:g} is possible, or a smaller error with fewer cells"
    return "no error is possible; use fewer cells or a box closer to 0"


def _runs(places: np.ndarray) -> list[tuple[int, int]]:
    """Return the lowest and the highest level of each run of equal places, the highest run first."""
    ends = np.flatnonzero(np.diff(places)) + 1
    starts = np.concatenate(([0], ends))
    return [(int(low), int(high) - 1) for low, high in zip(starts, [*ends, len(places)], strict=True)][::-1]


def _values(f: Function, x: np.ndarray) -> np.ndarray:
    values = np.asarray(f(x), dtype=np.float64)
    if values.shape != (len(x),) or not np.isfinite(values).all():
        raise InputError(f"f must return one finite number for each of the {len(x)} points.")
    return values


def _check(d: int, lower: float, upper: float, cells: int) -> None:
    if d not in (1, 2, 3):
        raise InputError(f"d = {d} is not allowed; it must be 1, 2 or 3.")
    if not (math.isfinite(lower) and math.isfinite(upper) and lower < upper):
        raise InputError(
            f"lower = {lower} and upper = {upper} are not allowed; they must be finite, and lower must be below upper."
        )
    if cells < 1 or cells**d > MAX_CELLS:
        raise InputError(f"cells = {cells} is not allowed; cells**d must be at least 1 and at most {MAX_CELLS}.")
