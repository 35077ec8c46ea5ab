"""Adam that leaves alone what a step did not touch.

An entry whose gradient is exactly zero keeps its value and its moments: local tensors that no ray of the batch met are
neither moved by old momentum nor forget it. The number of steps, for the bias corrections, is the parameter's and not
the entry's, and ε is added after the second moment's square root without its correction, as in the reference CUDA code
(after DVGO): θ -= η √(1 − β₂ᵗ) / (1 − β₁ᵗ) · m / (√v + ε).

A penalty that reaches every entry (an L1 norm of all vectors) makes every gradient non-zero, and the mask does nothing.

Sources: Gao et al., Strivec (2023, arXiv 2307.13226); Sun, Sun, Chen, DVGO (2022, arXiv 2111.11215).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch


class MaskedAdam(torch.optim.Optimizer):
    """Adam on the entries with a gradient; ``masked=False`` in a parameter group makes it plain Adam there.

    Args:
        params: parameters or groups.
        lr, betas, eps: as in Adam; the defaults are those of TensoRF and Strivec.
        masked: whether entries with zero gradient stay as they are.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.02,
        betas: tuple[float, float] = (0.9, 0.99),
        eps: float = 1e-8,
        masked: bool = True,
    ) -> None:
        if not lr >= 0 or not eps >= 0:
            raise ValueError(f"lr {lr} and eps {eps} must not be negative")
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"betas {betas} must be in [0, 1)")
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "masked": masked})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """One step; returns the loss where a closure is given."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)
        return loss

    def _update(self, parameter: torch.Tensor, group: dict[str, Any]) -> None:
        gradient = parameter.grad
        assert gradient is not None
        state = self.state[parameter]
        if not state:
            state |= {"step": 0, "exp_avg": torch.zeros_like(parameter), "exp_avg_sq": torch.zeros_like(parameter)}
        state["step"] += 1
        first, second = group["betas"]
        size = group["lr"] * math.sqrt(1 - second ** state["step"]) / (1 - first ** state["step"])
        mean, square = state["exp_avg"], state["exp_avg_sq"]
        if not group["masked"]:
            mean.lerp_(gradient, 1 - first)
            square.mul_(second).addcmul_(gradient, gradient, value=1 - second)
            parameter.addcdiv_(mean, square.sqrt().add_(group["eps"]), value=-size)
            return
        touched = gradient != 0
        mean.copy_(torch.where(touched, torch.lerp(mean, gradient, 1 - first), mean))
        square.copy_(torch.where(touched, torch.addcmul(second * square, gradient, gradient, value=1 - second), square))
        change = mean / square.sqrt().add_(group["eps"])
        parameter.add_(torch.where(touched, change, 0), alpha=-size)
