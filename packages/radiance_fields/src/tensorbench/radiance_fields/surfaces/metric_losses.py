"""Penalties on how far a metric is from the one to keep.

With the metric g = J'J of the surface and the template's G at the same parameters, means over the points of:

- ``frobenius``: mean over the four entries of (g − G)² (the paper's, as mean squared error);
- ``log_euclidean``: ‖log g − log G‖² / 4, a distance of symmetric positive definite matrices (Arsigny et al., 2006),
  which weighs shrinking to a half as stretching to double;
- ``diagonal``: only E and G, the lengths along the parameter lines; shear is free;
- ``determinant``: only det g, areas; the shape of area elements is free.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from tensorbench.radiance_fields.surfaces.geometry import determinant

MetricLoss = Callable[[Tensor, Tensor], Tensor]


def frobenius(g: Float[Tensor, "n 2 2"], target: Float[Tensor, "n 2 2"]) -> Float[Tensor, ""]:
    """Mean squared difference of the entries."""
    return (g - target).square().mean()


def diagonal(g: Float[Tensor, "n 2 2"], target: Float[Tensor, "n 2 2"]) -> Float[Tensor, ""]:
    """Mean squared difference of E and G."""
    return (g - target).diagonal(dim1=1, dim2=2).square().mean()


def area(g: Float[Tensor, "n 2 2"], target: Float[Tensor, "n 2 2"]) -> Float[Tensor, ""]:
    """Mean squared difference of the determinants."""
    return (determinant(g) - determinant(target)).square().mean()


def logarithm(form: Float[Tensor, "n 2 2"], smallest: float = 1e-8) -> Float[Tensor, "n 2 2"]:
    """Matrix logarithm of symmetric positive definite 2 × 2 matrices without their eigenvectors (whose derivatives
    break down where eigenvalues meet).

    With mean m and half difference δ of the eigenvalues: log A = ½ log det A · 1 + artanh(δ/m)/δ · (A − m 1), smooth
    in δ². Determinants below ``smallest`` m² are raised to that.
    """
    mean = (form[:, 0, 0] + form[:, 1, 1]) / 2
    half = (form[:, 0, 0] - form[:, 1, 1]) / 2
    share = (half.square() + form[:, 0, 1].square()) / mean.square()  # (δ/m)²
    share = share.clamp(max=1 - smallest)
    series = 1 + share / 3 + share.square() / 5 + share**3 / 7
    root = share.clamp_min(1e-3).sqrt()
    factor = torch.where(share < 1e-3, series, torch.atanh(root) / root) / mean
    identity = torch.eye(2, dtype=form.dtype, device=form.device)
    trace = 0.5 * (mean.square() * (1 - share)).log()
    return trace[:, None, None] * identity + factor[:, None, None] * (form - mean[:, None, None] * identity)


def log_euclidean(g: Float[Tensor, "n 2 2"], target: Float[Tensor, "n 2 2"]) -> Float[Tensor, ""]:
    """Mean squared difference of the entries of the logarithms."""
    return (logarithm(g) - logarithm(target)).square().mean()


METRIC_LOSSES: dict[str, MetricLoss] = {
    "frobenius": frobenius, "log_euclidean": log_euclidean, "diagonal": diagonal, "determinant": area,
}  # fmt: skip
