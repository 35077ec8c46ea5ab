"""Fourier neural operators, plain and with factored weights (TFNO), for fields on grids of 1 to 3 axes.

Li et al., "Fourier Neural Operator for Parametric PDEs", 2021, arXiv 2010.08895. Kossaifi, Kovachki, Azizzadenesheli,
Anandkumar, "Multi-Grid Tensorized Fourier Neural Operator for High-Resolution PDEs", TMLR 2024, arXiv 2310.00120: the
weights of each layer, or of all layers as one tensor (``joint=True``), in CP, Tucker or tensor-train form. Numbers of
weights agree with the library neuraloperator 2.0, which no longer has the joint form.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tensorbench.pde_operators.factored import Rank
from tensorbench.pde_operators.fno_layers import ChannelMLP, DomainPadding, FNOBlock, GridEmbedding
from tensorbench.pde_operators.layer_costs import count_parameters
from tensorbench.pde_operators.spectral_conv import JointSpectralWeights, LayerOfJoint, SpectralConv


class FNO(nn.Module):
    """Lifting, Fourier blocks, projection: a field of ``in_channels`` to one of ``out_channels``, at any resolution.

    >>> model = FNO(1, 1, n_modes=(8, 8), hidden=16, factorization="tucker", rank=0.1, generator=0)
    >>> model(torch.zeros(2, 1, 16, 16)).shape
    torch.Size([2, 1, 16, 16])

    Args:
        n_modes: modes an axis (the last keeps n // 2 + 1); their number is the number of axes.
        hidden, layers: channels inside, and Fourier blocks.
        factorization: None, ``cp``, ``tucker`` or ``tt``; ``rank``: a share of dense weights (float) or whole ranks.
        joint: one tensor for the weights of all layers.
        implementation, separable, fixed_rank_modes, max_n_modes, precision: of :class:`SpectralConv`.
        skip, mlp_skip, channel_mlp, preactivation, norm, ada_in_features, stabilizer: of :class:`FNOBlock`.
        lifting_ratio, projection_ratio: hidden channels of lifting and projection, as multiples of ``hidden``.
        grid: append the coordinates to the input.
        padding: share of zeros around the domain inside the network, for fields without period.
        scaling: the grid of each block's output over that of its input: one number, or one a block.
        generator: of the initial weights, or its seed.

    Raises:
        ValueError: options that do not fit, and when called: a complex field, NaN or infinity in it, fewer points than
            modes, the wrong number of channels or axes.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        n_modes: Sequence[int],
        hidden: int = 32,
        layers: int = 4,
        *,
        factorization: str | None = None,
        rank: Rank = 0.1,
        joint: bool = False,
        implementation: str = "factorized",
        separable: bool = False,
        fixed_rank_modes: Sequence[int] = (),
        max_n_modes: Sequence[int] | None = None,
        precision: str = "full",
        lifting_ratio: float = 2,
        projection_ratio: float = 2,
        grid: bool = True,
        padding: float | Sequence[float] | None = None,
        scaling: float | Sequence[float] = 1.0,
        generator: torch.Generator | int | None = None,
        **block: Any,
    ) -> None:
        super().__init__()
        if isinstance(generator, int):
            generator = torch.Generator().manual_seed(generator)
        if joint and separable:
            raise ValueError("joint weights are matrices between channels; use joint=False with separable=True")
        n_modes, axes = tuple(n_modes), len(n_modes)
        stored = tuple(max_n_modes or n_modes)
        self.in_channels, self.out_channels, self.hidden, self.axes = in_channels, out_channels, hidden, axes
        scalings = [float(scaling)] * layers if isinstance(scaling, (int, float)) else list(scaling)
        if len(scalings) != layers:
            raise ValueError(f"scaling {scalings}: one number, or one for each of {layers} layers")
        self.grid = GridEmbedding() if grid else None
        self.padding = DomainPadding(padding) if padding else None
        lifted = in_channels + (axes if grid else 0)
        self.lifting = ChannelMLP(lifted, int(lifting_ratio * hidden), hidden, generator=generator)
        self.joint: JointSpectralWeights | None = None
        if joint:
            self.joint = JointSpectralWeights(
                layers, hidden, hidden, stored, factorization, rank, fixed_modes=fixed_rank_modes, generator=generator
            )
        blocks = []
        for index in range(layers):
            conv = SpectralConv(
                hidden,
                hidden,
                n_modes,
                factorization=factorization,
                rank=rank,
                implementation=implementation,
                separable=separable,
                fixed_rank_modes=fixed_rank_modes,
                max_n_modes=stored,
                precision=precision,
                scaling=scalings[index],
                weights=None if self.joint is None else LayerOfJoint(self.joint, index),
                generator=generator,
            )
            last = index == layers - 1
            blocks.append(FNOBlock(conv, hidden, hidden, last=last, generator=generator, **block))
        self.blocks = nn.ModuleList(blocks)
        self.projection = ChannelMLP(hidden, int(projection_ratio * hidden), out_channels, generator=generator)

    @property
    def convs(self) -> list[SpectralConv]:
        """The Fourier layers."""
        return [cast(FNOBlock, block).conv for block in self.blocks]

    @property
    def n_modes(self) -> tuple[int, ...]:
        """Modes in use; assign fewer than those of the weights to begin with few and add more as training goes on."""
        return self.convs[0].n_modes

    @n_modes.setter
    def n_modes(self, n_modes: Sequence[int]) -> None:
        for conv in self.convs:
            conv.n_modes = tuple(n_modes)

    def forward(
        self, x: Float[Tensor, "batch cin *grid"], embedding: Tensor | None = None
    ) -> Float[Tensor, "batch cout *out_grid"]:
        """``embedding`` (features) or (batch, features) conditions ``ada_in`` norms."""
        self._check(x)
        grid = x.shape[2:]
        if self.grid is not None:
            x = self.grid(x)
        x = self.lifting(x)
        if self.padding is not None:
            x = self.padding(x)
        for block in self.blocks:
            x = block(x, embedding)
        if self.padding is not None:
            out_grid = tuple(grid)
            for conv in self.convs:
                out_grid = conv.out_grid(out_grid)
            x = self.padding.remove(x, grid, out_grid)
        return self.projection(x)

    def _check(self, x: Tensor) -> None:
        if x.is_complex():
            raise ValueError("a real field is needed; give a complex one as two channels, its real and imaginary part")
        if x.ndim != self.axes + 2 or x.shape[1] != self.in_channels:
            needed = ", ".join("xyz"[: self.axes])
            raise ValueError(f"a field of shape (batch, {self.in_channels}, {needed}) is needed, got {tuple(x.shape)}")
        if not torch.isfinite(x).all():
            raise ValueError("the field holds NaN or infinity; find the samples with ~isfinite(x).flatten(1).all(1)")


class TFNO(FNO):
    """An FNO with factored weights: Tucker form with a tenth of the weights unless said otherwise."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        n_modes: Sequence[int],
        hidden: int = 32,
        layers: int = 4,
        *,
        factorization: str = "tucker",
        rank: Rank = 0.1,
        **options: Any,
    ) -> None:
        super().__init__(
            in_channels, out_channels, n_modes, hidden, layers, factorization=factorization, rank=rank, **options
        )


count_weights = count_parameters  # trainable numbers, a complex one as two
