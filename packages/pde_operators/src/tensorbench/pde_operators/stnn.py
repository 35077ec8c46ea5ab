"""Stacked tensorial neural networks: a mixture of tensor-train matrices whose weights a small network computes.

For fixed parameters of a linear PDE the map from boundary data to solution is linear. The network (Wagner 2023, arXiv
2312.14979) is

    rho(lambda, f) = sum_k softmax(e(lambda))_k  T_k B_k f,

with K branches: B_k contracts the directions of the inflow f with W learnt vectors at each wall, T_k is a tensor-train
matrix from the 2 W n_x2 results to the grid, and e is a multilayer perceptron of the parameters lambda. At fixed
parameters it is linear in f, so that nothing has to be normalised when predicting. Priors, each of which can be
switched off: the velocity vectors are mirror-symmetric, start as cosines, and an L1 penalty keeps neighbours close.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tensorbench.pde_operators.baselines.deeponet import mlp
from tensorbench.pde_operators.layer_costs import count_parameters
from tensorbench.pde_operators.tt_layers import TTMatrixLayer

FREQUENCIES = (1.0, 0.5, 2.0, 3.0)  # of the initial velocity vectors, in turn


def cosine_vector(length: int, frequency: float, generator: torch.Generator | None = None) -> Float[Tensor, " length"]:
    """-(a |cos(k x)| + b |cos(2 k x)|) for x from -pi to pi, a uniform in (-0.1, 0.3), b in (-0.05, 0.05)."""
    x = torch.linspace(-math.pi, math.pi, length)
    a, b = torch.rand(2, generator=generator).tolist()
    return -((0.4 * a - 0.1) * torch.cos(frequency * x).abs() + (0.1 * b - 0.05) * torch.cos(2 * frequency * x).abs())


class BoundaryEinsum(nn.Module):
    """Contracts the velocity axis of the inflow at both walls with W vectors; W = 0 flattens only.

    Args:
        W: vectors per copy.
        n_w: directions on the full circle; n_w / 2 of them enter at a wall.
        copies: K branches of their own vectors.
        symmetric: the second half of each wall's vector is the first in reverse, which halves the weights.
        cosine: start from :func:`cosine_vector` (else Gaussian of the same size).

    The weights are (K, W, 2, n) with n = n_w / 4, or n_w / 2 without symmetry; the axis of 2 is inner and outer wall.
    """

    def __init__(
        self,
        W: int,
        n_w: int,
        *,
        copies: int = 1,
        symmetric: bool = True,
        cosine: bool = True,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if n_w % 4 or n_w < 4:
            raise ValueError(f"n_w {n_w} must be a multiple of 4: half of the directions enter, and they mirror in two")
        if W < 0 or copies < 1:
            raise ValueError(f"W {W} must not be negative and copies {copies} must be at least 1")
        self.W, self.n_w, self.copies, self.symmetric = W, n_w, copies, symmetric
        free = n_w // 4 if symmetric else n_w // 2
        vectors = torch.zeros(copies, W, 2 * free)
        for k in range(copies):
            for v in range(W):
                start = cosine_vector(2 * free, FREQUENCIES[v % len(FREQUENCIES)], generator)
                vectors[k, v] = start if cosine else 0.1 * torch.randn(2 * free, generator=generator)
        self.vectors = nn.Parameter(vectors.reshape(copies, W, 2, free))

    def outputs(self, n_x: int) -> int:
        """Numbers per copy for n_x places at each wall."""
        return 2 * n_x * (self.W or self.n_w // 2)

    def full_vectors(self) -> Float[Tensor, "copies W 2 half"]:
        """The vectors over all entering directions."""
        return torch.cat([self.vectors, self.vectors.flip(-1)], dim=-1) if self.symmetric else self.vectors

    def forward(self, inflow: Float[Tensor, "batch 2 n_x half"]) -> Float[Tensor, "batch copies features"]:
        """Features in the order (vector, wall, place)."""
        if inflow.shape[1] != 2 or inflow.shape[3] != self.n_w // 2:
            raise ValueError(
                f"inflow of shape {tuple(inflow.shape)}: expected (batch, 2 walls, places, {self.n_w // 2} directions)"
            )
        if self.W == 0:
            return inflow.flatten(1)[:, None].expand(-1, self.copies, -1)
        return torch.einsum("bsxd,kvsd->bkvsx", inflow, self.full_vectors()).flatten(2)

    def roughness(self) -> Float[Tensor, ""]:
        """Sum of |differences of neighbours| within each wall's vector (not from one wall to the other)."""
        return self.vectors.diff(dim=-1).abs().sum()


