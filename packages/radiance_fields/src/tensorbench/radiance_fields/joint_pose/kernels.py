"""Smoothing a low-rank field by smoothing its factors one axis at a time.

Cheng, Chiu and Liu 2024 (arXiv 2402.13252): a kernel that is a product over axes, applied to a sum of outer products,
acts on every factor by itself, so that n × n planes and lines of length n are convolved and never the n³ grid. With
replicate padding, which is a product over axes too, this is exact up to the border; :func:`blur_grid` is the 3-D
convolution to compare with. The paper's text beyond its abstract was not at hand: kernels, padding and the sampled,
capped and not normalised Gaussian are those of the authors' code (Nemo1999/Joint-TensoRF), whose plane convolution
takes height for width where a grid is no cube; here it does not.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from tensorbench.core.errors import unknown

log = logging.getLogger(__name__)
OFF = 1e-3  # a kernel narrower than this (in cells, or schedule value as in the reference) is not applied


def _odd(taps: int) -> int:
    if taps < 1 or taps % 2 == 0:
        raise ValueError(f"taps {taps} must be odd, so that the kernel has a centre; use {max(taps, 0) + 1}")
    return taps


def taps_for(sigma: float, most: int | None = None) -> int:
    """The odd number of taps that covers three deviations to each side, at most ``most``."""
    taps = 2 * math.ceil(3 * sigma) + 1
    return taps if most is None else min(taps, _odd(most))


@dataclass(frozen=True)
class GaussianKernel:
    """A Gaussian sampled at whole cells and capped at 1: the reference's, whose sum is near but not always 1.

    ``sigma`` is in cells. With ``normalized`` the taps are divided by their sum. A kernel that does not reach three
    deviations is warned of: it loses mass where it is not normalised.
    """

    sigma: float
    taps: int = 25
    normalized: bool = False

    def __post_init__(self) -> None:
        if not (self.sigma >= 0 and math.isfinite(self.sigma)):
            raise ValueError(f"sigma {self.sigma} must be at least 0 cells and finite")
        _odd(self.taps)
        if self.taps // 2 < math.floor(3 * self.sigma):
            log.warning("%d taps do not reach three deviations of sigma %.3g; use %d", self.taps, self.sigma,
                        taps_for(self.sigma))  # fmt: skip

    def values(self, like: Tensor | None = None) -> Float[Tensor, "taps"]:
        """The taps, in the dtype and on the device of ``like``."""
        at = torch.arange(self.taps, dtype=torch.float64) - self.taps // 2
        sigma = max(self.sigma, 1e-4)
        kernel = torch.exp(-0.5 * (at / sigma) ** 2) / (sigma * math.sqrt(2 * math.pi))
        kernel = kernel.clamp(max=1.0)
        kernel = kernel / kernel.sum() if self.normalized else kernel
        return kernel.to(like) if like is not None else kernel.float()


@dataclass(frozen=True)
class BoxKernel:
    """The mean over ``width`` cells to each side; between whole widths the two kernels are mixed (the reference's)."""

    width: float
    taps: int = 25

    def __post_init__(self) -> None:
        if not (self.width >= 0 and math.isfinite(self.width)):
            raise ValueError(f"width {self.width} must be at least 0 cells and finite")
        _odd(self.taps)

    def values(self, like: Tensor | None = None) -> Float[Tensor, "taps"]:
        """The taps, in the dtype and on the device of ``like``."""
        centre = self.taps // 2

        def mean_over(reach: int) -> Tensor:
            reach = min(reach, centre)
            kernel = torch.zeros(self.taps, dtype=torch.float64)
            kernel[centre - reach : centre + reach + 1] = 1 / (2 * reach + 1)
            return kernel

        share = self.width - math.floor(self.width)
        kernel = share * mean_over(math.ceil(self.width)) + (1 - share) * mean_over(math.floor(self.width))
        return kernel.to(like) if like is not None else kernel.float()


Kernel = GaussianKernel | BoxKernel
KINDS: dict[str, Callable[..., Kernel]] = {
    "gaussian": GaussianKernel,
    "normalized": lambda sigma, taps: GaussianKernel(sigma, taps, normalized=True),
    "box": BoxKernel,
}


def make_kernel(kind: str, width: float, taps: int | None = None) -> Kernel:
    """A kernel of a ``kind`` (gaussian, normalized, box); taps to three deviations unless given."""
    if kind not in KINDS:
        raise ValueError(unknown("kernel", kind, KINDS))
    return KINDS[kind](width, taps_for(width) if taps is None else taps)


def blur_axis(x: Float[Tensor, "*shape"], kernel: Float[Tensor, "taps"], dim: int) -> Float[Tensor, "*shape"]:
    """Convolve along one axis; the ends are repeated beyond the border."""
    moved = x.movedim(dim, -1)
    flat = moved.reshape(-1, 1, moved.shape[-1])
    reach = kernel.shape[0] // 2
    padded = F.pad(flat, (reach, reach), mode="replicate") if reach else flat
    return F.conv1d(padded, kernel.view(1, 1, -1)).view(moved.shape).movedim(-1, dim)


def blur_matrix(kernel: Float[Tensor, "taps"], size: int) -> Float[Tensor, "size size"]:
    """:func:`blur_axis` of an axis of ``size`` cells as a matrix: cheaper where the kernel is about as long."""
    return blur_axis(torch.eye(size, dtype=kernel.dtype, device=kernel.device), kernel, 0)


def blur_along(x: Float[Tensor, "*shape"], kernel: Float[Tensor, "taps"], dim: int) -> Float[Tensor, "*shape"]:
    """Convolve along one axis by the matrix of the convolution, one matrix product."""
    matrix = blur_matrix(kernel, x.shape[dim])
    return (x.movedim(dim, -1) @ matrix.mT).movedim(-1, dim)


def blur_plane(plane: Float[Tensor, "*batch h w"], kernel: Kernel) -> Float[Tensor, "*batch h w"]:
    """A plane smoothed along its last two axes, which may differ in length."""
    taps = kernel.values(plane)
    return blur_along(blur_along(plane, taps, -1), taps, -2)


def blur_line(line: Float[Tensor, "*batch n one"], kernel: Kernel) -> Float[Tensor, "*batch n one"]:
    """A line, as TensoRF keeps it with a last axis of length 1, smoothed along the axis before."""
    return blur_along(line, kernel.values(line), -2)


def blur_vm(
    planes: Sequence[Float[Tensor, "..."]], lines: Sequence[Float[Tensor, "..."]], kernel: Kernel
) -> tuple[list[Tensor], list[Tensor]]:
    """Vectors and matrices (or, without planes, the lines of a CP field), each smoothed by itself."""
    return [blur_plane(plane, kernel) for plane in planes], [blur_line(line, kernel) for line in lines]


def blur_factors(factors: Mapping[str, Tensor], kernel: Kernel) -> dict[str, Tensor]:
    """Named planes and lines, each smoothed; the matrices of a kernel are made once for each length."""
    matrices: dict[int, Tensor] = {}
    out = {}
    for name, factor in factors.items():
        for dim in (-1, -2):
            size = factor.shape[dim]
            if size == 1:
                continue
            if size not in matrices:
                matrices[size] = blur_matrix(kernel.values(factor), size)
            factor = factor @ matrices[size].mT if dim == -1 else matrices[size] @ factor
        out[name] = factor
    return out


def blur_grid(grid: Float[Tensor, "x y z"], kernel: Kernel) -> Float[Tensor, "x y z"]:
    """The 3-D convolution with the product kernel, replicate padding: brute force, taps³ products a cell."""
    taps = kernel.values(grid)
    weight = torch.einsum("i,j,k->ijk", taps, taps, taps)
    reach = len(taps) // 2
    padded = F.pad(grid[None, None], (reach,) * 6, mode="replicate")
    return F.conv3d(padded, weight[None, None])[0, 0]


def blur_images(images: Float[Tensor, "n h w c"], kernel: Kernel) -> Float[Tensor, "n h w c"]:
    """Images smoothed along rows and columns."""
    taps = kernel.values(images)
    return blur_axis(blur_axis(images, taps, 1), taps, 2)
