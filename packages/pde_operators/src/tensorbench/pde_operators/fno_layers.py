"""What stands around the spectral layer of a Fourier neural operator: channel mixing, skips, norms, padding, block.

The block with two skips, optional preactivation and normalisation is that of Kossaifi et al., TMLR 2024, arXiv
2310.00120. Everything acts point by point or takes means over the grid, and so serves any resolution and 1 to 3 axes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from tensorbench.core.errors import unknown
from tensorbench.pde_operators.spectral_conv import SpectralConv, from_low_modes, low_modes

SKIPS = ("linear", "soft-gating", "identity", "none")
NORMS = ("instance", "group", "batch", "ada_in")
_ADA_IN_HIDDEN = 512


class Pointwise(nn.Module):
    """The same matrix between channels at every point; weights uniform in ±1/√(inputs)."""

    def __init__(
        self, in_channels: int, out_channels: int, *, bias: bool = True, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        bound = 1 / math.sqrt(in_channels)
        uniform = torch.rand(out_channels, in_channels, 1, generator=generator)
        self.weight = nn.Parameter(bound * (2 * uniform - 1))
        self.bias = nn.Parameter(bound * (2 * torch.rand(out_channels, generator=generator) - 1)) if bias else None

    def forward(self, x: Float[Tensor, "batch cin *grid"]) -> Float[Tensor, "batch cout *grid"]:
        flat, weight = x.flatten(2), self.weight[..., 0].expand(x.shape[0], -1, -1)
        # A product of matrices for every sample; the library's convolution of width 1 takes about twice as long.
        y = torch.bmm(weight, flat) if self.bias is None else torch.baddbmm(self.bias[:, None], weight, flat)
        return y.reshape(*y.shape[:2], *x.shape[2:])


class ChannelMLP(nn.Module):
    """Two pointwise layers with a GELU between."""

    def __init__(
        self, in_channels: int, hidden: int, out_channels: int, *, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        self.first = Pointwise(in_channels, hidden, generator=generator)
        self.second = Pointwise(hidden, out_channels, generator=generator)

    def forward(self, x: Float[Tensor, "batch cin *grid"]) -> Float[Tensor, "batch cout *grid"]:
        flat = x.flatten(2)
        y = self.second(F.gelu(self.first(flat)))
        return y.reshape(*y.shape[:2], *x.shape[2:])


class SoftGating(nn.Module):
    """One learnt scale a channel, 1 at the start."""

    def __init__(self, channels: int, axes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1, channels, *(1,) * axes))

    def forward(self, x: Float[Tensor, "batch channels *grid"]) -> Float[Tensor, "batch channels *grid"]:
        return self.weight * x


def skip_connection(
    kind: str, in_channels: int, out_channels: int, axes: int, generator: torch.Generator | None = None
) -> nn.Module | None:
    """``linear`` (a matrix, no bias), ``soft-gating``, ``identity``, or ``none``."""
    if kind not in SKIPS:
        raise ValueError(unknown("skip", kind, SKIPS))
    if kind == "linear":
        return Pointwise(in_channels, out_channels, bias=False, generator=generator)
    if kind != "none" and in_channels != out_channels:
        raise ValueError(f"skip {kind!r} keeps the channels, got {in_channels} in and {out_channels} out; use 'linear'")
    if kind == "soft-gating":
        return SoftGating(in_channels, axes)
    return nn.Identity() if kind == "identity" else None


class Norm(nn.Module):
    """Normalisation of a field's channels.

    ``instance``: each channel of each sample. ``group``: all channels of a sample together. ``batch``: each channel
    over the batch. ``ada_in``: instance, then a scale and shift that a network makes from an embedding (of the
    problem's parameters, say), one for the batch or one a sample.
    """

    def __init__(
        self, kind: str, channels: int, *, features: int | None = None, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        if kind not in NORMS:
            raise ValueError(unknown("norm", kind, NORMS))
        self.kind, self.channels = kind, channels
        self.inner: nn.Module | None = None
        if kind == "group":
            self.inner = nn.GroupNorm(1, channels)
        elif kind == "batch":
            self.inner = nn.BatchNorm1d(channels)
        elif kind == "ada_in":
            if features is None:
                raise ValueError("norm 'ada_in' needs ada_in_features, the length of the embedding")
            self.inner = ChannelMLP(features, _ADA_IN_HIDDEN, 2 * channels, generator=generator)

    def forward(self, x: Float[Tensor, "batch channels *grid"], embedding: Tensor | None = None) -> Tensor:
        if self.kind == "instance":
            return F.group_norm(x, self.channels)
        assert self.inner is not None
        if self.kind == "group":
            return self.inner(x)
        if self.kind == "batch":
            if self.training and x.shape[0] == 1:
                raise ValueError("batch norm of a single sample; use a larger batch, or norm 'instance' or 'group'")
            return self.inner(x.flatten(2)).reshape(x.shape)
        if embedding is None:
            raise ValueError("norm 'ada_in' needs an embedding: call model(x, embedding)")
        rows = embedding.reshape(-1, embedding.shape[-1], 1)
        scale, shift = self.inner(rows).reshape(rows.shape[0], 2, -1, *(1,) * (x.ndim - 2)).unbind(1)
        return F.group_norm(x, self.channels) * scale + shift


class GridEmbedding(nn.Module):
    """Append the coordinates k/N of every axis as channels: the grid of [0, 1) that a periodic field lives on."""

    def forward(self, x: Float[Tensor, "batch channels *grid"]) -> Float[Tensor, "batch more *grid"]:
        grid = x.shape[2:]
        axes = [torch.arange(n, dtype=x.dtype, device=x.device) / n for n in grid]
        coordinates = torch.stack(torch.meshgrid(*axes, indexing="ij"))
        return torch.cat([x, coordinates.expand(x.shape[0], *coordinates.shape)], dim=1)


class DomainPadding(nn.Module):
    """Zeros around the domain, ``fraction`` of its points on either side of every axis, for fields without period."""

    def __init__(self, fraction: float | Sequence[float]) -> None:
        super().__init__()
        values = [fraction] if isinstance(fraction, (int, float)) else list(fraction)
        if any(not 0 <= f <= 1 for f in values):
            raise ValueError(f"padding {fraction}: a share of the points of each axis, from 0 to 1")
        self.fraction = values

    def widths(self, grid: Sequence[int]) -> list[int]:
        """Points on either side, an axis."""
        shares = self.fraction * len(grid) if len(self.fraction) == 1 else self.fraction
        return [round(f * n) for f, n in zip(shares, grid, strict=True)]

    def forward(self, x: Float[Tensor, "batch channels *grid"]) -> Float[Tensor, "batch channels *padded"]:
        return F.pad(x, [w for width in reversed(self.widths(x.shape[2:])) for w in (width, width)])

    def remove(
        self, x: Tensor, grid: Sequence[int], out_grid: Sequence[int]
    ) -> Float[Tensor, "batch channels *out_grid"]:
        """Cut off what became of the padding of ``grid`` where the field now has ``out_grid`` points without it."""
        widths = [round(w * m / n) for w, n, m in zip(self.widths(grid), grid, out_grid, strict=True)]
        for axis, (w, m) in enumerate(zip(widths, out_grid, strict=True)):
            x = x.narrow(axis + 2, w, m)
        return x


class FNOBlock(nn.Module):
    """A Fourier layer with a skip, then channel mixing with another: GELU after each, unless it is the last block.

    With ``preactivation`` GELU and norm come before the Fourier layer. ``stabilizer='tanh'`` bounds what enters it.
    """

    def __init__(
        self,
        conv: SpectralConv,
        in_channels: int,
        out_channels: int,
        *,
        skip: str = "linear",
        mlp_skip: str = "soft-gating",
        channel_mlp: float | None = 0.5,
        preactivation: bool = False,
        norm: str | None = None,
        ada_in_features: int | None = None,
        stabilizer: str | None = None,
        last: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if stabilizer not in (None, "tanh"):
            raise ValueError(unknown("stabilizer", str(stabilizer), ("tanh",)))
        axes = len(conv.n_modes)
        self.conv, self.preactivation, self.stabilizer, self.last = conv, preactivation, stabilizer, last
        self.skip = skip_connection(skip, in_channels, out_channels, axes, generator)
        self.mlp: ChannelMLP | None = None
        self.mlp_skip: nn.Module | None = None
        if channel_mlp is not None:
            hidden = max(round(out_channels * channel_mlp), 1)
            self.mlp = ChannelMLP(out_channels, hidden, out_channels, generator=generator)
            self.mlp_skip = skip_connection(mlp_skip, in_channels, out_channels, axes, generator)
        widths = (in_channels if preactivation else out_channels, out_channels)
        norms = [] if norm is None else [Norm(norm, n, features=ada_in_features, generator=generator) for n in widths]
        self.norms = nn.ModuleList(norms)

    def forward(
        self, x: Float[Tensor, "batch cin *grid"], embedding: Tensor | None = None
    ) -> Float[Tensor, "batch cout *out_grid"]:
        if self.preactivation:
            x = self._norm(0, F.gelu(x), embedding)
        outer = self._resampled(self.mlp_skip, x)
        inner = self._resampled(self.skip, x)
        y = self.conv(torch.tanh(x) if self.stabilizer else x)
        if not self.preactivation:
            y = self._norm(0, y, embedding)
        y = y if inner is None else y + inner
        y = y if self.last else F.gelu(y)
        if self.preactivation:
            y = self._norm(1, y, embedding)
        if self.mlp is not None:
            y = self.mlp(y) if outer is None else self.mlp(y) + outer
        if self.preactivation:
            return y
        y = self._norm(1, y, embedding)
        return y if self.last else F.gelu(y)

    def _norm(self, index: int, y: Tensor, embedding: Tensor | None) -> Tensor:
        return self.norms[index](y, embedding) if len(self.norms) else y

    def _resampled(self, skip: nn.Module | None, x: Tensor) -> Tensor | None:
        if skip is None:
            return None
        out_grid = self.conv.out_grid(x.shape[2:])
        return skip(x) if out_grid == tuple(x.shape[2:]) else resample(skip(x), out_grid)


def resample(x: Float[Tensor, "batch channels *grid"], out_grid: Sequence[int]) -> Float[Tensor, "batch channels *out"]:
    """The trigonometric interpolant of a periodic field on another grid; modes that do not fit are dropped."""
    sizes = [min(n, m) for n, m in zip(x.shape[2:], out_grid, strict=True)]
    odd = [n if n % 2 else n - 1 for n in sizes]  # without the Nyquist mode, whose phase a grid does not know
    return from_low_modes(low_modes(x, (*odd[:-1], odd[-1] // 2 + 1)), out_grid)
