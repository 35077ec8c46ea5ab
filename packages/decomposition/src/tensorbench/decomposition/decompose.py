"""One call for every discrete format: CP, Tucker, tensor train, tensor ring, Multiple; whole or with missing cells.

    decompose(X, "tucker", rank=3)                      # all cells
    decompose(X, "tt", rank=(2, 4, 2), mask=observed)   # exact least squares on the observed cells only
    choose_rank(X, "cp", mask=observed)                 # the rank that predicts held-out cells best

The fits are the package's own: exact masked ALS for CP and Tucker (``completion.masked_als``), the network engine for
train and ring (``network.als``, arXiv 1606.05535 and 2008.05437), PALS for Multiple (arXiv 2511.09916). What comes back
knows ``full()``, ``num_params()`` and the way to TensorLy, whichever format it is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from numbers import Number

import numpy as np
from jaxtyping import Bool, Float

from tensorbench.core.errors import unknown
from tensorbench.decomposition.completion.masked_als import masked_cp, masked_tucker
from tensorbench.decomposition.formats import CP, TR, TT, Tucker
from tensorbench.decomposition.functional import multiple
from tensorbench.decomposition.functional.pals import multiple_als
from tensorbench.decomposition.network import TensorNetwork, als
from tensorbench.decomposition.network.alternating import check_target
from tensorbench.decomposition.network.ring import chain_structure

Model = CP | Tucker | TT | TR | multiple.MultipleTensor
Rank = int | Sequence[int]
SHARE_HELD_OUT = 0.1  # of the observed cells, for choosing a rank


@dataclass(frozen=True)
class Decomposition:
    """A fitted format.

    Attributes:
        model: the format's container, in the units of the data.
        rank: what was asked for, one number per bond, mode or component.
        relative_error: |M ∘ (X − X̂)| / |M ∘ X|, M the mask.
        history: the same, or what the fit minimises, after every sweep.
        converged: whether the fit stalled before the last sweep.
    """

    format: str
    model: Model
    rank: tuple[int, ...]
    relative_error: float
    history: np.ndarray
    converged: bool

    @property
    def shape(self) -> tuple[int, ...]:
        return self.model.shape

    def num_params(self) -> int:
        return self.model.num_params()

    def full(self) -> Float[np.ndarray, ...]:
        return self.model.full().numpy()

    def to_tensorly(self):
        """TensorLy's own container of the format (Multiple, which TensorLy lacks, as a Tucker tensor)."""
        model = self.model.to_tucker() if isinstance(self.model, multiple.MultipleTensor) else self.model
        return model.to_tensorly()


# ------------------------------------------------------------------ formats

# Each: (shape, rank as given) -> one number per bond, mode or component, no larger than can be of use.


def _one(shape: tuple[int, ...], rank: Rank) -> tuple[int, ...]:
    return _numbers(rank, 1, "the number of components")


def _per_mode(shape: tuple[int, ...], rank: Rank) -> tuple[int, ...]:
    given = _numbers(rank, len(shape), "one rank per mode")
    return tuple(min(r, size) for r, size in zip(given, shape, strict=True))


def _short_sizes(shape: tuple[int, ...], rank: Rank) -> tuple[int, ...]:
    # Short index m joins the factors of the other modes: the size of mode m does not bound it.
    return _numbers(rank, len(shape), "one short size per mode")


def _per_cut(shape: tuple[int, ...], rank: Rank) -> tuple[int, ...]:
    given = _numbers(rank, len(shape) - 1, "one rank per bond of the train, from left to right")
    caps = [min(prod(shape[:k]), prod(shape[k:])) for k in range(1, len(shape))]
    return tuple(min(r, cap) for r, cap in zip(given, caps, strict=True))


def _per_bond(shape: tuple[int, ...], rank: Rank) -> tuple[int, ...]:
    order = len(shape)
    given = _numbers(rank, order, "one rank per bond of the ring, that between the last and the first mode first")
    # Bond k joins cores k - 1 and k; no more than the rest of either core can be of use.
    caps = [min(given[k - 1] * shape[k - 1], shape[k] * given[(k + 1) % order]) for k in range(order)]
    return tuple(min(r, cap) for r, cap in zip(given, caps, strict=True))


def _numbers(rank: Rank, count: int, what: str) -> tuple[int, ...]:
    given = (rank,) * count if isinstance(rank, Number) else tuple(rank)
    if len(given) != count:
        raise ValueError(f"rank {list(given)} has {len(given)} numbers; expected {count}: {what}, or a single number")
    if any(isinstance(r, bool) or int(r) != r or r < 1 for r in given):
        raise ValueError(f"rank {list(given)} must be of whole numbers of at least 1")
    return tuple(int(r) for r in given)


def _tucker_params(shape: tuple[int, ...], rank: tuple[int, ...]) -> int:
    return prod(rank) + sum(r * size for r, size in zip(rank, shape, strict=True))


