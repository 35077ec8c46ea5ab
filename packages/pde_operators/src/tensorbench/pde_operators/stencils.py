"""3 × 3 filters as discrete derivatives, and blocks that carry out exact Euler steps of differential equations.

The dictionary of Liu, Shao, Bai (2023), arXiv 2308.01621, and of the authors' notes: a 3 × 3 filter is a
differential operator of order up to two in each direction; u + conv(u) is a forward Euler step of u_t = L u, and
padding is a boundary condition. Arrays are ``[..., y, x]``; a filter is applied as in neural networks, by
correlation: (D u)[j, i] = Σ_ba w[b, a] u[j + b - 1, i + a - 1].

Since a block multiplies before it differentiates, the product u u_x is the derivative of a product, ½ (u²)_x: the
step of Burgers' equation is the one in conservation form, u - ½ Δt D_x(u²).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from tensorbench.core.errors import unknown
from tensorbench.pde_operators.pde_resnet import Padding, PDEBlock, fuse

_SMOOTH, _SLOPE, _BEND = np.array([1.0, 2, 1]) / 4, np.array([-1.0, 0, 1]) / 2, np.array([1.0, -2, 1])
_POINT = np.array([0.0, 1, 0])
# Filters for a grid with spacing 1. Rows are y, columns are x.
STENCILS: Mapping[str, Float[np.ndarray, "3 3"]] = {
    "identity": np.outer(_POINT, _POINT),
    "dx": np.outer(_POINT, _SLOPE),  # central difference
    "dy": np.outer(_SLOPE, _POINT),
    "sobel_dx": np.outer(_SMOOTH, _SLOPE),
    "sobel_dy": np.outer(_SLOPE, _SMOOTH),
    "dxx": np.outer(_POINT, _BEND),
    "dyy": np.outer(_BEND, _POINT),
    "dxy": np.outer(_SLOPE, _SLOPE),
    "laplacian": np.outer(_POINT, _BEND) + np.outer(_BEND, _POINT),  # five points
    "gaussian": np.outer(_SMOOTH, _SMOOTH),  # about 1 + (∂xx + ∂yy)/4
}
_ORDERS = {"identity": 0, "dx": 1, "dy": 1, "sobel_dx": 1, "sobel_dy": 1, "dxx": 2, "dyy": 2, "dxy": 2, "laplacian": 2}
_MODES = {"zeros": "constant", "reflect": "reflect", "circular": "circular"}


def stencil(name: str, spacing: float = 1.0) -> Float[Tensor, "3 3"]:
    """A filter of :data:`STENCILS` in float64, for a grid of this spacing (``gaussian`` has no unit and ignores it).

    Raises:
        ValueError: an unknown name, or a spacing that is not positive.
    """
    if name not in STENCILS:
        raise ValueError(unknown("stencil", name, STENCILS))
    if not spacing > 0:
        raise ValueError(f"spacing {spacing} of the grid must be positive")
    return torch.from_numpy(STENCILS[name] / spacing ** _ORDERS.get(name, 0))


def derivative(
    u: Float[Tensor, "*batch height width"], name: str, spacing: float = 1.0, padding: Padding = "circular"
) -> Float[Tensor, "*batch height width"]:
    """A discrete derivative of a field; ``padding`` is ``zeros``, ``reflect`` or ``circular``."""
    if padding not in _MODES:
        raise ValueError(unknown("padding", padding, _MODES))
    if not u.is_floating_point():
        raise ValueError(f"the field is {u.dtype}, in which a filter of halves is zero; convert it, say u.double()")
    flat = u.reshape(-1, 1, *u.shape[-2:])
    wide = F.pad(flat, (1, 1, 1, 1), mode=_MODES[padding])
    return F.conv2d(wide, stencil(name, spacing).to(u)[None, None]).reshape(u.shape)


def euler_step(
    u: Float[Tensor, "*batch height width"],
    coefficients: Mapping[str, float | Float[Tensor, "height width"]],
    dt: float = 1.0,
    spacing: float = 1.0,
    padding: Padding = "circular",
) -> Float[Tensor, "*batch height width"]:
    """u + Δt Σ c D u over the named operators; a coefficient may be a field (variable coefficients).

    Raises:
        ValueError: an unknown operator or padding.
    """
    change = torch.zeros_like(u)
    for name, coefficient in coefficients.items():
        change = change + coefficient * derivative(u, name, spacing, padding)
    return u + dt * change


# --- blocks ----------------------------------------------------------------------------------------------------------


_U, _ONE = (1.0, 0.0), (0.0, 1.0)  # weight and bias of a factor: u, and the constant 1
_Term = tuple[tuple[float, float], tuple[float, float], Tensor]


@torch.no_grad()
def _block(terms: Sequence[_Term], padding: Padding) -> PDEBlock:
    """One channel: u + Σ kernel * (first · second) over the terms, in float64 and fused."""
    block = PDEBlock(1, k=len(terms), radius=None, padding=padding).double().eval()
    block = fuse(block)  # type: ignore[assignment]
    for part in (block.conv1, block.conv2, block.conv3):
        nn.init.zeros_(part.conv.weight)
        nn.init.zeros_(part.conv.bias)  # type: ignore[arg-type]
    for row, (first, second, kernel) in enumerate(terms):
        for half, (weight, bias) in enumerate((first, second)):
            block.conv1.conv.weight[half * len(terms) + row] = weight
            block.conv1.conv.bias[half * len(terms) + row] = bias  # type: ignore[index]
        block.conv2.conv.weight[row, 0] = kernel
        block.conv3.conv.weight[0, row] = 1.0
    return block


def burgers_block(dt: float, spacing: float = 1.0, viscosity: float = 0.0, padding: Padding = "circular") -> PDEBlock:
    """A block with weights that make it a step of u_t + u u_x = ν u_xx: u - ½ Δt D_x(u²) + ν Δt D_xx u."""
    terms: list[_Term] = [(_U, _U, -0.5 * dt * stencil("dx", spacing))]
    if viscosity:
        terms.append((_U, _ONE, viscosity * dt * stencil("dxx", spacing)))
    return _block(terms, padding)


def linear_block(
    coefficients: Mapping[str, float], dt: float, spacing: float = 1.0, padding: Padding = "circular"
) -> PDEBlock:
    """A block that is a step of u_t = Σ c D u: the second factor of the product is 1."""
    kernel = sum((c * dt * stencil(name, spacing) for name, c in coefficients.items()), torch.zeros(3, 3).double())
    return _block([(_U, _ONE, kernel)], padding)


def advection_block(
    velocity: tuple[float, float], dt: float, spacing: float = 1.0, padding: Padding = "circular"
) -> PDEBlock:
    """A step of u_t + c_x u_x + c_y u_y = 0 with central differences."""
    return linear_block({"dx": -velocity[0], "dy": -velocity[1]}, dt, spacing, padding)


def heat_block(diffusivity: float, dt: float, spacing: float = 1.0, padding: Padding = "circular") -> PDEBlock:
    """A step of u_t = κ (u_xx + u_yy), five points. Stable for κ Δt/spacing² up to 1/4."""
    return linear_block({"laplacian": diffusivity}, dt, spacing, padding)


@torch.no_grad()
def translate(
    u: Float[Tensor, "height width"], layers: int, padding: Padding = "zeros"
) -> Float[Tensor, "_ height width"]:
    """The image after 0, 1, …, ``layers`` blocks u - Sobel_x u: it moves by one pixel a layer to the right.

    The centre of mass moves by one pixel exactly while nothing reaches the boundary; the shape spreads, and waves
    shorter than a few pixels grow (forward Euler with central differences).
    """
    block = linear_block({"sobel_dx": -1.0}, 1.0, 1.0, padding)
    found = [u.double()]
    for _ in range(layers):
        found.append(block(found[-1][None, None])[0, 0])
    return torch.stack(found)


def centre_of_mass(u: Float[Tensor, "height width"]) -> tuple[float, float]:
    """(x, y) in pixels, weighted by u."""
    rows, columns = (torch.arange(n, dtype=u.dtype, device=u.device) for n in u.shape)
    total = u.sum()
    return float((u.sum(0) * columns).sum() / total), float((u.sum(1) * rows).sum() / total)


# --- what learned filters do -----------------------------------------------------------------------------------------


def moments(filters: Float[Tensor, "n 3 3"]) -> Float[Tensor, "n 6"]:
    """Coefficients of 1, ∂x, ∂y, ∂xx, ∂xy, ∂yy in the Taylor expansion of each filter (spacing 1)."""
    at = torch.arange(-1, 2, dtype=filters.dtype, device=filters.device)
    ones = torch.ones_like(at)
    basis = [(ones, ones), (ones, at), (at, ones), (ones, at**2 / 2), (at, at), (at**2 / 2, ones)]  # (y, x)
    return torch.stack([torch.einsum("nba,b,a->n", filters, y, x) for y, x in basis], dim=1)


def order_shares(filters: Float[Tensor, "n 3 3"]) -> Float[Tensor, "n 5"]:
    """Share of each filter's square that acts as a derivative of order 0, 1, 2, 3 and 4.

    In the orthonormal basis of products of the smoothing (1, 1, 1)/√3, the slope (-1, 0, 1)/√2 and the bend (1, -2,
    1)/√6 in y and x; the order is the number of slopes plus twice that of bends. White noise has 1, 2, 3, 2, 1
    ninths.
    """
    table = np.array([[1, 1, 1], [-1, 0, 1], [1, -2, 1]]) / np.sqrt([[3], [2], [6]])
    basis = torch.from_numpy(table).to(filters)
    squares = torch.einsum("nba,ib,ja->nij", filters, basis, basis).square()
    shares = [sum(squares[:, i, order - i] for i in range(3) if 0 <= order - i < 3) for order in range(5)]
    return torch.stack(shares, dim=1) / squares.sum(dim=(1, 2)).clamp(min=torch.finfo(filters.dtype).tiny)[:, None]  # type: ignore[arg-type]
