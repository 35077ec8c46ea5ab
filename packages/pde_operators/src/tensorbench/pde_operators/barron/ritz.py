"""Deep Ritz, the trained baseline: a two-layer network that minimises the energy by stochastic gradients.

W. E, B. Yu (2018), "The deep Ritz method", arXiv 1710.00211, in its smallest form: the same network that Barron's
theorem speaks of, times a factor that vanishes on the boundary of the unit cube; the energy of
-Δu + c u + 4 a u³ = f by uniform random points.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tensorbench.core.training import History, fit


class RitzNet(nn.Module):
    """x ↦ Π 4 x_i (1 - x_i) · Σ_j a_j tanh(w_j·x + b_j)."""

    def __init__(self, d: int, width: int, generator: torch.Generator, spread: float = 4.0) -> None:
        super().__init__()
        self.inner = nn.Parameter(spread * torch.randn(width, d, generator=generator))
        # Kinks within the cube: w·(x - x_0) for x_0 uniform.
        centres = torch.rand(width, d, generator=generator)
        self.bias = nn.Parameter(-(self.inner.detach() * centres).sum(dim=1))
        self.outer = nn.Parameter(torch.randn(width, generator=generator) / width)

    def forward(self, x: Float[Tensor, "points d"]) -> Float[Tensor, " points"]:
        return (4 * x * (1 - x)).prod(dim=1) * (torch.tanh(x @ self.inner.T + self.bias) @ self.outer)

    def with_gradient(self, x: Float[Tensor, "points d"]) -> tuple[Tensor, Tensor]:
        """Values (points,) and gradients (points, d), in closed form."""
        bump = 4 * x * (1 - x)
        factor = bump.prod(dim=1)
        others = [torch.cat([bump[:, :i], bump[:, i + 1 :]], dim=1).prod(dim=1) for i in range(x.shape[1])]
        slopes = 4 * (1 - 2 * x) * torch.stack(others, dim=1)
        hidden = torch.tanh(x @ self.inner.T + self.bias)
        net = hidden @ self.outer
        inside = ((1 - hidden**2) * self.outer) @ self.inner
        return factor * net, slopes * net[:, None] + factor[:, None] * inside


def train_ritz(
    net: RitzNet,
    source: Callable[[Tensor], Tensor],
    *,
    reaction: float,
    quartic: float,
    steps: int,
    generator: torch.Generator,
    points: int = 1024,
    lr: float = 1e-2,
    log: Callable[..., None] | None = None,
    log_every: int = 50,
) -> History:
    """Minimise ∫ |∇u|²/2 + c u²/2 + a u⁴ - f u in place with Adam and a cosine schedule."""
    d = net.inner.shape[1]

    def batches() -> list[Tensor]:
        return [torch.rand(points, d, generator=generator)]

    def loss(model: nn.Module, x: Tensor) -> Tensor:
        assert isinstance(model, RitzNet)
        u, p = model.with_gradient(x)
        return (0.5 * (p**2).sum(dim=1) + 0.5 * reaction * u**2 + quartic * u**4 - source(x) * u).mean()

    optimizer = torch.optim.Adam(net.parameters(), lr=lr)
    return fit(net, batches, loss, optimizer, steps=steps, schedule="cosine", log=log, log_every=log_every)
