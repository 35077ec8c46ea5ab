"""Two-dimensional convolutions with factored kernels, to hold one-way filters against: all have a dense :meth:`kernel`.

- :class:`TwoWayOneWayConv2d`: the 2-way case of Boukraichi et al. (2023, arXiv 2304.04964; abstract only): channels
  stay densely mixed, each k × k kernel is a sum of R products, ``K_oi = Σ_r v_oir ⊗ h_oir``.
- :class:`SeparableConv2d`: a k × 1 convolution, then a 1 × k one, both dense in the channels,
  ``K_oi = Σ_m h_om ⊗ v_mi`` (Jaderberg, Vedaldi, Zisserman 2014, arXiv 1405.3866, scheme 2).
- :class:`DepthwiseSeparableConv2d`: a k × k filter of each input channel, then a 1 × 1 convolution,
  ``K_oi = p_oi d_i`` (Chollet 2017, arXiv 1610.02357).

All take their initial weights so that the dense kernel has the variance gain² / (in · k²) of He et al. (2015).
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from tensorbench.core.errors import unknown
from tensorbench.pde_operators.oneway_conv import COMPUTES, PADDING_MODES


class _Factored(nn.Module):
    """The arguments that all have, the dense way to compute, and the check of the input."""

    def __init__(
        self,
        cin: int,
        cout: int,
        kernel_size: int = 3,
        *,
        stride: int = 1,
        padding: int = 0,
        dilation: int = 1,
        padding_mode: str = "zeros",
        bias: bool = True,
        compute: str = "stages",
    ) -> None:
        super().__init__()
        for name, value, least in (
            ("channels in", cin, 1), ("channels out", cout, 1), ("kernel_size", kernel_size, 1), ("stride", stride, 1),
            ("dilation", dilation, 1), ("padding", padding, 0),
        ):  # fmt: skip
            if value < least:
                raise ValueError(f"{name} {value} must be at least {least}")
        if compute not in COMPUTES:
            raise ValueError(unknown("compute", compute, COMPUTES))
        if padding_mode not in PADDING_MODES:
            raise ValueError(unknown("padding_mode", padding_mode, PADDING_MODES))
        self.cin, self.cout, self.kernel_size, self.stride, self.padding = cin, cout, kernel_size, stride, padding
        self.dilation, self.padding_mode, self.compute = dilation, padding_mode, compute
        self.bias = nn.Parameter(torch.zeros(cout)) if bias else None

    def kernel(self) -> Float[Tensor, "cout cin k k"]:
        raise NotImplementedError

    def _stages(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Float[Tensor, "batch cin h w"]) -> Float[Tensor, "batch cout hout wout"]:
        """Convolve."""
        if x.ndim != 4 or x.shape[1] != self.cin:
            raise ValueError(f"expected {self.cin} channels of images, got shape {tuple(x.shape)}")
        if self.padding_mode != "zeros":
            x = F.pad(x, (self.padding,) * 4, mode=self.padding_mode)
        if self.compute == "kernel":
            padding = self.padding if self.padding_mode == "zeros" else 0
            return F.conv2d(x, self.kernel(), self.bias, self.stride, padding, self.dilation)
        return self._stages(x)

    def _axis(
        self, x: Tensor, weight: Tensor, axis: int, *, groups: int = 1, bias: Tensor | None = None
    ) -> Float[Tensor, "batch maps hout wout"]:
        """A filter (maps, in, k) along axis 0 (height) or 1 (width), with that axis's stride, pads and dilation."""

        def only(value: int, other: int) -> tuple[int, int]:
            return (value, other) if axis == 0 else (other, value)

        padding = only(self.padding, 0) if self.padding_mode == "zeros" else (0, 0)
        weight = weight.unsqueeze(3 if axis == 0 else 2)
        return F.conv2d(x, weight, bias, only(self.stride, 1), padding, only(self.dilation, 1), groups)

    def extra_repr(self) -> str:
        return f"{self.cin}, {self.cout}, kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class TwoWayOneWayConv2d(_Factored):
    """Dense in the channels, each spatial kernel of rank R: ``2 k R · in · out`` weights."""

    def __init__(
        self, cin: int, cout: int, kernel_size: int = 3, rank: int = 1, *,
        generator: torch.Generator | None = None, **options,
    ) -> None:  # fmt: skip
        super().__init__(cin, cout, kernel_size, **options)
        if rank < 1:
            raise ValueError(f"rank {rank} must be at least 1")
        self.rank = rank
        self.vertical = nn.Parameter(torch.empty(cout, cin, rank, kernel_size))
        self.horizontal = nn.Parameter(torch.empty(cout, cin, rank, kernel_size))
        self.initialise(generator)

    @torch.no_grad()
    def initialise(self, generator: torch.Generator | None = None, gain: float = math.sqrt(2)) -> None:
        """Variance gain² / (in · R · k) times 1 / k."""
        k = self.kernel_size
        self.vertical.normal_(0.0, gain / math.sqrt(self.cin * self.rank * k), generator=generator)
        self.horizontal.normal_(generator=generator)
        self.horizontal.div_(torch.linalg.vector_norm(self.horizontal, dim=-1, keepdim=True).clamp_min(1e-12))
        if self.bias is not None:
            self.bias.zero_()

    def kernel(self) -> Float[Tensor, "cout cin k k"]:
        """``K_oi = Σ_r v_oir ⊗ h_oir``."""
        return torch.einsum("oirh,oirw->oihw", self.vertical, self.horizontal)

    def _stages(self, x: Tensor) -> Tensor:
        """A vertical filter for each pair of channels, then the horizontal ones, summed over inputs and rank."""
        cout, cin, rank, k = self.vertical.shape
        x = self._axis(x, self.vertical.permute(1, 0, 2, 3).reshape(cin * cout * rank, 1, k), 0, groups=cin)
        # Maps are ordered (in, out, rank); the second convolution sums the inputs of its group, so out goes first.
        x = x.unflatten(1, (cin, cout, rank)).transpose(1, 2).flatten(1, 3)
        return self._axis(x, self.horizontal.reshape(cout, cin * rank, k), 1, groups=cout, bias=self.bias)