def _chain_params(shape: tuple[int, ...], rank: tuple[int, ...]) -> int:
    closed = rank if len(rank) == len(shape) else (1, *rank)  # a train is a ring whose first bond is 1
    return sum(closed[k] * size * closed[(k + 1) % len(shape)] for k, size in enumerate(shape))


def _fit_cp(X: np.ndarray, mask: np.ndarray, rank: tuple[int, ...], seed: int, sweeps: int, tol: float):
    fit = masked_cp(X, mask, rank[0], max_sweeps=sweeps, tol=tol, seed=seed)
    return fit.model, fit.observed_error, fit.converged


def _fit_tucker(X: np.ndarray, mask: np.ndarray, rank: tuple[int, ...], seed: int, sweeps: int, tol: float):
    fit = masked_tucker(X, mask, rank, max_sweeps=sweeps, tol=tol, seed=seed)
    return fit.model, fit.observed_error, fit.converged


def _fit_chain(X: np.ndarray, mask: np.ndarray, rank: tuple[int, ...], seed: int, sweeps: int, tol: float):
    seen = None if mask.all() else mask
    fit = als(
        X,
        chain_structure(X.shape, rank),
        mask=seen,
        max_sweeps=sweeps,
        tol=1e-20,
        stall=tol,
        generator=np.random.default_rng(seed),
    )
    cores = _in_order(fit.network)
    model = TT(cores) if len(rank) < X.ndim else TR(cores)
    return model, np.sqrt(fit.history.min(axis=1)), fit.converged


def _in_order(network: TensorNetwork) -> list[np.ndarray]:
    """The cores (r_k, d_k, r_k+1) of a network that is a train or a ring in the order of its vertices."""
    order, cores = network.order, []
    for k, core in enumerate(network.cores):
        before, after = (k - 1) % order, (k + 1) % order
        if order == 2:  # the two neighbours are one
            cores.append(core[None] if k == 0 else core[..., None])
            continue
        rest = [v for v in range(order) if v not in (before, k, after)]
        moved = core.transpose((before, k, after, *rest))
        cores.append(moved.reshape(moved.shape[:3]))
    return cores


def _fit_multiple(X: np.ndarray, mask: np.ndarray, rank: tuple[int, ...], seed: int, sweeps: int, tol: float):
    fit = multiple_als(X, rank, None if mask.all() else mask, max_iter=sweeps, tol=tol, init="svd", seed=seed)
    return fit.tensor, fit.objective, fit.converged


@dataclass(frozen=True)
class Format:
    """How a format reads a rank, counts its parameters and is fitted."""

    read: Callable[[tuple[int, ...], Rank], tuple[int, ...]]
    params: Callable[[tuple[int, ...], tuple[int, ...]], int]
    fit: Callable[..., tuple[Model, np.ndarray, bool]]
    fewest_modes: int = 2


FORMATS = {
    "cp": Format(_one, lambda shape, rank: rank[0] * (1 + sum(shape)), _fit_cp),  # weights and factors
    "tucker": Format(_per_mode, _tucker_params, _fit_tucker),
    "tt": Format(_per_cut, _chain_params, _fit_chain),
    "ring": Format(_per_bond, _chain_params, _fit_chain, fewest_modes=3),
    "multiple": Format(_short_sizes, multiple.num_params, _fit_multiple, fewest_modes=3),
}


# ------------------------------------------------------------------ fitting and choosing


