"""Problems over positive-definite matrices with known minima, on which Riemannian methods are compared (those of Lin et
al. 2023, arXiv 2302.09738, section 4.1, and its references). Gradients are Euclidean and symmetric, in closed form; τ
may be a batch of matrices where the problem has several.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from tensorbench.core.errors import unknown

from ..base import whole
from .spd import sym


@dataclass(frozen=True)
class Problem:
    """min f(τ): the value and its gradient, where to start, and the least value (for the mixture that of the local
    minimum which EM finds from the same start)."""

    name: str
    value: Callable[[Tensor], Float[Tensor, ""]]
    egrad: Callable[[Tensor], Tensor]
    start: Float[Tensor, "*batch d d"]
    minimum: float

    def gap(self, tau: Tensor) -> float:
        """f(τ) − f*."""
        return float(self.value(tau)) - self.minimum


def planted(d: int, generator: torch.Generator, condition: float = 10.0) -> Float[Tensor, "d d"]:
    """A positive-definite matrix with eigenvalues spread evenly in logarithm from 1/√condition to √condition."""
    Q = torch.linalg.qr(torch.randn(d, d, generator=generator, dtype=torch.float64))[0]
    half = math.log10(condition) / 2
    return sym((Q * torch.logspace(-half, half, d, dtype=torch.float64)) @ Q.T)


def metric_nearness(d: int, generator: torch.Generator, samples: int | None = None) -> Problem:
    """f(τ) = 1/(2N) Σ ‖τ xᵢ − Q xᵢ‖² for a planted Q; least value 0 at Q."""
    n = samples or 5 * whole("d", d)
    Q = planted(d, generator)
    X = torch.randn(n, d, generator=generator, dtype=torch.float64)
    M = X.T @ X / n

    def residual(tau: Tensor) -> Tensor:
        return (tau - Q) @ M

    return Problem(
        "metric_nearness",
        lambda tau: ((tau - Q) * residual(tau)).sum() / 2,
        lambda tau: sym(residual(tau)),
        _eye(d),
        0.0,
    )


def log_determinant(d: int, generator: torch.Generator) -> Problem:
    """f(τ) = tr(Wτ) − log det τ for a planted W; least value d + log det W at W⁻¹."""
    W = planted(whole("d", d), generator)
    return Problem(
        "log_determinant",
        lambda tau: (W * tau).sum() - torch.linalg.slogdet(tau)[1],
        lambda tau: W - torch.cholesky_inverse(torch.linalg.cholesky(tau)),
        _eye(d),
        float(d + torch.linalg.slogdet(W)[1]),
    )


def trace_regression(d: int, generator: torch.Generator, samples: int | None = None) -> Problem:
    """f(τ) = 1/(2N) Σ (xᵢᵀ τ xᵢ − yᵢ)² with yᵢ = xᵢᵀ Q xᵢ for a planted Q and unit vectors √d·xᵢ; least value 0."""
    n = samples or 2 * whole("d", d) ** 2
    Q = planted(d, generator)
    X = torch.randn(n, d, generator=generator, dtype=torch.float64) / d**0.25

    def residual(tau: Tensor) -> Tensor:
        return ((X @ (tau - Q)) * X).sum(1)

    return Problem(
        "trace_regression",
        lambda tau: residual(tau).square().mean() / 2,
        lambda tau: sym((X * residual(tau)[:, None]).T @ X / n),
        _eye(d),
        0.0,
    )


def gaussian_mixture(data: Float[Tensor, "samples n"], components: int, generator: torch.Generator) -> Problem:
    """Negative log-likelihood per sample of a Gaussian mixture with equal weights, each component one matrix
    [[Σ + μμᵀ, μ], [μᵀ, 1]] of the augmented samples [x; 1] (Hosseini and Sra 2015).

    The start is the mean and covariance of each component's random share of the data; the least value is that of the
    local minimum to which EM goes from there.
    """
    n, features = data.shape
    Y = torch.cat([data, data.new_ones(n, 1)], 1)
    shares = torch.rand(n, whole("components", components), generator=generator, dtype=data.dtype) ** 3
    start = _moments(Y, shares)

    def log_parts(tau: Tensor) -> tuple[Tensor, Tensor]:
        L = torch.linalg.cholesky(tau)
        inverse = torch.cholesky_inverse(L)
        quadratic = torch.einsum("ni,kij,nj->nk", Y, inverse, Y)
        logs = -quadratic / 2 - L.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return logs + (1 - features * math.log(2 * math.pi)) / 2 - math.log(components), inverse

    def value(tau: Tensor) -> Tensor:
        return -torch.logsumexp(log_parts(tau)[0], 1).mean()

    def egrad(tau: Tensor) -> Tensor:
        logs, inverse = log_parts(tau)
        share = logs.softmax(1)
        seen = torch.einsum("nk,ni,nj->kij", share, Y, Y) / n
        weight = share.mean(0)[:, None, None]
        return sym(inverse @ (weight * tau - seen) @ inverse) / 2

    tau, before = start, math.inf
    for _ in range(5000):
        tau = _moments(Y, log_parts(tau)[0].softmax(1))
        now = float(value(tau))
        if before - now < 1e-15:
            break
        before = now
    return Problem("gaussian_mixture", value, egrad, start, float(value(tau)))


def _moments(Y: Tensor, shares: Tensor) -> Float[Tensor, "k d d"]:
    return sym(torch.einsum("nk,ni,nj->kij", shares, Y, Y) / shares.sum(0)[:, None, None])


def _eye(d: int) -> Float[Tensor, "d d"]:
    return torch.eye(d, dtype=torch.float64)


PROBLEMS = {
    "metric_nearness": metric_nearness,
    "log_determinant": log_determinant,
    "trace_regression": trace_regression,
}


def problem(name: str, d: int, generator: torch.Generator) -> Problem:
    """A generated problem by name.

    Raises:
        ValueError: an unknown name.
    """
    if name not in PROBLEMS:
        raise ValueError(unknown("problem", name, PROBLEMS))
    return PROBLEMS[name](d, generator)
