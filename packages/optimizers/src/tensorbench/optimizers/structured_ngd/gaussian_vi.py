"""Gaussian variational inference by natural gradients in normal coordinates (Lin et al. 2023, arXiv 2302.09738,
section 3.3: mean and covariance as one positive-definite matrix).

The posterior exp(logp) is approximated by N(μ, L Lᵀ), L in a structured group, by minimising
−E[logp] − ½ log det Σ over A = [[L, μ], [0, 1]]. In the coordinates at A the gradient is

    S₁₁ = −½ E[sym(Lᵀ ∇logp εᵀ)] − ½ I   or   −½ E[Lᵀ ∇²logp L] − ½ I,     v = −E[Lᵀ ∇logp],     θ = μ + L ε

(reparametrisation, and Bonnet's and Price's theorems, also called Stein's lemma); the step is, to first order,
μ ← μ − lr L v, L ← L (I − lr project(S₁₁)), without any inverse or factorisation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from tensorbench.core.errors import unknown

from ..base import in_interval, positive, whole
from .spd import Order
from .structures import GaussianEmbedding, Pattern

Estimator = Literal["reparametrise", "stein"]
LogDensity = Callable[[Float[Tensor, "samples n"]], Float[Tensor, " samples"]]


class GaussianVI:
    """N(mean, L Lᵀ) and its natural-gradient updates.

    Args:
        logp: log of the unnormalised posterior at each row of a matrix of parameters (an estimate will do).
        structure: of L, a :class:`Pattern` (``Dense``, ``LowerTriangular``, ``BlockTriangular``, ``BlockDiagonal``
            with blocks of 1 for a diagonal, …); its ``dim`` is the number of parameters.
        lr, beta, order: as for ``RGDMomentum``, in the Fisher metric.
        samples: draws per step. ``estimator``: ``reparametrise`` needs first derivatives, ``stein`` second ones.
        curvature: for ``stein``, the Hessians of logp at the rows; by automatic differentiation where it is not given.
    """

    def __init__(
        self,
        logp: LogDensity,
        structure: Pattern,
        *,
        lr: float = 0.1,
        beta: float = 0.0,
        order: Order = 2,
        samples: int = 10,
        estimator: Estimator = "reparametrise",
        curvature: Callable[[Float[Tensor, "samples n"]], Float[Tensor, "samples n n"]] | None = None,
        mean: Float[Tensor, " n"] | None = None,
        scale: float = 1.0,
        generator: torch.Generator | None = None,
        dtype: torch.dtype = torch.float64,
    ) -> None:
        if not isinstance(structure, Pattern):
            raise ValueError(
                f"structure must be a Pattern (BlockDiagonal(n, 1) is diagonal), got {type(structure).__name__}"
            )
        if estimator not in ("reparametrise", "stein"):
            raise ValueError(unknown("estimator", str(estimator), ["reparametrise", "stein"]))
        n = structure.dim
        self.logp, self.lr, self.beta, self.order = logp, positive("lr", lr), in_interval("beta", beta, 0, 1), order
        self.samples, self.estimator, self.curvature = whole("samples", samples), estimator, curvature
        self.generator = generator if generator is not None else torch.Generator().manual_seed(0)
        self.embedding = GaussianEmbedding(n + 1, structure)
        start = torch.zeros(n, dtype=dtype) if mean is None else mean.to(dtype)
        if start.shape != (n,):
            raise ValueError(f"mean has shape {tuple(start.shape)}, the structure dim {n}")
        self.A = self.embedding.pack(start, positive("scale", scale) * torch.eye(n, dtype=dtype))
        self.m = torch.zeros_like(self.A)

    @property
    def mean(self) -> Float[Tensor, " n"]:
        return self.embedding.unpack(self.A)[0]

    @property
    def L(self) -> Float[Tensor, "n n"]:
        return self.embedding.unpack(self.A)[1]

    @property
    def covariance(self) -> Float[Tensor, "n n"]:
        return self.L @ self.L.mT

    def gradient(self) -> Float[Tensor, "m m"]:
        """S = Aᵀ (∂f/∂τ) A of the embedded Gaussian, estimated from new draws."""
        mean, L = self.embedding.unpack(self.A)
        half = self.samples // 2
        e = torch.randn(self.samples - half, len(mean), generator=self.generator, dtype=L.dtype)
        e = torch.cat([e, -e[:half]])  # antithetic
        theta = (mean + e @ L.mT).requires_grad_()
        (g,) = torch.autograd.grad(self.logp(theta).sum(), theta)
        if not bool(torch.isfinite(g).all()):
            raise ValueError("the gradient of logp has NaN or infinity; no step was made; use a smaller lr or scale")
        gL = g @ L
        if self.estimator == "stein":
            H = self._hessians(theta.detach()).mean(0)
            inner = L.mT @ H @ L
        else:
            inner = gL.mT @ e / len(e)
            inner = (inner + inner.mT) / 2
        S = torch.zeros_like(self.A)
        S[:-1, :-1] = -inner / 2
        S[:-1, :-1].diagonal().sub_(0.5)
        S[:-1, -1] = S[-1, :-1] = -gL.mean(0) / 2
        return S

    def _hessians(self, theta: Float[Tensor, "samples n"]) -> Float[Tensor, "samples n n"]:
        if self.curvature is not None:
            return self.curvature(theta)
        return torch.func.vmap(torch.func.hessian(lambda row: self.logp(row[None])[0]))(theta)

    def step(self) -> None:
        """One update from new draws.

        Raises:
            ValueError: the gradient of logp is not finite; mean and covariance stay.
        """
        self.m = self.beta * self.m + self.embedding.project(self.gradient())
        self.A = self.embedding.retract(self.A, -self.lr * self.m, self.order)

    def fit(self, steps: int, callback: Callable[[int], None] | None = None) -> GaussianVI:
        """``steps`` updates; returns itself."""
        for k in range(1, steps + 1):
            self.step()
            if callback is not None:
                callback(k)
        return self