class SeparableConv2d(_Factored):
    """A dense k × 1 and a dense 1 × k convolution: ``k (in + out) out`` weights."""

    def __init__(
        self, cin: int, cout: int, kernel_size: int = 3, *, generator: torch.Generator | None = None, **options
    ) -> None:
        super().__init__(cin, cout, kernel_size, **options)
        self.vertical = nn.Parameter(torch.empty(cout, cin, kernel_size))
        self.horizontal = nn.Parameter(torch.empty(cout, cout, kernel_size))
        self.initialise(generator)

    @torch.no_grad()
    def initialise(self, generator: torch.Generator | None = None, gain: float = math.sqrt(2)) -> None:
        """Variance 1 / (in · k) and gain² / (out · k)."""
        self.vertical.normal_(0.0, 1 / math.sqrt(self.cin * self.kernel_size), generator=generator)
        self.horizontal.normal_(0.0, gain / math.sqrt(self.cout * self.kernel_size), generator=generator)
        if self.bias is not None:
            self.bias.zero_()

    def kernel(self) -> Float[Tensor, "cout cin k k"]:
        """``K_oi = Σ_m h_om ⊗ v_mi``."""
        return torch.einsum("omw,mih->oihw", self.horizontal, self.vertical)

    def _stages(self, x: Tensor) -> Tensor:
        return self._axis(self._axis(x, self.vertical, 0), self.horizontal, 1, bias=self.bias)


class DepthwiseSeparableConv2d(_Factored):
    """A k × k filter of each channel, then a 1 × 1 convolution: ``in (k² + out)`` weights."""

    def __init__(
        self, cin: int, cout: int, kernel_size: int = 3, *, generator: torch.Generator | None = None, **options
    ) -> None:
        super().__init__(cin, cout, kernel_size, **options)
        self.depthwise = nn.Parameter(torch.empty(cin, kernel_size, kernel_size))
        self.pointwise = nn.Parameter(torch.empty(cout, cin))
        self.initialise(generator)

    @torch.no_grad()
    def initialise(self, generator: torch.Generator | None = None, gain: float = math.sqrt(2)) -> None:
        """Variance 1 / k² and gain² / in."""
        self.depthwise.normal_(0.0, 1 / self.kernel_size, generator=generator)
        self.pointwise.normal_(0.0, gain / math.sqrt(self.cin), generator=generator)
        if self.bias is not None:
            self.bias.zero_()

    def kernel(self) -> Float[Tensor, "cout cin k k"]:
        """``K_oi = p_oi d_i``."""
        return torch.einsum("oi,ihw->oihw", self.pointwise, self.depthwise)

    def _stages(self, x: Tensor) -> Tensor:
        padding = self.padding if self.padding_mode == "zeros" else 0
        x = F.conv2d(x, self.depthwise[:, None], None, self.stride, padding, self.dilation, self.cin)
        return F.conv2d(x, self.pointwise[:, :, None, None], self.bias)
