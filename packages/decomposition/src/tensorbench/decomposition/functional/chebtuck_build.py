"""Building Chebyshev-Tucker functions: from a callable, a grid tensor or a CP grid tensor (Algorithms 1 to 4).

    from_function   values at the m_1 × ... × m_d nodes → coefficients → HOSVD                               (Alg. 1)
    from_grid       a tensor on cell centres → cubic splines at the nodes → coefficients → HOSVD             (Alg. 2)
    from_cp "full"  CP columns → splines at the nodes → the full tensor there → coefficients → HOSVD         (Alg. 3)
    from_cp "reduced"  CP columns → splines → coefficients of every column → reduced HOSVD, no full tensor   (Alg. 4)

Benner, Khoromskij, Khoromskaia and Sun (2025), arXiv:2503.01696. Grids are cell centres of the box (a + h/2 + jh); the
nodes at its ends lie outside them, where the not-a-knot spline extrapolates half a cell, as in the reference code.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.interpolate import CubicSpline

from tensorbench.decomposition.formats import CP
from tensorbench.decomposition.functional import chebyshev
from tensorbench.decomposition.functional.chebtuck import ChebTucker, as_domain
from tensorbench.decomposition.functional.truncation import cp_full, hosvd_tol, rhosvd_tol

logger = logging.getLogger(__name__)
Function = Callable[..., np.ndarray]  # f(x_1, ..., x_d) of arrays that broadcast against each other
Degrees = int | Sequence[int]  # number of nodes m for every variable, or one for each
MODES = range(1, 6)
NODES = 65  # per variable, by default


def from_function(
    f: Function, m: Degrees = NODES, domain: object = None, tol: float = 1e-7, ranks: Sequence[int] | None = None
) -> ChebTucker:
    """f on a box (default [-1, 1]³), interpolated at ``m`` nodes per variable and compressed to ``tol`` (Alg. 1).

    ``tol`` bounds the relative error of the coefficients (Frobenius norm); ``ranks`` replaces it. ``f`` takes d arrays;
    one that takes numbers only works too, slowly and with a warning. Raises ValueError for m < 2, an empty box, ranks
    above m, tol <= 0 and for values that are not finite (naming the node).
    """
    box, sizes = _box(m, domain)
    return _compress(vals2coeffs_all(function_values(f, sizes, box)), box, tol, ranks)


def from_grid(
    F: Float[np.ndarray, "*_"],
    m: Degrees = NODES,
    domain: object = None,
    tol: float = 1e-7,
    ranks: Sequence[int] | None = None,
) -> ChebTucker:
    """A tensor of values on the cell centres of the box, by a tensor-product cubic spline (Alg. 2)."""
    values = np.asarray(F, dtype=np.float64)
    _finite(values, "the grid tensor")
    box, sizes = _box(m, domain, values.ndim)
    for k, size in enumerate(sizes):
        values = _spline(values, size, box[k], axis=k)
    return _compress(vals2coeffs_all(values), box, tol, ranks)


def from_cp(
    weights: Float[np.ndarray, " r"],
    factors: Sequence[Float[np.ndarray, "_ r"]],
    m: Degrees = NODES,
    domain: object = None,
    tol: float = 1e-7,
    ranks: Sequence[int] | None = None,
    mode: str = "reduced",
) -> ChebTucker:
    """A CP tensor on the cell centres of the box: its columns are functions, taken to the nodes by splines.

    ``mode="reduced"`` (Alg. 4) never forms a full tensor; columns are scaled to unit length first, so that ``tol`` is
    relative to the components. ``mode="full"`` (Alg. 3) evaluates the CP tensor at all nodes. Raises ValueError for
    factors with different column counts and for values that are not finite.
    """
    cp = CP(weights, tuple(factors)).normalized()
    scale, columns = cp.weights.numpy(), [F.numpy() for F in cp.factors]
    box, sizes = _box(m, domain, len(columns))
    at_nodes = [_spline(F, size, ends) for F, size, ends in zip(columns, sizes, box, strict=True)]
    return from_columns(scale, at_nodes, box, tol, ranks, mode)


def from_columns(
    weights: Float[np.ndarray, " r"],
    values: Sequence[Float[np.ndarray, "_ r"]],
    domain: object = None,
    tol: float = 1e-7,
    ranks: Sequence[int] | None = None,
    mode: str = "reduced",
) -> ChebTucker:
    """Σ_r w_r Π_k u_kr(x_k), given the values u_kr at the nodes of variable k (column r): what :func:`from_cp` ends in.

    Use it where the functions of one variable can be evaluated anywhere, so that no grid is needed. Columns are taken
    as they are; the reduced mode's ``tol`` is absolute in their coefficients.
    """
    box = as_domain(domain, len(values))
    for k, V in enumerate(values):
        _finite(V, f"the values of variable {k}")
    if mode == "full":
        return _compress(vals2coeffs_all(cp_full(weights, values)), box, tol, ranks)
    if mode != "reduced":
        raise ValueError(f"unknown mode {mode!r} (valid: full, reduced)")
    core, bases = rhosvd_tol(weights, [chebyshev.vals2coeffs(V) for V in values], tol, ranks)
    return ChebTucker(core, bases, box)


@dataclass(frozen=True)
class Degree:
    """What :func:`choose_degree` found: ``m`` nodes per variable, whether the tails fell below tol, evaluations."""

    m: tuple[int, ...]
    resolved: bool
    evaluations: int


def choose_degree(
    f: Function,
    tol: float = 1e-7,
    domain: object = None,
    start: int = 9,
    largest: int = 1025,
    fibres: int = 6,
    seed: int = 0,
) -> Degree:
    """How many nodes each variable needs: doubled until the end of its coefficients is below ``tol`` of the largest.

    Looks at f along ``fibres`` lines per variable through random points of the box and through its centre, not on the
    tensor grid; so it costs thousands of evaluations and not m^d, and can miss what no line crosses. The nodes are then
    cut back to the last coefficient above ``tol``. ``resolved`` is False where ``largest`` did not suffice.
    """
    box, _ = _box(2, domain)
    rng = np.random.default_rng(seed)
    points = box[:, 0] + (box[:, 1] - box[:, 0]) * np.vstack([np.full(len(box), 0.5), rng.random((fibres, len(box)))])
    found, resolved, evaluations = [], True, 0
    for k, ends in enumerate(box):
        size = start
        while True:
            x = [np.repeat(points[:, [axis]], size, axis=1) for axis in range(len(box))]
            x[k] = np.tile(chebyshev.chebpts(size, *ends), (len(points), 1))
            profile = np.abs(chebyshev.vals2coeffs(_call(f, x, x[0].shape), axis=1)).max(axis=0)
            evaluations += x[0].size
            above = np.flatnonzero(profile > tol * profile.max())
            needed = int(above[-1]) + 2 if above.size else 2  # a margin of one
            if needed <= size - 3:  # an even or odd function has every second coefficient zero: look at three
                found.append(max(2, needed))
                break
            if 2 * size - 1 > largest:
                found.append(size)
                resolved = False
                logger.warning("variable %d is not resolved to %.1e with %d nodes", k, tol, size)
                break
            size = 2 * size - 1
    return Degree(tuple(found), resolved, evaluations)


# --- steps ----------------------------------------------------------------------------------------------------------


def function_values(f: Function, sizes: Sequence[int], box: Float[np.ndarray, "d 2"]) -> Float[np.ndarray, "*_"]:
    """f at all the nodes of a box, checked to be finite."""
    nodes = [chebyshev.chebpts(size, *ends) for size, ends in zip(sizes, box, strict=True)]
    return _call(f, np.meshgrid(*nodes, indexing="ij", sparse=True), tuple(sizes))


def vals2coeffs_all(values: Float[np.ndarray, "*_"]) -> Float[np.ndarray, "*_"]:
    """The coefficient tensor: :func:`chebyshev.vals2coeffs` along every axis."""
    for axis in range(values.ndim):
        values = chebyshev.vals2coeffs(values, axis)
    return values


def column_coefficients(
    columns: Float[np.ndarray, "n r"], m: int = NODES, ends: Sequence[float] = (-1.0, 1.0)
) -> Float[np.ndarray, "m r"]:
    """Chebyshev coefficients of functions given on cell centres, one per column, nothing cut: what Algorithm 4 sees."""
    return chebyshev.vals2coeffs(_spline(columns, m, ends))


def _call(f: Function, x: list[np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    """f at broadcastable arrays, as one array of ``shape``; point by point where f takes numbers only."""
    complex_values = False
    try:
        raw = np.asarray(f(*x))
        complex_values = np.iscomplexobj(raw)
        values = np.broadcast_to(np.asarray(raw.real if complex_values else raw, dtype=np.float64), shape)
    except (TypeError, ValueError) as error:
        logger.debug("not vectorised: %s", error)
        warnings.warn(
            f"the function does not take arrays ({type(error).__name__}: {error}); calling it {int(np.prod(shape))} "
            "times, once for each node; write it with NumPy functions to make it fast",
            stacklevel=4,
        )
        values = np.asarray(np.vectorize(f, otypes=[float])(*x), dtype=np.float64)
        values = np.broadcast_to(values, shape)
    if complex_values:
        raise ValueError("the function has complex values; build its real and imaginary parts one after the other")
    if not np.isfinite(values).all():
        index = tuple(int(i) for i in np.argwhere(~np.isfinite(values))[0])
        where = [float(np.broadcast_to(axis, shape)[index]) for axis in x]
        raise ValueError(f"the function is {values[index]} at node {index}, x = {where}; it must be finite in the box")
    return values


def _spline(values: np.ndarray, m: int, ends: Sequence[float], axis: int = 0) -> np.ndarray:
    """Values on cell centres taken to the nodes by a not-a-knot cubic spline along ``axis``.

    A spline is linear in its values: with more columns than grid points its matrix is cheaper than its coefficients.
    """
    n = values.shape[axis]
    if n < 4:
        raise ValueError(f"axis {axis} has {n} grid points; a cubic spline needs at least 4")
    grid, nodes = chebyshev.midpoints(n, *ends), chebyshev.chebpts(m, *ends)
    if values.size > n * n:
        matrix = CubicSpline(grid, np.eye(n))(nodes)
        return np.moveaxis(np.tensordot(matrix, values, axes=(1, axis)), 0, axis)
    return CubicSpline(grid, values, axis=axis)(nodes)


def _compress(C: np.ndarray, box: np.ndarray, tol: float, ranks: Sequence[int] | None) -> ChebTucker:
    core, bases = hosvd_tol(C, tol, ranks)
    return ChebTucker(core, bases, box)


def _box(m: Degrees, domain: object, d: int | None = None) -> tuple[np.ndarray, list[int]]:
    """The box and the nodes per variable; the number of variables is that of whatever says it (default 3)."""
    if d is None:
        shape = np.shape(domain) if domain is not None else ()  # type: ignore[arg-type]
        d = shape[0] if len(shape) == 2 else (3 if isinstance(m, int | np.integer) else len(m))
    if d not in MODES:
        raise ValueError(f"{d} variables; the coefficient tensor is full, so use {MODES[0]} to {MODES[-1]}")
    sizes = [m] * d if isinstance(m, int | np.integer) else list(m)
    if len(sizes) != d:
        raise ValueError(f"m = {sizes} needs one number of nodes for each of the {d} variables")
    for size in sizes:
        chebyshev.check_degree(size)
    return as_domain(domain, d), sizes


def _finite(values: np.ndarray, name: str) -> None:
    if not np.isfinite(values).all():
        raise ValueError(f"{name} has {int(np.count_nonzero(~np.isfinite(values)))} entries that are not finite")
