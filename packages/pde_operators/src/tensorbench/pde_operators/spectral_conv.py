"""The Fourier layer: multiply the low modes of a field by matrices between channels, dense or factored.

Li et al., "Fourier Neural Operator for Parametric PDEs", 2021, arXiv 2010.08895; factored weights and one tensor for
all layers after Kossaifi et al., TMLR 2024, arXiv 2310.00120.

Of a grid of N points an axis the modes -n/2, …, n/2 - 1 are kept, of the last axis 0, …, n/2 (the field is real).
Transforms go axis by axis and drop the other modes as soon as they are known, so no more is transformed than is kept.
Coefficients have norm ``forward`` (a mode's coefficient does not depend on the resolution), which is why the same
weights serve every grid.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tensorbench.core.errors import unknown
from tensorbench.pde_operators.factored import Dense, Form, Rank, SpectralWeights

PRECISIONS = ("full", "mixed", "half")
IMPLEMENTATIONS = ("factorized", "reconstructed")


def kept_modes(n_modes: Sequence[int]) -> tuple[int, ...]:
    """Modes stored per axis: n, and n // 2 + 1 for the last."""
    return (*n_modes[:-1], n_modes[-1] // 2 + 1)


def low_modes(x: Float[Tensor, "batch channels *grid"], kept: Sequence[int]) -> Tensor:
    """Coefficients of the low modes, centred on every axis but the last (negative modes first)."""
    d = len(kept)
    z = torch.fft.rfft(x, dim=-1, norm="forward")[..., : kept[-1]]
    for axis in range(-2, -d - 1, -1):
        z = torch.fft.fft(z, dim=axis, norm="forward")
        n, size = kept[axis], z.shape[axis]
        negative = n // 2
        z = torch.cat([z.narrow(axis, size - negative, negative), z.narrow(axis, 0, n - negative)], dim=axis)
    return z


def from_low_modes(z: Tensor, grid: Sequence[int]) -> Float[Tensor, "batch channels *grid"]:
    """The real field of those coefficients, all others zero, on a grid of any size that holds them.

    On the last axis, the coefficients of mode 0 and of the Nyquist mode of a real signal are real: their imaginary
    parts are dropped before the last transform rather than left to the FFT library.
    """
    d = len(grid)
    for axis in range(-d, -1):
        n, size = z.shape[axis], grid[axis]
        negative = n // 2
        gap = list(z.shape)
        gap[axis] = size - n
        positive = z.narrow(axis, negative, n - negative)
        z = torch.cat([positive, z.new_zeros(gap), z.narrow(axis, 0, negative)], dim=axis)
        z = torch.fft.ifft(z, dim=axis, norm="forward")
    return torch.fft.irfft(_real_ends(z, grid[-1]), n=grid[-1], dim=-1, norm="forward")


def _real_ends(z: Tensor, size: int) -> Tensor:
    """Mode 0 and, if it is there, the Nyquist mode without imaginary part."""
    first = torch.complex(z[..., :1].real, torch.zeros_like(z[..., :1].real))
    if size % 2 == 0 and z.shape[-1] == size // 2 + 1 and size > 1:
        last = torch.complex(z[..., -1:].real, torch.zeros_like(z[..., -1:].real))
        return torch.cat([first, z[..., 1:-1], last], dim=-1)
    return torch.cat([first, z[..., 1:]], dim=-1)


class JointSpectralWeights(nn.Module):
    """One tensor (layers · 2^(d-1), in, out, n₁/2, …, n_d/2 + 1) for the spectral weights of all layers.

    The first mode runs over layers and, within a layer, over the corners of the spectrum: for each axis but the last
    whether the negative or the other modes are meant (negative first, the first axis slowest). Factored, the layers
    share all factors but one row each; a layer's weights are made from the factors alone.
    """

    def __init__(
        self,
        layers: int,
        in_channels: int,
        out_channels: int,
        n_modes: Sequence[int],
        factorization: str | None = "tucker",
        rank: Rank = 0.1,
        *,
        fixed_modes: Sequence[int] = (),
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if any(n % 2 for n in n_modes[:-1]):
            raise ValueError(
                f"n_modes {tuple(n_modes)}: one tensor for all layers needs even numbers on all axes but the last"
            )
        half = (*(n // 2 for n in n_modes[:-1]), n_modes[-1] // 2 + 1)
        self.layers, self.n_modes, self.corners = layers, tuple(n_modes), 2 ** (len(n_modes) - 1)
        std = math.sqrt(2 / (in_channels + out_channels))
        shape = (layers * self.corners, in_channels, out_channels, *half)
        self.weights = SpectralWeights(
            shape, factorization, rank, std=std, fixed_modes=fixed_modes, generator=generator
        )

    def layer(self, index: int) -> list[Form]:
        """The forms of a layer's corners."""
        form = self.weights.form
        return [form.row(index * self.corners + corner) for corner in range(self.corners)]


class LayerOfJoint(nn.Module):
    """A layer's view of the joint weights: same surface as :class:`SpectralWeights`, no parameters of its own.

    The joint module is not registered here, so that its parameters are counted once, where it lives.
    """

    def __init__(self, joint: JointSpectralWeights, index: int) -> None:
        super().__init__()
        self._joint, self.index = [joint], index
        d = len(joint.n_modes)
        self.shape = (*joint.weights.shape[1:3], *kept_modes(joint.n_modes))
        self.corner_axes = [[(corner >> (d - 2 - k)) & 1 for k in range(d - 1)] for corner in range(joint.corners)]

    @property
    def factorization(self) -> str | None:
        return self._joint[0].weights.factorization

    def corners(self) -> list[Form]:
        return self._joint[0].layer(self.index)

    def full(self) -> Tensor:
        """The layer's tensor (in, out, *modes), centred."""
        blocks = [form.full() for form in self.corners()]
        for axis in range(len(self._joint[0].n_modes) - 2, -1, -1):
            blocks = [torch.cat(blocks[k : k + 2], dim=2 + axis) for k in range(0, len(blocks), 2)]
        return blocks[0]


class SpectralConv(nn.Module):
    """y = F⁻¹(W · low modes of F x) + bias, on any grid of 1 to 3 axes with at least ``n_modes`` points.

    Args:
        n_modes: modes an axis; may be lowered and raised later up to ``max_n_modes`` by assigning to ``n_modes``.
        factorization, rank, fixed_rank_modes: see :class:`SpectralWeights`.
        implementation: ``factorized`` contracts factor by factor, ``reconstructed`` builds the tensor first.
        separable: one number a channel and mode instead of a matrix; needs as many inputs as outputs. There the full
            table is no larger than one sample's coefficients, so that both implementations build it.
        precision: ``mixed`` rounds coefficients and weights to half precision before the contraction, ``half`` the
            field too. Arithmetic stays in single precision: this shows the loss of accuracy, not the saving.
        scaling: the output grid has round(scaling · N) points an axis.
        weights: weights made elsewhere (a layer of joint ones).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        n_modes: Sequence[int],
        *,
        factorization: str | None = None,
        rank: Rank = 0.1,
        implementation: str = "factorized",
        separable: bool = False,
        fixed_rank_modes: Sequence[int] = (),
        max_n_modes: Sequence[int] | None = None,
        precision: str = "full",
        bias: bool = True,
        scaling: float = 1.0,
        weights: LayerOfJoint | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if implementation not in IMPLEMENTATIONS:
            raise ValueError(unknown("implementation", implementation, IMPLEMENTATIONS))
        if precision not in PRECISIONS:
            raise ValueError(unknown("precision", precision, PRECISIONS))
        if separable and in_channels != out_channels:
            raise ValueError(f"separable weights keep the channels, got {in_channels} in and {out_channels} out")
        self.max_n_modes = tuple(max_n_modes or n_modes)
        self.n_modes = tuple(n_modes)
        self.separable, self.implementation, self.precision, self.scaling = (
            separable,
            implementation,
            precision,
            scaling,
        )
        channels = (in_channels,) if separable else (in_channels, out_channels)
        shape, std = (*channels, *kept_modes(self.max_n_modes)), math.sqrt(2 / (in_channels + out_channels))
        if weights is not None and weights.shape != shape:
            raise ValueError(f"joint weights of shape {weights.shape} do not fit a layer of shape {shape}")
        own = (
            SpectralWeights(shape, factorization, rank, std=std, fixed_modes=fixed_rank_modes, generator=generator)
            if weights is None
            else weights
        )
        self.weights: SpectralWeights | LayerOfJoint = own
        ones = (1,) * len(self.n_modes)
        self.bias = nn.Parameter(torch.randn(out_channels, *ones, generator=generator) * std) if bias else None

    @property
    def n_modes(self) -> tuple[int, ...]:
        """Modes in use, an axis."""
        return self._n_modes

    @n_modes.setter
    def n_modes(self, n_modes: Sequence[int]) -> None:
        modes = tuple(n_modes)
        if len(modes) != len(self.max_n_modes) or not 1 <= len(modes) <= 3:
            raise ValueError(f"n_modes {modes}: one number for each of 1 to 3 axes, here {len(self.max_n_modes)}")
        if any(not 1 <= n <= most for n, most in zip(modes, self.max_n_modes, strict=True)):
            raise ValueError(f"n_modes {modes} must be between 1 and those of the weights, {self.max_n_modes}")
        self._n_modes = modes

    def forward(self, x: Float[Tensor, "batch cin *grid"]) -> Float[Tensor, "batch cout *out_grid"]:
        grid = x.shape[2:]
        out_grid = self.out_grid(grid)
        if len(grid) != len(self.n_modes) or any(
            n > min(p) for n, *p in zip(self.n_modes, grid, out_grid, strict=True)
        ):
            raise ValueError(f"n_modes {self.n_modes} exceed the grid {tuple(grid)} → {out_grid}; use fewer modes")
        kept = kept_modes(self.n_modes)
        if self.precision == "half":
            x = x.half().to(x.dtype)
        z = low_modes(x, kept)
        y = from_low_modes(self._apply_weights(z if self.precision == "full" else _rounded(z)), out_grid)
        return y if self.bias is None else y + self.bias

    def out_grid(self, grid: Sequence[int]) -> tuple[int, ...]:
        """Points an axis of the output."""
        return tuple(grid) if self.scaling == 1 else tuple(round(n * self.scaling) for n in grid)

    def _apply_weights(self, z: Tensor) -> Tensor:
        if isinstance(self.weights, LayerOfJoint) and self.implementation == "factorized" and not self._fewer():
            return _by_corners(self.weights, z, rounded=self.precision != "full")
        if self.implementation == "reconstructed" or self.separable or isinstance(self.weights, LayerOfJoint):
            channels = (slice(None),) * (1 if self.separable else 2)
            table = self.weights.full()[channels + tuple(self._slices())]
            table = table if self.precision == "full" else _rounded(table)
            return z * table if self.separable else Dense(table).contract(z)
        form = self.weights.form.keep(self._slices(), 2) if self._fewer() else self.weights.form
        if self.precision != "full":
            form = form.map(_rounded)
        return form.contract(z)

    def _fewer(self) -> bool:
        return self.n_modes != self.max_n_modes

    def _slices(self) -> list[slice]:
        """Where the modes in use lie among the stored ones: around the centre, on the last axis from the start."""
        starts = [most // 2 - n // 2 for n, most in zip(self.n_modes, self.max_n_modes, strict=True)]
        return [
            *(slice(a, a + n) for a, n in zip(starts[:-1], self.n_modes[:-1], strict=True)),
            slice(0, self.n_modes[-1] // 2 + 1),
        ]


def _by_corners(weights: LayerOfJoint, z: Tensor, rounded: bool) -> Tensor:
    """Contract every corner of the spectrum with its own form and put the corners together."""
    blocks = []
    for form, axes in zip(weights.corners(), weights.corner_axes, strict=True):
        part = z
        for axis, side in enumerate(axes):
            half = z.shape[2 + axis] // 2
            part = part.narrow(2 + axis, side * half, half)
        form = form.map(_rounded) if rounded else form
        blocks.append(form.contract(part))
    for axis in range(z.ndim - 4, -1, -1):
        blocks = [torch.cat(blocks[k : k + 2], dim=2 + axis) for k in range(0, len(blocks), 2)]
    return blocks[0]


def _rounded(z: Tensor) -> Tensor:
    return torch.view_as_complex(torch.view_as_real(z).half().to(z.real.dtype))
