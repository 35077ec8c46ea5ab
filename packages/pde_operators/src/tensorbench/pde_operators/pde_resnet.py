"""A residual network whose blocks are forward Euler steps of a quasi-linear system of partial differential equations.

Liu, Shao, Bai (2023), "A novel convolutional neural network architecture with a continuous symmetry" (arXiv
2308.01621), after the authors' code. A block multiplies two linear images of its input, which is its only
nonlinearity, applies a bank of 3 × 3 filters (discrete derivatives of order up to two) to the products and mixes
them,

    u ← u + W₃ D((a u + a₀) ⊙ (b u + b₀)) + b₃,        a step of  u_t = Σ_i A_i(u) ∂_i u,

where the channels enter and leave through 1 × 1 convolutions alone: the features of a stage may be multiplied by
any invertible matrix if the convolutions around them make up for it (:mod:`tensorbench.pde_operators.symmetry`).
Blocks that halve the image end with a projection onto a ball, which leaves the orthogonal matrices.

Beside the paper's block stand ablations of it (no ball, a soft ball, ReLU added inside or on the features of the
stage) and, as a baseline with as many weights, the same block with ReLU in place of the product.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from tensorbench.core.errors import unknown
from tensorbench.pde_operators.layer_costs import count_parameters

Radius = Literal["hard", "soft"]
Activation = Literal["none", "inside", "stage", "relu"]
Padding = Literal["zeros", "reflect", "circular"]
Stem = Literal["small", "imagenet"]
_WIDE = 128  # inputs up to which the expansion k is 4; it is 2 beyond


class HardBall(nn.Module):
    """Projection of the channels at each pixel onto the ball of radius √channels: 1-Lipschitz."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, x: Float[Tensor, "batch channels *grid"]) -> Float[Tensor, "batch channels *grid"]:
        # max(|x|², C) instead of a case distinction: the gradient is defined at x = 0 too.
        return x * (x.square().sum(1, keepdim=True).clamp(min=self.channels) / self.channels).rsqrt()


class SoftBall(nn.Module):
    """x / √(1 + |x|²/channels) at each pixel: a smooth map into the same ball."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, x: Float[Tensor, "batch channels *grid"]) -> Float[Tensor, "batch channels *grid"]:
        return x * (1 + x.square().sum(1, keepdim=True) / self.channels).rsqrt()


class FilterBank(nn.Conv2d):
    """Two 3 × 3 filters for each channel: first those of all channels' first filter, then those of their second.

    Two depthwise convolutions; a grouped convolution with two outputs a group is the same, with pairs side by side as
    in the authors' code, but takes a slow path of torch on a CPU.
    """

    def __init__(self, channels: int, stride: int = 1, padding_mode: Padding = "zeros") -> None:
        super().__init__(channels, 2 * channels, 3, stride, 1, groups=channels, bias=False, padding_mode=padding_mode)

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch out rows columns"]:
        padding = 1
        if self.padding_mode != "zeros":
            x, padding = F.pad(x, (1, 1, 1, 1), mode=self.padding_mode), 0
        weights = self.weight.split(self.in_channels)
        biases = self.bias.split(self.in_channels) if self.bias is not None else (None, None)
        maps = [
            F.conv2d(x, weight, bias, self.stride, padding, groups=self.in_channels)
            for weight, bias in zip(weights, biases, strict=True)
        ]
        return torch.cat(maps, dim=1)


class ConvBN(nn.Module):
    """A convolution without bias, then batch norm; :meth:`fuse` makes one convolution with a bias of the two."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv
        self.bn: nn.Module = nn.BatchNorm2d(conv.out_channels)

    @property
    def fused(self) -> bool:
        """Whether there is no batch norm left."""
        return not isinstance(self.bn, nn.BatchNorm2d)

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch out rows columns"]:
        return self.bn(self.conv(x))

    @torch.no_grad()
    def fuse(self) -> ConvBN:
        """W' = W γ/√(var + ε), b' = β - γ mean/√(var + ε), in place.

        Raises:
            RuntimeError: in training mode, where batch norm depends on the batch.
        """
        if not isinstance(self.bn, nn.BatchNorm2d):
            return self
        if self.bn.training:
            raise RuntimeError("batch norm of a model in training mode depends on the batch; call model.eval() first")
        mean, var = self.bn.running_mean, self.bn.running_var
        assert mean is not None and var is not None
        scale = self.bn.weight / (var + self.bn.eps).sqrt()
        self.conv.weight.mul_(scale[:, None, None, None])
        self.conv.bias = nn.Parameter(self.bn.bias - scale * mean)
        self.bn = nn.Identity()
        return self


