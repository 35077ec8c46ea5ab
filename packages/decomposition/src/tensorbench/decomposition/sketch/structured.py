"""Dense sketches that are applied fast, by Walsh-Hadamard or Fourier transforms.

- SRHT: S = sqrt(N/m) P F D with signs D, the normalised transform F of order N >= n and m sampled rows P; O(n k log n)
  for n x k data (Ailon, Chazelle 2006; Tropp 2011, arXiv 1011.1595).
- TensorSRHT: the same with F1 D1 (x) F2 D2 (Ahle et al. 2020, arXiv 1909.01410; Song et al. 2023, arXiv 2302.00248).
- TensorSketch: the CountSketch of U (x) V whose hash is the sum of two hashes, by FFT (Pham, Pagh 2013).
- BalancedGaussianPooled: S = B D_gamma Pi F D_sigma J, the sketch of the follow-up by two of the authors of arXiv
  2302.00248 (Hadamard flattening and Gaussian pooling, 2026, not reviewed), for which they prove the coordinate-wise
  bound whose original proof (for the SRHT) they dispute.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float
from scipy import sparse

from tensorbench.decomposition.sketch.hadamard import fwht, next_power_of_two
from tensorbench.decomposition.sketch.sketches import Sketch, check_data


def _signs(rng: np.random.Generator, n: int) -> np.ndarray:
    return rng.choice((-1.0, 1.0), n)


def _mixed(X: np.ndarray, signs: np.ndarray, N: int) -> np.ndarray:
    """H D X with rows of zeros up to N, not normalised."""
    padded = np.zeros((N, X.shape[1]))
    np.multiply(X, signs[:, None], out=padded[: len(X)])
    return fwht(padded)


class SRHT(Sketch):
    """The subsampled randomised Hadamard transform.

    ``replace`` draws the rows with replacement, as the theory has it. ``pad=False`` refuses n that is no power of two
    instead of padding with zeros (which costs memory for at most 2 n rows).

    Raises:
        ValueError: m above the padded n without replacement, or padding is needed and disabled.
    """

    def __init__(
        self,
        n: int,
        m: int,
        generator: np.random.Generator | int | None = None,
        *,
        replace: bool = False,
        pad: bool = True,
    ):
        super().__init__(n, m, generator)
        self.N = next_power_of_two(n)
        if n != self.N and not pad:
            raise ValueError(f"n = {n} is no power of two and padding is disabled; use pad=True (to {self.N} rows)")
        if not replace and m > self.N:
            raise ValueError(f"m = {m} rows cannot be drawn from {self.N} without replacement; use replace=True")
        self.signs = _signs(self.rng, n)
        self.rows = self.rng.choice(self.N, m, replace=replace)

    def _apply(self, X: np.ndarray) -> np.ndarray:
        return _mixed(X, self.signs, self.N)[self.rows] / np.sqrt(self.m)


class BalancedGaussianPooled(Sketch):
    """Signs, transform, permutation, Gaussian weights, sums over blocks of length ``block``.

    E[S^T S] = I, and given signs and permutation the rows are independent. The internal dimension is N = the power of
    two >= max(n, m block); the m blocks are the first m block of the permuted coordinates, scaled by
    sqrt(N / (m block)), which is one for m and block powers of two, the setting of the theorem. Default block: 2
    2^ceil(log2(max(n/m, 16))); the theorem asks for max(n/m, C d^2 log^2).

    Padding is never carried out: F_N of a vector that lives on the first N' coordinates, N' a power of two, repeats
    F_N' N / N' times, so that the transform has the length of the data and the rest is a sparse matrix.

    Raises:
        ValueError: block < 1.
    """

    def __init__(self, n: int, m: int, generator: np.random.Generator | int | None = None, *, block: int | None = None):
        super().__init__(n, m, generator)
        block = 2 * next_power_of_two(math.ceil(max(n / m, 16))) if block is None else block
        if isinstance(block, bool) or not isinstance(block, int | np.integer) or block < 1:
            raise ValueError(f"block = {block!r} must be a whole number >= 1, or None for the default")
        self.block, self.inner = int(block), next_power_of_two(n)
        self.N = next_power_of_two(max(n, m * block))
        self.signs = _signs(self.rng, n)
        used = m * self.block
        self.order = self.rng.permutation(self.N)[:used]
        self.weights = self.rng.standard_normal(used)
        entries = (self.weights / math.sqrt(used), self.order % self.inner, np.arange(0, used + 1, self.block))
        self._pool = sparse.csr_array(entries, shape=(m, self.inner))

    def _apply(self, X: np.ndarray) -> np.ndarray:
        return self._pool @ _mixed(X, self.signs, self.inner)


def _factor_sizes(n: tuple[int, int]) -> tuple[int, int]:
    sizes = tuple(n) if isinstance(n, tuple | list) else (n,)
    if len(sizes) != 2 or any(isinstance(s, bool) or not isinstance(s, int | np.integer) or s < 1 for s in sizes):
        raise ValueError(f"n = {n!r} must be a pair of sizes (n1, n2): the sketch takes rows of U (x) V, n1 n2 of them")
    return int(sizes[0]), int(sizes[1])


class TensorSRHT(Sketch):
    """Sampled rows of F1 D1 (x) F2 D2, rows drawn with replacement. ``n`` is the pair (n1, n2)."""

    def __init__(self, n: tuple[int, int], m: int, generator: np.random.Generator | int | None = None):
        self.sizes = _factor_sizes(n)
        super().__init__(self.sizes[0] * self.sizes[1], m, generator)
        self.padded = tuple(next_power_of_two(size) for size in self.sizes)
        self.signs = tuple(_signs(self.rng, size) for size in self.sizes)
        self.rows = tuple(self.rng.integers(0, N, m) for N in self.padded)

    def apply_kron(self, U: Float[np.ndarray, "n1 d1"], V: Float[np.ndarray, "n2 d2"]) -> Float[np.ndarray, "m d1d2"]:
        """S (U (x) V): sampled rows of both transforms, multiplied."""
        U, V = check_data(U, self.sizes[0]), check_data(V, self.sizes[1])
        parts = [
            _mixed(X, s, N)[rows]
            for X, s, N, rows in zip((U, V), self.signs, self.padded, self.rows, strict=True)
        ]  # fmt: skip
        return np.einsum("ma,mb->mab", *parts).reshape(self.m, -1) / np.sqrt(self.m)

    def _apply(self, X: np.ndarray) -> np.ndarray:
        (n1, n2), (N1, N2) = self.sizes, self.padded
        out = np.empty((self.m, X.shape[1]))
        for k in range(X.shape[1]):
            cube = np.zeros((N1, N2))
            cube[:n1, :n2] = X[:, k].reshape(n1, n2) * self.signs[0][:, None] * self.signs[1]
            out[:, k] = fwht(fwht(cube, 0), 1)[self.rows]
        return out / np.sqrt(self.m)


class TensorSketch(Sketch):
    """CountSketch of n1 n2 rows with h(i, j) = h1(i) + h2(j) mod m and sign s1(i) s2(j). ``n`` is (n1, n2)."""

    def __init__(self, n: tuple[int, int], m: int, generator: np.random.Generator | int | None = None):
        self.sizes = _factor_sizes(n)
        super().__init__(self.sizes[0] * self.sizes[1], m, generator)
        self.hashes = tuple(self.rng.integers(0, m, size) for size in self.sizes)
        self.signs = tuple(_signs(self.rng, size) for size in self.sizes)

    def apply_kron(self, U: Float[np.ndarray, "n1 d1"], V: Float[np.ndarray, "n2 d2"]) -> Float[np.ndarray, "m d1d2"]:
        """S (U (x) V): circular convolution of the two CountSketches, column by column."""
        U, V = check_data(U, self.sizes[0]), check_data(V, self.sizes[1])
        spectra = []
        for X, h, s in zip((U, V), self.hashes, self.signs, strict=True):
            count = sparse.csr_array((s, (h, np.arange(len(h)))), shape=(self.m, len(h)))
            spectra.append(np.fft.rfft(count @ X, axis=0))
        product = np.einsum("ma,mb->mab", *spectra).reshape(spectra[0].shape[0], -1)
        return np.fft.irfft(product, n=self.m, axis=0)

    def _apply(self, X: np.ndarray) -> np.ndarray:
        rows = ((self.hashes[0][:, None] + self.hashes[1]) % self.m).ravel()
        signs = np.multiply.outer(*self.signs).ravel()
        return sparse.csr_array((signs, (rows, np.arange(self.n))), shape=(self.m, self.n)) @ X
