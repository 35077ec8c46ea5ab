"""How much a layer minds few bits: a score for each layer and width, higher for the more sensitive.

From Schaefer et al. 2023 (arXiv 2302.01382):

- ``quant_error``: RMSE of the quantised weight and operands, each relative to its largest magnitude;
- ``noise``: mean increase of the loss under uniform noise of one quantisation step on weight and operands;
- ``hessian``: mean diagonal of the loss's Hessian (Hutchinson: ``E v'Hv / P`` with random signs v) times the squared
  error of quantisation ``|Q(w) - w|^2`` (HAWQ-V2: Dong et al. 2020, arXiv 1911.03852). Of a matrix product without
  weights, the operands stand in for them.

Controls: ``loss`` (the increase of the loss when that layer alone is quantised), ``sqnr`` (of the network's output, the
same layer alone quantised, in dB with the sign turned: Pandey et al. 2023, arXiv 2302.05397), ``size`` (small layers
first to be kept: minus the number of weights) and ``random``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from tensorbench.core.errors import unknown

from .calibrate import Loss
from .wrap import QuantLayer, QuantModel

Scores = dict[str, dict[int, float]]
Batch = tuple[Tensor, Tensor]


def quant_error(model: QuantModel, batch: Batch, bits: Sequence[int], **_) -> Scores:
    """Relative RMSE of weight plus that of the operands (mean over operands)."""
    with model.at(32):
        _, operands = model.capture(batch[0])
    scores: Scores = {}
    for name in model.names:
        layer = model.layer(name)
        scores[name] = {}
        for b in bits:
            with torch.no_grad():
                parts = [
                    _relative_rmse(x, q[str(b)](x)) for x, q in zip(operands[name], layer.input_quantizers, strict=True)
                ]
                total = sum(parts) / len(parts)
                if layer.has_weight:
                    total += _relative_rmse(layer.inner.weight, layer.quantised_weight(b))
            scores[name][b] = total
    return scores


def _relative_rmse(x: Tensor, q: Tensor) -> float:
    largest = float(x.abs().amax())
    return float((q - x).square().mean().sqrt()) / largest if largest > 0 else 0.0


def noise(
    model: QuantModel, batch: Batch, bits: Sequence[int], *, generator: torch.Generator, loss: Loss = F.cross_entropy,
    draws: int = 8, vectorised: bool = True,
) -> Scores:  # fmt: skip
    """Mean over ``draws`` of the loss with noise minus the loss without; all draws in one pass where ``vectorised``."""
    x, y = batch
    scores: Scores = {}
    with model.at(32), torch.no_grad():
        out, operands = model.capture(x)
        base = float(loss(out, y))
        for name in model.names:
            layer = model.layer(name)
            scores[name] = {}
            for b in bits:
                drawn = _noise(layer, operands[name], b, draws, generator)
                losses = noisy_losses(model, layer, x, y, loss, *drawn, vectorised=vectorised)
                scores[name][b] = float(losses.mean()) - base
    return scores


def _noise(
    layer: QuantLayer, operands: list[Tensor], b: int, draws: int, generator: torch.Generator
) -> tuple[Tensor | None, list[Tensor]]:
    """Uniform in plus or minus half a step, with the draws along a new first axis."""

    used = [q[str(b)] for q in (*layer.input_quantizers, *([layer.weight_quantizers] if layer.has_weight else []))]
    if not all(q.spec.has_scale and q.ready for q in used):
        raise ValueError(f"precision {b} has no calibrated step to make noise of; calibrate, and give widths up to 8")

    def uniform(shape: torch.Size, step: Tensor) -> Tensor:
        step = step.detach().reshape(-1, *[1] * (len(shape) - 1)) if step.ndim else step.detach()
        return (torch.rand((draws, *shape), generator=generator) - 0.5) * step

    on_operands = [uniform(x.shape, q[str(b)].scale) for x, q in zip(operands, layer.input_quantizers, strict=True)]
    if not layer.has_weight:
        return None, on_operands
    weight, quantizer = layer.inner.weight, layer.weight_quantizers[str(b)]
    if quantizer.spec.granularity == "group":
        rows = quantizer.grouped(weight)
        return uniform(rows.shape, quantizer.scale).reshape(draws, *weight.shape), on_operands
    return uniform(weight.shape, quantizer.scale), on_operands


def noisy_losses(
    model: QuantModel, layer: QuantLayer, x: Tensor, y: Tensor, loss: Loss, on_weight: Tensor | None,
    on_operands: list[Tensor], *, vectorised: bool = True,
) -> Float[Tensor, " draws"]:  # fmt: skip
    """The loss of each draw. Vectorised, what comes before the layer is computed once for all draws."""

    def one(weight_noise: Tensor | None, *operand_noise: Tensor) -> Tensor:
        layer.noise = (weight_noise, operand_noise)
        try:
            return loss(model(x), y)
        finally:
            layer.noise = None

    if vectorised:
        first = None if on_weight is None else 0
        return torch.func.vmap(one, in_dims=(first, *[0] * len(on_operands)))(on_weight, *on_operands)
    draws = on_operands[0].shape[0]
    return torch.stack([one(None if on_weight is None else on_weight[d], *(n[d] for n in on_operands))
                        for d in range(draws)])  # fmt: skip


def hessian_traces(
    model: QuantModel, batch: Batch, *, generator: torch.Generator, loss: Loss = F.cross_entropy, draws: int = 8
) -> dict[str, tuple[float, int]]:
    """Hutchinson's estimate of the trace of every layer's Hessian block, and its size P.

    All layers share a product ``Hv``: the blocks off the diagonal have mean zero.
    """
    x, y = batch
    with model.at(32):
        _, operands = model.capture(x)
        shifts: dict[str, list[Tensor]] = {}
        for name in model.names:
            layer = model.layer(name)
            if layer.has_weight:
                shifts[name] = [torch.zeros_like(layer.inner.weight, requires_grad=True)]
                layer.noise = (shifts[name][0], None)
            else:
                shifts[name] = [torch.zeros_like(o, requires_grad=True) for o in operands[name]]
                layer.noise = (None, shifts[name])
        try:
            with torch.enable_grad():
                value = loss(model(x), y)
        finally:
            for name in model.names:
                model.layer(name).noise = None
    flat = [shift for parts in shifts.values() for shift in parts]
    gradients = torch.autograd.grad(value, flat, create_graph=True)
    totals = dict.fromkeys(shifts, 0.0)
    for _ in range(draws):
        signs = [torch.randint(0, 2, s.shape, generator=generator).to(s.dtype) * 2 - 1 for s in flat]
        products = torch.autograd.grad(gradients, flat, signs, retain_graph=True, materialize_grads=True)
        dots = iter([float((s * p).sum()) for s, p in zip(signs, products, strict=True)])
        for name, parts in shifts.items():
            totals[name] += sum(next(dots) for _ in parts) / draws
    return {name: (totals[name], sum(s.numel() for s in parts)) for name, parts in shifts.items()}


def hessian(
    model: QuantModel, batch: Batch, bits: Sequence[int], *, generator: torch.Generator, loss: Loss = F.cross_entropy,
    draws: int = 8,
) -> Scores:  # fmt: skip
    """Size of the mean Hessian diagonal times the squared error of quantisation.

    Where the estimate is negative (the loss is not convex, few draws) its size counts: a layer would otherwise seem to
    gain from few bits.
    """
    traces = hessian_traces(model, batch, generator=generator, loss=loss, draws=draws)
    with model.at(32):
        _, operands = model.capture(batch[0])
    scores: Scores = {}
    for name in model.names:
        layer = model.layer(name)
        mean = abs(traces[name][0]) / traces[name][1]
        scores[name] = {}
        for b in bits:
            with torch.no_grad():
                if layer.has_weight:
                    error = float((layer.quantised_weight(b) - layer.inner.weight).square().sum())
                else:
                    pairs = zip(operands[name], layer.input_quantizers, strict=True)
                    error = sum(float((q[str(b)](x) - x).square().sum()) for x, q in pairs)
            scores[name][b] = mean * error
    return scores


def _alone(model: QuantModel, bits: Sequence[int], score: Callable[[], float]) -> Scores:
    scores: Scores = {name: {} for name in model.names}
    with torch.no_grad():
        for name in model.names:
            for b in bits:
                with model.at(dict.fromkeys(model.names, 32) | {name: b}):
                    scores[name][b] = score()
    return scores


def loss_increase(model: QuantModel, batch: Batch, bits: Sequence[int], *, loss: Loss = F.cross_entropy, **_) -> Scores:
    """The loss with one layer quantised minus the loss with none."""
    x, y = batch
    with model.at(32), torch.no_grad():
        base = float(loss(model(x), y))
    return _alone(model, bits, lambda: float(loss(model(x), y)) - base)


def sqnr(model: QuantModel, batch: Batch, bits: Sequence[int], **_) -> Scores:
    """Minus the signal-to-noise ratio of the output (dB) with one layer quantised."""
    with model.at(32), torch.no_grad():
        clean = model(batch[0])

    def score() -> float:
        error = float((model(batch[0]) - clean).square().sum())
        return -10 * math.log10(float(clean.square().sum()) / max(error, 1e-30))

    return _alone(model, bits, score)


def size(model: QuantModel, batch: Batch, bits: Sequence[int], **_) -> Scores:
    """Minus the number of weights: the largest layer goes first."""
    return {info.name: dict.fromkeys(bits, -float(info.weights)) for info in model.layers()}


def random(model: QuantModel, batch: Batch, bits: Sequence[int], *, generator: torch.Generator, **_) -> Scores:
    """One random number a layer."""
    values = torch.rand(len(model.names), generator=generator).tolist()
    return {name: dict.fromkeys(bits, value) for name, value in zip(model.names, values, strict=True)}


METRICS: dict[str, Callable[..., Scores]] = {
    "quant_error": quant_error,
    "noise": noise,
    "hessian": hessian,
    "loss": loss_increase,
    "sqnr": sqnr,
    "size": size,
    "random": random,
}


def sensitivity(metric: str, model: QuantModel, batch: Batch, bits: Sequence[int], **options) -> Scores:
    """The scores of a metric by name; ``generator`` and ``loss`` go to those that need them.

    Raises:
        ValueError: an unknown metric, or a width that the model was not wrapped with.
    """
    if metric not in METRICS:
        raise ValueError(unknown("sensitivity", metric, METRICS))
    for b in bits:
        if b not in model.precisions:
            raise ValueError(unknown("width", str(b), model.precisions))
    return METRICS[metric](model, batch, bits, **options)


def order_by(scores: Scores, bits: Sequence[int]) -> dict[int, tuple[str, ...]]:
    """For each width the layers from the least to the most sensitive (ties in the order of the layers)."""
    return {b: tuple(sorted(scores, key=lambda name: scores[name][b])) for b in bits}
