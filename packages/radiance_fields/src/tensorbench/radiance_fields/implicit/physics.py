"""Super-resolution of a flow with its equation: a functional tensor fitted to coarse vorticity and to the residual.

    r = ∂w/∂t + u ∂w/∂x + v ∂w/∂y − ν (∂²w/∂x² + ∂²w/∂y²)   on [0, 2π)² × [0, T],

with (u, v) = (∂ψ/∂y, −∂ψ/∂x) and −Δψ = w solved on the periodic grid by Fourier transforms, through which gradients
pass. Derivatives of w are those of the axes' networks, so that a residual on a grid of N² T points needs 2N + T
evaluations of a network (F-INR, arXiv 2503.21507, does physics-informed super-resolution; the details of its losses
could not be read).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tensorbench.radiance_fields.implicit.functional import FunctionalTensor


@dataclass(frozen=True)
class Box:
    """[0, 2π)² × [0, duration] and its coordinates in [−1, 1]³: grid point k of n is at −1 + 2 k / n."""

    n: int
    duration: float

    @property
    def space(self) -> float:
        """dξ/dx."""
        return 1 / math.pi

    @property
    def time(self) -> float:
        """dτ/dt."""
        return 2 / self.duration

    def axis(self, stride: int = 1, device: torch.device | str = "cpu") -> Float[Tensor, " _"]:
        """Every ``stride``-th grid point of an axis of space."""
        return -1 + 2 * torch.arange(0, self.n, stride, dtype=torch.float32, device=device) / self.n


def velocity(w: Float[Tensor, "n n times"]) -> tuple[Float[Tensor, "n n times"], Float[Tensor, "n n times"]]:
    """(u, v) of a vorticity on the periodic square, without a mean flow."""
    n = w.shape[0]
    k = torch.fft.fftfreq(n, 1 / n, device=w.device)
    k = torch.where(k.abs() == n / 2, torch.zeros_like(k), k)  # the Nyquist wave has no derivative
    kx, ky = k[:, None, None], k[None, :, None]
    k2 = kx**2 + ky**2
    psi = torch.fft.fft2(w, dim=(0, 1)) * torch.where(k2 > 0, 1 / k2.clamp(min=1), torch.zeros_like(k2))
    return torch.fft.ifft2(1j * ky * psi, dim=(0, 1)).real, torch.fft.ifft2(-1j * kx * psi, dim=(0, 1)).real


def residual(
    model: FunctionalTensor, box: Box, times: Float[Tensor, " times"], viscosity: float
) -> Float[Tensor, "n n times"]:
    """r on the fine grid at times of [−1, 1]; differentiable in the weights."""
    x = box.axis(device=times.device)
    orders = [(0, 0, 0), (0, 0, 1), (1, 0, 0), (0, 1, 0), (2, 0, 0), (0, 2, 0)]
    w, wt, wx, wy, wxx, wyy = (field[..., 0] for field in model.grad_grid([x, x, times], orders))
    u, v = velocity(w)
    s = box.space
    return box.time * wt + s * (u * wx + v * wy) - viscosity * s**2 * (wxx + wyy)


def bicubic(coarse: Float[np.ndarray, "m m times"], factor: int) -> Float[np.ndarray, "n n times"]:
    """Cubic spline interpolation of each frame in both directions of the periodic square (scipy)."""
    from scipy.ndimage import map_coordinates

    m = coarse.shape[0]
    at = np.arange(m * factor) / factor
    grid = np.stack(np.meshgrid(at, at, indexing="ij"))
    frames = [map_coordinates(frame, grid, order=3, mode="grid-wrap") for frame in np.moveaxis(coarse, -1, 0)]
    return np.stack(frames, axis=-1)


def fourier(coarse: Float[np.ndarray, "m m times"], factor: int) -> Float[np.ndarray, "n n times"]:
    """Trigonometric interpolation of each frame (scipy's ``resample`` along both directions)."""
    from scipy.signal import resample

    m = coarse.shape[0]
    return resample(resample(coarse, m * factor, axis=0), m * factor, axis=1)


def relative_error(predicted: Float[np.ndarray, "*shape"], truth: Float[np.ndarray, "*shape"]) -> float:
    """Norm of the difference over the norm of the truth."""
    return float(np.linalg.norm(predicted - truth) / np.linalg.norm(truth))
