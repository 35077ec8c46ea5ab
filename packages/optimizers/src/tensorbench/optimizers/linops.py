"""Symmetric matrices that are known by their products alone: spectra, linear systems, traces.

- Lanczos (1950) with full re-orthogonalisation, or with two vectors in memory and without it (then copies of converged
  eigenvalues, "ghosts", appear).
- Stochastic Lanczos quadrature (Ubaru, Chen & Saad 2017; Granziol et al.): Ritz values weighted by squared first
  components of T's eigenvectors, averaged over probes, are a quadrature of the spectral density.
- Conjugate gradient (Hestenes & Stiefel 1952), power iteration, Hutchinson's trace, the diagonal (Bekas et al. 2007).

Products are made for blocks of vectors, (d, k), in the operator's dtype. Nothing here needs a model: see
:mod:`tensorbench.optimizers.curvature` for the Hessian and Gauss-Newton operators.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from .probes import Kind, source


@dataclass(frozen=True)
class LinearOperator:
    """A symmetric d × d matrix given by its product with a block of vectors."""

    shape: tuple[int, int]
    matmat: Callable[[Tensor], Tensor]  # (d, k) to (d, k)
    dtype: torch.dtype = torch.float32
    device: torch.device | str = "cpu"

    def __post_init__(self) -> None:
        if len(self.shape) != 2 or self.shape[0] != self.shape[1] or self.shape[0] < 1:
            raise ValueError(f"shape {self.shape} is not that of a square matrix")

    def __matmul__(self, other: Float[Tensor, "d *k"]) -> Float[Tensor, "d *k"]:
        """Product with a vector or a block of vectors.

        Raises:
            ValueError: the number of rows differs, or the product has NaN or infinity.
        """
        if other.ndim not in (1, 2) or other.shape[0] != self.shape[1]:
            raise ValueError(f"a matrix of shape {self.shape} cannot be multiplied by one of {tuple(other.shape)}")
        block = other[:, None] if other.ndim == 1 else other
        product = self.matmat(block.to(self.dtype))
        if not bool(torch.isfinite(product).all()):
            raise ValueError("the product has NaN or infinity; the loss or its curvature is not finite here")
        return product[:, 0] if other.ndim == 1 else product

    def zeros(self) -> Float[Tensor, " d"]:
        """A vector of zeros that the operator can be multiplied by."""
        return torch.zeros(self.shape[0], dtype=self.dtype, device=self.device)


def dense(matrix: Float[Tensor, "d d"]) -> LinearOperator:
    """The operator of a symmetric matrix in memory."""
    return LinearOperator(tuple(matrix.shape), lambda block: matrix @ block, matrix.dtype, matrix.device)  # type: ignore


@dataclass(frozen=True)
class Lanczos:
    """The tridiagonal matrix T of a Krylov space, and the space's basis where it was kept."""

    alpha: Float[Tensor, " k"]  # diagonal of T
    beta: Float[Tensor, " k"]  # beside it; the last one is the norm of what is left, and no entry of T
    basis: Float[Tensor, "d k"] | None
    reorthogonalised: bool

    def ritz(self) -> tuple[Float[Tensor, " k"], Float[Tensor, "k k"]]:
        """Eigenvalues of T in rising order, and its eigenvectors as columns."""
        inner = self.beta[:-1]
        return torch.linalg.eigh(torch.diag(self.alpha) + torch.diag(inner, 1) + torch.diag(inner, -1))

    @property
    def values(self) -> Float[Tensor, " k"]:
        """Ritz values in rising order."""
        return self.ritz()[0]

    @property
    def weights(self) -> Float[Tensor, " k"]:
        """Squared first components of T's eigenvectors: the probe's weight at each Ritz value; they add to 1."""
        return self.ritz()[1][0].square()

    @property
    def residuals(self) -> Float[Tensor, " k"]:
        """|Au - θu| of each Ritz pair; within this distance of θ lies an eigenvalue."""
        return self.beta[-1] * self.ritz()[1][-1].abs()

    def vectors(self) -> Float[Tensor, "d k"]:
        """Ritz vectors as columns.

        Raises:
            ValueError: the basis was not kept.
        """
        if self.basis is None:
            raise ValueError("Ritz vectors need the basis; use reorthogonalise=True")
        return self.basis @ self.ritz()[1].to(self.basis.dtype)


