"""Convolutions that are declared compressed before training: one-way filters, one axis each, one after another.

Boukraichi, Akkari, Casenave, Ryckelynck (2023, arXiv 2304.04964) replace "3-way kernels or 2-way kernels in
convolutional layers" by one-way filters. Only the abstract was at hand; the layers here are what those words say:

- *3-way* (:class:`OneWayConv2d`): the kernel of each output o is a tensor over (in, kh, kw), written in canonical form
  of rank R, ``K_o = Σ_r c_or ⊗ v_or ⊗ h_or``. The layer is then a 1 × 1 convolution to ``out · R`` maps, a k × 1 and a
  1 × k filter of each map, and a sum over r: ``out · R · (in + 2k)`` weights instead of ``out · in · k²``.
- *2-way* (:mod:`~tensorbench.pde_operators.factored_convs`): channels stay mixed by a dense matrix of spatial kernels,
  each of which is written ``K_oi = Σ_r v_oir ⊗ h_oir``.
- ``share="shared"``: all outputs use the same R filters, ``K_o = Σ_r m_or c_r ⊗ v_r ⊗ h_r``. This is the canonical form
  of the whole 4-way kernel, what compression after training makes (Lebedev et al. 2015, arXiv 1412.6553).

There is no nonlinearity between the stages, so that :meth:`kernel` is an equivalent dense kernel; each stage pads,
strides and dilates its own axis only, which makes the equivalence exact at the edges too.

Initial weights (:meth:`initialise`): the spatial filters are uniform on a sphere of radius 1 (variance 1/k of each
entry), the channel filters normal of variance gain² / (in · R): the sum of R products then has the variance
gain² / (in · k²) of He et al. (2015) in every entry of the dense kernel.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from tensorbench.core.errors import unknown

Share = Literal["per_output", "shared"]
Compute = Literal["stages", "kernel"]
AXES = {1: "w", 2: "hw", 3: "dhw"}
_CONV: dict[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSE: dict[int, Callable[..., Tensor]] = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
PADDING_MODES = ("zeros", "reflect", "replicate", "circular")
_SHARES = ("per_output", "shared")
COMPUTES = ("stages", "kernel")


class _OneWay(nn.Module):
    """What all dimensions and directions share; see :class:`OneWayConv2d` for the arguments."""

    dims = 2
    transposed = False

    def __init__(
        self,
        cin: int,
        cout: int,
        kernel_size: int | Sequence[int] = 3,
        rank: int = 1,
        *,
        order: str | None = None,
        share: Share = "per_output",
        bias: bool = True,
        stride: int | Sequence[int] = 1,
        dilation: int | Sequence[int] = 1,
        padding: int | Sequence[int] | str = 0,
        output_padding: int | Sequence[int] = 0,
        padding_mode: str = "zeros",
        groups: int = 1,
        compute: Compute = "stages",
        save_memory: bool = False,
        activation_between: Callable[[Tensor], Tensor] | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        letters = AXES[self.dims]
        if cin < 1 or cout < 1:
            raise ValueError(f"channels must be at least 1, got {cin} in and {cout} out")
        if rank < 1:
            raise ValueError(f"rank {rank} must be at least 1: it is the number of products that make up a kernel")
        if groups != 1:
            raise ValueError(f"groups {groups}: one-way filters know no groups of channels; use groups=1")
        for option, value, valid in (
            ("padding_mode", padding_mode, PADDING_MODES), ("share", share, _SHARES), ("compute", compute, COMPUTES)
        ):  # fmt: skip
            if value not in valid:
                raise ValueError(unknown(option, value, valid))
        self.order = ("c" + letters) if order is None else order
        if sorted(self.order) != sorted("c" + letters):
            raise ValueError(f"order {order!r} must name each of c{letters} once: channels and axes, first stage first")
        self.cin, self.cout, self.rank, self.share, self.padding_mode = cin, cout, rank, share, padding_mode
        self.kernel_size = _each(kernel_size, self.dims, "kernel_size", 1)
        self.stride = _each(stride, self.dims, "stride", 1)
        self.dilation = _each(dilation, self.dims, "dilation", 1)
        self.output_padding = _each(output_padding, self.dims, "output_padding", 0)
        self.padding = self._padding(padding)
        if self.transposed and padding_mode != "zeros":
            raise ValueError(f"padding_mode {padding_mode!r}: transposed convolutions know zeros only")
        if activation_between is not None and compute == "kernel":
            raise ValueError("with an activation between the stages there is no kernel to compute with: use 'stages'")
        self.compute, self.save_memory, self.activation_between = compute, save_memory, activation_between

        # The maps that the one-way filters work on: out × rank of them, or rank where all outputs share them.
        maps = (cout, rank) if share == "per_output" else (rank,)
        self.channel = nn.Parameter(torch.empty(*maps, cin))
        self.filters = nn.ParameterList(torch.empty(*maps, k) for k in self.kernel_size)
        self.mix = nn.Parameter(torch.empty(cout, rank)) if share == "shared" else None
        self.bias = nn.Parameter(torch.zeros(cout)) if bias else None
        self.initialise(generator)

    def _padding(self, padding: int | Sequence[int] | str) -> tuple[int, ...]:
        if not isinstance(padding, str):
            return _each(padding, self.dims, "padding", 0)
        if padding == "valid":
            return (0,) * self.dims
        if padding != "same":
            raise ValueError(unknown("padding", padding, ("same", "valid")))
        if any(k % 2 == 0 for k in self.kernel_size):
            raise ValueError(f"padding 'same' needs odd kernels, got {self.kernel_size}: an even one has no centre")
        if self.transposed or any(s != 1 for s in self.stride):
            raise ValueError("padding 'same' is for convolutions of stride 1")
        return tuple(d * (k - 1) // 2 for k, d in zip(self.kernel_size, self.dilation, strict=True))

    @torch.no_grad()
    def initialise(self, generator: torch.Generator | None = None, gain: float = math.sqrt(2)) -> None:
        """Draw the filters so that the dense kernel has variance gain² / fan-in; see the module's docstring."""
        share_of_rank = self.rank if self.share == "per_output" else 1
        self.channel.normal_(0.0, gain / math.sqrt(self.cin * share_of_rank), generator=generator)
        if self.mix is not None:
            self.mix.normal_(0.0, 1 / math.sqrt(self.rank), generator=generator)
        for weights, stride in zip(self.filters, self.stride, strict=True):
            weights.normal_(generator=generator)
            weights /= torch.linalg.vector_norm(weights, dim=-1, keepdim=True).clamp_min(1e-12)
            if self.transposed:
                weights *= math.sqrt(stride)  # only k / stride taps of an axis meet an output
        if self.bias is not None:
            self.bias.zero_()

    def kernel(self) -> Float[Tensor, "..."]:
        """The equivalent dense kernel, (out, in, *k), or (in, out, *k) of a transposed convolution.

        Raises:
            ValueError: with an activation between the stages there is none.
        """
        if self.activation_between is not None:
            raise ValueError("an activation between the stages leaves no equivalent dense kernel")
        axes = AXES[self.dims]
        maps = "or" if self.share == "per_output" else "r"
        terms, operands = [maps + "c"], [self.channel]
        for axis, weights in zip(axes, self.filters, strict=True):
            terms.append(maps + axis)
            operands.append(weights)
        if self.mix is not None:
            terms.append("or")
            operands.append(self.mix)
        out = ("co" if self.transposed else "oc") + axes
        return torch.einsum(",".join(terms) + "->" + out, *operands)

    def forward(self, x: Float[Tensor, "batch cin *grid"]) -> Float[Tensor, "batch cout *out"]:
        """Convolve."""
        if x.ndim != self.dims + 2 or x.shape[1] != self.cin:
            raise ValueError(f"expected {self.cin} channels of {self.dims}-D fields, got shape {tuple(x.shape)}")
        if self.compute == "kernel":
            return self._dense(x)
        if self.save_memory and torch.is_grad_enabled():
            return checkpoint(self._stages, x, use_reentrant=False)
        return self._stages(x)

    def _dense(self, x: Tensor) -> Tensor:
        if self.transposed:
            return _TRANSPOSE[self.dims](
                x, self.kernel(), self.bias, self.stride, self.padding, self.output_padding, 1, self.dilation
            )
        padding = self.padding
        if self.padding_mode != "zeros":
            x = F.pad(x, [p for side in reversed(padding) for p in (side, side)], mode=self.padding_mode)
            padding = (0,) * self.dims
        return _CONV[self.dims](x, self.kernel(), self.bias, self.stride, padding, self.dilation)

    def _stages(self, x: Tensor) -> Tensor:
        """One filter after another. Before the channels are mixed, a map stands for a pair of input and filter."""
        maps = self.channel.numel() // self.cin
        mixed = False
        spread = False  # whether every input channel has its own copy for each filter
        for number, stage in enumerate(self.order):
            if number and self.activation_between is not None:
                x = self.activation_between(x)
            if stage == "c":
                weights = self.channel.reshape(maps, self.cin)
                if spread:
                    x = torch.einsum("bio...,oi->bo...", x.unflatten(1, (self.cin, maps)), weights)
                else:
                    x = _CONV[self.dims](x, weights.reshape(maps, self.cin, *(1,) * self.dims))
                mixed = True
                continue
            weights = self.filters[AXES[self.dims].index(stage)].reshape(maps, -1)
            if not mixed:
                weights = weights.repeat(self.cin, 1)
                if not spread and self.transposed:  # grouped transposed convolutions spread as well, but clumsily
                    x = x.repeat_interleave(maps, dim=1)
                spread = True
            x = self._along(x, weights, AXES[self.dims].index(stage))
        return self._sum(x)

    def _along(self, x: Tensor, weights: Tensor, axis: int) -> Tensor:
        """Filter each map (or make several filtered ones of it) along one axis, with that axis's stride and pads."""
        shape = [weights.shape[0], 1] + [1] * self.dims
        shape[2 + axis] = weights.shape[1]

        def only(values: tuple[int, ...], other: int) -> tuple[int, ...]:
            return tuple(value if i == axis else other for i, value in enumerate(values))

        stride, dilation, padding = only(self.stride, 1), only(self.dilation, 1), only(self.padding, 0)
        groups = x.shape[1]
        if self.transposed:
            extra = only(self.output_padding, 0)
            return _TRANSPOSE[self.dims](x, weights.reshape(shape), None, stride, padding, extra, groups, dilation)
        if self.padding_mode != "zeros" and self.padding[axis]:
            x = F.pad(x, [p for side in reversed(padding) for p in (side, side)], mode=self.padding_mode)
            padding = (0,) * self.dims
        return _CONV[self.dims](x, weights.reshape(shape), None, stride, padding, dilation, groups)

    def _sum(self, x: Tensor) -> Tensor:
        if self.mix is not None:
            return _CONV[self.dims](x, self.mix.reshape(self.cout, self.rank, *(1,) * self.dims), self.bias)
        x = x.unflatten(1, (self.cout, self.rank)).sum(2) if self.rank > 1 else x
        return x if self.bias is None else x + self.bias.reshape(-1, *(1,) * self.dims)

    def extra_repr(self) -> str:
        return (
            f"{self.cin}, {self.cout}, kernel_size={self.kernel_size}, rank={self.rank}, share={self.share!r}, "
            f"order={self.order!r}, stride={self.stride}, padding={self.padding}, compute={self.compute!r}"
        )