class PDEBlock(nn.Module):
    """One Euler step: 1 × 1 to 2w channels, product of their halves, 3 × 3 depthwise to 2w, 1 × 1 back, plus the
    skip.

    Args:
        channels: of the input; w = k · channels, and k is 4 up to 128 channels and 2 beyond unless given.
        downsample: ends with the projection and has twice the channels and a 1 × 1 convolution as its skip.
        radius: ``hard``, ``soft`` or None, the projection at the end of a down-sampling block.
        coord_mix: multiplies the derivatives by 1 + a learned combination of x, y, x², xy, y² (in [-1, 1]): variable
            coefficients. It starts at 1.
        activation: ``none``, the paper's; ``inside``, ReLU after the derivatives; ``stage``, ReLU on the sum; ``relu``,
            both of these and ReLU of all 2w channels in place of the product (as many weights).
        padding: boundary condition of the derivatives: ``zeros``, ``reflect`` or ``circular``.
    """

    def __init__(
        self,
        channels: int,
        stride: int = 1,
        downsample: bool = False,
        k: int | None = None,
        radius: Radius | None = "hard",
        coord_mix: bool = False,
        activation: Activation = "none",
        padding: Padding = "zeros",
    ) -> None:
        super().__init__()
        if channels < 1 or (k is not None and k < 1):
            raise ValueError(f"channels {channels} and k {k} must be at least 1")
        if stride != 1 and not downsample:
            raise ValueError(f"stride {stride} needs downsample=True: an identity skip keeps the size of the image")
        _check("radius", radius, Radius, optional=True)
        _check("activation", activation, Activation)
        _check("padding", padding, Padding)
        width = channels * (k if k is not None else 4 if channels <= _WIDE else 2)
        out = 2 * channels if downsample else channels
        self.channels, self.out_channels, self.activation = channels, out, activation
        self.conv1 = ConvBN(_conv(channels, 2 * width))
        bank: nn.Conv2d = FilterBank(width, stride, padding)
        if activation == "relu":
            bank = _conv(2 * width, 2 * width, 3, stride, groups=2 * width, padding_mode=padding)
        self.conv2 = ConvBN(bank)
        self.mix = nn.Conv2d(5, 2 * width, 1) if coord_mix else None
        self.conv3 = ConvBN(_conv(2 * width, out))
        self.skip: nn.Module = ConvBN(_conv(channels, out, 1, stride)) if downsample else nn.Identity()
        balls = {"hard": HardBall, "soft": SoftBall}
        self.ball: nn.Module = balls[radius](out) if downsample and radius else nn.Identity()

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch out rows columns"]:
        y = self.conv1(x)
        if self.activation == "relu":
            y = F.relu(y)
        else:
            a, b = y.chunk(2, dim=1)
            y = a * b
        y = self.conv2(y)
        if self.mix is not None:
            y = y * (1 + self.mix(coordinates(y)))
        if self.activation in ("inside", "relu"):
            y = F.relu(y)
        y = self.conv3(y) + self.skip(x)
        if self.activation in ("stage", "relu"):
            y = F.relu(y)
        return self.ball(y)


