"""Scales from a few hundred samples: first the ranges, then gradient steps on the scales alone.

The two stages of Schaefer et al. 2023 (arXiv 2302.01382): ranges of weights and activations from calibration, then
refinement by back-propagating the task loss through straight-through rounding, weights frozen.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .observers import Observer, Seen, choose_range
from .quantizer import Quantizer
from .wrap import QuantModel

Loss = Callable[[Tensor, Tensor], Tensor]


def calibrate(
    model: QuantModel,
    loader: Iterable[Any],
    observer: Observer = "max",
    *,
    weight_observer: Observer | None = None,
    **options: Any,
) -> None:
    """Give every quantiser of every precision its range, with the model itself at 32 bits.

    Args:
        loader: batches of inputs, or of (inputs, anything).
        observer: for activations, ``weight_observer`` (default: the same) for weights; ``options`` go to
            ``choose_range``.

    Raises:
        ValueError: no batches, an unknown observer, NaN or infinity in an operand (the message names the layer).
    """
    seen: dict[str, list[Seen]] = {}
    with model.at(32):
        for batch in loader:
            _, operands = model.capture(inputs_of(batch))
            for name, tensors in operands.items():
                kept = seen.setdefault(name, [Seen() for _ in tensors])
                for place, (one, x) in enumerate(zip(kept, tensors, strict=True)):
                    one.add(x.reshape(1, -1), f"operand {place} of layer {name!r}")
    if not seen:
        raise ValueError("the calibration loader is empty; give it at least one batch")
    for name in model.names:
        layer = model.layer(name)
        for quantizers, one in zip(layer.input_quantizers, seen[name], strict=True):
            for quantizer in quantizers.values():
                _set(quantizer, one, observer, options)
        for quantizer in layer.weight_quantizers.values():
            if quantizer.spec.has_scale:
                one = Seen()
                one.add(quantizer.grouped(layer.inner.weight), f"the weight of layer {name!r}")
                _set(quantizer, one, weight_observer or observer, options)


def _set(quantizer: Quantizer, seen: Seen, observer: Observer, options: dict[str, Any]) -> None:
    if quantizer.spec.has_scale:
        quantizer.set_range(*choose_range(seen, quantizer.spec, observer, **options))


def inputs_of(batch: Any) -> Any:
    """The inputs of a batch that may have targets with it."""
    return batch[0] if isinstance(batch, tuple | list) else batch


def active_quantizers(model: QuantModel) -> Iterator[Quantizer]:
    """Those that the present config uses and that have a scale."""
    for name in model.names:
        layer = model.layer(name)
        if layer.precision == 32:
            continue
        groups = [*layer.input_quantizers, *([layer.weight_quantizers] if layer.has_weight else [])]
        for group in groups:
            quantizer = group[str(layer.precision)]
            if quantizer.spec.has_scale:
                yield quantizer


def refine_scales(
    model: QuantModel,
    loader: Iterable[tuple[Any, Tensor]],
    lr: float = 1e-5,
    epochs: int = 1,
    loss: Loss = F.cross_entropy,
) -> list[float]:
    """Adam on the scales that the present config uses, all else frozen; returns the loss of every step.

    A scale moves by at most about ``lr`` times its own size a step (what Adam steps on is its logarithm), so that one
    learning rate fits layers of any range and no scale changes its sign.

    Raises:
        ValueError: an empty loader, a loss that is not finite, no scale in use.
    """
    scales = [quantizer.scale for quantizer in active_quantizers(model)]
    if not scales:
        raise ValueError("the present config quantises no layer with a scale: there is nothing to refine")
    logs = [torch.zeros_like(scale, requires_grad=True) for scale in scales]
    start = [scale.detach().clone() for scale in scales]
    optimizer = torch.optim.Adam(logs, lr=lr)
    losses: list[float] = []
    for _ in range(epochs):
        for x, y in loader:
            value = loss(model(x), y)
            if not math.isfinite(float(value.detach())):
                raise ValueError(f"the loss is {float(value.detach())} while scales are refined; lower lr")
            for log, scale, gradient in zip(logs, scales, torch.autograd.grad(value, scales), strict=True):
                log.grad = gradient * scale.detach()  # of the logarithm
            optimizer.step()
            with torch.no_grad():
                for scale, first, log in zip(scales, start, logs, strict=True):
                    scale.copy_(first * log.exp())
            losses.append(float(value.detach()))
    if not losses:
        raise ValueError("the loader is empty; give it at least one batch of (inputs, targets)")
    return losses
