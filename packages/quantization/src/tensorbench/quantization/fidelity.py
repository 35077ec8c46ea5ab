"""What a quantiser loses of a tensor, and the tensors of a model in training to measure it on.

With ``q`` the quantised ``x``: the signal-to-quantisation-noise ratio ``10 log10(Σ x² / Σ (x - q)²)`` in decibels, the
cosine, the bias of magnitudes ``Σ (|q| - |x|) / Σ |x|``, the share of elements beyond the largest number (saturation)
and the share that becomes zero though it was not (underflow). The slack of a block is ``log2(max · scale / amax)``, the
octaves between its largest magnitude and the largest number it could hold: at least 0 under round-up, below where the
block saturates.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from .blocks import BlockSpec, fake_quantize, scale_blocks
from .formats import floating

Loss = Callable[[nn.Module, Any], Tensor]


@dataclass(frozen=True)
class Fidelity:
    """Losses of one quantised tensor; shares and errors are relative, ``sqnr_db`` is infinite where nothing is lost."""

    sqnr_db: float
    cosine_error: float  # 1 - cosine
    bias: float
    saturated: float
    underflowed: float
    slack: Float[np.ndarray, " blocks"]  # octaves, one a block that is not zero

    def slack_histogram(self, edges: Float[np.ndarray, " edges"]) -> Float[np.ndarray, " bins"]:
        """Share of the blocks in each bin; what is outside counts in the bin at that end."""
        inside = np.clip(self.slack, edges[0], np.nextafter(edges[-1], edges[0]))
        return np.histogram(inside, edges)[0] / max(len(self.slack), 1)


def compare(x: Float[Tensor, "*shape"], q: Float[Tensor, "*shape"]) -> tuple[float, float, float]:
    """SQNR in decibels, 1 - cosine and bias of ``q`` as a copy of ``x``.

    Raises:
        ValueError: shapes that differ, numbers that are not finite, or ``x`` all zero.
    """
    if x.shape != q.shape:
        raise ValueError(f"a copy has the shape of its original, got {tuple(q.shape)} for {tuple(x.shape)}")
    a, b = x.detach().double().flatten(), q.detach().double().flatten()
    signal = float(a @ a)
    if not math.isfinite(signal) or not bool(torch.isfinite(b).all()):
        raise ValueError("fidelity is of finite numbers; leave blocks with NaN or infinity out")
    if signal == 0:
        raise ValueError("a tensor of zeros has no signal to lose")
    error = b - a
    noise, power = float(error @ error), float(b @ b)
    sqnr = math.inf if noise == 0 else 10 * math.log10(signal / noise)
    # 1 - cos is half the squared distance of the unit vectors: from the error, or its digits would cancel.
    longer = (2 * float(error @ a) + noise) / (math.sqrt(power) + math.sqrt(signal))  # |b| - |a|
    cosine_error = max(0.0, noise - longer**2) / (2 * math.sqrt(signal * power)) if power else 1.0
    magnitude = float(a.abs().sum())
    return sqnr, cosine_error, (float(b.abs().sum()) - magnitude) / magnitude


def fidelity(
    x: Float[Tensor, "*shape"], spec: BlockSpec, axis: int = -1, *, generator: torch.Generator | None = None
) -> Fidelity:
    """What ``spec`` loses of ``x`` in blocks along ``axis``.

    Raises:
        ValueError: as ``compare`` and ``quantize``.
    """
    x = floating(x.detach())
    q = fake_quantize(x, spec, axis, generator=generator)
    sqnr, cosine_error, bias = compare(x, q)
    scaled = scale_blocks(x, spec, axis)
    limit = spec.element_format.max * (scaled.scale * scaled.tensor_scale)
    amax = scaled.blocks.abs().amax(-1, keepdim=True)
    saturated = float((scaled.blocks.abs() > limit).sum()) / x.numel()
    underflowed = float(((q == 0) & (x != 0)).sum()) / x.numel()
    alive = amax > 0
    slack = torch.log2(limit[alive].double() / amax[alive].double())
    return Fidelity(sqnr, cosine_error, bias, saturated, underflowed, slack.numpy())


@dataclass(frozen=True)
class LayerTensors:
    """Of one linear layer and one batch: the weight, its input by token, and the gradient of its output by token."""

    weight: Float[Tensor, "outputs inputs"]
    activation: Float[Tensor, "tokens inputs"]
    gradient: Float[Tensor, "tokens outputs"]


@contextmanager
def _kept_gradients(model: nn.Module) -> Iterator[None]:
    """Gradients of parameters are set aside, and put back afterwards."""
    before = [(parameter, parameter.grad) for parameter in model.parameters()]
    for parameter, _ in before:
        parameter.grad = None
    try:
        yield
    finally:
        for parameter, gradient in before:
            parameter.grad = gradient


def capture(model: nn.Module, loss: Loss, batch: Any) -> dict[str, LayerTensors]:
    """Weight, activation and output gradient of every linear layer in one pass forward and back, by layer name.

    Neither weights nor their gradients change.

    Raises:
        ValueError: the model has no linear layer that the loss reaches.
    """
    inputs: dict[str, Tensor] = {}
    gradients: dict[str, Tensor] = {}
    layers = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    handles = []
    for name, layer in layers.items():

        def before(module: nn.Module, arguments: tuple[Tensor, ...], name: str = name) -> None:
            inputs[name] = arguments[0].detach().flatten(0, -2).clone()

        def after(module: nn.Module, arguments: Any, output: Tensor, name: str = name) -> None:
            output.register_hook(lambda g: gradients.__setitem__(name, g.detach().flatten(0, -2).clone()))

        handles += [layer.register_forward_pre_hook(before), layer.register_forward_hook(after)]
    try:
        with _kept_gradients(model), torch.enable_grad():
            loss(model, batch).backward()
    finally:
        for handle in handles:
            handle.remove()
    if not gradients:
        raise ValueError("the loss reaches no linear layer of the model; there is nothing to capture")
    return {
        name: LayerTensors(layer.weight.detach().clone(), inputs[name], gradients[name])
        for name, layer in layers.items()
        if name in gradients
    }


def weight_gradients(model: nn.Module, loss: Loss, batch: Any) -> dict[str, Float[Tensor, "outputs inputs"]]:
    """Gradient of each linear layer's weight, by layer name; those that the parameters hold stay as they were."""
    with _kept_gradients(model), torch.enable_grad():
        loss(model, batch).backward()
        return {
            name: module.weight.grad.clone()
            for name, module in model.named_modules()
            if isinstance(module, nn.Linear) and module.weight.grad is not None
        }