class StackedTNN(nn.Module):
    """The network of the module's docstring.

    Args:
        K: branches.
        W: velocity vectors per branch (0: the inflow is flattened).
        grid: (n_x1, n_x2, n_w): radial nodes, angular nodes, directions.
        out_modes, in_modes, ranks: of the tensor trains; products n_x1 n_x2 and 2 n_x2 W (n_x2 n_w where W = 0).
        hidden: widths of the embedding's hidden layers; the published models have eight of 30.
        ranges: (low, high) of each parameter in training, for the warning outside; None never warns.
        generator: of the initial weights.

    Raises:
        ValueError: modes that do not multiply to the grid, among others; with the expected numbers.
    """

    def __init__(
        self,
        K: int,
        W: int,
        grid: tuple[int, int, int],
        out_modes: Sequence[int],
        in_modes: Sequence[int],
        ranks: Sequence[int],
        *,
        hidden: Sequence[int] = (30,) * 8,
        symmetric: bool = True,
        cosine: bool = True,
        parameters: int = 3,
        ranges: Sequence[tuple[float, float]] | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        n_1, n_2, n_w = grid
        self.grid, self.ranges = (n_1, n_2, n_w), None if ranges is None else tuple(ranges)
        self.boundary = BoundaryEinsum(W, n_w, copies=K, symmetric=symmetric, cosine=cosine, generator=generator)
        for name, modes, size in (
            ("out_modes", out_modes, n_1 * n_2),
            ("in_modes", in_modes, self.boundary.outputs(n_2)),
        ):
            if math.prod(modes) != size:
                raise ValueError(
                    f"{name} {list(modes)} multiply to {math.prod(modes)}; the grid {grid}, W {W} need {size}"
                )
        self.trains = TTMatrixLayer(in_modes, out_modes, ranks, copies=K, generator=generator)
        self.embedding = mlp([parameters, *hidden, K], "relu", generator)

    def expert_weights(self, params: Float[Tensor, "batch q"]) -> Float[Tensor, "batch K"]:
        """Softmax weights of the branches; they sum to 1."""
        return self.embedding(params).softmax(dim=-1)

    def forward(
        self, params: Float[Tensor, "batch q"], inflow: Float[Tensor, "batch 2 n_2 half"]
    ) -> Float[Tensor, "batch n_1 n_2"]:
        """rho. Parameters outside ``ranges`` are warned of, once a call, outside training.

        Raises:
            ValueError: different numbers of samples; NaN or infinity in either.
        """
        if params.shape[0] != inflow.shape[0]:
            raise ValueError(f"params has {len(params)} samples and inflow {len(inflow)}")
        for name, values in (("params", params), ("inflow", inflow)):
            if not values.detach().sum().isfinite():  # 0.3 % of a training step; isfinite of each number costs 2 %
                raise ValueError(f"{name} of shape {tuple(values.shape)} hold NaN or infinity")
        if not self.training:
            self._warn_outside(params)
        features = self.boundary(inflow) * self.expert_weights(params)[:, :, None]
        return self.trains(features, total=True).unflatten(1, self.grid[:2])

    def roughness(self) -> Float[Tensor, ""]:
        """The L1 penalty of the velocity vectors, without its strength (0.002 in the paper's training script)."""
        return self.boundary.roughness()

    def _warn_outside(self, params: Tensor) -> None:
        for column, (low, high) in enumerate(self.ranges or ()):
            values = params[:, column]
            outside = (values < low - 1e-6) | (values > high + 1e-6)
            if outside.any():
                warnings.warn(
                    f"parameter {column} of {int(outside.sum())} samples is outside the trained [{low:g}, {high:g}]",
                    stacklevel=3,
                )


@torch.no_grad()
def predict(
    model: StackedTNN, params: Float[Tensor, "n q"], inflow: Float[Tensor, "n 2 n_2 half"], batch: int = 20
) -> Float[Tensor, "n n_1 n_2"]:
    """rho of many samples, some at a time: what lies between the cores of all branches is larger than the result.

    In evaluation mode; the model's own is put back.

    Raises:
        ValueError: NaN or infinity in the parameters or the inflow.
    """
    training = model.training
    model.eval()
    try:
        return torch.cat([model(p, f) for p, f in zip(params.split(batch), inflow.split(batch), strict=True)])
    finally:
        model.train(training)


count = count_parameters  # weights of a model
