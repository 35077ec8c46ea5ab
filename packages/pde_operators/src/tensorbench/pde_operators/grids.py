"""Grids, transforms between values and coefficients, spectral derivatives, dealiasing, Gaussian random fields.

Three boundary conditions on a box of side L, each with the grid on which its eigenfunctions of the Laplacian are
orthogonal (j = 0, 1, … throughout):

=============  =======================  ==========================================  =================
``bc``         points                   eigenfunctions, eigenvalues of -Lap (1-D)   transform
=============  =======================  ==========================================  =================
periodic       j L/n                    exp(2πikx/L), (2πk/L)²                      real FFT
dirichlet      (j + 1) L/(n + 1)        sin(πkx/L), k ≥ 1, (πk/L)²                  DST-I
neumann        (j + ½) L/n              cos(πkx/L), k ≥ 0, (πk/L)²                  DCT-II
=============  =======================  ==========================================  =================

Functions of values take NumPy arrays (``scipy.fft``) or torch tensors (differentiable, on their device) and return the
same kind. The random fields are those by which operator learning draws its inputs (Li et al. 2021, arXiv:2010.08895;
Kossaifi et al. 2023, arXiv:2310.00120), with the covariance taken literally: σ²(-Lap + τ²)^-α as an operator on L² of
the box, so that a coefficient for a normalised eigenfunction has the variance σ²(λ + τ²)^-α on every grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import pi, prod
from typing import Any

import numpy as np
import scipy.fft
import torch
from jaxtyping import Float

from tensorbench.core.errors import unknown

BOUNDARIES = ("periodic", "dirichlet", "neumann")


def _check_bc(bc: str) -> None:
    if bc not in BOUNDARIES:
        raise ValueError(unknown("boundary condition", bc, BOUNDARIES))


def _check_size(n: int, length: float) -> None:
    if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 1:
        raise ValueError(f"a grid needs a whole number of points, at least 1, not {n!r}")
    if not (length > 0 and np.isfinite(length)):
        raise ValueError(f"the length of the box must be positive and finite, not {length!r}")


def grid(n: int, length: float = 1.0, bc: str = "periodic") -> Float[np.ndarray, " n"]:
    """Coordinates of the ``n`` points of one direction (see the module's table)."""
    _check_bc(bc)
    _check_size(n, length)
    j = np.arange(n, dtype=np.float64)
    if bc == "periodic":
        return j * length / n
    return (j + 1) * length / (n + 1) if bc == "dirichlet" else (j + 0.5) * length / n


def periodic_grid(n: int, length: float = 1.0) -> Float[np.ndarray, " n"]:
    """j L/n: the right end is the left one and stands once."""
    return grid(n, length, "periodic")


def dirichlet_grid(n: int, length: float = 1.0) -> Float[np.ndarray, " n"]:
    """The ``n`` interior points of n + 1 intervals; values on the boundary are zero and not kept."""
    return grid(n, length, "dirichlet")


def cell_grid(n: int, length: float = 1.0) -> Float[np.ndarray, " n"]:
    """The centres of ``n`` cells."""
    return grid(n, length, "neumann")


def mesh(x: Float[np.ndarray, " n"], dims: int = 2) -> tuple[np.ndarray, ...]:
    """Coordinates of the tensor grid with ``x`` in every direction, first coordinate along the first axis."""
    return tuple(np.meshgrid(*[x] * dims, indexing="ij"))


def wavenumbers(n: int, length: float = 1.0, *, real: bool = False) -> Float[np.ndarray, " _"]:
    """Angular wavenumbers 2πk/L in the order of the FFT, or of the real FFT (k ≥ 0)."""
    _check_size(n, length)
    return 2 * pi / length * n * (np.fft.rfftfreq(n) if real else np.fft.fftfreq(n))


def eigenvalues(shape: Sequence[int], length: float = 1.0, bc: str = "periodic") -> np.ndarray:
    """Of -Lap, for every coefficient that :func:`to_spectral` gives on a grid of that shape."""
    _check_bc(bc)
    total: Any = 0.0
    for axis, n in enumerate(shape):
        _check_size(n, length)
        if bc == "periodic":
            k = wavenumbers(n, length, real=axis == len(shape) - 1)
        else:
            k = pi / length * (np.arange(n) + (bc == "dirichlet"))
        total = total + (k**2).reshape([-1 if a == axis else 1 for a in range(len(shape))])
    return total


def to_spectral(values: Any, bc: str = "periodic", dims: int = 1) -> Any:
    """Coefficients along the last ``dims`` axes: real FFT (not normalised), or orthonormal DST-I or DCT-II."""
    _check_bc(bc)
    axes = tuple(range(-dims, 0))
    if bc == "periodic":
        return torch.fft.rfftn(values, dim=axes) if torch.is_tensor(values) else scipy.fft.rfftn(values, axes=axes)
    if torch.is_tensor(values):
        for axis in axes:
            values = _torch_trigonometric(values, axis, bc)
        return values
    if bc == "dirichlet":
        return scipy.fft.dstn(values, type=1, axes=axes, norm="ortho")
    return scipy.fft.dctn(values, type=2, axes=axes, norm="ortho")


def from_spectral(coefficients: Any, shape: Sequence[int], bc: str = "periodic") -> Any:
    """Values on a grid of that shape; the inverse of :func:`to_spectral` over the last ``len(shape)`` axes."""
    _check_bc(bc)
    axes = tuple(range(-len(shape), 0))
    is_torch = torch.is_tensor(coefficients)
    kept = (*shape[:-1], shape[-1] // 2 + 1) if bc == "periodic" else tuple(shape)
    if tuple(coefficients.shape[-len(shape) :]) != tuple(kept):
        raise ValueError(
            f"{bc} coefficients of a grid {tuple(shape)} have the shape {tuple(kept)}, not {tuple(coefficients.shape)}"
        )
    if bc == "periodic":
        size = tuple(int(n) for n in shape)
        if is_torch:
            return torch.fft.irfftn(coefficients, s=size, dim=axes)
        return scipy.fft.irfftn(coefficients, s=size, axes=axes)
    if is_torch:
        for axis in axes:
            coefficients = _torch_trigonometric(coefficients, axis, bc, inverse=True)
        return coefficients
    if bc == "dirichlet":
        return scipy.fft.idstn(coefficients, type=1, axes=axes, norm="ortho")
    return scipy.fft.idctn(coefficients, type=2, axes=axes, norm="ortho")


def _torch_trigonometric(x: torch.Tensor, axis: int, bc: str, inverse: bool = False) -> torch.Tensor:
    """Orthonormal DST-I (its own inverse), DCT-II or its inverse along one axis, by an FFT of the extension."""
    x = x.movedim(axis, -1)
    n = x.shape[-1]
    if bc == "dirichlet":
        zero = x.new_zeros((*x.shape[:-1], 1))
        odd = torch.cat([zero, x, zero, -x.flip(-1)], dim=-1)
        result = -torch.fft.rfft(odd).imag[..., 1 : n + 1] / (2 * (n + 1)) ** 0.5
        return result.movedim(-1, axis)
    scale = x.new_full((n,), (2 * n) ** -0.5)
    scale[0] = (4 * n) ** -0.5
    turn = torch.exp(-0.5j * pi / n * torch.arange(n, dtype=x.dtype, device=x.device))
    if not inverse:
        even = torch.fft.rfft(torch.cat([x, x.flip(-1)], dim=-1))[..., :n]
        return ((even * turn).real * scale).movedim(-1, axis)
    half = torch.cat([(x / scale) * turn.conj(), torch.zeros_like(x[..., :1])], dim=-1)
    return torch.fft.irfft(half, n=2 * n)[..., :n].movedim(-1, axis)


def spectral_derivative(values: Any, order: int = 1, axis: int = -1, length: float = 1.0) -> Any:
    """Derivative of a periodic function along one axis, exact for what the grid resolves.

    In derivatives of odd order the highest mode of an even grid, which is its own mirror image, is dropped.
    """
    if order < 0 or int(order) != order:
        raise ValueError(f"the order of a derivative is a whole number of at least 0, not {order!r}")
    n = values.shape[axis]
    factor = (1j * wavenumbers(n, length, real=True)) ** int(order)
    if order % 2 and n % 2 == 0:
        factor[-1] = 0
    if torch.is_tensor(values):
        moved = values.movedim(axis, -1)
        hat = torch.fft.rfft(moved)
        return torch.fft.irfft(hat * torch.as_tensor(factor, dtype=hat.dtype, device=hat.device), n=n).movedim(-1, axis)
    moved = np.moveaxis(values, axis, -1)
    return np.moveaxis(scipy.fft.irfft(scipy.fft.rfft(moved) * factor, n=n), -1, axis)


def dealias_mask(shape: Sequence[int]) -> np.ndarray:
    """True where a coefficient of the real FFT stays under the 2/3 rule, |k| < n/3 in every direction.

    The square of a function with no other coefficients has, at these wavenumbers, no error from aliasing.
    """
    mask: Any = True
    for axis, n in enumerate(shape):
        k = np.abs(n * (np.fft.rfftfreq(n) if axis == len(shape) - 1 else np.fft.fftfreq(n)))
        mask = mask & (k < n / 3).reshape([-1 if a == axis else 1 for a in range(len(shape))])
    return np.asarray(mask)


def dealias(values: Any, dims: int = 1) -> Any:
    """Periodic values without their coefficients beyond the 2/3 rule along the last ``dims`` axes."""
    shape = tuple(values.shape[-dims:])
    hat = to_spectral(values, "periodic", dims)
    mask: Any = dealias_mask(shape)
    if torch.is_tensor(values):
        mask = torch.as_tensor(mask, device=values.device)
    return from_spectral(hat * mask, shape)


def grf(
    n: int | Sequence[int],
    N: int,
    alpha: float,
    tau: float,
    sigma: float = 1.0,
    bc: str = "periodic",
    generator: np.random.Generator | int = 0,
    *,
    length: float = 1.0,
    zero_mean: bool = False,
) -> Float[np.ndarray, "N *grid"]:
    """``N`` Gaussian fields with mean 0 and covariance σ²(-Lap + τ²)^-α on the grid of ``bc``.

    Args:
        n: grid points in each direction: 64 is one-dimensional, (64, 64) two-dimensional.
        zero_mean: leaves out the constant, without which τ = 0 makes sense.

    Raises:
        ValueError: a covariance that is not finite (α or τ), not a size, an unknown boundary condition.
    """
    shape = (int(n),) if isinstance(n, int | np.integer) else tuple(int(m) for m in n)
    if N < 1:
        raise ValueError(f"at least one field must be asked for, not N = {N}")
    if not (alpha > 0 and tau >= 0 and sigma > 0):
        raise ValueError(f"alpha {alpha} and sigma {sigma} must be positive and tau {tau} not negative")
    has_constant = bc != "dirichlet"
    if tau == 0 and has_constant and not zero_mean:
        raise ValueError(f"with tau = 0 the constant of a {bc} field has infinite variance; use zero_mean=True")
    if zero_mean and not has_constant:
        raise ValueError("dirichlet fields have no constant part to leave out; drop zero_mean")
    rng = np.random.default_rng(generator)
    spread = np.sqrt(field_variances(shape, alpha, tau, sigma, bc, length=length, zero_mean=zero_mean))
    cells = prod((m + 1 if bc == "dirichlet" else m) / length for m in shape) ** 0.5
    white = rng.standard_normal((N, *shape))
    if bc == "periodic":
        white = to_spectral(white, bc, len(shape))
    return from_spectral(white * spread * cells, shape, bc)


def field_variances(
    shape: Sequence[int],
    alpha: float,
    tau: float,
    sigma: float = 1.0,
    bc: str = "periodic",
    *,
    length: float = 1.0,
    zero_mean: bool = False,
) -> np.ndarray:
    """σ²(λ + τ²)^-α for every coefficient that the grid resolves; of a periodic field, the half that is kept."""
    lam = eigenvalues(shape, length, bc)
    first = (0,) * len(shape)
    if zero_mean:
        lam[first] = np.inf
    return sigma**2 * (lam + tau**2) ** -float(alpha)


def periodic_field_std(shape: Sequence[int], alpha: float, tau: float, *, length: float = 1.0, **options: Any) -> float:
    """Standard deviation at a point of a periodic field with σ = 1, as the grid resolves it."""
    variances = field_variances(shape, alpha, tau, length=length, **options)
    twice = np.full(variances.shape[-1], 2.0)  # coefficients of the last axis stand for their mirror images too
    twice[0] = 1.0
    if shape[-1] % 2 == 0:
        twice[-1] = 1.0
    return float(np.sqrt((variances * twice).sum() / length ** len(shape)))


def radial_spectrum(values: Float[np.ndarray, "samples *grid"]) -> Float[np.ndarray, " shells"]:
    """Mean over samples of the energy in shells |k| = 0, 1, …, n/2 of periodic fields; their sum is the mean square.

    |k| is rounded to whole wavenumbers (periods in the box); what lies beyond n/2, in the corners, counts to the last.
    """
    shape = values.shape[1:]
    power = np.abs(scipy.fft.fftn(values, axes=tuple(range(1, values.ndim)))) ** 2 / prod(shape) ** 2
    k2: Any = 0.0
    for axis, n in enumerate(shape):
        k2 = k2 + (n * np.fft.fftfreq(n)).reshape([-1 if a == axis else 1 for a in range(len(shape))]) ** 2
    shell = np.minimum(np.rint(np.sqrt(k2)).astype(int), shape[-1] // 2)
    return np.bincount(shell.ravel(), weights=power.mean(axis=0).ravel(), minlength=shape[-1] // 2 + 1)


def resample(values: torch.Tensor, n: int, periodic: bool) -> torch.Tensor:
    """(batch, channels, \\*grid) fields on another grid of ``n`` points a direction.

    Periodic ones by their Fourier series; others, taken at cell centres, by linear interpolation, or by means over
    cells where the coarser grid divides the finer one.
    """
    shape = tuple(values.shape[2:])
    if all(m == n for m in shape):
        return values
    if not periodic:
        if all(m % n == 0 for m in shape):
            return torch.nn.functional.interpolate(values, size=(n,) * len(shape), mode="area")
        mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[len(shape)]
        return torch.nn.functional.interpolate(values, size=(n,) * len(shape), mode=mode, align_corners=False)
    for axis, m in enumerate(shape, start=2):
        if m == n:
            continue
        moved = torch.fft.rfft(values.movedim(axis, -1), norm="forward")
        kept = min(m, n)
        moved = moved[..., : kept // 2 + 1].clone()
        if kept % 2 == 0:  # the highest mode stands for two on the finer grid, and for both of them on the coarser
            moved[..., -1] = moved[..., -1].real * (0.5 if n > m else 2.0) + 0j
        values = torch.fft.irfft(moved, n=n, norm="forward").movedim(-1, axis)
    return values
