"""Estimates of y (and x, z) from a tensor of the nested matrix-tensor model, and labels from them.

- `unfolding_estimator`: the leading eigenvector of one unfolding's Gram matrix; mode 1 for y, mode 2 for z (counted
  from zero; the paper's second and third unfoldings).
- `rank_one_tensor`: the best rank-one approximation, sought by the alternating power iteration. The objective
  |T(x, y, z)| never falls; which of its maxima is reached depends on the start.
- `two_step`: z from the third unfolding, then the leading singular pair of T(., ., z). Polynomial time like an
  unfolding, and it uses that one z serves all entries of M.
- `weighted_mean`: the same with the true gains, an oracle.

Paper: Lebeau, Seddik, Goulart, ICLR 2024, arXiv 2402.10677. Vectors are unit vectors; their signs are arbitrary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Num
from scipy.linalg import eigh

from tensorbench.core.errors import unknown
from tensorbench.decomposition.cp.inputs import as_generator
from tensorbench.decomposition.linalg import gram

__all__ = [
    "RankOne",
    "clustering_accuracy",
    "leading_eigenvector",
    "rank_one_tensor",
    "sign_labels",
    "two_step",
    "unfolding_estimator",
    "weighted_mean",
]

STARTS = ("unfolding", "two_step", "random")


@dataclass(frozen=True)
class RankOne:
    """lam x (x) y (x) z with unit vectors; `history` is |T(x, y, z)| after each sweep."""

    lam: float
    x: Float[np.ndarray, " n1"]
    y: Float[np.ndarray, " n2"]
    z: Float[np.ndarray, " n3"]
    history: list[float] = field(default_factory=list)
    converged: bool = True

    def full(self) -> Float[np.ndarray, "n1 n2 n3"]:
        return self.lam * np.multiply.outer(np.outer(self.x, self.y), self.z)


def _order_three(T: np.ndarray) -> np.ndarray:
    array = np.asarray(T, dtype=np.float64)
    if array.ndim != 3 or array.size == 0:
        raise ValueError(f"a tensor of order 3 is expected (features x points x views), got shape {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{int(np.count_nonzero(~np.isfinite(array)))} of {array.size} entries are not finite")
    return array


def leading_eigenvector(matrix: Float[np.ndarray, "n n"]) -> tuple[float, Float[np.ndarray, " n"]]:
    """Largest eigenvalue of a symmetric matrix and its unit eigenvector."""
    last = len(matrix) - 1
    values, vectors = eigh(matrix, subset_by_index=[last, last])
    return float(values[0]), vectors[:, 0]


def unfolding_estimator(T: Num[np.ndarray, "n1 n2 n3"], mode: int) -> Float[np.ndarray, " size"]:
    """Leading eigenvector of T_(mode) T_(mode)^T, modes counted from zero: 1 estimates y, 2 estimates z."""
    if mode not in (0, 1, 2):
        raise ValueError(f"mode = {mode} is none of 0 (x), 1 (y) and 2 (z)")
    return leading_eigenvector(gram(_order_three(T), mode))[1]


def _leading_pair(matrix: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """Leading singular value and vectors, from the Gram matrix of the shorter side."""
    if matrix.shape[0] > matrix.shape[1]:
        value, right, left = _leading_pair(matrix.T)
        return value, left, right
    left = leading_eigenvector(matrix @ matrix.T)[1]
    right = left @ matrix
    value = float(np.linalg.norm(right))
    return value, left, right / value if value > 0 else np.full(len(right), len(right) ** -0.5)


def two_step(T: Num[np.ndarray, "n1 n2 n3"]) -> RankOne:
    """z from the third unfolding, (x, y) from T(., ., z)."""
    array = _order_three(T)
    z = unfolding_estimator(array, 2)
    lam, x, y = _leading_pair(array @ z)
    return RankOne(lam, x, y, z, [lam])


def weighted_mean(T: Num[np.ndarray, "n1 n2 n3"], h: Num[np.ndarray, " n3"]) -> Float[np.ndarray, " n2"]:
    """Leading right singular vector of sum_k h_k T_k: an oracle, since the gains h are not known in practice."""
    array, gains = _order_three(T), np.asarray(h, dtype=float)
    if gains.shape != array.shape[2:] or not np.linalg.norm(gains) > 0:
        raise ValueError(f"h must be {array.shape[2]} gains (one a view), not all zero; got shape {gains.shape}")
    return _leading_pair(array @ gains)[2]


def _start(T: np.ndarray, init: str | Sequence[np.ndarray], rng: np.random.Generator) -> list[np.ndarray]:
    """Start vectors of y and z: the first update is that of x."""
    if not isinstance(init, str):
        vectors = [np.asarray(vector, dtype=float) for vector in init]
        if [vector.shape for vector in vectors] != [(size,) for size in T.shape]:
            raise ValueError(f"a start is three vectors of the sizes {T.shape}; got {[v.shape for v in vectors]}")
        if not all(np.linalg.norm(vector) > 0 for vector in vectors):
            raise ValueError("a start vector is zero; use any other")
        return [_direction(vector) for vector in vectors[1:]]
    if init == "unfolding":
        return [unfolding_estimator(T, mode) for mode in (1, 2)]
    if init == "two_step":
        first = two_step(T)
        return [first.y, first.z]
    if init == "random":
        return [_direction(rng.standard_normal((size,))) for size in T.shape[1:]]
    raise ValueError(unknown("init", init, STARTS))


def rank_one_tensor(
    T: Num[np.ndarray, "n1 n2 n3"],
    init: str | Sequence[Float[np.ndarray, " _"]] = "unfolding",
    *,
    maxiter: int = 200,
    tol: float = 1e-5,
    inner: int = 1,
    generator: np.random.Generator | int | None = None,
) -> RankOne:
    """Best rank-one approximation by the alternating power iteration x <- T(., y, z), y <- T(x, ., z), z <- T(x, y, .).

    `init`: "unfolding" (y and z from their unfoldings), "two_step", "random", or three vectors (the truth, say). A
    sweep costs two passes over the tensor, during which x and y are updated `inner` times: near the threshold, where
    T(., ., z) has no large gap between its singular values, more of these cheap updates save passes. It stops when no
    vector moves by more than `tol` in a sweep.

    ValueError: not of order 3, entries not finite, an unknown start, or start vectors that do not fit.
    """
    array = _order_three(T)
    if maxiter < 1 or inner < 1 or not tol > 0:
        raise ValueError(f"maxiter = {maxiter} and inner = {inner} must be at least 1 and tol = {tol} positive")
    y, z = _start(array, init, as_generator(generator))
    flat = array.reshape(-1, array.shape[2])
    x = np.zeros(len(array))
    history: list[float] = []
    for _ in range(maxiter):
        matrix = array @ z
        new_y = y
        for _ in range(inner):
            new_x = _direction(matrix @ new_y)
            new_y = _direction(new_x @ matrix)
        contracted = np.outer(new_x, new_y).ravel() @ flat
        lam = float(np.linalg.norm(contracted))
        new_z = _direction(contracted)
        moved = max(np.linalg.norm(a - b) for a, b in ((new_x, x), (new_y, y), (new_z, z)))
        x, y, z = new_x, new_y, new_z
        history.append(lam)
        if moved < tol:
            return RankOne(lam, x, y, z, history)
    return RankOne(lam, x, y, z, history, converged=False)


def _direction(vector: np.ndarray) -> np.ndarray:
    norm = np.linalg.norm(vector)
    if norm == 0:  # a zero tensor, or a start that is orthogonal to everything
        return np.full(len(vector), len(vector) ** -0.5)
    return vector / norm


def sign_labels(y: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """+1 or -1 for every point (+1 for zero)."""
    return np.where(np.asarray(y) < 0, -1.0, 1.0)


def clustering_accuracy(labels: Num[np.ndarray, " n"], truth: Num[np.ndarray, " n"]) -> float:
    """Share of points on the right side, the better of the two ways to name the classes; both arguments +1 / -1."""
    labels, truth = np.asarray(labels), np.asarray(truth)
    for name, values in (("labels", labels), ("truth", truth)):
        if values.ndim != 1 or not np.isin(values, (-1, 1)).all():
            raise ValueError(f"{name} must be a vector of +1 and -1, got values {np.unique(values)[:5].tolist()}")
    if labels.shape != truth.shape or not len(labels):
        raise ValueError(f"{len(labels)} labels cannot be compared with {len(truth)}; one a point is needed")
    share = float(np.mean(labels == truth))
    return max(share, 1 - share)
