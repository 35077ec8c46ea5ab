"""Gradient descent on a tubal factor: recovers a low tubal rank from a small start, with no rank in the objective.

Karnik, Veselovska, Iwen, Krahmer, "Implicit Regularization for Tubal Tensor Factorizations via Gradient Descent"
(ICML 2025, arXiv 2410.16247). For X* = X * X^T of tubal rank r and y = A(X*), minimise over U of size n x R x k

    l(U) = |A(U * U^T) - y|^2 / 2,    grad l(U) = D * U,    D = sum_i (<A_i, U * U^T> - y_i) (A_i + A_i^T)

from U_0 = alpha N(0, 1) / sqrt(R) by U <- U - step D * U. The entries of A_i have variance 1, as in the authors' code;
in the paper's text it is 1 / m, so that a step there is m times one here.

Everything happens in the transformed domain: U as slices, U * U^T as a vector of its few free entries (see
:class:`measurements.SymmetricCoordinates`), A as a matrix on them. Steps only multiply U from the left, so that for
R > n the factor U_0 = L * Q with orthonormal rows in Q stays L_t * Q: `compress` iterates the n x n factor L alone, the
same iterates to rounding at a cost that does not depend on R.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from tensorbench.decomposition.cp.inputs import as_generator
from tensorbench.decomposition.tubal.algebra import adjoint, check_third_order, from_slices, to_slices
from tensorbench.decomposition.tubal.measurements import MeasurementOperator
from tensorbench.decomposition.tubal.trajectory import Monitor, leading_eigenvectors

OPTIMIZERS = ("gd", "momentum", "adam")


class DivergenceError(ArithmeticError):
    """The loss grew beyond 20 times its start, or was not finite: the step is too large."""


@dataclass(frozen=True)
class TubalGDResult:
    """The factor, and `history`: columns by name, one entry per recorded iteration (see :mod:`trajectory`)."""

    factor: Float[np.ndarray, "n R k"]
    iterations: int
    history: dict[str, Float[np.ndarray, " records"]] = field(repr=False)
    transform: str = "fft"

    def tensor(self) -> Float[np.ndarray, "n n k"]:
        """U * U^T."""
        slices = to_slices(self.factor, self.transform)
        return from_slices(slices @ adjoint(slices), self.factor.shape[2], self.transform)


@dataclass(frozen=True)
class TubalGD:
    """Gradient descent with small random initialisation (module docstring).

    `stop`: relative training error |A(U * U^T) - y| / |y| at which to stop early. `record_every`: iterations between
    records. `optimizer`: "gd" as analysed, "momentum" (heavy ball) or "adam" (on the entries of U, never compressed).
    """

    R: int
    alpha: float = 1e-7
    step: float = 1e-5
    iters: int = 4000
    stop: float = 0.0
    record_every: int = 10
    optimizer: str = "gd"
    momentum: float = 0.9
    compress: bool = True
    generator: np.random.Generator | int | None = None

    def __post_init__(self) -> None:
        if self.R < 1 or self.iters < 0 or self.record_every < 1:
            raise ValueError(f"R={self.R}, record_every={self.record_every} must be >= 1 and iters={self.iters} >= 0")
        for name, value in (("alpha", self.alpha), ("step", self.step)):
            if not (np.isfinite(value) and value > 0):
                raise ValueError(f"{name}={value} must be a finite number > 0 (a start or step of zero stays put)")
        if not self.stop >= 0 or not 0 <= self.momentum < 1:
            raise ValueError(f"stop={self.stop} must be >= 0 and momentum={self.momentum} in [0, 1)")
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(f"optimizer {self.optimizer!r} is unknown; use one of {', '.join(OPTIMIZERS)}")

    def initial(self, n: int, k: int) -> Float[np.ndarray, "n R k"]:
        """U_0 = alpha N(0, 1) / sqrt(R)."""
        return self.alpha / np.sqrt(self.R) * as_generator(self.generator).standard_normal((n, self.R, k))

    def fit(
        self,
        operator: MeasurementOperator,
        y: Float[np.ndarray, " m"],
        target: Float[np.ndarray, "n n k"] | None = None,
        rank: int | None = None,
        start: Float[np.ndarray, "n R k"] | None = None,
    ) -> TubalGDResult:
        """Descend on the measurements `y`. With the true `target` and its tubal `rank`, the history has the test error,
        angles and singular values too; they do not influence the iteration.

        DivergenceError: the loss exceeds 20 times its initial value. UserWarning: R < rank.
        """
        y = operator.check_values(y)
        transform, coordinates = operator.transform, operator.coordinates
        U0 = self.initial(operator.n, operator.k) if start is None else check_third_order(start, "start")
        if U0.shape != (operator.n, self.R, operator.k):
            raise ValueError(f"start has shape {U0.shape}; expected {(operator.n, self.R, operator.k)}")
        U = to_slices(U0, transform)
        Q = None
        if self.compress and self.optimizer != "adam" and operator.n < self.R:
            Q, lower = np.linalg.qr(adjoint(U))
            U = adjoint(lower)
        monitor = Monitor(operator, y, U, self.step, target, rank)
        if rank is not None and rank > self.R:
            warnings.warn(f"R={self.R} < rank={rank}: under-parametrised, U * U^T cannot equal X*", stacklevel=2)
        update = self._update(operator)
        limit, size = np.inf, float(np.linalg.norm(y))
        iteration = 0
        while True:
            x = coordinates.flat(U @ adjoint(U))
            residual = operator.forward_symmetric(x) - y
            loss = 0.5 * float(residual @ residual)
            if iteration == 0:
                limit = 20 * max(loss, 0.5 * size**2)
            if not loss <= limit:
                raise DivergenceError(
                    f"loss {loss:.2e} at iteration {iteration} exceeds 20 times its start: step={self.step:g} is too "
                    f"large; try {self.step / 4:g}"
                )
            done = iteration == self.iters or np.sqrt(2 * loss) < self.stop * size
            if done or iteration % self.record_every == 0:
                monitor.record(iteration, U, x, residual)
            if done:
                break
            U = update(U, coordinates.slices(2.0 * operator.adjoint_symmetric(residual)) @ U)
            iteration += 1
        factor = from_slices(U if Q is None else U @ adjoint(Q), operator.k, transform)
        return TubalGDResult(factor, iteration, monitor.history(), transform)

    def _update(self, operator: MeasurementOperator):
        """A function of the present U and gradient, both as slices, that returns the next U."""
        if self.optimizer == "gd":
            return lambda U, gradient: U - self.step * gradient
        if self.optimizer == "momentum":
            return self._heavy_ball()
        return self._adam(operator.k, operator.transform)

    def _heavy_ball(self):
        velocity = np.zeros(())

        def update(U: np.ndarray, gradient: np.ndarray) -> np.ndarray:
            nonlocal velocity
            velocity = self.momentum * velocity - self.step * gradient
            return U + velocity

        return update

    def _adam(self, k: int, transform: str, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-12):
        first, second, count = np.zeros(()), np.zeros(()), 0

        def update(U: np.ndarray, gradient: np.ndarray) -> np.ndarray:
            nonlocal first, second, count
            g = from_slices(gradient, k, transform)
            count += 1
            first = beta1 * first + (1 - beta1) * g
            second = beta2 * second + (1 - beta2) * g**2
            change = first / (1 - beta1**count) / (np.sqrt(second / (1 - beta2**count)) + eps)
            return U - self.step * to_slices(change, transform)

        return update


def gradient(
    operator: MeasurementOperator, y: Float[np.ndarray, " m"], U: Float[np.ndarray, "n R k"]
) -> Float[np.ndarray, "n R k"]:
    """grad l(U) = D * U of the module docstring."""
    U = check_third_order(U, "U")
    hat = to_slices(U, operator.transform)
    x = operator.coordinates.flat(hat @ adjoint(hat))
    residual = operator.forward_symmetric(x) - operator.check_values(y)
    D = operator.coordinates.slices(2.0 * operator.adjoint_symmetric(residual))
    return from_slices(D @ hat, operator.k, operator.transform)


def power_iterates(
    operator: MeasurementOperator, y: Float[np.ndarray, " m"], U0: Float[np.ndarray, "n R k"], step: float, t: int
) -> Float[np.ndarray, "n R k"]:
    """(I + step M)^t * U_0 with M = sum_i y_i (A_i + A_i^T): gradient descent while U * U^T is still negligible.

    The authors' script draws the same curve with M / 2, half the rate of its own gradient descent.
    """
    values, vectors = np.linalg.eigh(
        operator.coordinates.slices(2.0 * operator.adjoint_symmetric(operator.check_values(y)))
    )
    hat = to_slices(check_third_order(U0, "U0"), operator.transform)
    grown = (1.0 + step * values)[:, :, None] ** t * (adjoint(vectors) @ hat)
    return from_slices(vectors @ grown, operator.k, operator.transform)


def spectral_subspace(operator: MeasurementOperator, y: Float[np.ndarray, " m"], r: int) -> Float[np.ndarray, "n r k"]:
    """L: orthonormal basis of the r leading tubal left singular vectors of the symmetric part of A^*(y)."""
    if not 1 <= r <= operator.n:
        raise ValueError(f"r={r} is outside 1..{operator.n}, the side of the tensors")
    slices = operator.coordinates.slices(operator.adjoint_symmetric(operator.check_values(y)))
    return from_slices(leading_eigenvectors(slices, operator, r), operator.k, operator.transform)


@dataclass(frozen=True)
class AsymmetricResult:
    """Factors of U * V^T, and the relative training and (with a target) test errors every `record_every` steps."""

    U: Float[np.ndarray, "n R k"]
    V: Float[np.ndarray, "n R k"]
    train_error: Float[np.ndarray, " records"]
    test_error: Float[np.ndarray, " records"]


def asymmetric_gd(
    operator: MeasurementOperator,
    y: Float[np.ndarray, " m"],
    R: int,
    *,
    alpha: float = 1e-7,
    step: float = 1e-5,
    iters: int = 4000,
    record_every: int = 100,
    target: Float[np.ndarray, "n n k"] | None = None,
    generator: np.random.Generator | int | None = None,
) -> AsymmetricResult:
    """Gradient descent on |A(U * V^T) - y|^2 / 2 from two small random factors: X* need not be symmetric.

    ValueError: the operator is symmetrised (it does not see the rest of U * V^T), alpha or step not positive.
    """
    if operator.symmetrise:
        raise ValueError("the operator is symmetrised and blind to U * V^T - V * U^T; build it with symmetrise=False")
    rng, y = as_generator(generator), operator.check_values(y)
    settings = TubalGD(R, alpha, step, iters, record_every=record_every, generator=rng)
    k, kind = operator.k, operator.transform
    U, V = (to_slices(settings.initial(operator.n, k), kind) for _ in range(2))
    train, test, size = [], [], float(np.linalg.norm(y))
    for iteration in range(iters + 1):
        X = from_slices(U @ adjoint(V), k, kind)
        residual = operator.forward(X) - y
        error = float(np.linalg.norm(residual)) / size
        if not error**2 <= 20:
            raise DivergenceError(f"the loss diverges at iteration {iteration}: step={step:g} is too large")
        if iteration % record_every == 0 or iteration == iters:
            train.append(error)
            if target is not None:
                test.append(float(np.linalg.norm(X - target) / np.linalg.norm(target)))
        if iteration < iters:
            D = to_slices(operator.adjoint(residual), kind)
            U, V = U - step * (D @ V), V - step * (adjoint(D) @ U)
    return AsymmetricResult(from_slices(U, k, kind), from_slices(V, k, kind), np.array(train), np.array(test))
