"""How far networks of finite width are from their infinite-width limit after the same training.

Yang, Hu (2021), arXiv 2011.14522: the limit of Section 5 is exact, and a finite network deviates by O(n^-1/2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from tensorbench.core.timing import Growth, growth

from .linear_limit import InfLinear1LP, Linear1LP


@dataclass(frozen=True)
class LimitGap:
    """Mean |f_n - f_inf| over the test inputs and the draws for each width, and the exponent fitted to it."""

    widths: tuple[int, ...]
    gaps: tuple[float, ...]
    fit: Growth


def _train(net: Linear1LP, x: Tensor, y: Tensor, steps: int, lr: float) -> None:
    optimizer = torch.optim.SGD(net.parameters(), lr=lr)
    for _ in range(steps):
        optimizer.zero_grad()
        (0.5 * (net(x) - y).square().sum(-1).mean()).backward()
        optimizer.step()


def limit_gap(
    widths: Sequence[int],
    x: Float[Tensor, "samples d_in"],
    y: Float[Tensor, "samples d_out"],
    test: Float[Tensor, "test d_in"],
    *,
    steps: int = 20,
    lr: float = 0.1,
    sigma_u: float = 1.0,
    sigma_v: float = 1.0,
    bias_alpha: float = 0.0,
    draws: int = 4,
    seed: int = 0,
) -> LimitGap:
    """Train the limit and ``draws`` finite networks of each width by full-batch SGD on the squared error.

    Raises:
        ValueError: fewer than two widths, one below 1, or no steps.
    """
    if len(widths) < 2 or min(widths) < 1:
        raise ValueError(f"widths {tuple(widths)} must be two or more whole numbers of at least 1")
    if steps < 1 or draws < 1:
        raise ValueError(f"steps {steps} and draws {draws} must be at least 1")
    limit = InfLinear1LP(x.shape[1], y.shape[1], sigma_u, sigma_v, bias_alpha=bias_alpha, dtype=x.dtype)
    start = [limit.sample(n, 1_000_003 * seed + 1009 * draw + n) for n in widths for draw in range(draws)]
    _train(limit, x, y, steps, lr)
    with torch.no_grad():
        target = limit(test)
    gaps = []
    for k in range(len(widths)):
        found = []
        for net in start[k * draws : (k + 1) * draws]:
            _train(net, x, y, steps, lr)
            with torch.no_grad():
                found.append(float((net(test) - target).abs().mean()))
        gaps.append(sum(found) / draws)
    return LimitGap(tuple(widths), tuple(gaps), growth([float(n) for n in widths], gaps))
