"""Adam, Shampoo and Prodigy without their averages against steepest descent under a norm, step by step.

Bernstein, Newhouse (2024, arXiv 2409.20325), section 2. Each pair runs on the same least-squares problem in float64
from the same start; a gap is the largest difference of weights after any step, over the largest step that was made.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
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
    seed: int = 0, steps: int = 10, shape: tuple[int, int] = (12, 8), condition: float = 100.0
) -> dict[str, Gap]:
    """The gap of each pair of ``PAIRS`` in ``steps`` steps on random gradients of the given condition number.

    Gradients depend on the weights: at step t it is C_t + (W − W_0) A with C_t of the given condition number and
    a small positive definite A, so that Prodigy's step grows and gradients turn.
    """
    generator = torch.Generator().manual_seed(seed)
    out, into = shape
    targets = [_conditioned(out, into, condition, generator) for _ in range(steps)]
    targets[1:] = [targets[0] + 0.1 * other for other in targets[1:]]
    half = torch.randn(into, into, generator=generator, dtype=torch.float64)
    curvature = 0.1 * half @ half.T / into
    start = torch.randn(out, into, generator=generator, dtype=torch.float64)
    report = {}
    for name, factories in PAIRS.items():
        weights = [torch.nn.Parameter(start.clone()) for _ in factories]
        optimizers = [factory([w]) for factory, w in zip(factories, weights, strict=True)]
        absolute, largest = 0.0, 0.0
        for target in targets:
            before = weights[1].detach().clone()
            for w, optimizer in zip(weights, optimizers, strict=True):
                w.grad = target + (w.detach() - start) @ curvature
                optimizer.step()
            absolute = max(absolute, float((weights[0] - weights[1]).detach().abs().max()))
            largest = max(largest, float((weights[1].detach() - before).abs().max()))
        report[name] = Gap(absolute, absolute / largest)
    return report


def _conditioned(out: int, into: int, condition: float, generator: torch.Generator) -> Tensor:
    """A random matrix whose singular values fall geometrically from 1 to 1/condition."""
    rank = min(out, into)
    left, _ = torch.linalg.qr(torch.randn(out, rank, generator=generator, dtype=torch.float64))
    right, _ = torch.linalg.qr(torch.randn(into, rank, generator=generator, dtype=torch.float64))
    return (left * torch.logspace(0, -torch.log10(torch.tensor(condition)).item(), rank, dtype=torch.float64)) @ right.T
