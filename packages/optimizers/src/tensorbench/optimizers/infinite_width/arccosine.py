"""Expectations of ReLU and its derivatives under a bivariate normal, safe where the correlation is 1 or -1.

(z1, z2) has mean 0, standard deviations s1, s2 and correlation c. Cho, Saul (2009), arc-cosine kernels; used for the
GP and NTK limits in Yang, Hu (2021), arXiv 2011.14522, Appendix D.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor


def _clamped(c: Tensor) -> Tensor:
    return c.clamp(-1.0, 1.0)


def _sine(c: Tensor) -> Tensor:
    return ((1 - c) * (1 + c)).clamp_min(0).sqrt()


def relu_F00(c: Float[Tensor, "*shape"], s1: Tensor | float = 1.0, s2: Tensor | float = 1.0) -> Float[Tensor, "*shape"]:
    """E[relu(z1) relu(z2)] = s1 s2 (sqrt(1 - c^2) + c (pi - acos c)) / 2 pi."""
    c = _clamped(c)
    return (_sine(c) + c * torch.acos(-c)) * (s1 * s2 / (2 * math.pi))


def relu_F11(c: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """E[relu'(z1) relu'(z2)] = (pi - acos c) / 2 pi; the standard deviations do not matter."""
    return torch.acos(-_clamped(c)) / (2 * math.pi)


def relu_F02(c: Float[Tensor, "*shape"], s1: Tensor | float = 1.0, s2: Tensor | float = 1.0) -> Float[Tensor, "*shape"]:
    """E[relu(z1) relu''(z2)], relu'' the Dirac delta: s1 sqrt(1 - c^2) / (2 pi s2)."""
    return _sine(_clamped(c)) * (s1 / (2 * math.pi * s2))


def lin_kernel(
    x: Float[Tensor, "left inputs"], y: Float[Tensor, "right inputs"], varw: float = 1.0, varb: float = 0.0
) -> Float[Tensor, "left right"]:
    """varw <x, y> + varb: the GP (and with varw summed over the layers the NTK) of linear networks."""
    if varw < 0 or varb < 0:
        raise ValueError(f"variances must not be negative, got varw={varw}, varb={varb}")
    return varw * (x @ y.T) + varb
