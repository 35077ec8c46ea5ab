"""Rows that the theorems ask for, with all constants 1 and natural logarithms: shapes of growth, not numbers to use."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float

from tensorbench.decomposition.cp.inputs import as_generator
from tensorbench.decomposition.sketch.sketches import Sketch

RHO = ALPHA = 1 / 20


def _check(eps: float, delta: float, n: int, d: int) -> None:
    if not 0 < eps < 1 or not 0 < delta < 1:
        raise ValueError(f"eps = {eps} and delta = {delta} must lie in (0, 1)")
    if not 2 <= d <= n:
        raise ValueError(f"need 2 <= d <= n; got d = {d}, n = {n}")


def rows_by_theorem(eps: float, delta: float, n: int, d: int) -> dict[str, float]:
    """Shapes of the row counts: this paper's, the earlier one's, the repaired sketch's (and its inner dimension).

    - ``srht``: eps^-2 d log^3(n/delta), Song, Ye, Yin, Zhang (2023); the proof is disputed by two of its authors.
    - ``srht_earlier``: eps^-2 d^(1+gamma), gamma = sqrt(log log n / log d), Price, Song, Woodruff (2017).
    - ``pooled``: eps^-2 d log(d/delta), the follow-up's Gaussian-pooled sketch; ``pooled_inner`` its n + eps^-2 d^3.
    """
    _check(eps, delta, n, d)
    gamma = math.sqrt(math.log(max(math.log(n), 1)) / math.log(d))
    return {
        "srht": d * math.log(n / delta) ** 3 / eps**2,
        "srht_earlier": d ** (1 + gamma) / eps**2,
        "pooled": d * math.log(d / delta) / eps**2,
        "pooled_inner": n + d**3 / eps**2,
    }


class CounterexampleSketch(Sketch):
    """A subspace embedding with fixed-vector coordinate-wise bounds that fails the coordinate-wise guarantee.

    S = M^(1/2) of order d + 1 with M = [[I - rho (e1 v^T + v e1^T), alpha v], [alpha v^T, 1]], rho = alpha = 1/20 and v
    uniform on the sphere in span(e2, ..., ed). Its singular values are in [0.9, 1.1] and for fixed g, h it is as good
    as a sketch of about d rows; yet for A = [e1 ... ed], b = e_(d+1) the first coordinate of x' is
    alpha rho / (1 - rho^2), whatever d is (follow-up of 2026; it refutes the argument, not the SRHT).
    """

    def __init__(self, d: int, generator: np.random.Generator | int | None = None):
        if isinstance(d, bool) or not isinstance(d, int | np.integer) or d < 2:
            raise ValueError(f"d = {d!r} must be a whole number >= 2")
        super().__init__(d + 1, d + 1, generator)
        v = np.zeros(d)
        v[1:] = self.rng.standard_normal(d - 1)
        v /= np.linalg.norm(v)
        M = np.eye(d + 1)
        M[0, :d] -= RHO * v
        M[:d, 0] -= RHO * v
        M[:d, d] = M[d, :d] = ALPHA * v
        values, vectors = np.linalg.eigh(M)
        self.root = (vectors * np.sqrt(values)) @ vectors.T

    def _apply(self, X: np.ndarray) -> np.ndarray:
        return self.root @ X


def counterexample(
    d: int, generator: np.random.Generator | int | None = None
) -> tuple[Float[np.ndarray, "n d"], Float[np.ndarray, " n"], CounterexampleSketch]:
    """A = [e1 ... ed], b = e_(d+1) and a draw of the sketch for which x'_1 = 0.0025062656641604 for every d."""
    unit = np.eye(d + 1)
    return np.ascontiguousarray(unit[:, :d]), unit[:, d].copy(), CounterexampleSketch(d, as_generator(generator))
