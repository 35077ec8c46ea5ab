"""The Chebyshev-Tucker format: a function on a box as a small core times Chebyshev series in each variable.

    f(x_1, ..., x_d) ≈ Σ_{a_1..a_d} G[a_1..a_d] Π_k Σ_{j<m_k} V_k[j, a_k] T_j(y_k),

y_k in [-1, 1] the k-th variable scaled, V_k with orthonormal columns. There is no mesh: the function can be evaluated
anywhere in its box, differentiated, integrated, added, compressed again, and put on a grid of any size as a Tucker
tensor. The verbs are those of Chebfun3.

P. Benner, B. N. Khoromskij, V. Khoromskaia, B. Sun (2025), A mesh-free hybrid Chebyshev-Tucker tensor format with
applications to multi-particle modelling, arXiv:2503.01696. Functions become :class:`ChebTucker` objects in
:mod:`tensorbench.decomposition.functional.chebtuck_build`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tensorbench.decomposition.formats import Tucker, _Format
from tensorbench.decomposition.functional import chebyshev
from tensorbench.decomposition.functional.truncation import hosvd_tol
from tensorbench.decomposition.linalg import multiply

_CHUNK = 2**22  # numbers held at once for one variable while scattered points are evaluated
_OUTSIDE = 1e-9  # of the box's width: what still counts as a point on the border


def as_domain(domain: object, d: int) -> Float[np.ndarray, "d 2"]:
    """``domain`` as (d, 2) lower and upper ends: ``None`` is [-1, 1]^d, one pair holds for every variable.

    Raises ValueError where an interval is empty or the number of variables is another.
    """
    ends = np.asarray([-1.0, 1.0] if domain is None else domain, dtype=np.float64)
    ends = np.tile(ends, (d, 1)) if ends.shape == (2,) else ends
    if ends.shape != (d, 2):
        raise ValueError(f"domain of shape {ends.shape} does not bound {d} variables; give ({d}, 2) ends or one pair")
    for a, b in ends:
        chebyshev.check_interval(a, b)
    return ends


@dataclass(frozen=True, eq=False)
class ChebTucker(_Format):
    """A function on a box in Chebyshev-Tucker format; immutable, every operation gives a new one.

    ``core`` (r_1, ..., r_d), ``coeffs`` one (m_k, r_k) matrix of coefficients per variable, ``domain`` (d, 2).
    Columns that are not orthonormal are made so at the door. Raises ValueError for shapes that do not fit, ranks above
    the number of coefficients, and entries that are not finite.
    """

    core: Float[np.ndarray, "*ranks"]
    coeffs: tuple[Float[np.ndarray, "_ _"], ...]
    domain: Float[np.ndarray, "d 2"]
    kind: ClassVar[str] = "chebtuck"

    def __post_init__(self) -> None:
        core = np.asarray(self.core, dtype=np.float64)
        coeffs = [np.asarray(V, dtype=np.float64) for V in self.coeffs]
        if core.ndim != len(coeffs) or core.ndim == 0:
            raise ValueError(f"a core with {core.ndim} modes needs as many coefficient matrices, not {len(coeffs)}")
        for k, V in enumerate(coeffs):
            if V.ndim != 2 or V.shape[1] != core.shape[k]:
                raise ValueError(f"coefficients of variable {k} have shape {V.shape}; expected (m, {core.shape[k]})")
            if V.shape[1] > V.shape[0]:
                raise ValueError(
                    f"rank {V.shape[1]} of variable {k} exceeds its {V.shape[0]} coefficients; use rank <= {V.shape[0]}"
                )
        if not all(np.isfinite(array).all() for array in (core, *coeffs)):
            raise ValueError("core and coefficients must be finite")
        for k, V in enumerate(coeffs):
            if np.abs(V.T @ V - np.eye(V.shape[1])).max(initial=0.0) > 1e-13:
                coeffs[k], R = np.linalg.qr(V)
                core = multiply(core, [R if axis == k else None for axis in range(core.ndim)])
        object.__setattr__(self, "core", core)
        object.__setattr__(self, "coeffs", tuple(coeffs))
        object.__setattr__(self, "domain", as_domain(self.domain, core.ndim))

    @property
    def d(self) -> int:
        """Number of variables."""
        return self.core.ndim

    @property
    def ranks(self) -> tuple[int, ...]:
        """The Tucker ranks (r_1, ..., r_d)."""
        return self.core.shape

    @property
    def degrees(self) -> tuple[int, ...]:
        """Polynomial degree in each variable, m_k - 1."""
        return tuple(len(V) - 1 for V in self.coeffs)

    @property
    def storage(self) -> int:
        """How many numbers are stored: Π r_k + Σ m_k r_k."""
        return self.core.size + sum(V.size for V in self.coeffs)

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of Chebyshev nodes (and coefficients) of each variable."""
        return tuple(len(V) for V in self.coeffs)

    def num_params(self) -> int:
        """As :attr:`storage`: the ends of the box are not counted."""
        return self.storage

    # --- interchange -------------------------------------------------------------------------------------------------

    def arrays(self) -> list[Tensor]:
        return [torch.from_numpy(array) for array in (self.core, *self.coeffs, self.domain)]

    @classmethod
    def from_arrays(cls, arrays: Sequence[Any]) -> ChebTucker:
        core, *coeffs, domain = map(np.asarray, arrays)
        return cls(core, tuple(coeffs), domain)

    def to_tucker(self) -> Tucker:
        """The values at the Chebyshev nodes of every variable (:func:`.chebyshev.chebpts`; a single one is the centre).

        They say the whole function, and :meth:`from_tucker` is the way back. On another grid: :meth:`to_grid_tucker`.
        """
        return Tucker(self.core, tuple(_at_nodes(V, chebyshev.coeffs2vals) for V in self.coeffs))

    @classmethod
    def from_tucker(cls, tensor: Tucker, domain: object = None) -> ChebTucker:
        """The function with these values at the Chebyshev nodes of the box, [-1, 1]^d by default.

        Raises ValueError for ranks above the number of nodes, values that are not finite, and an empty box.
        """
        factors = [factor.detach().cpu().numpy() for factor in tensor.factors]
        coeffs = tuple(_at_nodes(factor, chebyshev.vals2coeffs) for factor in factors)
        return cls(tensor.core.detach().cpu().numpy(), coeffs, domain)  # type: ignore[arg-type]

    def full(self) -> Float[Tensor, "*shape"]:
        """The values on the tensor grid of the Chebyshev nodes, Π m_k of them."""
        return self.to_tucker().full()

    def to_tensorly(self) -> Any:
        """:meth:`to_tucker` as a `tensorly.tucker_tensor.TuckerTensor`; the box is not part of it."""
        return self.to_tucker().to_tensorly()

    @classmethod
    def from_tensorly(cls, tensor: Any, domain: object = None) -> ChebTucker:
        """From a tensorly Tucker tensor or any pair (core, factors) of values at the nodes; see :meth:`from_tucker`."""
        return cls.from_tucker(Tucker.from_tensorly(tensor), domain)

    # --- values ------------------------------------------------------------------------------------------------------

    def __call__(self, points: Float[np.ndarray, "n d"], extrapolate: bool = False) -> Float[np.ndarray, " n"]:
        """Values at scattered points, in chunks, so that memory stays small whatever their number.

        Raises ValueError for points outside the box unless ``extrapolate``: polynomials grow fast out there.
        """
        points = np.asarray(points, dtype=np.float64)
        if points.ndim != 2 or points.shape[1] != self.d:
            raise ValueError(f"points of shape {points.shape} are not (n, {self.d}); one column per variable")
        units = [self._unit(k, points[:, k], extrapolate) for k in range(self.d)]
        wide = max(*(len(V) for V in self.coeffs), prod(self.ranks[1:]))
        step = max(1, _CHUNK // wide)
        values = np.empty(len(points))
        for start in range(0, len(points), step):
            part = slice(start, start + step)
            chain = self.core.reshape(1, -1)
            for k, (y, V) in enumerate(zip(units, self.coeffs, strict=True)):
                basis = chebyshev.chebvander(y[part], len(V)) @ V
                if k == 0:
                    chain = basis @ self.core.reshape(self.ranks[0], -1)
                else:
                    chain = np.matmul(basis[:, None, :], chain.reshape(len(basis), self.ranks[k], -1))[:, 0]
            values[part] = chain[:, 0]
        return values

    def grid(self, *axes: Float[np.ndarray, " _"], extrapolate: bool = False) -> Float[np.ndarray, "*_"]:
        """Values on the tensor grid of d ascending or other axes, one matrix product per variable."""
        if len(axes) != self.d:
            raise ValueError(f"{len(axes)} axes were given for {self.d} variables")
        bases = [self._basis(k, np.asarray(x, dtype=np.float64), extrapolate) for k, x in enumerate(axes)]
        return np.ascontiguousarray(_expand(self.core, bases))

    def to_grid_tucker(self, n: int | Sequence[int], orthogonal: bool = False) -> Tucker:
        """The function on the cell centres of an n_1 × ... × n_d grid, as a Tucker tensor (`.to_tensorly()` is next).

        The discretised polynomials are no longer orthonormal; ``orthogonal=True`` makes them so again.
        """
        sizes = [int(n)] * self.d if isinstance(n, int | np.integer) else list(n)
        axes = [chebyshev.midpoints(size, *ends) for size, ends in zip(sizes, self.domain, strict=True)]
        factors = [self._basis(k, x, False) for k, x in enumerate(axes)]
        core = self.core
        if orthogonal:
            pairs = [np.linalg.qr(F) for F in factors]
            factors = [Q for Q, _ in pairs]
            core = multiply(core, [R for _, R in pairs])
        return Tucker(core, tuple(factors))

    # --- calculus ----------------------------------------------------------------------------------------------------

    def differentiate(self, variable: int) -> ChebTucker:
        """The partial derivative ∂f/∂x_variable."""
        if not 0 <= variable < self.d:
            raise ValueError(f"variable {variable} is not one of 0..{self.d - 1}")
        coeffs = list(self.coeffs)
        coeffs[variable] = chebyshev.diff_coeffs(coeffs[variable], *self.domain[variable])
        return ChebTucker(self.core, tuple(coeffs), self.domain)

    def gradient(self, points: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
        """All partial derivatives at scattered points."""
        return np.stack([self.differentiate(k)(points) for k in range(self.d)], axis=1)

    def integral(self) -> float:
        """∫ f over the box."""
        return float(self.contract(range(self.d)))  # type: ignore[arg-type]

    def contract(self, variables: Sequence[int] | range) -> ChebTucker | float:
        """f integrated over some of its variables: a function of the others, or a number when none is left."""
        gone = sorted({int(k) for k in variables})
        if any(not 0 <= k < self.d for k in gone):
            raise ValueError(f"variables {gone} are not all among 0..{self.d - 1}")
        core = self.core
        for k in reversed(gone):
            weights = chebyshev.integral_weights(len(self.coeffs[k]), *self.domain[k])
            core = np.tensordot(core, weights @ self.coeffs[k], axes=(k, 0))
        left = [k for k in range(self.d) if k not in gone]
        if not left:
            return float(core)
        # Fewer terms of the core may be independent now than its shape says.
        return ChebTucker(core, tuple(self.coeffs[k] for k in left), self.domain[left])

    def inner(self, other: ChebTucker) -> float:
        """∫ f g over the box. Raises ValueError where the boxes differ."""
        self._same_box(other)
        grams = [
            V.T @ chebyshev.gram_matrix(len(V), len(W), *ends) @ W
            for V, W, ends in zip(self.coeffs, other.coeffs, self.domain, strict=True)
        ]
        return float(np.vdot(self.core, multiply(other.core, grams)))

    def norm(self) -> float:
        """The L2 norm over the box."""
        return float(np.sqrt(max(self.inner(self), 0.0)))

    # --- arithmetic --------------------------------------------------------------------------------------------------

    def __add__(self, other: ChebTucker) -> ChebTucker:
        """f + g. Ranks add up (to the number of coefficients at most); :meth:`round` brings them down again."""
        if not isinstance(other, ChebTucker):
            return NotImplemented
        self._same_box(other)
        core = np.zeros([r + s for r, s in zip(self.ranks, other.ranks, strict=True)])
        core[tuple(slice(0, r) for r in self.ranks)] = self.core
        core[tuple(slice(r, None) for r in self.ranks)] = other.core
        coeffs = []
        for k, (V, W) in enumerate(zip(self.coeffs, other.coeffs, strict=True)):
            both = np.zeros((max(len(V), len(W)), V.shape[1] + W.shape[1]))
            both[: len(V), : V.shape[1]] = V
            both[: len(W), V.shape[1] :] = W
            Q, R = np.linalg.qr(both)
            core = multiply(core, [R if axis == k else None for axis in range(self.d)])
            coeffs.append(Q)
        return ChebTucker(core, tuple(coeffs), self.domain)

    def __mul__(self, number: float) -> ChebTucker:
        """f times a number."""
        if not np.isscalar(number):
            return NotImplemented
        return ChebTucker(float(number) * self.core, self.coeffs, self.domain)  # type: ignore[arg-type]

    __rmul__ = __mul__

    def __neg__(self) -> ChebTucker:
        return self * -1.0

    def __sub__(self, other: ChebTucker) -> ChebTucker:
        if not isinstance(other, ChebTucker):
            return NotImplemented
        return self + -other

    def round(self, tol: float, ranks: Sequence[int] | None = None) -> ChebTucker:
        """Lower ranks: HOSVD of the core, which is small. The coefficients change by at most ``tol``, relatively."""
        core, rotations = hosvd_tol(self.core, tol, ranks)
        coeffs = tuple(V @ U for V, U in zip(self.coeffs, rotations, strict=True))
        return ChebTucker(core, coeffs, self.domain)

    # --- helpers -----------------------------------------------------------------------------------------------------

    def _unit(self, k: int, x: np.ndarray, extrapolate: bool) -> np.ndarray:
        """Variable k scaled to [-1, 1], checked."""
        y = chebyshev.to_unit(x, *self.domain[k])
        if extrapolate:
            return y
        inside = np.abs(y) <= 1 + _OUTSIDE  # false for NaN too
        if not inside.all():
            a, b = self.domain[k]
            worst = x[~inside][0]
            raise ValueError(f"x_{k} = {worst:g} lies outside [{a:g}, {b:g}]; pass extrapolate=True if that is meant")
        return np.clip(y, -1, 1)

    def _basis(self, k: int, x: np.ndarray, extrapolate: bool) -> np.ndarray:
        V = self.coeffs[k]
        return chebyshev.chebvander(self._unit(k, x, extrapolate), len(V)) @ V

    def _same_box(self, other: ChebTucker) -> None:
        if self.domain.shape != other.domain.shape or not np.allclose(self.domain, other.domain, rtol=1e-14, atol=0):
            raise ValueError(f"boxes {self.domain.tolist()} and {other.domain.tolist()} differ; use one box")


def _at_nodes(columns: Float[np.ndarray, "m _"], transform: Any) -> Float[np.ndarray, "m _"]:
    """Coefficients to values or back; a single one is a constant, for which there are no nodes to transform between."""
    return columns if len(columns) == 1 else np.ascontiguousarray(transform(columns))


def _expand(core: np.ndarray, bases: Sequence[np.ndarray]) -> np.ndarray:
    """core ×_k bases[k]: contract the first axis, append, and after d steps the order is back."""
    for basis in bases:
        core = np.tensordot(core, basis, axes=(0, 1))
    return core
