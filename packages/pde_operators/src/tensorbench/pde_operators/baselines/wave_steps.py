"""Steps of a wave that nothing is trained for: one that knows the equation but not the medium, and none at all.

Both are networks for :class:`~tensorbench.pde_operators.wave_unet.WaveSimulator`, fields (last, present, speed) to one
field: what a trained simulator has to beat.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn


class UniformMedium(nn.Module):
    """The exact step of u_tt = c² Δu with one speed c everywhere, u = 0 on the sides of a square; for ``base="none"``.

    In sine modes of frequency ω = c |k| the wave obeys u_{t+1} = 2 cos(ω τ) u_t − u_{t−1} for any step τ. The speed
    that is given with the fields is not looked at.

    Args:
        n: nodes a side, those on the sides included.
        interval: τ, the time between snapshots.
        spacing: of nodes.

    Raises:
        ValueError: fewer than 3 nodes, an interval, spacing or speed that is not positive; when called, other fields.
    """

    modes: Tensor
    factors: Tensor

    def __init__(self, n: int, *, interval: float, spacing: float, speed: float = 1.0) -> None:
        super().__init__()
        if n < 3:
            raise ValueError(f"n {n} must be at least 3: the nodes on the sides stand still")
        if not (interval > 0 and spacing > 0 and speed > 0):
            raise ValueError(f"interval {interval}, spacing {spacing} and speed {speed} must be positive")
        k = torch.arange(1, n - 1, dtype=torch.float64)
        wave = math.pi * k / ((n - 1) * spacing)
        omega = speed * (wave[:, None].square() + wave.square()).sqrt()
        # Orthonormal and symmetric, its own inverse.
        sines = math.sqrt(2 / (n - 1)) * torch.sin(math.pi * k[:, None] * k / (n - 1))
        self.register_buffer("modes", sines.to(torch.get_default_dtype()))
        self.register_buffer("factors", (2 * torch.cos(omega * interval)).to(torch.get_default_dtype()))

    def forward(self, x: Float[Tensor, "batch 3 n n"]) -> Float[Tensor, "batch 1 n n"]:
        """The next field."""
        inner = len(self.modes)
        if x.ndim != 4 or x.shape[1] < 2 or tuple(x.shape[2:]) != (inner + 2, inner + 2):
            raise ValueError(f"expected fields (batch, 3, {inner + 2}, {inner + 2}), got {tuple(x.shape)}")
        last, now = x[:, 0, 1:-1, 1:-1], x[:, 1, 1:-1, 1:-1]
        step = self.modes @ (self.factors * (self.modes @ now @ self.modes)) @ self.modes - last
        return nn.functional.pad(step, (1, 1, 1, 1))[:, None]


class Persistence(nn.Module):
    """Nothing changes: a zero field, to be added to the last snapshot (``base="last"``)."""

    def forward(self, x: Float[Tensor, "batch 3 n n"]) -> Float[Tensor, "batch 1 n n"]:
        """Zeros."""
        return torch.zeros_like(x[:, :1])
