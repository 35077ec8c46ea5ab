"""Adam, Shampoo and Prodigy without their averages against steepest descent under a norm, step by step.

Bernstein, Newhouse (2024, arXiv 2409.20325). Each pair runs on the same gradients from the same start; a gap
is the largest difference of weights after any step, as it is and over the largest step that was made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from .norm_descent import SignDescent, SpectralDescent
from .prodigy import Prodigy, ProdigyNoEMA
from .shampoo import Shampoo, ShampooNoEMA

Factory = Callable[[list[Tensor]], torch.optim.Optimizer]
# (what is compared, the optimizer with averages switched off, the steepest descent)
PAIRS: dict[str, tuple[Factory, Factory]] = {
    "adam": (
        lambda params: torch.optim.Adam(params, lr=0.01, betas=(0.0, 0.0), eps=0.0),
        lambda params: SignDescent(params, lr=0.01),
    ),
    "shampoo": (
        lambda params: Shampoo(params, lr=0.01, beta=0.0, eps=0.0),
        lambda params: SpectralDescent(params, lr=0.01),
    ),
    "shampoo_formula": (
        lambda params: ShampooNoEMA(params, lr=0.01),
        lambda params: SpectralDescent(params, lr=0.01),
    ),
    "prodigy": (
        lambda params: Prodigy(params, betas=(0.0, 0.0), beta3=0.0, eps=0.0, d0=1e-3),
        lambda params: ProdigyNoEMA(params, d0=1e-3),
    ),
}


@dataclass(frozen=True)
class Gap:
    """The largest difference of weights (absolute) and the same over the largest step."""

    absolute: float
    relative: float


def equivalence_report(
    gradients: Float[Tensor, "steps out in"], seed: int = 0, pairs: Mapping[str, tuple[Factory, Factory]] = PAIRS
) -> dict[str, Gap]:
    """The gap of each pair over as many steps as there are gradients.

    They depend on the weights: at step t the gradient is the given one plus (W − W_0) A with a small positive definite
    A, so that an error of one step shows in the next.
    """
    generator = torch.Generator().manual_seed(seed)
    _, out, into = gradients.shape
    half = torch.randn(into, into, generator=generator, dtype=gradients.dtype)
    curvature = 0.1 * half @ half.T / into
    start = torch.randn(out, into, generator=generator, dtype=gradients.dtype)
    report = {}
    for name, factories in pairs.items():
        weights = [torch.nn.Parameter(start.clone()) for _ in factories]
        optimizers = [factory([w]) for factory, w in zip(factories, weights, strict=True)]
        absolute, largest = 0.0, 0.0
        for gradient in gradients:
            before = weights[1].detach().clone()
            for w, optimizer in zip(weights, optimizers, strict=True):
                w.grad = gradient + (w.detach() - start) @ curvature
                optimizer.step()
            absolute = max(absolute, float((weights[0] - weights[1]).detach().abs().max()))
            largest = max(largest, float((weights[1].detach() - before).abs().max()))
        report[name] = Gap(absolute, absolute / largest)
    return report
