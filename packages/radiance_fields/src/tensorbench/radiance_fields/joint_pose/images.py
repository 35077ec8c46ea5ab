"""Pictures to be learnt: low-rank under a blur, and a network with BARF's masked frequencies.

All take points (n, 2) in [−1, 1]² and answer colours (n, 3); each uses of ``width`` (the blur, shares of the grid's
side), ``kind`` (of the kernel) and ``progress`` (share of the steps) what it understands.
"""

from __future__ import annotations

import itertools
import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from tensorbench.radiance_fields.joint_pose.kernels import blur_matrix, make_kernel
from tensorbench.radiance_fields.joint_pose.schedules import BarfSchedule


class CPImage(nn.Module):
    """Σ_r x_r ∘ y_r for each colour on a square grid over [−1, 1]² (Cheng, Chiu and Liu 2024, the authors' code).

    Blurred factor by factor, multiplied out and read bilinearly.
    """

    def __init__(self, size: int, rank: int, generator: torch.Generator) -> None:
        super().__init__()
        if size < 2 or rank < 1:
            raise ValueError(f"size {size} and rank {rank}: at least 2 cells and rank 1")
        self.x = nn.Parameter(0.1 * torch.randn(3, rank, size, generator=generator))
        self.y = nn.Parameter(0.1 * torch.randn(3, rank, size, generator=generator))

    def picture(self, width: float = 0.0, kind: str = "gaussian") -> Float[Tensor, "3 n n"]:
        """The grid (colour, y, x), blurred by ``width`` of its side."""
        x: Tensor = self.x
        y: Tensor = self.y
        n = x.shape[-1]
        sigma = width * n
        if sigma >= 1e-3:
            kernel = make_kernel(kind, sigma).values(x)
            # A kernel reaches no further than the whole axis to each side.
            reach = min(len(kernel) // 2, n)
            middle = len(kernel) // 2
            matrix = blur_matrix(kernel[middle - reach : middle + reach + 1], n)
            x, y = x @ matrix.mT, y @ matrix.mT
        return torch.einsum("cry,crx->cyx", y, x)

    def forward(
        self, points: Float[Tensor, "n 2"], width: float = 0.0, kind: str = "gaussian", progress: float = 1.0
    ) -> Float[Tensor, "n 3"]:
        """Colours; not limited to [0, 1]."""
        grid = self.picture(width, kind)[None]
        values = F.grid_sample(grid, points[None, None], align_corners=False, padding_mode="border")
        return values[0, :, 0].mT

    def tv(self) -> Float[Tensor, ""]:
        """Squared differences of neighbours along both factors, over cells and ranks."""
        total = sum((f[..., 1:] - f[..., :-1]).square().sum() / f[0].numel() for f in (self.x, self.y))
        assert isinstance(total, Tensor)
        return total


class BarfImage(nn.Module):
    """A network on the point and sines of it, whose frequencies come in one after the other (Lin et al. 2021)."""

    def __init__(
        self, generator: torch.Generator, *, width: int = 128, depth: int = 3, levels: int = 8,
        schedule: BarfSchedule | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.levels, self.schedule = levels, schedule
        inputs = 2 + 4 * levels
        sizes = [inputs, *[width] * depth, 3]
        self.layers = nn.ModuleList(nn.utils.skip_init(nn.Linear, a, b) for a, b in itertools.pairwise(sizes))
        with torch.no_grad():
            for k, (layer, count) in enumerate(zip(self.layers, sizes[:-1], strict=True)):
                bound = 1 / math.sqrt(count)
                # The frequencies are off at first: the first layer is scaled to the two inputs that are on.
                bound *= math.sqrt(inputs / 2) if k == 0 and schedule is not None else 1.0
                for p in layer.parameters():
                    p.uniform_(-bound, bound, generator=generator)

    def forward(
        self, points: Float[Tensor, "n 2"], width: float = 0.0, kind: str = "gaussian", progress: float = 1.0
    ) -> Float[Tensor, "n 3"]:
        """Colours in (0, 1)."""
        k = 2.0 ** torch.arange(self.levels, dtype=points.dtype, device=points.device) * math.pi
        phase = points[..., None] * k
        waves = torch.stack([phase.sin(), phase.cos()], -2)
        if self.schedule is not None:
            waves = waves * self.schedule.weights(progress, self.levels).to(points)
        value = torch.cat([points, waves.flatten(1)], -1)
        for layer in self.layers[:-1]:
            value = F.relu(layer(value))
        return torch.sigmoid(self.layers[-1](value))