class PDEResNet(nn.Module):
    """Stem, stages of :class:`PDEBlock`, mean over the image, linear layer.

    Args:
        layers: blocks of each stage; the first block of every stage but the first halves the image and doubles the
            channels.
        width: channels of the first stage.
        stem: ``small``, a linear 3 × 3 convolution with batch norm for small images; ``imagenet``, ResNet's 7 × 7 of
            stride 2, ReLU and a max pool (no symmetry of the first stage then: it is not linear).
        seed: of the initial weights: normal with variance 1/fan-out as in the authors' code, except that the last batch
            norm of a block starts at 0, so that the network starts as its skips.
        block: further keywords of :class:`PDEBlock`.
    """

    def __init__(
        self,
        layers: Sequence[int] = (1, 1, 1),
        width: int = 16,
        stem: Stem = "small",
        in_channels: int = 1,
        num_classes: int = 10,
        seed: int | torch.Generator = 0,
        **block,
    ) -> None:
        super().__init__()
        _check("stem", stem, Stem)
        if not layers or min(layers) < 1:
            raise ValueError(f"layers {tuple(layers)} must be the numbers of blocks of one or more stages, each >= 1")
        self.in_channels = in_channels
        self.widths = tuple(width * 2**stage for stage in range(len(layers)))
        self.stem: nn.Sequential | ConvBN = ConvBN(_conv(in_channels, width, 3))
        if stem == "imagenet":
            self.stem = nn.Sequential(ConvBN(_conv(in_channels, width, 7, 2)), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
        self.stages = nn.ModuleList()
        for stage, blocks in enumerate(layers):
            entry = [PDEBlock(width * 2 ** (stage - 1), 2, True, **block)] if stage else []
            plain = [PDEBlock(width * 2**stage, **block) for _ in range(blocks - len(entry))]
            self.stages.append(nn.Sequential(*entry, *plain))
        self.head = nn.Linear(self.widths[-1], num_classes)
        self.shrink = 2 ** (len(layers) - 1) * (4 if stem == "imagenet" else 1)
        _initialise(self, seed if isinstance(seed, torch.Generator) else torch.Generator().manual_seed(seed))

    def forward(self, x: Float[Tensor, "batch in_channels height width"]) -> Float[Tensor, "batch classes"]:
        return self.head(self.features(x)[-1].mean(dim=(2, 3)))

    def features(self, x: Float[Tensor, "batch in_channels height width"]) -> list[Float[Tensor, "batch _ _ _"]]:
        """What leaves each stage.

        Raises:
            TypeError: the images are not floating point numbers. ValueError: a wrong shape, or an image that is smaller
                than the product of the strides.
        """
        if not x.is_floating_point():
            raise TypeError(f"images are {x.dtype}; scale them and convert, say x.float() / 255")
        if x.ndim != 4 or x.shape[1] != self.in_channels:
            raise ValueError(f"images have shape {tuple(x.shape)}; need (batch, {self.in_channels}, height, width)")
        if min(x.shape[2:]) < self.shrink:
            raise ValueError(
                f"images of {x.shape[2]} × {x.shape[3]} are smaller than the product of the strides, {self.shrink}; "
                "use fewer stages or larger images"
            )
        x = self.stem(x)
        found = []
        for stage in self.stages:
            x = stage(x)
            found.append(x)
        return found

    def blocks(self) -> list[PDEBlock]:
        """All blocks, in order."""
        return [block for stage in self.stages for block in stage if isinstance(block, PDEBlock)]  # type: ignore[attr-defined]


def coordinates(x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "1 5 height width"]:
    """x, y, x², xy and y² of the pixels, from -1 to 1 along each axis."""
    rows, columns = (torch.linspace(-1, 1, n, dtype=x.dtype, device=x.device) for n in x.shape[2:])
    Y, X = torch.meshgrid(rows, columns, indexing="ij")
    return torch.stack([X, Y, X * X, X * Y, Y * Y])[None]


def fuse(model: nn.Module) -> nn.Module:
    """A copy of a network in evaluation mode whose batch norms are part of the convolutions: the same function,
    faster.

    Raises:
        RuntimeError: the model is in training mode.
    """
    if model.training:
        raise RuntimeError("batch norm of a model in training mode depends on the batch; call model.eval() first")
    fused = copy.deepcopy(model)
    for part in fused.modules():
        if isinstance(part, ConvBN):
            part.fuse()
    return fused


@torch.no_grad()
def restore_batch_norm(model: nn.Module, x: Float[Tensor, "batch channels height width"]) -> nn.Module:
    """A copy of a fused network that has batch norms again, with statistics of the images ``x``: the same function.

    Training can go on from there; a batch that has the statistics of ``x`` gives the same outputs in training mode.
    """
    restored = copy.deepcopy(model).eval()
    parts = [part for part in restored.modules() if isinstance(part, ConvBN) and part.fused]
    moments: dict[nn.Module, tuple[Tensor, Tensor]] = {}

    def keep(part: nn.Module, _: object, y: Tensor) -> None:
        moments[part] = (y.mean(dim=(0, 2, 3)), y.var(dim=(0, 2, 3), unbiased=False))

    hooks = [part.register_forward_hook(keep) for part in parts]
    restored(x)
    for hook in hooks:
        hook.remove()
    for part in parts:
        mean, var = moments[part]
        bn = nn.BatchNorm2d(part.conv.out_channels, device=mean.device, dtype=mean.dtype).eval()
        assert part.conv.bias is not None and bn.running_mean is not None and bn.running_var is not None
        bn.running_mean.copy_(mean - part.conv.bias)
        bn.running_var.copy_(var)
        bn.weight.copy_((var + bn.eps).sqrt())
        bn.bias.copy_(mean)
        part.conv.bias, part.bn = None, bn
    return restored


count_weights = count_parameters  # trainable numbers


def _conv(channels: int, out: int, size: int = 1, stride: int = 1, **options) -> nn.Conv2d:
    return nn.Conv2d(channels, out, size, stride, size // 2, bias=False, **options)


@torch.no_grad()
def _initialise(model: PDEResNet, generator: torch.Generator) -> None:
    for part in model.modules():
        if isinstance(part, nn.Conv2d):
            fan_out = part.weight.shape[0] * part.weight[0, 0].numel()
            part.weight.normal_(0, fan_out**-0.5, generator=generator)
        elif isinstance(part, nn.Linear):
            bound = part.in_features**-0.5
            part.weight.uniform_(-bound, bound, generator=generator)
            part.bias.zero_()
    for block in model.blocks():
        nn.init.zeros_(block.conv3.bn.weight)  # type: ignore[arg-type]
        if block.mix is not None:
            nn.init.zeros_(block.mix.weight)
            assert block.mix.bias is not None
            nn.init.zeros_(block.mix.bias)


def _check(name: str, value: str | None, valid: object, optional: bool = False) -> None:
    if value not in get_args(valid) and not (optional and value is None):
        raise ValueError(unknown(name, str(value), get_args(valid)))
