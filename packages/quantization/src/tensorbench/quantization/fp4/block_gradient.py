"""The gradient of the block quantiser, through its scale too.

A block X with ``Z = max |X|`` and largest element F is decoded as ``f(X) = Q(s_q X) / s_q`` with ``s = F / Z`` and
``s_q = q(s)``. By the chain rule (Proposition 1 of Hu, Luschi and Balança 2025, arXiv 2509.17791)

    df_j/dX_i = [i = j] Q'(s_q X_j) + (1/s_q) q'(s) ds/dX_i (X_j Q'(s_q X_j) - Q(s_q X_j) / s_q),
    ds/dX_i = -F sign(X_i) / Z^2 at the maximiser (shared where several attain it), else 0:

a diagonal plus one dense column for each maximiser. With ``i = j`` alone it is the elementwise derivative f'(X) that
multiplies a gradient in training; the product with the whole Jacobian costs one more sum over the block.

Hardware stores the inverse, ``c = Z / F`` rounded to ``c_q``: ``f(X) = c_q Q(X / c_q)`` and

    df_j/dX_i = [i = j] Q'(r_j) + q'(c) sign(X_i) / F (Q(r_j) - r_j Q'(r_j)),   r = X / c_q,

which is the same function where ``s_q = 1 / c_q``. This is the form of ``blocks``, and of ``BlockPullback``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from tensorbench.core.errors import unknown

from ..blocks import BlockSpec, scale_blocks, to_blocks
from ..formats import FloatFormat
from .hadamard import Hadamard
from .relaxations import Relaxation, relaxation

ScaleGradient = Literal["none", "ste", "linear_spline", "e8m0_log"]
SCALE_GRADIENTS: tuple[ScaleGradient, ...] = get_args(ScaleGradient)
Stored = Literal["factor", "inverse"]
"""Which number is rounded: the factor s that elements are multiplied by, or its inverse, as hardware does."""


def smooth_block(
    x: Float[Tensor, "*blocks n"],
    element: Relaxation,
    scale: Relaxation,
    largest: float = 6.0,
    stored: Stored = "factor",
) -> Float[Tensor, "*blocks n"]:
    """f(X) with relaxed roundings, differentiable by autograd and forward mode wherever they are."""
    z = x.abs().amax(-1, keepdim=True)
    if stored == "factor":
        s = scale.value(largest / z)
        return element.value(s * x) / s
    c = scale.value(z / largest)
    return c * element.value(x / c)


def proposition_1(
    x: Float[Tensor, "*blocks n"],
    element: Relaxation,
    scale: Relaxation,
    largest: float = 6.0,
    stored: Stored = "factor",
) -> Float[Tensor, "*blocks n n"]:
    """The Jacobian df_j/dX_i (row j, column i) of each block in closed form.

    Raises:
        ValueError: a block of zeros, of which the scale has no derivative; NaN.
    """
    z = x.abs().amax(-1, keepdim=True)
    if not bool((z > 0).all()):
        raise ValueError("a block of zeros (or with NaN) has no largest element to differentiate")
    at_max = x.abs() == z
    share = torch.sign(x) * at_max / at_max.sum(-1, keepdim=True)
    if stored == "factor":
        s = largest / z
        sq = scale.value(s)
        slope = element.slope(sq * x)
        column = scale.slope(s) / sq * (x * slope - element.value(sq * x) / sq)
        row = -largest / z**2 * share
    else:
        c = z / largest
        cq = scale.value(c)
        slope = element.slope(x / cq)
        column = scale.slope(c) * (element.value(x / cq) - x / cq * slope)
        row = share / largest
    return torch.diag_embed(slope) + column[..., :, None] * row[..., None, :]


def full_jacobian_check(
    x: Float[Tensor, " n"], element: Relaxation, scale: Relaxation, largest: float = 6.0, stored: Stored = "factor"
) -> float:
    """Largest difference between the closed form and forward-mode differentiation of ``smooth_block``."""
    automatic = torch.func.jacfwd(lambda v: smooth_block(v, element, scale, largest, stored))(x)
    return float((automatic - proposition_1(x, element, scale, largest, stored)).abs().max())


def scale_slope(mode: ScaleGradient, spec: BlockSpec, true: Tensor, rounded: Tensor) -> Tensor:
    """q'(c) of the stored scale ``c`` before (``true``) and after rounding, both without the tensor's scale.

    ``ste``: 1. ``linear_spline``: the slope of the interpolant of the scale's format, 1 inside its range and 0 beyond.
    ``e8m0_log``: straight through in the exponent, ``2^round(log2 c)`` has the derivative ``c_q / c``. ``none``: 0.
    """
    if mode not in SCALE_GRADIENTS:
        raise ValueError(unknown("gradient of the scale", mode, SCALE_GRADIENTS))
    if mode == "none":
        return torch.zeros_like(true)
    if mode == "ste":
        return torch.ones_like(true)
    if mode == "e8m0_log":
        return torch.where(true > 0, rounded / true, torch.zeros_like(true))
    form = spec.scale_format
    lowest = form.tiny if isinstance(form, FloatFormat) else 0.0
    return ((true >= lowest) & (true <= form.max)).to(true.dtype)


@dataclass(frozen=True)
class BlockPullback:
    """``pullback(value, gradient)`` of a block quantiser: a field of ``layers.GemmSpec``.

    Args:
        spec: the quantiser of the forward pass.
        rounding: name of the gradient of rounding, with ``options`` (see ``relaxations``).
        scale: gradient of the scale's rounding; ``none`` takes the scale as a constant. The tensor's scale always is
            one.
        full: the product with the whole Jacobian; else with its diagonal, the elementwise f'(X).
        axis: along which the blocks run.
        transform: of the forward pass, where there is one.
    """

    spec: BlockSpec
    rounding: str = "ste"
    scale: ScaleGradient = "none"
    full: bool = True
    axis: int = -1
    transform: Hadamard | None = None
    options: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        relaxation(self.rounding, self.spec.element_format, **self.options)
        if self.scale not in SCALE_GRADIENTS:
            raise ValueError(unknown("gradient of the scale", self.scale, SCALE_GRADIENTS))

    def __call__(self, value: Float[Tensor, "*shape"], gradient: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        if value.shape != gradient.shape:
            raise ValueError(f"value {tuple(value.shape)} and gradient {tuple(gradient.shape)} differ in shape")
        if self.rounding == "ste" and self.scale == "none":
            return gradient
        if self.transform is not None:
            length = value.shape[self.axis]
            inner = self._blocks(self.transform(value, self.axis), self.transform(gradient, self.axis))
            return self.transform.inverse(inner, self.axis, length)
        return self._blocks(value, gradient)

    def _blocks(self, value: Tensor, gradient: Tensor) -> Tensor:
        spec = self.spec
        scaled = scale_blocks(value, spec, self.axis)
        g, _ = to_blocks(gradient, spec.block, self.axis, pad=spec.pad)
        r = scaled.blocks / (scaled.scale * scaled.tensor_scale)
        slope = relaxation(self.rounding, spec.element_format, **self.options).slope(r)
        out = g * slope
        if self.scale != "none":
            z = scaled.blocks.abs().amax(-1, keepdim=True)
            c = z / (spec.element_format.max * scaled.tensor_scale)
            at_max = (scaled.blocks.abs() == z) & (z > 0)
            share = torch.sign(scaled.blocks) * at_max / at_max.sum(-1, keepdim=True).clamp(min=1)
            rounded = spec.element_format.round(r.nan_to_num(), "even")
            through = g * (rounded - r * slope)
            if self.full:
                through = through.sum(-1, keepdim=True)
            q = scale_slope(self.scale, spec, c, scaled.scale)
            out = out + share * q * through / spec.element_format.max
        return scaled.layout.undo(out)
