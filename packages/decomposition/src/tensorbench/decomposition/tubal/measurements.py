"""Random linear measurements of tubal tensors, and coordinates in which symmetric tensors are plain vectors.

A measures an n x n x k tensor by m inner products, A(X)_i = <A_i, X>, with i.i.d. N(0, 1) entries; `symmetrise` takes
A_i + A_i^T in place of A_i. For X = X^T (t-transpose) only the symmetric part of A_i matters.

Symmetric tensors are few: each real slice has n (n + 1) / 2 free entries, each complex one n^2 (Hermitian). In the
orthonormal :class:`SymmetricCoordinates` A is a matrix with that many columns, 210 instead of n^2 k = 400 for
n = 10, k = 4, and from as many measurements on, least squares alone determines a symmetric tensor.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import numpy as np
from jaxtyping import Complex, Float

from tensorbench.decomposition.cp.inputs import as_generator
from tensorbench.decomposition.tubal.algebra import (
    check_third_order,
    check_transform,
    from_slices,
    real_slices,
    slice_weights,
    t_transpose,
    to_slices,
    truncate,
)

DENSE_BYTES = 2e9  # what "auto" still stores


class SymmetricCoordinates:
    """An isometry between tensors X = X^T, as Hermitian slices, and real vectors of length `size`."""

    def __init__(self, n: int, k: int, transform: str = "fft"):
        self.n, self.k, self.transform = n, k, transform
        real, weight = real_slices(k, transform), slice_weights(k, transform)
        # Slices are seen as one flat array of (real, imaginary) pairs. `take` and `gain` pick and scale the free ones.
        place = np.arange(2 * len(real) * n * n).reshape(len(real), n, n, 2)
        upper, strict = np.triu_indices(n), np.triu_indices(n, 1)
        take, gain = [], []
        self._back = np.zeros(place.size, dtype=np.int64)
        self._lift = np.zeros(place.size)
        count = 0
        for s in range(len(real)):
            for part, (i, j) in ((0, upper),) if real[s] else ((0, upper), (1, strict)):
                scale = np.sqrt(weight[s] * np.where(i == j, 1.0, 2.0))
                take.append(place[s, i, j, part])
                gain.append(scale)
                for a, b, sign in ((i, j, 1.0), (j, i, -1.0 if part else 1.0)):
                    self._back[place[s, a, b, part]] = count + np.arange(len(i))
                    self._lift[place[s, a, b, part]] = sign / scale
                count += len(i)
        self._take, self._gain = np.concatenate(take), np.concatenate(gain)
        self._shape = (len(real), n, n)
        self.size = count

    def flat(self, slices: Complex[np.ndarray, "slices n n"]) -> Float[np.ndarray, " size"]:
        """Coordinates of Hermitian slices (what is below the diagonal is not read)."""
        return np.ascontiguousarray(slices).view(np.float64).reshape(-1)[self._take] * self._gain

    def slices(self, x: Float[np.ndarray, " size"]) -> Complex[np.ndarray, "slices n n"]:
        """The Hermitian slices with these coordinates."""
        return (x[self._back] * self._lift).view(np.complex128).reshape(self._shape)

    def of_tensor(self, X: Float[np.ndarray, "n n k"]) -> Float[np.ndarray, " size"]:
        """Coordinates of the symmetric part (X + X^T) / 2."""
        hat = to_slices(X, self.transform)
        return self.flat((hat + hat.conj().swapaxes(1, 2)) / 2)

    def to_tensor(self, x: Float[np.ndarray, " size"]) -> Float[np.ndarray, "n n k"]:
        """The symmetric tensor with these coordinates."""
        return from_slices(self.slices(x), self.k, self.transform)


class MeasurementOperator:
    """A(X)_i = <A_i, X>, i = 1..m, for n x n x k tensors, with N(0, 1) entries drawn from `generator`.

    `storage`: "dense" keeps the m n^2 k numbers, "implicit" draws them again from a seed, a block of rows at a time,
    whenever they are needed; "auto" is dense up to 2 GB. Both give the same operator. `transform` is that of the
    tensor algebra in which tensors are symmetric.
    """

    BLOCK = 64

    def __init__(
        self,
        n: int,
        k: int,
        m: int,
        symmetrise: bool = True,
        generator: np.random.Generator | int | None = None,
        *,
        storage: str = "auto",
        transform: str = "fft",
    ):
        for name, value in (("n", n), ("k", k), ("m", m)):
            if isinstance(value, bool) or int(value) != value or value < 1:
                raise ValueError(f"{name}={value} must be a whole number >= 1 (n x n x k tensors, m measurements)")
        if storage not in ("auto", "dense", "implicit"):
            raise ValueError(f"storage {storage!r} is unknown; use 'auto', 'dense' or 'implicit'")
        check_transform(transform)
        self.n, self.k, self.m, self.symmetrise, self.transform = int(n), int(k), int(m), symmetrise, transform
        self.nbytes = 8 * self.m * self.n**2 * self.k
        self.dense = storage == "dense" or (storage == "auto" and self.nbytes <= DENSE_BYTES)
        self._seed = int(as_generator(generator).integers(2**63))
        self.coordinates = SymmetricCoordinates(self.n, self.k, transform)

    def _drawn(self) -> Iterator[tuple[int, np.ndarray]]:
        for start in range(0, self.m, self.BLOCK):
            rng = np.random.default_rng([self._seed, start])
            rows = rng.standard_normal((min(self.BLOCK, self.m - start), self.n, self.n, self.k))
            if self.symmetrise:
                rows = rows + np.stack([t_transpose(row, self.transform) for row in rows])
            yield start, rows.reshape(len(rows), -1)

    @cached_property
    def _matrix(self) -> np.ndarray:
        return np.concatenate([rows for _, rows in self._drawn()])

    @cached_property
    def _symmetric_matrix(self) -> np.ndarray:
        return np.concatenate([self._in_coordinates(rows) for _, rows in self._blocks()])

    def _in_coordinates(self, rows: np.ndarray) -> np.ndarray:
        return np.stack([self.coordinates.of_tensor(row.reshape(self.n, self.n, self.k)) for row in rows])

    def _blocks(self, symmetric: bool = False) -> Iterator[tuple[int, np.ndarray]]:
        if self.dense:
            yield 0, self._symmetric_matrix if symmetric else self._matrix
        else:
            for start, rows in self._drawn():
                yield start, self._in_coordinates(rows) if symmetric else rows

    def _apply(self, x: np.ndarray, symmetric: bool) -> np.ndarray:
        if self.dense:
            return (self._symmetric_matrix if symmetric else self._matrix) @ x
        return np.concatenate([rows @ x for _, rows in self._blocks(symmetric)])

    def _apply_adjoint(self, z: np.ndarray, symmetric: bool) -> np.ndarray:
        if self.dense:
            return z @ (self._symmetric_matrix if symmetric else self._matrix)
        return sum(z[start : start + len(rows)] @ rows for start, rows in self._blocks(symmetric))

    def forward(self, X: Float[np.ndarray, "n n k"]) -> Float[np.ndarray, " m"]:
        """The m measurements <A_i, X>."""
        X = check_third_order(X, "X")
        if X.shape != (self.n, self.n, self.k):
            raise ValueError(f"X has shape {X.shape}; this operator measures {(self.n, self.n, self.k)}")
        return self._apply(X.reshape(-1), False)

    def adjoint(self, z: Float[np.ndarray, " m"]) -> Float[np.ndarray, "n n k"]:
        """A^*(z) = sum_i z_i A_i."""
        z = self.check_values(z)
        return self._apply_adjoint(z, False).reshape(self.n, self.n, self.k)

    def forward_symmetric(self, x: Float[np.ndarray, " size"]) -> Float[np.ndarray, " m"]:
        """Measurements of the symmetric tensor with coordinates x."""
        return self._apply(x, True)

    def adjoint_symmetric(self, z: Float[np.ndarray, " m"]) -> Float[np.ndarray, " size"]:
        """Coordinates of the symmetric part of A^*(z)."""
        return self._apply_adjoint(z, True)

    def symmetric_matrix(self) -> Float[np.ndarray, "m size"]:
        """A on symmetric tensors as a matrix (of an implicit operator too: it is computed and not kept)."""
        return np.concatenate([rows for _, rows in self._blocks(True)])

    def check_values(self, y: np.ndarray) -> Float[np.ndarray, " m"]:
        """`y` as m finite float64 numbers, or a ValueError."""
        y = np.asarray(y)
        if y.shape != (self.m,) or np.iscomplexobj(y) or not np.isfinite(y).all():
            raise ValueError(f"expected {self.m} finite real measurements, got shape {y.shape} of {y.dtype}")
        return y.astype(np.float64, copy=False)

    def rip_constant_estimate(
        self, r: int, trials: int = 100, generator: np.random.Generator | int | None = None
    ) -> float:
        """A lower estimate of the restricted isometry constant of A / sqrt(E |A|^2) over symmetric tensors of tubal
        rank r: the worst | |A(X)|^2 / (scale |X|_F^2) - 1 | over `trials` random ones; `scale` is the expectation of
        the quotient."""
        if not 1 <= r <= self.n or trials < 1:
            raise ValueError(f"r={r} must be in 1..{self.n} and trials={trials} at least 1")
        rng = as_generator(generator)
        scale, worst = self.m * (4.0 if self.symmetrise else 1.0), 0.0
        for _ in range(trials):
            X = rng.standard_normal((self.n, self.n, self.k))
            X = truncate(X + t_transpose(X, self.transform), r, self.transform)
            worst = max(worst, abs(float(np.sum(self.forward(X) ** 2)) / (scale * float(np.sum(X**2))) - 1.0))
        return worst


def least_squares(operator: MeasurementOperator, y: Float[np.ndarray, " m"]) -> Float[np.ndarray, "n n k"]:
    """The symmetric tensor of least norm that fits y best: what the symmetry of X* alone gives away."""
    y = operator.check_values(y)
    return operator.coordinates.to_tensor(np.linalg.lstsq(operator.symmetric_matrix(), y, rcond=None)[0])