def _observed(X: np.ndarray, mask: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    if np.iscomplexobj(X):
        raise ValueError("X is complex; real numbers are needed")
    X = np.asarray(X, dtype=np.float64)
    return X, ~np.isnan(X) if mask is None else np.asarray(mask, dtype=bool)


def decompose(
    X: Float[np.ndarray, ...],
    format: str,
    rank: Rank,
    *,
    mask: Bool[np.ndarray, ...] | None = None,
    max_sweeps: int = 100,
    tol: float = 1e-6,
    seed: int = 0,
) -> Decomposition:
    """Fit ``format`` (cp, tucker, tt, ring, multiple) to ``X`` by alternating least squares.

    Args:
        rank: one number for all, or: components (cp), core shape (tucker), bonds from left to right (tt), bonds with
            that between the last and the first mode first (ring), short sizes (multiple). Ranks that cannot be of use
            are lowered.
        mask: True where a cell is observed; the others may hold anything, NaN too. By default: where X is not NaN.
        tol: stop when the error falls by less than this part of itself in a sweep.

    Raises:
        ValueError: unknown format, a rank that does not fit it, fewer modes than it needs, bad X or mask (a slice
            without observed cells, infinities, all zeros).
    """
    if format not in FORMATS:
        raise ValueError(unknown("format", format, FORMATS))
    X, mask = _observed(X, mask)
    X, mask, norm = check_target(X, mask)
    kind = FORMATS[format]
    if X.ndim < kind.fewest_modes:
        raise ValueError(f"{format} needs {kind.fewest_modes} modes or more, X has shape {X.shape}; use tt or tucker")
    numbers = kind.read(X.shape, rank)
    model, history, converged = kind.fit(X, mask, numbers, seed, max_sweeps, tol)
    error = float(np.linalg.norm((model.full().numpy() - X)[mask]) / norm)
    return Decomposition(format, model, numbers, error, np.asarray(history), bool(converged))


def read_rank(shape: Sequence[int], format: str, rank: Rank) -> tuple[int, ...]:
    """What :func:`decompose` makes of ``rank``: a number per bond, mode or component, lowered where it is of no use."""
    if format not in FORMATS:
        raise ValueError(unknown("format", format, FORMATS))
    return FORMATS[format].read(tuple(shape), rank)


def params_of(shape: Sequence[int], format: str, rank: Rank) -> int:
    """Parameters of ``format`` at ``rank``, as ``num_params()`` of its container counts them."""
    numbers = read_rank(shape, format, rank)
    return int(FORMATS[format].params(tuple(shape), numbers))


@dataclass(frozen=True)
class Rung:
    """One rank that was tried: errors are relative to the norm of the cells that they are about."""

    rank: tuple[int, ...]
    params: int
    train_error: float
    held_error: float
    seconds: float


@dataclass(frozen=True)
class Choice:
    """The chosen rank, every rung that led to it, and the final fit on all observed cells."""

    best: Rung
    path: list[Rung]
    decomposition: Decomposition


def hold_out(mask: Bool[np.ndarray, ...], share: float, rng: np.random.Generator) -> Bool[np.ndarray, ...]:
    """A random ``share`` of the observed cells that leaves every slice of every mode at least one."""
    held = mask & (rng.random(mask.shape) < share)
    for mode in range(mask.ndim):
        axes = tuple(axis for axis in range(mask.ndim) if axis != mode)
        for i in np.flatnonzero(mask.any(axis=axes) & ~(mask & ~held).any(axis=axes)):
            part = np.moveaxis(held, mode, 0)[i]
            first = np.unravel_index(int(np.argmax(part)), part.shape)
            part[first] = False  # a view: the cell is given back to the fit
    return held


def choose_rank(
    X: Float[np.ndarray, ...],
    format: str,
    *,
    mask: Bool[np.ndarray, ...] | None = None,
    held: Bool[np.ndarray, ...] | None = None,
    ranks: Sequence[Rank] = (1, 2, 3, 4, 6, 8, 12, 16),
    max_share: float = 0.5,
    patience: int = 2,
    seed: int = 0,
    on_rung: Callable[[Rung, Decomposition], None] | None = None,
    **options,
) -> Choice:
    """Climb ``ranks`` until held-out cells are no longer predicted better, then fit all observed cells at the best.

    Args:
        held: observed cells to judge by (default: a random tenth of them).
        ranks: in growing order; those with more parameters than ``max_share`` of the cells fitted to are left out.
        patience: rungs in a row without an improvement after which climbing ends.
        on_rung: called after each, with its fit to the cells that are not held out.
        **options: of :func:`decompose`.

    Raises:
        ValueError: as :func:`decompose`; no rank within the parameters allowed.
    """
    X, mask = _observed(X, mask)
    held = hold_out(mask, SHARE_HELD_OUT, np.random.default_rng(seed)) if held is None else np.asarray(held, dtype=bool)
    if held.shape != X.shape or (held & ~mask).any() or not held.any():
        raise ValueError(
            f"held has shape {held.shape} and {int(held.sum())} cells; it must mark some of the observed cells of X, "
            f"whose shape is {X.shape}, and no others"
        )
    seen = mask & ~held
    path: list[Rung] = []
    tried: set[tuple[int, ...]] = set()
    for rank in ranks:
        numbers, params = read_rank(X.shape, format, rank), params_of(X.shape, format, rank)
        if params > max_share * seen.sum() or numbers in tried:
            continue
        tried.add(numbers)
        started = time.perf_counter()
        fit = decompose(X, format, rank, mask=seen, seed=seed, **options)
        seconds = time.perf_counter() - started
        error = np.linalg.norm((fit.full() - X)[held]) / np.linalg.norm(X[held])
        path.append(Rung(fit.rank, params, fit.relative_error, float(error), seconds))
        if on_rung:
            on_rung(path[-1], fit)
        best = min(range(len(path)), key=lambda k: path[k].held_error)
        if len(path) - 1 - best >= patience:
            break
    if not len(ranks):
        raise ValueError("ranks is empty; give ranks to try, smallest first")
    if not path:
        raise ValueError(
            f"{format} at rank {ranks[0]} has {params_of(X.shape, format, ranks[0])} parameters, more than "
            f"max_share {max_share:g} of {int(seen.sum())} cells; raise max_share or take another format"
        )
    rung = min(path, key=lambda step: step.held_error)
    rank = rung.rank[0] if format == "cp" else rung.rank
    return Choice(rung, path, decompose(X, format, rank, mask=mask, seed=seed, **options))
