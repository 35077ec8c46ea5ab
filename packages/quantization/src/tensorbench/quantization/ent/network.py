"""A small network in int8 on an array: tiles, cycles, utilisation and energy of one inference.

A layer becomes a matrix product A · B: rows of A are positions (a convolution's windows, unfolded) of non-negative int8
activations, columns of B the output channels. Quantisation is per tensor and symmetric (arXiv 1712.05877 without
offsets), weights by their largest magnitude, activations by the largest value that calibration images reach.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple, cast

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.hooks import RemovableHandle

from .activity import UNIT, Circuits, area, measure
from .arrays import Array
from .costs import Activity, GateModel, Report


class Int8Layer(NamedTuple):
    """Operands of one layer for a batch of images."""

    name: str
    A: Int[np.ndarray, "m k"]
    B: Int[np.ndarray, "k n"]


def small_cnn(side: int, channels: Sequence[int] = (16, 64), hidden: int = 64, classes: int = 10) -> nn.Sequential:
    """Two convolutions of 3 × 3 with stride 2, ReLU, and two linear layers."""
    layers: list[nn.Module] = []
    before = 1
    for width in channels:
        layers += [nn.Conv2d(before, width, 3, stride=2, padding=1), nn.ReLU()]
        before, side = width, -(-side // 2)
    layers += [nn.Flatten(), nn.Linear(before * side * side, hidden), nn.ReLU(), nn.Linear(hidden, classes)]
    return nn.Sequential(*layers)


def quantise(x: Float[Tensor, "*shape"], scale: float) -> Int[Tensor, "*shape"]:
    """Rounded to steps of ``scale``, ties to even, clipped to -127 to 127 (int64)."""
    return torch.round(x / scale).clamp(-127, 127).to(torch.int64)


@torch.no_grad()
def int8_inference(
    model: nn.Module, images: Float[Tensor, "batch ..."], calibration: Float[Tensor, "images ..."]
) -> tuple[Float[Tensor, "batch classes"], list[Int8Layer]]:
    """Logits of the network with every product in integers, and the operands of each layer in the order of its use.

    Whatever stands between the convolutions and linear layers stays in float32. Batch norms belong folded beforehand
    (``ptq.folding``). Inputs of layers that can be negative are quantised as the others are.

    Raises:
        ValueError: no Conv2d or Linear; grouped or dilated convolutions, padding other than with zeros.
    """
    products = {name: m for name, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    if not products:
        raise ValueError(f"{type(model).__name__} has neither a Conv2d nor a Linear layer")
    for name, module in products.items():
        if isinstance(module, nn.Conv2d) and (module.groups != 1 or module.dilation != (1, 1)):
            raise ValueError(f"layer {name}: grouped and dilated convolutions are not unfolded here")
        if isinstance(module, nn.Conv2d) and (module.padding_mode != "zeros" or isinstance(module.padding, str)):
            raise ValueError(f"layer {name}: padding {module.padding!r} ({module.padding_mode}) is not unfolded here")
    largest: dict[str, float] = {}
    layers: list[Int8Layer] = []

    def watch(name: str) -> Callable:
        def before(module: nn.Module, arguments: tuple[Tensor]) -> None:
            largest[name] = max(largest.get(name, 1e-12), float(arguments[0].abs().max()))

        return before

    def in_integers(name: str) -> Callable:
        def after(module: nn.Conv2d | nn.Linear, arguments: tuple[Tensor], output: Tensor) -> Tensor:
            layer, y = _integer_product(name, module, arguments[0], largest[name] / 127, output.shape)
            layers.append(layer)
            return y

        return after

    was_training = model.training
    model.eval()
    try:
        with _hooks([m.register_forward_pre_hook(watch(name)) for name, m in products.items()]):
            model(calibration)
        with _hooks([m.register_forward_hook(in_integers(name)) for name, m in products.items()]):
            logits = model(images)
    finally:
        model.train(was_training)
    return logits, layers


@contextmanager
def _hooks(handles: list[RemovableHandle]) -> Iterator[None]:
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _integer_product(
    name: str, module: nn.Conv2d | nn.Linear, x: Tensor, x_scale: float, shape: torch.Size
) -> tuple[Int8Layer, Tensor]:
    """The layer's operands in integers and its output of ``shape``, bias included."""
    w_scale = max(float(module.weight.abs().max()), 1e-12) / 127
    x_int, B = quantise(x, x_scale), quantise(module.weight, w_scale).flatten(1).T
    if isinstance(module, nn.Conv2d):
        windows = functional.unfold(
            x_int.to(torch.float64), module.kernel_size, 1, cast(int, module.padding), cast(int, module.stride)
        )
        A = windows.transpose(1, 2).flatten(0, 1).to(torch.int64)
    else:
        A = x_int.flatten(0, -2)
    y = (A.to(torch.float64) @ B.to(torch.float64)).to(torch.float32) * (x_scale * w_scale)  # exact: far below 2^53
    if module.bias is not None:
        y = y + module.bias
    if isinstance(module, nn.Conv2d):
        y = y.reshape(shape[0], shape[2], shape[3], shape[1]).permute(0, 3, 1, 2)
    return Int8Layer(f"{type(module).__name__.lower()} {name}", A.numpy(), B.numpy()), y.reshape(shape)


class NetworkCost(NamedTuple):
    """Of one inference: cycles, wanted products, energy in fJ by part and by layer, and the share of busy
    multipliers."""

    cycles: float
    macs: float
    utilisation: float
    energy_fj: dict[str, float]
    layer_fj: dict[str, float]
    report: Report


def network_energy(
    layers: Sequence[Int8Layer],
    array: Array,
    model: GateModel | None = None,
    *,
    images: int = 1,
    circuits: Circuits = UNIT,
) -> NetworkCost:
    """All layers one after the other on one array, per image of the batch that ``layers`` holds.

    Memories are not counted: between arrays of the same shape their traffic is the same.

    Raises:
        ValueError: no layers or no images.
    """
    if not layers or images < 1:
        raise ValueError(f"{len(layers)} layers of {images} images: there must be one of each")
    model = model or GateModel()
    total, by_layer = Activity(Counter(), Counter(), 0, 0), {}
    for layer in layers:
        mine = measure(array, layer.A, layer.B, circuits)
        by_layer[layer.name] = sum(model.energy(mine).values()) / images
        total = total + mine
    parts = model.energy(total)
    report = Report(
        sum(area(array, model, circuits).values()), sum(parts.values()), total.cycles, total.macs, array.multipliers,
        model.clock_hz,
    )  # fmt: skip
    return NetworkCost(
        total.cycles / images,
        total.macs / images,
        total.macs / (total.cycles * array.multipliers),
        {part: value / images for part, value in parts.items()},
        by_layer,
        report,
    )
