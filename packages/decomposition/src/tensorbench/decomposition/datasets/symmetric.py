"""Generated tensors with a planted CP decomposition: symmetric, partially symmetric or without symmetry.

Each loader returns a `Planted`; the tensor is built from unit factor columns and weights, and noise (if any) is
Gaussian, averaged over the declared symmetry and scaled to the stated norm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tensorbench.core.data import dataset

COLUMNS = ("gaussian", "shifted", "absolute", "orthogonal")
WEIGHTS = ("normal", "log_uniform", "ones")


@dataclass(frozen=True)
class Planted:
    """`tensor` = clean + noise; unit `factors` (one per symmetry group) and `weights` of the clean part; `symvec[k]` is
    the group of mode k."""

    tensor: np.ndarray
    clean: np.ndarray
    weights: np.ndarray
    factors: list[np.ndarray]
    symvec: tuple[int, ...]

    @property
    def rank(self) -> int:
        return len(self.weights)


@dataset(title="Planted CP tensors", source="generated here", licence="Apache-2.0", generated=True, cache=False)
def planted_cp(
    *,
    seed: int,
    dims: Sequence[int],
    rank: int,
    mult: Sequence[int] | None = None,
    noise: float = 0.0,
    relative_noise: bool = True,
    columns: str = "gaussian",
    weights: str = "log_uniform",
    smallest: float = 0.1,
    unit_columns: bool = True,
) -> Planted:
    """Group i has dimension dims[i] and multiplicity mult[i] (default 1 each).

    `columns`: i.i.d. Gaussian entries; "shifted" adds 1 to every entry and "absolute" takes absolute values (both give
    strongly correlated columns); "orthogonal" (rank <= every dimension). `weights`: "normal" (standard normal, moved
    away from zero to at least `smallest` in size), "log_uniform" (exp(2 U - 1), U uniform) or "ones".
    `noise`: Frobenius norm of the noise, relative to the clean tensor unless `relative_noise` is false.
    `unit_columns=False` leaves the columns at Gaussian / sqrt(d) and folds their norms into the weights.
    """
    from tensorbench.core.errors import unknown
    from tensorbench.decomposition.cp.symmetric import khatri_rao_power, symmetrize

    dims = [int(d) for d in dims]
    mult = [1] * len(dims) if mult is None else [int(n) for n in mult]
    if len(mult) != len(dims) or min(dims, default=0) < 2 or min(mult, default=0) < 1:
        raise ValueError(f"dims {dims} and mult {mult}: expected one multiplicity >= 1 per dimension >= 2")
    if isinstance(rank, bool) or rank < 1:
        raise ValueError(f"rank {rank!r} must be a whole number >= 1")
    if not noise >= 0:
        raise ValueError(f"noise {noise!r} must be >= 0")
    if columns not in COLUMNS:
        raise ValueError(unknown("columns", columns, COLUMNS))
    if weights not in WEIGHTS:
        raise ValueError(unknown("weights", weights, WEIGHTS))
    if columns == "orthogonal" and rank > min(dims):
        raise ValueError(
            f"rank {rank} exceeds the smallest dimension of {dims}; orthogonal columns need rank <= {min(dims)}"
        )

    rng = np.random.default_rng([seed, 1912])
    factors: list[np.ndarray] = []
    for d in dims:
        factor = rng.standard_normal((d, rank))
        factor = {"shifted": factor + 1, "absolute": np.abs(factor)}.get(columns, factor)
        factors.append(np.linalg.qr(factor)[0] if columns == "orthogonal" else factor)
    if weights == "normal":
        lam = rng.standard_normal(rank)
        lam = np.where(lam < 0, -1.0, 1.0) * np.maximum(np.abs(lam), smallest)
    else:
        lam = np.exp(2 * rng.random(rank) - 1) if weights == "log_uniform" else np.ones(rank)
    for i, (factor, n) in enumerate(zip(factors, mult, strict=True)):
        norm = np.linalg.norm(factor, axis=0)
        if not unit_columns:
            lam = lam * (norm / np.sqrt(len(factor))) ** n
        factors[i] = factor / norm
    symvec = tuple(i for i, n in enumerate(mult) for _ in range(n))
    shape = tuple(dims[i] for i in symvec)
    half = len(symvec) // 2
    left, right = np.ones((1, rank)), np.ones((1, rank))
    for k, i in enumerate(symvec):
        grown = left if k < half else right
        grown = (grown[:, None] * khatri_rao_power(factors[i], 1)[None]).reshape(-1, rank)
        left, right = (grown, right) if k < half else (left, grown)
    clean = ((left * lam) @ right.T).reshape(shape)
    tensor = clean
    if noise > 0:
        groups = [[k for k, g in enumerate(symvec) if g == i] for i in range(len(dims))]
        error = symmetrize(rng.standard_normal(shape), groups)
        size = noise * (np.linalg.norm(clean) if relative_noise else 1.0)
        tensor = clean + size / np.linalg.norm(error) * error
    return Planted(tensor, clean, lam, factors, symvec)


@dataset(title="Families of planted CP tensors", source="generated here", licence="Apache-2.0", generated=True)
def planted_family(*, seed: int, cases: dict[str, dict], noise: float = 0.0) -> dict[str, Planted]:
    """One `planted_cp` per case, with the case's parameters and the common relative noise. A case
    `{mixture: true, ...}` is a `mixture_moment` with its own sampling error instead."""
    if not cases:
        raise ValueError("a family needs at least one case: a name and the parameters of planted_cp")
    out = {}
    for name, params in cases.items():
        rest = {key: value for key, value in params.items() if key != "mixture"}
        mixture = params.get("mixture", False)
        out[name] = mixture_moment(seed=seed, **rest) if mixture else planted_cp(seed=seed, noise=noise, **rest)
    return out


@dataset(
    title="Kinetic fluorescence and responses to IL-2",
    source="Nikolajsen et al. (2003), Orcutt-Jahns et al. (2021), as in tensorly",
    licence="free for public use and MIT, see the sources",
    library="tensorly",
)
def kinetic_and_il2(*, seed: int) -> dict[str, np.ndarray]:
    """Two measured order-4 tensors, 63 x 12 x 10 x 60 (see :func:`~.tensors.kinetic`) and 13 x 4 x 12 x 8.

    Missing cells of the second (3.8 %) take the mean over its first mode (that of the tensor where a fibre is missing).
    """
    from tensorbench.decomposition.datasets.tensors import il2_response, kinetic

    il2 = il2_response(seed=0)
    count = np.sum(np.isfinite(il2), axis=0)
    mean = np.where(count > 0, np.nansum(il2, axis=0) / np.maximum(count, 1), np.nanmean(il2))
    return {"kinetic": kinetic(seed=0), "il2": np.where(np.isfinite(il2), il2, mean)}


@dataset(title="Moment tensor of a mixture", source="generated here", licence="Apache-2.0", generated=True, cache=False)
def mixture_moment(
    *, seed: int, dim: int = 12, components: int = 8, samples: int = 20_000, sigma: float = 0.05
) -> Planted:
    """Third raw moment of a spherical Gaussian mixture with zero-mean-free components, debiased by the known sigma.

    E y^3 = sum_k p_k mu_k^3 + 3 sigma^2 sym(E y (x) I): the second term is subtracted, the rest is a rank-`components`
    symmetric tensor plus sampling error.
    """
    from tensorbench.decomposition.cp.moments import moment
    from tensorbench.decomposition.cp.symmetric import lowrank_symmetric, symmetrize

    if not 1 <= components <= dim:
        raise ValueError(
            f"{components} components in dimension {dim}: use 1 to {dim}, so that the third moment is enough"
        )
    rng = np.random.default_rng([seed, 2510])
    means = rng.standard_normal((dim, components))
    share = rng.dirichlet(np.full(components, 5.0))
    label = rng.choice(components, size=samples, p=share)
    y = means[:, label].T + sigma * rng.standard_normal((samples, dim))
    tensor = moment(y, 3) - 3 * sigma**2 * symmetrize(np.multiply.outer(y.mean(axis=0), np.eye(dim)))
    norm = np.linalg.norm(means, axis=0)
    weights = share * norm**3
    return Planted(tensor, lowrank_symmetric(means / norm, weights, 3), weights, [means / norm], (0, 0, 0))
