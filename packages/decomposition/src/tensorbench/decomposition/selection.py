"""Comparing CP factors: matching of components, factor match score, alignment of order, sign and scale.

The factor match score of two sets of factors is the mean over matched components of prod_modes |cos(a_k, b_k)|, with
the matching that maximises it (Hungarian algorithm); 1 means equal up to order, signs and scales. Components that have
no partner (different ranks) count as 0. With weights, each term is also multiplied by
1 - |w_a - w_b| / max(w_a, w_b) of the absolute weights (Acar, Dunlavy, Kolda, "A scalable optimization approach for
fitting canonical tensor decompositions", J. Chemometrics 2011).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment


class Match(NamedTuple):
    """`reference[k]` of the first set goes with `estimate[k]` of the second; `score` is the factor match score."""

    reference: Int[np.ndarray, " pairs"]
    estimate: Int[np.ndarray, " pairs"]
    similarity: Float[np.ndarray, " pairs"]
    score: float


def _unit(matrix: Float[np.ndarray, "n r"]) -> tuple[np.ndarray, np.ndarray]:
    matrix = np.asarray(matrix, dtype=np.float64)
    norm = np.linalg.norm(matrix, axis=0)
    return matrix / np.where(norm > 0, norm, 1.0), norm


def _check(reference: Sequence[np.ndarray], estimate: Sequence[np.ndarray]) -> None:
    if len(reference) != len(estimate) or not reference:
        raise ValueError(
            f"the two sets have {len(reference)} and {len(estimate)} factors; expected equal, at least one"
        )
    for mode, (a, b) in enumerate(zip(reference, estimate, strict=True)):
        if np.ndim(a) != 2 or np.ndim(b) != 2 or np.shape(a)[0] != np.shape(b)[0]:
            raise ValueError(f"factors of mode {mode} have shapes {np.shape(a)} and {np.shape(b)}; rows must agree")


def match_components(
    reference: Sequence[Float[np.ndarray, "_ r"]],
    estimate: Sequence[Float[np.ndarray, "_ s"]],
    reference_weights: Float[np.ndarray, " r"] | None = None,
    estimate_weights: Float[np.ndarray, " s"] | None = None,
) -> Match:
    """Pair the components of two CP models (module docstring). Signs and (without weights) scales are ignored."""
    _check(reference, estimate)
    similarity, sizes = np.ones((1, 1)), [np.ones(1), np.ones(1)]
    for a, b in zip(reference, estimate, strict=True):
        (a, norm_a), (b, norm_b) = _unit(a), _unit(b)
        similarity = similarity * np.abs(a.T @ b)
        sizes = [sizes[0] * norm_a, sizes[1] * norm_b]
    if reference_weights is not None and estimate_weights is not None:
        u = np.abs(np.asarray(reference_weights) * sizes[0])[:, None]
        v = np.abs(np.asarray(estimate_weights) * sizes[1])[None, :]
        largest = np.maximum(u, v)
        similarity = similarity * (1 - np.abs(u - v) / np.where(largest > 0, largest, 1.0))
    rows, columns = linear_sum_assignment(similarity, maximize=True)
    pairs = similarity[rows, columns]
    score = float(pairs.sum() / max(similarity.shape)) if max(similarity.shape) else 1.0
    return Match(rows, columns, pairs, min(score, 1.0))


def factor_match_score(
    reference: Sequence[Float[np.ndarray, "_ r"]],
    estimate: Sequence[Float[np.ndarray, "_ s"]],
    reference_weights: Float[np.ndarray, " r"] | None = None,
    estimate_weights: Float[np.ndarray, " s"] | None = None,
) -> float:
    """Factor match score in [0, 1]; 1 is perfect."""
    return match_components(reference, estimate, reference_weights, estimate_weights).score


def align(
    reference: Sequence[Float[np.ndarray, "_ r"]], estimate: Sequence[Float[np.ndarray, "_ r"]]
) -> list[Float[np.ndarray, "_ r"]]:
    """`estimate` with columns permuted, signed and scaled to lie as close as possible to `reference`, mode by mode
    (the tensor is not kept). Columns of `reference` without a partner come back as zeros."""
    match = match_components(reference, estimate)
    aligned = []
    for a, b in zip(reference, estimate, strict=True):
        out = np.zeros_like(np.asarray(a, dtype=np.float64))
        columns = np.asarray(b)[:, match.estimate]
        size = np.sum(columns**2, axis=0)
        scale = np.sum(np.asarray(a)[:, match.reference] * columns, axis=0) / np.where(size > 0, size, 1.0)
        out[:, match.reference] = columns * scale
        aligned.append(out)
    return aligned