def lanczos(op: LinearOperator, steps: int, probe: Float[Tensor, " d"], reorthogonalise: bool = True) -> Lanczos:
    """``steps`` products; fewer where the Krylov space is invariant before.

    Args:
        probe: the first vector; it is normalised.
        reorthogonalise: keeps all ``steps`` vectors and makes each new one orthogonal to them. Without it two
            vectors are kept, extremes are still found, and ghost copies of them appear.

    Raises:
        ValueError: ``steps`` above the dimension or below 1, a probe that is zero, not finite or of another length, a
            product that is not finite.
    """
    d = op.shape[0]
    if not 1 <= steps <= d:
        raise ValueError(f"steps {steps} of Lanczos must be between 1 and the dimension, {d}")
    if tuple(probe.shape) != (d,):
        raise ValueError(f"the probe has shape {tuple(probe.shape)}, the operator {op.shape}")
    q = probe.to(op.dtype)
    length = float(q.norm())
    if length == 0 or not math.isfinite(length):
        raise ValueError(f"the probe has length {length}; a random vector is expected (probes.gaussian)")
    q, before, between = q / length, torch.zeros_like(q), 0.0
    basis = torch.empty(steps, d, dtype=op.dtype, device=op.device) if reorthogonalise else None  # rows lie in memory
    tiny = 10 * torch.finfo(op.dtype).eps
    alpha: list[float] = []
    beta: list[float] = []
    scale = 0.0
    for k in range(steps):
        if basis is not None:
            basis[k] = q
        w = op @ q  # may be a view of q
        a = float(q @ w)
        w = torch.sub(w, q, alpha=a).sub_(before, alpha=between)
        if basis is not None:
            known = basis[: k + 1]
            for _ in range(2):  # a second time only where the first left little (Kahan and Parlett: twice is enough)
                before_it = float(w.norm())
                w = w.addmv_(known.T, known @ w, alpha=-1)
                if float(w.norm()) > 0.7 * before_it:
                    break
        rest = float(w.norm())
        alpha.append(a)
        beta.append(rest)
        scale = max(scale, abs(a) + rest + between)
        if rest <= tiny * scale * math.sqrt(d):
            beta[-1] = 0.0
            break
        before, q, between = q, w / rest, rest
    made = torch.tensor(alpha, dtype=torch.float64), torch.tensor(beta, dtype=torch.float64)
    return Lanczos(*made, None if basis is None else basis[: len(alpha)].T, reorthogonalise)


@dataclass(frozen=True)
class Density:
    """A spectral density as weighted points, a row a probe: μ(f) ≈ mean over probes of Σ weights · f(values)."""

    values: Float[Tensor, "probes k"]
    weights: Float[Tensor, "probes k"]
    dimension: int

    def moment(self, power: int) -> Estimate:
        """tr Aᵖ / d."""
        return Estimate.of((self.weights * self.values**power).sum(1))

    def pdf(self, at: Float[Tensor, " points"], width: float) -> Float[Tensor, " points"]:
        """The density smoothed by normal kernels of standard deviation ``width``."""
        if not width > 0:
            raise ValueError(f"width {width} of the kernel must be positive")
        z = (at.to(self.values)[:, None, None] - self.values) / width
        kernel = torch.exp(-z.square() / 2) / (width * math.sqrt(2 * math.pi))
        return (kernel * self.weights).sum(2).mean(1)

    def cdf(self, at: Float[Tensor, " points"]) -> Float[Tensor, " points"]:
        """Share of eigenvalues up to each point."""
        below = self.values <= at.to(self.values)[:, None, None]
        return (below * self.weights).sum(2).mean(1)


def slq_density(
    op: LinearOperator, steps: int, probes: int | Sequence[Tensor], generator: torch.Generator | None = None,
    kind: Kind = "gaussian", reorthogonalise: bool = True,
) -> Density:  # fmt: skip
    """Stochastic Lanczos quadrature; ``probes`` is their number, drawn with ``generator``, or the vectors themselves.

    Raises:
        ValueError: no probes, or those of :func:`lanczos`.
    """
    values, weights = [], []
    for z in _vectors(op, probes, generator, kind):
        run = lanczos(op, steps, z, reorthogonalise)
        theta, vectors = run.ritz()
        short = steps - len(theta)  # an invariant space: points of weight 0 fill the row
        values.append(torch.nn.functional.pad(theta, (0, short), value=float(theta[-1])))
        weights.append(torch.nn.functional.pad(vectors[0].square(), (0, short)))
    return Density(torch.stack(values), torch.stack(weights), op.shape[0])


def extreme_eigenvalues(
    op: LinearOperator, steps: int, generator: torch.Generator, probe: Float[Tensor, " d"] | None = None
) -> tuple[float, float]:
    """Lowest and highest eigenvalue by Lanczos from a Gaussian probe (or the one given); both from inside.

    ``steps`` above the dimension are cut to it.
    """
    start = source("gaussian", generator)(op.zeros()) if probe is None else probe
    values = lanczos(op, min(steps, op.shape[0]), start).values
    return float(values[0]), float(values[-1])


