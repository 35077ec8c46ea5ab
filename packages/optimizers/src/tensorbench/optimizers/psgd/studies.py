"""How the error of a fitter falls: with clean pairs, with noise, with a Hessian that drifts, and in low precision.

Source: X.-L. Li (2024, arXiv 2402.11858), the figure of the three panels and the one on finite precision.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from .fitter import Fitter
from .inverse_free import Geometry
from .kronecker import Kron
from .pairs import DriftingPairs, MatrixPairs, PairSource

Errors = dict[int, float]
_HOPELESS = 1e12  # a fit with such an error, or NaN, is given up


def follow(fitter: Fitter, source: PairSource, at: Iterable[int]) -> Errors:
    """‖P H - I‖_F after each number of updates in ``at``, H the source's target then.

    A fit that blew up (NaN, an error of 1e12, a factorisation that failed) has the error infinity from there on.
    """
    errors: Errors = {}
    done = 0
    for stop in sorted(set(at)):
        try:
            while done < stop:
                fitter.update(*next(source))
                done += 1
            error = fitter.error(source.target)
        except (RuntimeError, ValueError) as problem:  # torch.linalg's LinAlgError is a RuntimeError
            if isinstance(problem, ValueError) and done == 0:
                raise
            error = float("nan")
        if not error < _HOPELESS:
            return errors | {later: float("inf") for later in sorted(set(at)) if later >= stop}
        errors[stop] = error
    return errors


def convergence_study(
    make: Callable[[int], Fitter], H: Float[Tensor, "n n"], at: Iterable[int], generator: torch.Generator
) -> Errors:
    """Clean pairs h = H v; ``make(n)`` gives a fresh fitter."""
    return follow(make(len(H)), MatrixPairs(H, generator), at)


def noise_study(
    make: Callable[[int], Fitter],
    H: Float[Tensor, "n n"],
    at: Iterable[int],
    generator: torch.Generator,
    noise: float = 1e-2,
) -> Errors:
    """Noisy pairs; the error is that against (H² + ε² I)^½."""
    return follow(make(len(H)), MatrixPairs(H, generator, noise), at)


def tracking_study(make: Callable[[int], Fitter], n: int, at: Iterable[int], generator: torch.Generator) -> Errors:
    """H starts with all entries 1/4 and grows by u uᵀ with each pair."""
    start = torch.full((n, n), 0.25, dtype=torch.float64)
    return follow(make(n), DriftingPairs(start, generator), at)


def precision_study(
    geometry: Geometry,
    covariance: list[Float[Tensor, "d d"]],
    at: Iterable[int],
    generators: Mapping[torch.dtype, torch.Generator],
    *,
    lr: float = 0.1,
    damping: float = 1e-9,
) -> dict[torch.dtype, Errors]:
    """Whitening gradients (H₁ ⊗ H₂ ⊗ …) v with Kronecker factors in several precisions.

    The error is the mean square of P g - v over the gradient just seen, as in the paper's study; P g is evaluated in
    the precision of the fit. The gradients are the same in all precisions up to rounding.
    """
    found: dict[torch.dtype, Errors] = {}
    shape = [len(H) for H in covariance]
    for dtype, generator in generators.items():
        fitter = Kron(shape, geometry, lr, max_skew=float("inf"), damping=damping, dtype=dtype, generator=generator)
        draws = torch.Generator().manual_seed(generator.initial_seed())
        errors: Errors = {}
        done = 0
        for stop in sorted(set(at)):
            v = g = torch.empty(0)
            while done < stop:
                v = torch.randn(shape, dtype=torch.float64, generator=draws)
                g = _along_all(covariance, v).to(dtype)
                fitter.whiten(g)
                done += 1
            errors[stop] = float((fitter.apply(g).double() - v).square().mean())
        found[dtype] = errors
    return found


def _along_all(factors: list[Tensor], x: Tensor) -> Tensor:
    for i, H in enumerate(factors):
        x = torch.tensordot(H, x, dims=([1], [i])).movedim(0, i)
    return x