def _each(value: int | Sequence[int], dims: int, name: str, least: int) -> tuple[int, ...]:
    values = (value,) * dims if isinstance(value, int) else tuple(value)
    if len(values) != dims:
        raise ValueError(f"{name} {values} must be one number or {dims}, one an axis")
    if any(v < least for v in values):
        raise ValueError(f"{name} {values} must be at least {least}")
    return values


class OneWayConv1d(_OneWay):
    """One-way filters of one axis: ``K_o = Σ_r c_or ⊗ w_or``."""

    dims = 1


class OneWayConv2d(_OneWay):
    """One-way filters of images.

    Args:
        kernel_size, stride, dilation, padding, padding_mode: as torch's convolutions have them; ``padding="same"``
            needs an odd kernel.
        rank: how many products a kernel is the sum of.
        order: the stages, first one first: ``c`` mixes channels, ``h`` and ``w`` filter along an axis. Channels first
            (``chw``) is cheapest: what comes before ``c`` works on ``in · out · rank`` maps.
        share: ``per_output`` (filters of its own for each output) or ``shared`` (4-way canonical form).
        compute: ``stages`` (the composition, the cost of the paper) or ``kernel`` (multiply out the small dense
            kernel, then one dense convolution: as many weights to learn, the time and activations of a dense layer).
        save_memory: keep only the input for the backward pass and do the stages again (torch's checkpointing).
        activation_between: a function between the stages, for ablation; there is then no :meth:`kernel`.
        generator: for the initial weights.

    Raises:
        ValueError: rank below 1, groups, channels or options that make no sense, an even kernel with ``same``.
    """

    dims = 2


class OneWayConv3d(_OneWay):
    """One-way filters of volumes; axes ``d``, ``h``, ``w``."""

    dims = 3


class OneWayConvTranspose1d(_OneWay):
    """Transposed; ``K = Σ_r c_or ⊗ w_or``."""

    dims = 1
    transposed = True


class OneWayConvTranspose2d(_OneWay):
    """Transposed, for decoders: each axis is spread out in its own stage. See :class:`OneWayConv2d`."""

    dims = 2
    transposed = True


class OneWayConvTranspose3d(_OneWay):
    """Transposed, of volumes."""

    dims = 3
    transposed = True
