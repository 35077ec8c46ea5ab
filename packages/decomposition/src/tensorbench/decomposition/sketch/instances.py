"""Least-squares problems that tell sketches apart. Each function returns A (n x d) and b (n); noise has unit variance.

- gaussian: i.i.d. entries, nothing to find.
- coherent: 2 d rows 100 times as large: sampling rows uniformly misses them.
- spikes: A = [I; 0], b is ±1 on d rows below: a sparse sketch lets a spike collide with a unit row.
- polynomial: the powers 1, t, t^2, ... of random t in [-1, 1] in the Chebyshev basis (``basis="monomial"``: a
  Vandermonde matrix, ill-conditioned from d of about 10 on).
"""

from __future__ import annotations

import numpy as np

from tensorbench.core.errors import unknown

Problem = tuple[np.ndarray, np.ndarray]
HEAVY = 100.0


def gaussian(n: int, d: int, rng: np.random.Generator) -> Problem:
    """A with N(0, 1) entries, b = A x + noise."""
    A = rng.standard_normal((n, d))
    return A, _response(A, rng)


def coherent(n: int, d: int, rng: np.random.Generator) -> Problem:
    """A Gaussian design with 2 d heavy rows at random places."""
    A = rng.standard_normal((n, d))
    A[rng.choice(n, min(n, 2 * d), replace=False)] *= HEAVY
    return A, _response(A, rng)


def spikes(n: int, d: int, rng: np.random.Generator) -> Problem:
    """The identity on top of zeros, d spikes ±1 in b among the zero rows; x* = 0 and |A^+| = 1."""
    if n < 2 * d:
        raise ValueError(f"the spikes need n >= 2 d rows; got n = {n}, d = {d}")
    A = np.zeros((n, d))
    A[np.arange(d), np.arange(d)] = 1.0
    b = np.zeros(n)
    b[rng.choice(np.arange(d, n), d, replace=False)] = rng.choice((-1.0, 1.0), d)
    return A, b


def polynomial(n: int, d: int, rng: np.random.Generator, basis: str = "chebyshev") -> Problem:
    """Regression on a polynomial of degree d - 1 at n random points."""
    t = rng.uniform(-1, 1, n)
    if basis not in ("chebyshev", "monomial"):
        raise ValueError(unknown("basis", basis, ["chebyshev", "monomial"]))
    A = (np.polynomial.chebyshev.chebvander if basis == "chebyshev" else np.polynomial.polynomial.polyvander)(t, d - 1)
    return A, _response(A, rng)


def _response(A: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return A @ rng.standard_normal(A.shape[1]) + rng.standard_normal(len(A))


KINDS = {"gaussian": gaussian, "coherent": coherent, "spikes": spikes, "polynomial": polynomial}


def instance(kind: str, n: int, d: int, generator: np.random.Generator | int) -> Problem:
    """A problem of one of the KINDS, n x d."""
    if kind not in KINDS:
        raise ValueError(unknown("instance", kind, KINDS))
    if not 1 <= d <= n:
        raise ValueError(f"need 1 <= d <= n; got n = {n}, d = {d}")
    return KINDS[kind](n, d, np.random.default_rng(generator))
