"""The methods of ``operator_learning``, built from the data's shape and a few numbers.

All but ``pod_ridge`` are networks that see and give fields scaled to mean 0 and deviation 1 and are trained alike. FNOs
and U-Nets take any grid. DeepONet, the TT-matrix and POD know the training grid alone: fields of another one are
brought to it, and what they predict is interpolated.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tensorbench.core.errors import unknown
from tensorbench.pde_operators.baselines.deeponet import DeepONet, grid_coordinates
from tensorbench.pde_operators.baselines.pod import PODRidge
from tensorbench.pde_operators.baselines.unet import UNet
from tensorbench.pde_operators.datasets.operators import OperatorData
from tensorbench.pde_operators.fno import FNO
from tensorbench.pde_operators.grids import resample
from tensorbench.pde_operators.layer_costs import count_parameters
from tensorbench.pde_operators.normalizers import UnitGaussianNormalizer
from tensorbench.pde_operators.tt_layers import TTMatrixLayer, bounded_ranks, factor_modes


class OnTrainingGrid(nn.Module):
    """A network of one grid, for fields on any."""

    def __init__(self, net: nn.Module, resolution: int, periodic: bool) -> None:
        super().__init__()
        self.net, self.resolution, self.periodic = net, resolution, periodic

    def forward(self, x: Tensor) -> Tensor:
        return resample(self.net(resample(x, self.resolution, self.periodic)), x.shape[-1], self.periodic)


class Surrogate(nn.Module):
    """Scales what goes in and comes out of ``net`` by the training data's means and deviations, channel by channel."""

    def __init__(self, net: nn.Module, data: OperatorData) -> None:
        super().__init__()
        self.net = net
        self.inputs = UnitGaussianNormalizer.fit(torch.as_tensor(data.train_x))
        self.outputs = UnitGaussianNormalizer.fit(torch.as_tensor(data.train_y))

    def forward(self, x: Tensor) -> Tensor:
        return self.outputs.decode(self.net(self.inputs.encode(x)))


class _FlatTT(nn.Module):
    def __init__(self, layer: TTMatrixLayer, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.layer, self.shape = layer, shape

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.flatten(1)).reshape(len(x), *self.shape)


