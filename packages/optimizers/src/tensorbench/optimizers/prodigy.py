"""Prodigy, and Prodigy without its averages.

Mishchenko, Defazio (2023, arXiv 2306.06101): Adam whose step size d grows by itself from a lower bound of the distance
to the solution. Without averages it is sign descent with (Bernstein, Newhouse 2024, arXiv 2409.20325, story III)

    W_{t+1} = W_t − η_t sign(G_t),    η_{t+1} = max(η_t, ⟨G_t, W_0 − W_t⟩ / ‖G_t‖_1),

over all parameters together: while gradients keep their signs the bound is the sum of the steps made before, so η grows
as Fibonacci's numbers do, by 1.618 a step, until gradients turn ("escape velocity").

``Prodigy`` follows the authors' library where the paper leaves choices, apart from β₁ = 0: the library then steps with
the new d over the old one's second moment, and this one with the old d throughout, as with β₁ > 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from .base import (
    Check,
    Optimizer,
    check_gradients,
    checked_loss,
    in_interval,
    nonnegative,
    positive,
    share,
    shares,
)


class _SelfGrowing(Optimizer):
    """One step size over all groups, which lives in the groups (so that ``state_dict`` has it)."""

    checks: ClassVar[Mapping[str, Check]] = {"lr": positive, "d": lambda _, value: positive("d0", value)}

    def _all(self) -> list[Tensor]:
        params = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        for p in params:
            if "start" not in self.state[p]:
                self.state[p]["start"] = p.detach().clone()
        return params

    def _share(self, **values: float) -> None:
        for group in self.param_groups:
            group.update(values)


class ProdigyNoEMA(_SelfGrowing):
    """Sign descent with the step size η that grows by itself from ``d0``.

    ``param_groups[0]["d"]`` is η of the next step. ``lr`` multiplies η in the step alone and is there for schedules.
    """

    def __init__(self, params: Iterable[Any], lr: float = 1.0, d0: float = 1e-6) -> None:
        super().__init__(params, {"lr": lr, "d": d0})

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:  # type: ignore[override]
        """One step; see :mod:`~.base` for the closure."""
        loss = None if closure is None else checked_loss(closure)
        check_gradients(p for group in self.param_groups for p in group["params"])
        params = self._all()
        gradients: list[Tensor] = [p.grad for p in params]  # type: ignore[misc]
        d = self.param_groups[0]["d"]
        gone = torch._foreach_sub([self.state[p]["start"] for p in params], params)
        along = sum(float((g * w).sum()) for g, w in zip(gradients, gone, strict=True))
        size = sum(float(g.abs().sum()) for g in gradients)
        for group in self.param_groups:
            moving = [p for p in group["params"] if p.grad is not None]
            if moving:
                torch._foreach_add_(moving, torch._foreach_sign([p.grad for p in moving]), alpha=-d * group["lr"])
        self._share(d=max(d, along / size) if size > 0 else d)
        return loss


class Prodigy(_SelfGrowing):
    """Adam with the step size that grows by itself.

    Args:
        lr: multiplies d; 1 is the paper's, with a schedule on it.
        betas: of the first and second moment; ``beta3`` of the sums that d comes from, √β₂ unless it is given.
        d0: where d starts. ``d_coef`` multiplies the bound, ``growth_rate`` limits how fast d grows.
        weight_decay: decoupled.
        bias_correction: Adam's, on the step.

    Raises:
        ValueError: numbers outside their range; groups that differ in anything but ``weight_decay``.
    """

    checks: ClassVar[Mapping[str, Check]] = {
        **_SelfGrowing.checks,
        "betas": shares,
        "beta3": share,
        "eps": nonnegative,
        "weight_decay": nonnegative,
        "d_coef": positive,
        "growth_rate": partial(in_interval, low=1, high=math.inf, closed="right"),
    }
    one_for_all = ("lr", "betas", "beta3", "eps", "d0", "d_coef", "growth_rate", "bias_correction")

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1.0,
        betas: tuple[float, float] = (0.9, 0.999),
        beta3: float | None = None,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        d0: float = 1e-6,
        d_coef: float = 1.0,
        growth_rate: float = math.inf,
        bias_correction: bool = False,
    ) -> None:
        beta3 = math.sqrt(shares("betas", betas)[1]) if beta3 is None else beta3
        defaults = {
            "lr": lr, "betas": tuple(betas), "beta3": beta3, "eps": eps, "weight_decay": weight_decay,
            "d": d0, "d0": d0, "d_max": d0, "d_coef": d_coef, "growth_rate": growth_rate,
            "bias_correction": bias_correction, "numerator": 0.0, "step": 0,
        }  # fmt: skip
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:  # type: ignore[override]
        """One step; see :mod:`~.base` for the closure."""
        loss = None if closure is None else checked_loss(closure)
        check_gradients(p for group in self.param_groups for p in group["params"])
        first = self.param_groups[0]
        if any(group["lr"] != first["lr"] for group in self.param_groups):
            raise ValueError("the step size is one over all groups, so their learning rates must be equal")
        d, (beta1, beta2), beta3 = first["d"], first["betas"], first["beta3"]
        rate = d * first["lr"]
        if first["bias_correction"]:
            rate *= math.sqrt(1 - beta2 ** (first["step"] + 1)) / (1 - beta1 ** (first["step"] + 1))
        params = self._all()
        gradients: list[Tensor] = [p.grad for p in params]  # type: ignore[misc]
        for p in params:
            for name in ("first", "second", "sum"):
                self.state[p].setdefault(name, torch.zeros_like(p))
        means, squares, sums = ([self.state[p][name] for p in params] for name in ("first", "second", "sum"))
        weight = d / first["d0"] * rate  # over d0, so that sums do not start at squares of 1e-6
        gone = torch._foreach_sub([self.state[p]["start"] for p in params], params)
        along = sum(float((g * w).sum()) for g, w in zip(gradients, gone, strict=True))
        numerator = beta3 * first["numerator"] + weight * along
        torch._foreach_mul_(means, beta1)
        torch._foreach_add_(means, gradients, alpha=d * (1 - beta1))
        torch._foreach_mul_(squares, beta2)
        torch._foreach_addcmul_(squares, gradients, gradients, value=d * d * (1 - beta2))
        torch._foreach_mul_(sums, beta3)
        torch._foreach_add_(sums, gradients, alpha=weight)
        size = float(torch.stack(torch._foreach_norm(sums, 1)).double().sum())
        if size == 0:
            return loss
        new, largest = d, first["d_max"]
        if first["lr"] > 0:
            bound = first["d_coef"] * numerator / size
            new = max(d, bound) if d == first["d0"] else d
            largest = max(largest, bound)
            new = min(largest, new * first["growth_rate"])
        # The step is made with the moments' d but damped by the new one, as in the authors' library.
        denominators = list(torch._foreach_sqrt(squares))
        torch._foreach_add_(denominators, new * first["eps"])
        if first["eps"] == 0:
            denominators = [torch.where(x > 0, x, 1.0) for x in denominators]
        for group in self.param_groups:
            moving = [p for p in group["params"] if p.grad is not None]
            if group["weight_decay"] and moving:
                torch._foreach_mul_(moving, 1 - group["weight_decay"] * rate)
        torch._foreach_addcdiv_(params, means, denominators, value=-rate)
        self._share(d=new, d_max=largest, numerator=numerator, step=first["step"] + 1)
        return loss
