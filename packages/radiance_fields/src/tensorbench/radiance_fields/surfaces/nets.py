"""A surface as a small network from template coordinates to space, with its derivatives in closed form.

f(u, v) is a perceptron with softplus, twice continuously differentiable (and more). Its first and second derivatives
are carried along the layers (a 2-jet): for z = W h and h' = φ(z),
∂ᵢh' = φ'(z) ∂ᵢz and ∂ᵢⱼh' = φ''(z) ∂ᵢz ∂ⱼz + φ'(z) ∂ᵢⱼz. That is exact, costs one more pass of the weights for each
derivative, and is differentiable in the weights; torch.func gives the same (:mod:`.geometry`).

Paper: Barbany, Colomé, Torras, Deformable surface reconstruction via Riemannian metric preservation, 2022-2024
(arXiv 2212.11596); layer sizes, softplus and the skip to the last layer as in its released code, the text was not read.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from tensorbench.core.errors import unknown

ACTIVATIONS = ("softplus", "tanh", "relu")


class SurfaceNet(nn.Module):
    """f: (u, v) → (x, y, z).

    Args:
        hidden: widths of the hidden layers.
        activation: ``softplus`` (with ``beta``), ``tanh``, or ``relu``, whose second derivative is 0: its surfaces are
            polyhedra without curvature (or, behind an encoding, with that of the encoding alone).
        frequencies: octaves of a positional encoding, sin and cos of 2^k π u beside u; 0 for none.
        skips: layers (1 is the first hidden one, ``len(hidden)`` the last, linear one) that see the input too.
        generator: for the initial weights (uniform, ±1/√fan-in, as torch's).

    Raises:
        ValueError: an unknown activation, widths or a skip that make no sense.
    """

    def __init__(
        self,
        hidden: Sequence[int] = (128, 128),
        *,
        activation: str = "softplus",
        beta: float = 5.0,
        frequencies: int = 0,
        skips: Sequence[int] | None = None,
        generator: torch.Generator | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise ValueError(unknown("activation", activation, ACTIVATIONS))
        if not hidden or min(hidden) < 1 or beta <= 0 or frequencies < 0:
            raise ValueError(f"hidden {hidden}, beta {beta}, frequencies {frequencies}: widths and beta are positive")
        self.skips = frozenset([len(hidden)] if skips is None else skips)
        if not self.skips <= set(range(1, len(hidden) + 1)):
            raise ValueError(f"skips {sorted(self.skips)} must be layers 1 to {len(hidden)} (0 has the input anyway)")
        self.activation, self.beta, self.frequencies = activation, beta, frequencies
        inputs = 2 + 4 * frequencies
        sizes = [inputs, *hidden, 3]
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for k, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes)):
            fan_in += inputs if k in self.skips else 0
            bound = 1 / math.sqrt(fan_in)
            for kind, shape in ((self.weights, (fan_out, fan_in)), (self.biases, (fan_out,))):
                kind.append(nn.Parameter((2 * torch.rand(shape, generator=generator, dtype=dtype) - 1) * bound))

    # --- activation and encoding ---

    def _act(self, z: Tensor) -> Tensor:
        if self.activation == "softplus":
            return F.softplus(z, beta=self.beta)
        return torch.tanh(z) if self.activation == "tanh" else torch.relu(z)

    def _slope(self, z: Tensor) -> Tensor:
        if self.activation == "softplus":
            return torch.sigmoid(self.beta * z)
        return 1 - torch.tanh(z).square() if self.activation == "tanh" else (z > 0).to(z.dtype)

    def _bend(self, z: Tensor) -> Tensor:
        if self.activation == "softplus":
            s = torch.sigmoid(self.beta * z)
            return self.beta * s * (1 - s)
        if self.activation == "tanh":
            t = torch.tanh(z)
            return -2 * t * (1 - t.square())
        return torch.zeros_like(z)

    def _scales(self, uv: Tensor) -> Tensor:
        return math.pi * 2.0 ** torch.arange(self.frequencies, dtype=uv.dtype, device=uv.device)

    def _encode(self, uv: Float[Tensor, "n 2"]) -> Float[Tensor, "n inputs"]:
        if not self.frequencies:
            return uv
        angle = (uv[:, :, None] * self._scales(uv)).flatten(1)
        return torch.cat([uv, angle.sin(), angle.cos()], 1)

    def _encode_slopes(self, uv: Float[Tensor, "n 2"], order: int) -> Float[Tensor, "2 n inputs"]:
        """First (order 1) or pure second (order 2) derivatives of the encoding in u and in v; mixed ones are 0."""
        unit = torch.eye(2, dtype=uv.dtype, device=uv.device)[:, None, :].expand(2, len(uv), 2)
        own = unit if order == 1 else torch.zeros_like(unit)
        if not self.frequencies:
            return own
        scales = self._scales(uv)
        angle = uv[:, :, None] * scales
        if order == 1:
            sine, cosine = scales * angle.cos(), -scales * angle.sin()
        else:
            sine, cosine = -scales.square() * angle.sin(), -scales.square() * angle.cos()
        parts = [(part[None] * unit[:, :, :, None]).flatten(2) for part in (sine, cosine)]
        return torch.cat([own, *parts], 2)

    # --- values and derivatives ---

    def features(self, uv: Float[Tensor, "n 2"]) -> Float[Tensor, "n features"]:
        """What the last, linear layer sees: the surface is linear in its weights (:func:`.registration.register`)."""
        x = self._encode(uv)
        h = x
        last = len(self.weights) - 1
        for k in range(last):
            h = self._act(F.linear(torch.cat([h, x], 1) if k in self.skips else h, self.weights[k], self.biases[k]))
        return torch.cat([h, x], 1) if last in self.skips else h

    def forward(self, uv: Float[Tensor, "n 2"]) -> Float[Tensor, "n 3"]:
        """Points of the surface."""
        return F.linear(self.features(uv), self.weights[-1], self.biases[-1])

    def jet(
        self, uv: Float[Tensor, "n 2"], tangents_of: int | None = None
    ) -> tuple[Float[Tensor, "n 3"], Float[Tensor, "m 3 2"]]:
        """Points, and the Jacobians at the last ``tangents_of`` of them (all by default), in one pass."""
        m = len(uv) if tangents_of is None else tangents_of
        x = self._encode(uv)
        dx = self._encode_slopes(uv[len(uv) - m :], 1)
        h, dh = x, dx
        last = len(self.weights) - 1
        for k in range(last + 1):
            if k in self.skips:
                h, dh = torch.cat([h, x], 1), torch.cat([dh, dx], 2)
            z, dh = F.linear(h, self.weights[k], self.biases[k]), F.linear(dh, self.weights[k])
            if k == last:
                return z, dh.permute(1, 2, 0)
            h, dh = self._act(z), self._slope(z[len(uv) - m :]) * dh
        raise AssertionError("unreachable")

    def jacobian(self, uv: Float[Tensor, "n 2"]) -> Float[Tensor, "n 3 2"]:
        """∂f/∂(u, v)."""
        return self.jet(uv)[1]

    def second_derivatives(self, uv: Float[Tensor, "n 2"]) -> Float[Tensor, "n 3 2 2"]:
        """∂²f/∂(u, v)²."""
        x, dx = self._encode(uv), self._encode_slopes(uv, 1)
        pure = self._encode_slopes(uv, 2)
        ddx = torch.stack([pure[0], torch.zeros_like(pure[0]), pure[1]])  # uu, uv, vv
        h, dh, ddh = x, dx, ddx
        last = len(self.weights) - 1
        for k in range(last + 1):
            if k in self.skips:
                h, dh, ddh = torch.cat([h, x], 1), torch.cat([dh, dx], 2), torch.cat([ddh, ddx], 2)
            z, dz, ddz = (
                F.linear(h, self.weights[k], self.biases[k]),
                *(F.linear(t, self.weights[k]) for t in (dh, ddh)),
            )
            if k == last:
                return torch.stack([ddz[[0, 1]], ddz[[1, 2]]]).permute(2, 3, 0, 1)
            slope = self._slope(z)
            products = torch.stack([dz[0] * dz[0], dz[0] * dz[1], dz[1] * dz[1]])
            h, dh, ddh = self._act(z), slope * dz, self._bend(z) * products + slope * ddz
        raise AssertionError("unreachable")
