"""What a structure is worth: compression + λ · relative squared error of the best fit, evaluated once per structure.

f(structure) = params / ∏dims + λ · min over restarts of |X − X̂|² / |X|²   (Li et al., arXiv 2206.06597, 2304.12875).

An *evaluation* is a fit of a structure not fitted before; structures are told apart by their canonical form, so that
the 2N rotations and reflections of a ring count once. The randomness of a fit comes from (seed, canonical form)
alone: the value of a structure does not depend on when, or in which process, it was evaluated.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Protocol

import numpy as np
from jaxtyping import Float

from ..network import Fit, TensorNetwork, als, warm_start
from .space import Structure

log = logging.getLogger(__name__)
SOLVERS = ("als", "adam")


class Objective(Protocol):
    """What a search needs: errors of structures, their combination with the parameter count, and a counter."""

    evaluations: int

    def errors(self, structures: Sequence[Structure]) -> list[float]:
        """Relative squared error of each structure, fitted if new."""
        ...

    def combine(self, structure: Structure, error: float) -> float:
        """Objective value from an error (measured or interpolated)."""
        ...


@dataclass(frozen=True)
class FitSettings:
    solver: str
    repeats: int
    max_iter: int
    tol: float
    stall: float
    seed: int
    lr: float


def fit_structure(
    target: np.ndarray, key: tuple[tuple[int, ...], ...], settings: FitSettings, start: TensorNetwork | None = None
) -> Fit:
    """Fit one canonical structure; restarts drawn from (seed, structure)."""
    digest = hashlib.blake2b(repr((settings.seed, key)).encode(), digest_size=16).digest()
    generator = np.random.default_rng(int.from_bytes(digest, "little"))
    ranks = np.array(key)
    shaped = target.reshape(target.shape + (1,) * (len(ranks) - target.ndim))
    np.fill_diagonal(ranks, shaped.shape)  # a compressed target has smaller modes than the structure
    first = None if start is None else warm_start(start, ranks, generator)
    if settings.solver == "als":
        return als(
            shaped,
            ranks,
            generator=generator,
            start=first,
            repeats=settings.repeats,
            max_sweeps=settings.max_iter,
            tol=settings.tol,
            stall=settings.stall,
        )
    from ..network.adam import fit_adam  # torch is not needed by the ALS back end

    return fit_adam(
        shaped,
        ranks,
        generator=generator,
        start=first,
        repeats=settings.repeats,
        max_steps=settings.max_iter,
        lr=settings.lr,
        tol=settings.tol,
    )


class StructureObjective:
    """The objective of a target tensor.

    Args:
        target: N-way array, finite and not zero.
        lam: weight λ of the relative squared error against the compression ratio.
        solver: "als" or "adam".
        repeats: restarts per structure, the best counts.
        max_iter: sweeps (als, default 40) or steps (adam, default 10 000).
        tol: relative squared error at which a fit stops (default: als 1e-9, adam 1e-8).
        stall: ALS stops when no restart improves by this fraction in a sweep.
        cache: keep errors per canonical structure; without it every call fits (and counts) again.
        seed: enters the random starts of every fit.
        workers: processes that share a batch of structures; 1 = in this process.
        dims: mode sizes that structures (and their parameter counts) refer to, when ``target`` is the small core of an
            orthogonal compression of the tensor proper; default ``target.shape``.
        transfer: start the first restart from the cores of ``start`` when ``errors`` is given one ("knowledge
            transfer"). A value then depends on the path of the search.

    Raises:
        ValueError: target zero, not finite or of fewer than 2 modes, lam <= 0, repeats or workers < 1, unknown solver.
    """

    def __init__(
        self,
        target: Float[np.ndarray, ...],
        lam: float = 200.0,
        solver: str = "als",
        repeats: int = 2,
        max_iter: int | None = None,
        tol: float | None = None,
        stall: float = 0.0,
        cache: bool = True,
        seed: int = 0,
        workers: int = 1,
        transfer: bool = False,
        dims: Sequence[int] | None = None,
        lr: float = 1e-3,
    ):
        self.target = np.asarray(target, dtype=np.float64)
        if self.target.ndim < 2:
            raise ValueError(f"target must have at least 2 modes, got shape {self.target.shape}")
        if not np.isfinite(self.target).all():
            where = tuple(int(i) for i in np.argwhere(~np.isfinite(self.target))[0])
            raise ValueError(f"target is not finite at index {where}")
        if not self.target.any():
            raise ValueError("target is zero: every structure fits it, the relative error is undefined")
        if not lam > 0:
            raise ValueError(f"lam must be > 0, got {lam}: without the error the smallest network always wins")
        if solver not in SOLVERS:
            from tensorbench.core.errors import unknown

            raise ValueError(unknown("solver", solver, SOLVERS))
        if repeats < 1 or workers < 1:
            raise ValueError(f"repeats and workers must be >= 1, got {repeats} and {workers}")
        max_iter = (40 if solver == "als" else 10_000) if max_iter is None else max_iter
        tol = (1e-9 if solver == "als" else 1e-8) if tol is None else tol
        self.dims = tuple(int(d) for d in (self.target.shape if dims is None else dims))
        if len(self.dims) != self.target.ndim or any(d < s for d, s in zip(self.dims, self.target.shape, strict=True)):
            raise ValueError(f"dims {self.dims} cannot be those of a tensor with a core of shape {self.target.shape}")
        self.lam = float(lam)
        self.settings = FitSettings(solver, repeats, max_iter, tol, stall, seed, lr)
        self.keep = cache
        self.workers = workers
        self.transfer = transfer
        self.cache: dict[tuple, float] = {}
        self.networks: dict[tuple, TensorNetwork] = {}
        self.evaluations = 0
        self._pool: ProcessPoolExecutor | None = None

    def errors(self, structures: Sequence[Structure], start: Structure | None = None) -> list[float]:
        """Relative squared error of each structure; new canonical structures are fitted, in parallel if asked."""
        keys = [self._checked(s).key for s in structures]
        new = list(dict.fromkeys(k for k in keys if k not in self.cache))
        origin = self.networks.get(start.key) if self.transfer and start is not None else None
        if self.workers > 1 and len(new) > 1:
            fits = list(self._executor().map(_fit_in_worker, new, [self.settings] * len(new), [origin] * len(new)))
        else:
            fits = [fit_structure(self.target, key, self.settings, origin) for key in new]
        self.evaluations += len(new)
        found = {key: fit.rse for key, fit in zip(new, fits, strict=True)}
        if self.keep:
            self.cache.update(found)
        if self.transfer:
            self.networks.update({key: fit.network for key, fit in zip(new, fits, strict=True)})
        return [found.get(key, self.cache.get(key, np.nan)) for key in keys]

    def combine(self, structure: Structure, error: float) -> float:
        return structure.compression + self.lam * error

    def __call__(self, structure: Structure) -> float:
        return self.combine(structure, self.errors([structure])[0])

    def fit(self, structure: Structure) -> Fit:
        """The fitted network itself (fitted again; the same restarts, so the same error)."""
        return fit_structure(self.target, self._checked(structure).key, self.settings)

    def close(self) -> None:
        """End the worker processes."""
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None

    def __enter__(self) -> StructureObjective:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _checked(self, structure: Structure) -> Structure:
        if structure.dims != self.dims:
            raise ValueError(f"structure is for modes {structure.dims}, the target has shape {self.dims}")
        return structure

    def _executor(self) -> ProcessPoolExecutor:
        if self._pool is None:  # spawn: a fork of a process with running BLAS threads may hang
            self._pool = ProcessPoolExecutor(
                self.workers, mp_context=get_context("spawn"), initializer=_set_target, initargs=(self.target,)
            )
        return self._pool


_WORKER: dict[str, np.ndarray] = {}  # the target of a worker process, sent once


def _set_target(target: np.ndarray) -> None:
    _WORKER["target"] = target


def _fit_in_worker(key: tuple, settings: FitSettings, start: TensorNetwork | None) -> Fit:
    return fit_structure(_WORKER["target"], key, settings, start)


class WithinParameters:
    """The smallest error with at most ``params`` parameters: structures above are refused without a fit.

    Raises ValueError when ``params`` < 1.
    """

    def __init__(self, objective: StructureObjective, params: int):
        if params < 1:
            raise ValueError(f"params must be >= 1, got {params}")
        self.objective = objective
        self.params = params
        self.dims = objective.dims

    @property
    def evaluations(self) -> int:
        return self.objective.evaluations

    def admissible(self, structure: Structure) -> bool:
        return structure.params <= self.params

    def errors(self, structures: Sequence[Structure], start: Structure | None = None) -> list[float]:
        """Relative squared errors; 1 (nothing explained) for structures above the budget."""
        inside = [s for s in structures if self.admissible(s)]
        found = dict(zip((s.key for s in inside), self.objective.errors(inside, start), strict=True))
        return [found.get(s.key, 1.0) for s in structures]

    def combine(self, structure: Structure, error: float) -> float:
        """The error; above the budget more than any error, growing with the excess."""
        return error if self.admissible(structure) else 1.0 + structure.params / self.params


class FunctionObjective:
    """A landscape given by a function of the structure instead of a fit (for theory and tests); counts like a fit.

    Args:
        error: error of a structure.
        combine: objective from (structure, error); default the error itself.
    """

    def __init__(
        self,
        error: Callable[[Structure], float],
        combine: Callable[[Structure, float], float] | None = None,
    ):
        self.function = error
        self.combination = combine
        self.cache: dict[tuple, float] = {}
        self.evaluations = 0

    def errors(self, structures: Sequence[Structure], start: Structure | None = None) -> list[float]:
        for structure in structures:
            if structure.key not in self.cache:
                self.cache[structure.key] = float(self.function(structure))
                self.evaluations += 1
        return [self.cache[s.key] for s in structures]

    def combine(self, structure: Structure, error: float) -> float:
        return error if self.combination is None else self.combination(structure, error)

    def __call__(self, structure: Structure) -> float:
        return self.combine(structure, self.errors([structure])[0])