class _FlatPOD(nn.Module):
    def __init__(self, model: PODRidge, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.model, self.shape = model, shape

    def forward(self, x: Tensor) -> Tensor:
        found = self.model.predict(x.detach().flatten(1).double().cpu().numpy())
        return torch.as_tensor(found, dtype=x.dtype, device=x.device).reshape(len(x), *self.shape)


def _channels(data: OperatorData) -> tuple[int, int]:
    return data.train_x.shape[1], data.train_y.shape[1]


def fno(data: OperatorData, seed: int, *, n_modes: int = 8, **options: Any) -> nn.Module:
    """Of this package: dense or factored weights, per layer or joint."""
    return FNO(*_channels(data), (n_modes,) * data.dims, generator=torch.Generator().manual_seed(seed), **options)


def library_tfno(data: OperatorData, seed: int, *, n_modes: int = 8, hidden: int = 16, rank: float = 0.1) -> nn.Module:
    """neuraloperator's, in Tucker form."""
    from neuralop.models import TFNO

    cin, cout = _channels(data)
    return TFNO(
        n_modes=(n_modes,) * data.dims, in_channels=cin, out_channels=cout, hidden_channels=hidden,
        factorization="Tucker", rank=rank,
    )  # fmt: skip


def uno(data: OperatorData, seed: int, *, n_modes: int = 8, hidden: int = 16) -> nn.Module:
    """neuraloperator's U-shaped operator: four blocks, the middle two on a grid half as fine."""
    from neuralop.models import UNO

    cin, cout = _channels(data)
    ones = [1.0] * data.dims
    return UNO(
        cin, cout, hidden_channels=hidden, lifting_channels=2 * hidden, projection_channels=2 * hidden, n_layers=4,
        uno_out_channels=[hidden] * 4, uno_n_modes=[[n_modes // s] * data.dims for s in (1, 2, 2, 1)],
        uno_scalings=[ones, [0.5] * data.dims, ones, [2.0] * data.dims], channel_mlp_skip="linear",
    )  # fmt: skip


def unet(data: OperatorData, seed: int, *, width: int = 12, depth: int = 2, rank: int | None = None) -> nn.Module:
    """Dense, or with a ``rank`` of one-way convolutions of that rank."""
    conv = None
    if rank is not None:
        from tensorbench.pde_operators.oneway_conv import OneWayConv1d, OneWayConv2d

        conv = partial({1: OneWayConv1d, 2: OneWayConv2d}[data.dims], rank=rank)
    return UNet(
        *_channels(data), width, depth, conv=conv, dims=data.dims,
        padding_mode="circular" if data.periodic else "zeros", generator=torch.Generator().manual_seed(seed),
    )  # fmt: skip


def deeponet(data: OperatorData, seed: int, **options: Any) -> nn.Module:
    """Branch of all values on the training grid, trunk of the coordinates."""
    cin, cout = _channels(data)
    shape = data.train_x.shape[2:]
    net = DeepONet(
        cin * prod(shape), grid_coordinates(shape, [data.periodic] * data.dims), shape, out_channels=cout,
        generator=torch.Generator().manual_seed(seed), **options,
    )  # fmt: skip
    return OnTrainingGrid(net, data.resolution, data.periodic)


def tt_matrix(data: OperatorData, seed: int, *, rank: int = 8, cores: int = 4) -> nn.Module:
    """A linear map in tensor-train form, and a bias."""
    into, out = (factor_modes(prod(part.shape[1:]), cores) for part in (data.train_x, data.train_y))
    layer = TTMatrixLayer(
        into, out, bounded_ranks(into, out, rank), bias=True, generator=torch.Generator().manual_seed(seed)
    )
    return OnTrainingGrid(_FlatTT(layer, data.train_y.shape[1:]), data.resolution, data.periodic)


def pod_ridge(data: OperatorData, seed: int, **options: Any) -> nn.Module:
    """Fitted already."""
    x, y = (torch.as_tensor(part) for part in (data.train_x, data.train_y))
    x, y = UnitGaussianNormalizer.fit(x).encode(x), UnitGaussianNormalizer.fit(y).encode(y)
    model = PODRidge(**options).fit(x.flatten(1).double().numpy(), y.flatten(1).double().numpy())
    return OnTrainingGrid(_FlatPOD(model, data.train_y.shape[1:]), data.resolution, data.periodic)


METHODS: dict[str, Callable[..., nn.Module]] = {
    "fno": fno,
    "library_tfno": library_tfno,
    "uno": uno,
    "unet": unet,
    "deeponet": deeponet,
    "tt_matrix": tt_matrix,
    "pod_ridge": pod_ridge,
}


def build(name: str, data: OperatorData, seed: int, **options: Any) -> Surrogate:
    """A model of whole fields in their own units. Library networks draw from torch's global generator, put back after.

    Raises:
        ValueError: an unknown method.
    """
    if name not in METHODS:
        raise ValueError(unknown("method", name, METHODS))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Surrogate(METHODS[name](data, seed, **options), data)


def count(model: nn.Module) -> int:
    """Numbers that were learnt; a complex one counts as two."""
    fitted = sum(m.model.num_parameters for m in model.modules() if isinstance(m, _FlatPOD))
    return fitted + count_parameters(model)


def predict(model: nn.Module, x: np.ndarray, device: torch.device, batch: int = 50) -> Tensor:
    """For all samples, on the CPU."""
    model.eval()
    with torch.no_grad():
        parts = [model(part.to(device)).cpu() for part in torch.as_tensor(x).split(batch)]
    return torch.cat(parts)
