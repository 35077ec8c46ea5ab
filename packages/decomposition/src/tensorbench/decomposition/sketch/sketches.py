"""Random matrices S (m x n) that shrink a least-squares problem, behind one interface.

A sketch is drawn once, at construction; ``apply(X)`` is S X and ``dense()`` is S itself. All but the two samplings of
rows are oblivious (drawn without a look at the data), and all have E[S^T S] = I (for the samplings: on the rows that
can be drawn). Structured sketches, which need a fast transform, are in :mod:`.structured`.

Sources: Woodruff (2014, arXiv 1411.4357) for CountSketch and leverage sampling; Nelson, Nguyen (2013, arXiv 1211.1002)
for sparse embeddings (OSNAP); Song, Ye, Yin, Zhang (2023, arXiv 2302.00248) for what they are compared for here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
from jaxtyping import Float
from scipy import sparse
from scipy.linalg import qr

from tensorbench.decomposition.cp.inputs import as_generator

CHUNK_ROWS = 256  # rows of a dense random matrix that exist at a time


def check_data(X: np.ndarray, n: int) -> np.ndarray:
    """A finite float64 array with n rows, or a ValueError."""
    X = np.asarray(X, dtype=np.float64)
    if X.ndim not in (1, 2) or X.shape[0] != n:
        raise ValueError(f"this sketch takes {n} rows (a vector or a matrix); got shape {X.shape}")
    if not np.isfinite(X).all():
        raise ValueError(
            f"{int((~np.isfinite(X)).sum())} NaN or infinite entries; a sketch would spread them everywhere"
        )
    return X


class Sketch(ABC):
    """S with m rows for vectors of length n, drawn from ``generator`` (a generator or a seed; None is seed 0).

    Raises:
        ValueError: n or m is no positive whole number.
    """

    oblivious = True

    def __init__(self, n: int, m: int, generator: np.random.Generator | int | None = None):
        for name, value in (("n", n), ("m", m)):
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
                raise ValueError(f"{name} = {value!r} must be a whole number >= 1 (a sketch is m x n)")
        self.n, self.m = int(n), int(m)
        self.rng = as_generator(generator)

    @abstractmethod
    def _apply(self, X: np.ndarray) -> np.ndarray:
        """S X for a checked matrix X, which may not be changed."""

    def apply(self, X: Float[np.ndarray, "n *k"]) -> Float[np.ndarray, "m *k"]:
        """S X.

        Raises:
            ValueError: X has another number of rows, or entries that are not finite.
        """
        X = check_data(X, self.n)
        return self._apply(X[:, None])[:, 0] if X.ndim == 1 else self._apply(X)

    def dense(self) -> Float[np.ndarray, "m n"]:
        """S as an array."""
        return self._apply(np.eye(self.n))

    def apply_kron(self, U: Float[np.ndarray, "n1 d1"], V: Float[np.ndarray, "n2 d2"]) -> Float[np.ndarray, "m d1d2"]:
        """S (U (x) V) without forming the Kronecker product; only tensor sketches can."""
        raise TypeError(
            f"{type(self).__name__} has no fast product with U (x) V; use TensorSRHT or TensorSketch, "
            "or form np.kron(U, V) where it is small"
        )


class GaussianSketch(Sketch):
    """Independent N(0, 1/m) entries. They are drawn again, from a kept seed, whenever S is applied."""

    def __init__(self, n: int, m: int, generator: np.random.Generator | int | None = None):
        super().__init__(n, m, generator)
        self._seed = int(self.rng.integers(2**63))

    def _rows(self, rng: np.random.Generator, rows: int) -> np.ndarray:
        return rng.standard_normal((rows, self.n))

    def _apply(self, X: np.ndarray) -> np.ndarray:
        rng = np.random.Generator(np.random.SFC64(self._seed))
        out = np.empty((self.m, X.shape[1]))
        for at in range(0, self.m, CHUNK_ROWS):
            rows = min(CHUNK_ROWS, self.m - at)
            out[at : at + rows] = self._rows(rng, rows) @ X
        return out / np.sqrt(self.m)


class Rademacher(GaussianSketch):
    """Independent entries ± 1/sqrt(m)."""

    def _rows(self, rng: np.random.Generator, rows: int) -> np.ndarray:
        bits = np.unpackbits(rng.integers(0, 256, (rows, -(-self.n // 8)), dtype=np.uint8), axis=1)[:, : self.n]
        return 2.0 * bits - 1.0


class _Sparse(Sketch):
    """S is a scipy CSR matrix, ``self.matrix``."""

    matrix: sparse.csr_array

    def _apply(self, X: np.ndarray) -> np.ndarray:
        return self.matrix @ X

    def dense(self) -> Float[np.ndarray, "m n"]:
        """S as an array."""
        return self.matrix.toarray()


class SparseEmbedding(_Sparse):
    """OSNAP: each column has one entry ± 1/sqrt(s) in each of s blocks of rows, so s different rows.

    Raises:
        ValueError: s is not in 1..m.
    """

    def __init__(self, n: int, m: int, generator: np.random.Generator | int | None = None, *, s: int = 4):
        super().__init__(n, m, generator)
        if not 1 <= s <= m:
            raise ValueError(f"s = {s} entries a column must be in 1..m = {m}")
        edges = np.linspace(0, m, s + 1).astype(np.int64)
        low, size = edges[:-1, None], np.diff(edges)[:, None]
        rows = low + (self.rng.random((s, n)) * size).astype(np.int64)
        signs = self.rng.choice((-1.0, 1.0), (s, n)) / np.sqrt(s)
        columns = np.broadcast_to(np.arange(n), (s, n))
        self.s = s
        self.matrix = sparse.csr_array((signs.ravel(), (rows.ravel(), columns.ravel())), shape=(m, n))


class CountSketch(SparseEmbedding):
    """One entry ± 1 in each column: the sparse embedding with s = 1, applied in time O(nnz(X))."""

    def __init__(self, n: int, m: int, generator: np.random.Generator | int | None = None):
        super().__init__(n, m, generator, s=1)


class RowSampling(_Sparse):
    """m rows drawn with replacement with probabilities p, row i scaled by 1/sqrt(m p_i).

    Raises:
        ValueError: p is not n numbers >= 0 with a positive sum.
    """

    oblivious = False

    def __init__(
        self, n: int, m: int, generator: np.random.Generator | int | None = None, *, p: Float[np.ndarray, " n"]
    ):
        super().__init__(n, m, generator)
        p = np.asarray(p, dtype=np.float64)
        if p.shape != (n,) or not (np.isfinite(p).all() and (p >= 0).all() and p.sum() > 0):
            raise ValueError(f"p must hold {n} finite numbers >= 0, not all zero; got shape {p.shape}")
        p = p / p.sum()
        self.rows = self.rng.choice(n, m, p=p)
        self.matrix = sparse.csr_array((1 / np.sqrt(m * p[self.rows]), (np.arange(m), self.rows)), shape=(m, n))


class UniformSampling(RowSampling):
    """Rows drawn with equal probabilities: oblivious, and blind to rows that matter."""

    oblivious = True

    def __init__(self, n: int, m: int, generator: np.random.Generator | int | None = None):
        super().__init__(n, m, generator, p=np.ones(n) if isinstance(n, int | np.integer) and n > 0 else np.ones(1))


def leverage_scores(A: Float[np.ndarray, "n d"]) -> Float[np.ndarray, " n"]:
    """Squared norms of the rows of an orthonormal basis of A's column space; they add up to the rank."""
    Q, R, _ = qr(A, mode="economic", pivoting=True, check_finite=False)
    size = np.abs(np.diag(R))
    rank = int((size > np.finfo(float).eps * max(A.shape) * size[0]).sum())
    return np.einsum("ij,ij->i", Q[:, :rank], Q[:, :rank])


class LeverageSampling(RowSampling):
    """Rows drawn with probabilities proportional to the leverage scores of ``A``: not oblivious."""

    def __init__(self, n: int, m: int, generator: np.random.Generator | int | None = None, *, A: np.ndarray):
        super().__init__(n, m, generator, p=leverage_scores(check_data(A, n)))
