"""Generalised PCA: clustering points that lie near several subspaces, through debiased even moments.

Points y = x + sigma z with x on a union of subspaces have the fourth moment of x, a symmetric block-term tensor with
one block per subspace, plus known Gaussian terms. Subtract those (`moments.debias`), decompose with `block_term_spm`,
assign every point to the nearest subspace (Kileel, Pereira, arXiv 1912.04007, section 6; Vidal, Ma, Sastry, IEEE PAMI
2005 for the problem).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import comb

import numpy as np
from jaxtyping import Float, Int

from tensorbench.decomposition.cp.block_term import block_term_spm
from tensorbench.decomposition.cp.inputs import as_generator
from tensorbench.decomposition.cp.moments import debias, moment


@dataclass(frozen=True)
class Subspaces:
    """Labels of the points, one orthonormal basis (d, k) per subspace, root mean square distance to the nearest."""

    labels: Int[np.ndarray, " n"]
    bases: list[Float[np.ndarray, "d k"]]
    distance: float


def gpca_spm(
    samples: Float[np.ndarray, "n d"],
    dimension: int,
    count: int,
    *,
    sigma: float = 0.0,
    repeats: int = 5,
    generator: np.random.Generator | int | None = None,
) -> Subspaces:
    """`count` linear subspaces of `dimension` through `samples` (rows), noise of known standard deviation `sigma`.

    The subspaces go through the origin. The best of `repeats` random starts, by distance of the points to their nearest
    subspace, is returned. ValueError: sizes for which the fourth moment cannot tell the subspaces apart.
    """
    samples, rng = np.asarray(samples, dtype=np.float64), as_generator(generator)
    dim = samples.shape[1]
    rank = count * comb(dimension + 1, 2)
    if not (1 <= dimension < dim and count >= 1 and rank <= comb(dim + 1, 2) - dim):
        raise ValueError(
            f"{count} subspaces of dimension {dimension} in R^{dim} need a fourth moment of rank {rank}; "
            f"at most {comb(dim + 1, 2) - dim} is possible"
        )
    fourth = debias({2: moment(samples, 2), 4: moment(samples, 4)}, sigma)[4]
    best: Subspaces | None = None
    for _ in range(repeats):
        bases = block_term_spm(fourth, rank, dimension, maxiter=500, gradtol=1e-10, generator=rng).bases
        residuals = np.stack([np.linalg.norm(samples - samples @ basis @ basis.T, axis=1) for basis in bases])
        distance = float(np.sqrt(np.mean(residuals.min(axis=0) ** 2)))
        if best is None or distance < best.distance:
            best = Subspaces(residuals.argmin(axis=0), bases, distance)
    assert best is not None
    return best
