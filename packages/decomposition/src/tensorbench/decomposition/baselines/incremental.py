"""CP, tensor train and Tucker of TensorLy with growing ranks, as a user without a search tries them.

:func:`incremental` is the baseline of Hashemizadeh et al. (arXiv 2008.05437): one rank for all bonds, raised until the
parameters are spent. :func:`truncated` gives every bond of a train or a Tucker tensor its own rank, by truncating the
unfoldings at a falling tolerance.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import tensorly as tl
from jaxtyping import Float
from tensorly.decomposition import parafac, tensor_train, tucker

from tensorbench.decomposition.decompose import read_rank


@dataclass(frozen=True)
class Attempt:
    """One fit: its parameters, relative error |X - X̂| / |X|, and the seconds since the first fit began."""

    rank: int
    params: int
    loss: float
    seconds: float


def _cp(tensor: np.ndarray, rank: int, seed: int) -> tuple[np.ndarray, int]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TensorLy warns where a rank is above a mode and columns are drawn at random
        settings = {"n_iter_max": 100, "init": "svd", "tol": 1e-8, "random_state": seed}
        try:
            fitted = parafac(tensor, rank, **settings)
        except np.linalg.LinAlgError:  # an exact fit with columns to spare leaves TensorLy's systems singular
            fitted = parafac(tensor, rank, l2_reg=1e-10 * float(np.sum(tensor**2)), **settings)
    return tl.cp_to_tensor(fitted), rank * sum(tensor.shape)


def _tt(tensor: np.ndarray, rank: int, seed: int) -> tuple[np.ndarray, int]:
    return _train(tensor, _train_ranks(tensor.shape, rank)[1:-1])


def _train(tensor: np.ndarray, ranks: Sequence[int], seed: int = 0) -> tuple[np.ndarray, int]:
    cores = tensor_train(tensor, [1, *ranks, 1])
    return tl.tt_to_tensor(cores), sum(core.size for core in cores)


def _tucker(tensor: np.ndarray, rank: int, seed: int) -> tuple[np.ndarray, int]:
    return _hooi(tensor, [min(rank, size) for size in tensor.shape], seed)


def _hooi(tensor: np.ndarray, ranks: Sequence[int], seed: int) -> tuple[np.ndarray, int]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a rank above the product of the others, which TensorLy lowers
        core, factors = tucker(tensor, list(ranks), n_iter_max=100, random_state=seed)
    return tl.tucker_to_tensor((core, factors)), core.size + sum(factor.size for factor in factors)


def _train_ranks(shape: tuple[int, ...], rank: int) -> list[int]:
    return [1, *read_rank(shape, "tt", rank), 1]


Approximation = tuple[np.ndarray, int]  # and its parameters
FORMATS: dict[str, Callable[[np.ndarray, int, int], Approximation]] = {"cp": _cp, "tt": _tt, "tucker": _tucker}
BY_RANKS: dict[str, Callable[[np.ndarray, Sequence[int], int], Approximation]] = {"tt": _train, "tucker": _hooi}
ROUNDING = 1e-12  # of the norm: a smaller tail of singular values is none


def incremental(
    tensor: Float[np.ndarray, ...], kind: str, max_params: int, *, seed: int = 0, growth: float = 1.0, at: int = 0
) -> list[Attempt]:
    """Fits of rank 1, 2, ... within the parameters.

    Args:
        tensor: N-way array.
        kind: "cp" (ALS, 100 iterations), "tt" (TT-SVD) or "tucker" (HOOI).
        max_params: the last fit is the largest within.
        seed: of random columns.
        growth: ranks grow by this factor, at least by 1 (the paper has 1.5 for CP); the largest rank within the
            parameters is always among them.
        at: a smaller budget whose largest rank is among them too.

    Raises:
        ValueError: unknown kind, growth < 1, or not even rank 1 fits.
    """
    from tensorbench.core.errors import unknown

    if kind not in FORMATS:
        raise ValueError(unknown("format", kind, list(FORMATS)))
    if growth < 1:
        raise ValueError(f"growth must be >= 1, got {growth}")
    shape = tensor.shape

    def params(rank: int) -> int:
        if kind == "cp":
            return rank * sum(shape)
        if kind == "tucker":
            return int(np.prod(np.minimum(shape, rank))) + sum(min(n, rank) * n for n in shape)
        bonds = _train_ranks(shape, rank)
        return sum(bonds[k] * n * bonds[k + 1] for k, n in enumerate(shape))

    if params(1) > max_params:
        raise ValueError(f"max_params {max_params} is below the {params(1)} parameters of rank 1")
    ranks = [1]
    while params(ranks[-1] + 1) <= max_params and params(ranks[-1] + 1) > params(ranks[-1]):
        step = max(1, int(ranks[-1] * (growth - 1)))
        for budget in (max_params, at):
            if params(ranks[-1] + 1) <= budget:
                while params(ranks[-1] + step) > budget:
                    step -= 1
        ranks.append(ranks[-1] + step)
    norm, started, out = np.linalg.norm(tensor), time.perf_counter(), []
    for rank in ranks:
        fitted, size = FORMATS[kind](tensor, rank, seed)
        error = float(np.linalg.norm(fitted - tensor) / norm)
        out.append(Attempt(rank, size, error, time.perf_counter() - started))
    return out


def truncated_ranks(tensor: Float[np.ndarray, ...], kind: str, max_params: int) -> list[tuple[int, ...]]:
    """The rank vectors at a falling tolerance, from all ones to the last within the parameters.

    At tolerance δ each rank is the smallest whose unfolding loses at most δ (the norm of the singular values left out);
    δ runs through all values at which a rank changes. The unfoldings are those of the bonds of a train ("tt") or of the
    modes ("tucker").

    Raises:
        ValueError: another kind, or all ranks 1 do not fit.
    """
    from tensorbench.core.errors import unknown

    if kind not in BY_RANKS:
        raise ValueError(unknown("format", kind, list(BY_RANKS)))
    shape, norm = tensor.shape, float(np.linalg.norm(tensor))
    if kind == "tt":
        unfoldings = [tensor.reshape(int(np.prod(shape[:k])), -1) for k in range(1, len(shape))]
    else:
        unfoldings = [np.moveaxis(tensor, mode, 0).reshape(size, -1) for mode, size in enumerate(shape)]
    tails = []
    for unfolding in unfoldings:  # tails[k][r - 1]: what rank r loses, zero from the numerical rank on
        squares = np.linalg.svd(unfolding, compute_uv=False) ** 2
        lost = np.sqrt(np.append(np.cumsum(squares[:0:-1])[::-1], 0.0))
        tails.append(np.where(lost > ROUNDING * norm, lost, 0.0))

    def params(ranks: Sequence[int]) -> int:
        if kind == "tucker":
            return int(np.prod(ranks)) + sum(r * n for r, n in zip(ranks, shape, strict=True))
        ends = [1, *ranks, 1]
        return sum(ends[k] * n * ends[k + 1] for k, n in enumerate(shape))

    found: list[tuple[int, ...]] = []
    for tolerance in np.unique(np.concatenate(tails))[::-1]:
        ranks = tuple(int(np.argmax(lost <= tolerance)) + 1 for lost in tails)
        if params(ranks) > max_params:
            break
        if not found or ranks != found[-1]:
            found.append(ranks)
    if not found:
        raise ValueError(f"max_params {max_params} is below the {params((1,) * len(tails))} parameters of rank 1")
    return found


def truncated(tensor: Float[np.ndarray, ...], kind: str, max_params: int, *, seed: int = 0) -> list[Attempt]:
    """A train (TT-SVD) or a Tucker tensor (HOOI, 100 iterations) at each of :func:`truncated_ranks`.

    On a planted train or Tucker tensor the last ranks are the planted ones, if the parameters allow them. ``rank`` of
    an attempt is its largest.

    Raises:
        ValueError: as :func:`truncated_ranks`.
    """
    norm, started, out = np.linalg.norm(tensor), time.perf_counter(), []
    for ranks in truncated_ranks(tensor, kind, max_params):
        fitted, size = BY_RANKS[kind](tensor, ranks, seed)
        error = float(np.linalg.norm(fitted - tensor) / norm)
        out.append(Attempt(max(ranks), size, error, time.perf_counter() - started))
    return out