def power_iteration(
    op: LinearOperator, generator: torch.Generator, steps: int = 100, tolerance: float = 1e-6
) -> tuple[float, Float[Tensor, " d"]]:
    """The eigenvalue of largest size (with its sign) and its vector; stops where it changes by less, relatively."""
    v = source("gaussian", generator)(op.zeros())
    v, value = v / v.norm(), math.nan
    for _ in range(steps):
        w = op @ v
        found, length = float(v @ w), float(w.norm())
        if length == 0:
            return 0.0, v
        v = w / length
        if abs(found - value) <= tolerance * abs(found):
            return found, v
        value = found
    return value, v


@dataclass(frozen=True)
class Solution:
    """What conjugate gradient found. ``curvature`` is the smallest pᵀAp/pᵀp that it met: negative, and it stopped."""

    x: Float[Tensor, " d"]
    residual: float  # |b - Ax| / |b|
    steps: int
    converged: bool
    curvature: float


def conjugate_gradient(
    op: LinearOperator, b: Float[Tensor, " d"], x: Float[Tensor, " d"] | None = None, *, damping: float = 0.0,
    steps: int = 100, tolerance: float = 1e-6, precondition: Callable[[Tensor], Tensor] | None = None,
) -> Solution:  # fmt: skip
    """Solve (A + damping I) x = b.

    Args:
        x: where to start, zero by default.
        tolerance: of the residual, relative to ``b``.
        precondition: r ↦ M⁻¹ r for a positive definite M.

    A direction of no positive curvature stops the iteration (``converged`` is False); x is what was found before it.
    """
    if tuple(b.shape) != (op.shape[0],):
        raise ValueError(f"the right-hand side has shape {tuple(b.shape)}, the operator {op.shape}")
    if not damping >= 0 or steps < 1:
        raise ValueError(f"damping {damping} must be at least 0 and steps {steps} at least 1")
    b = b.to(op.dtype)
    scale = float(b.norm())
    x = torch.zeros_like(b) if x is None else x.to(op.dtype).clone()
    r = b - (op @ x + damping * x) if bool(x.any()) else b.clone()
    lowest, p, before, k = math.inf, torch.zeros_like(b), 1.0, 0
    while k < steps and float(r.norm()) > tolerance * scale:
        z = r if precondition is None else precondition(r)
        inner = float(r @ z)
        p = z + (inner / before) * p
        w = op @ p + damping * p
        curve = float(p @ w)
        k += 1
        lowest = min(lowest, curve / float(p @ p))
        if curve <= 0:
            break
        x, r, before = x + (inner / curve) * p, r - (inner / curve) * w, inner
    left = float(r.norm())
    return Solution(x, left / scale if scale else 0.0, k, left <= tolerance * scale, lowest)


@dataclass(frozen=True)
class Estimate:
    """A mean over probes with its standard error (NaN from one probe)."""

    value: float
    error: float
    samples: Float[Tensor, " probes"]

    @staticmethod
    def of(samples: Float[Tensor, " probes"]) -> Estimate:
        """Mean and standard error of independent samples."""
        n = len(samples)
        error = float(samples.std()) / math.sqrt(n) if n > 1 else math.nan
        return Estimate(float(samples.mean()), error, samples)


def hutchinson_trace(
    op: LinearOperator, probes: int | Sequence[Tensor], generator: torch.Generator | None = None,
    kind: Kind = "rademacher",
) -> Estimate:  # fmt: skip
    """tr A as the mean of zᵀAz."""
    return Estimate.of(torch.stack([z.to(op.dtype) @ (op @ z) for z in _vectors(op, probes, generator, kind)]))


def hutchinson_diagonal(
    op: LinearOperator, probes: int | Sequence[Tensor], generator: torch.Generator | None = None,
    kind: Kind = "rademacher",
) -> Float[Tensor, " d"]:  # fmt: skip
    """The diagonal as Σ z∘Az / Σ z∘z."""
    above, below = op.zeros(), op.zeros()
    for z in _vectors(op, probes, generator, kind):
        above += z * (op @ z)
        below += z.to(op.dtype).square()
    return above / below


def frobenius_squared(
    op: LinearOperator, probes: int | Sequence[Tensor], generator: torch.Generator | None = None,
    kind: Kind = "gaussian",
) -> Estimate:  # fmt: skip
    """|A|_F² as the mean of |Az|²."""
    return Estimate.of(torch.stack([(op @ z).square().sum() for z in _vectors(op, probes, generator, kind)]))


def _vectors(
    op: LinearOperator, probes: int | Sequence[Tensor], generator: torch.Generator | None, kind: Kind
) -> Sequence[Tensor]:
    if not isinstance(probes, int):
        if not len(probes):
            raise ValueError("at least one probe is needed")
        return probes
    if probes < 1:
        raise ValueError(f"probes {probes} must be at least 1")
    if generator is None:
        raise ValueError("a number of probes needs a generator to draw them; or give the probes themselves")
    draw = source(kind, generator)
    return [draw(op.zeros()) for _ in range(probes)]
