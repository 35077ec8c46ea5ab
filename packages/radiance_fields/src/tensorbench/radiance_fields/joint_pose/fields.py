"""Fields for joint optimisation: TensoRF whose factors are blurred while it is asked, and BARF's network.

Cheng, Chiu and Liu 2024 (arXiv 2402.13252): planes and lines of the vector-matrix field are smoothed before they are
read, density and colour by kernels of their own (the authors' code scales the density's at random and not the
colour's); the viewing direction reaches the colour without a gradient. BARF: Lin et al. 2021 (arXiv 2104.06405).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tensorbench.radiance_fields.fields.hash import HashField
from tensorbench.radiance_fields.fields.staged import ColorNet, StagedField, linear
from tensorbench.radiance_fields.joint_pose.kernels import OFF, blur_factors, make_kernel
from tensorbench.radiance_fields.joint_pose.schedules import BarfSchedule, voxel_sigma
from tensorbench.radiance_fields.tensorf.vm import TensorVM


class BlurredVM(TensorVM):
    """TensoRF-VM that can be asked as if its density and its appearance grid had been convolved.

    >>> with field.blurred(0.15, 0.15):  # deviations in units of the scene
    ...     sigma, rgb = field(points, directions)
    """

    _widths: dict[str, float]
    _kind: str

    def __init__(self, box: Float[Tensor, "2 3"], resolution: tuple[int, int, int], *args: Any, **options: Any) -> None:
        super().__init__(box, resolution, *args, **options)
        self._widths, self._kind = {}, "gaussian"

    @contextmanager
    def blurred(self, sigma: float, color: float | None = None, kind: str = "gaussian") -> Iterator[None]:
        """Within the block the density's factors are smoothed by ``sigma``, those of colour by ``color`` (the same)."""
        widths = {"sigma": sigma, "color": sigma if color is None else color}
        for name, width in widths.items():
            if not (width >= 0 and math.isfinite(width)):
                raise ValueError(f"width {width} of the {name} kernel must be at least 0 and finite")
        self._widths, self._kind = widths, kind
        try:
            yield
        finally:
            self._widths = {}

    def factors(self, kind: str) -> list[tuple[Tensor, Tensor]]:
        """Planes and lines as they enter the field: smoothed within :meth:`blurred`."""
        pairs = super().factors(kind)
        width = self._widths.get(kind, 0.0)
        if width < OFF:
            return pairs
        kernel = make_kernel(self._kind, voxel_sigma(width, self.resolution, self.box))
        named = {f"{k}{part}": factor for k, pair in enumerate(pairs) for part, factor in zip("pl", pair, strict=True)}
        smooth = blur_factors(named, kernel)
        return [(smooth[f"{k}p"], smooth[f"{k}l"]) for k in range(len(pairs))]

    def color(self, points: Float[Tensor, "m 3"], directions: Float[Tensor, "m 3"]) -> Float[Tensor, "m 3"]:
        return super().color(points, directions.detach())


class JointHash(HashField):
    """A hash grid whose colour gives the viewing direction no gradient, as the other fields here."""

    def rgb(self, features: Float[Tensor, "m f"], directions: Float[Tensor, "m 3"]) -> Float[Tensor, "m 3"]:
        return super().rgb(features, directions.detach())


class BarfField(StagedField):
    """A network on a point and sines of it whose frequencies come in with ``progress``, and a head for colour.

    Smaller than BARF's (eight layers of 256): ``depth`` layers of ``width``.
    """

    def __init__(
        self, box: Float[Tensor, "2 3"], *, width: int = 64, depth: int = 4, frequencies: int = 8,
        schedule: BarfSchedule | None = None, generator: torch.Generator | None = None,
    ) -> None:  # fmt: skip
        super().__init__(box)
        if depth < 2:
            raise ValueError(f"depth {depth}: at least 2 layers")
        self.frequencies, self.schedule, self.progress = frequencies, schedule, 1.0
        inputs = 3 + 6 * frequencies
        sizes = [inputs, *[width] * (depth - 1), 16]
        self.trunk = nn.ModuleList(linear(a, b, generator, bias=True) for a, b in pairwise(sizes))
        if schedule is not None:
            with torch.no_grad():  # only the coordinates are on at first
                for p in self.trunk[0].parameters():
                    p.mul_(math.sqrt(inputs / 3))
        self.color_net = ColorNet(15, width, generator)

    def features(self, points: Float[Tensor, "m 3"]) -> Float[Tensor, "m f"]:
        x = 2 * self.unit(points) - 1
        scales = math.pi * 2.0 ** torch.arange(self.frequencies, device=x.device, dtype=x.dtype)
        phase = x[..., None] * scales
        waves = torch.stack([phase.sin(), phase.cos()], -2)
        if self.schedule is not None:
            waves = waves * self.schedule.weights(self.progress, self.frequencies).to(x)
        value = torch.cat([x, waves.flatten(1)], -1)
        for layer in self.trunk[:-1]:
            value = layer(value).relu()
        return self.trunk[-1](value)

    def rgb(self, features: Float[Tensor, "m f"], directions: Float[Tensor, "m 3"]) -> Float[Tensor, "m 3"]:
        return self.color_net(features[:, 1:], directions.detach())
