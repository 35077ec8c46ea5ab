"""Stable-SPAM: Adam for gradients that spike, as few-bit training makes them.

Per parameter tensor with gradient g (Huang et al. 2025, arXiv 2502.17055):

- AdaClip: a mean M of ``max |g|`` (decay ``theta``, corrected for its start); elements above M are scaled by ``M /
  max |g|``;
- AdaGN: means of ``||g||`` (decay ``gamma1``) and ``||g||^2`` (``gamma2``), corrected; g is set to the norm ``m /
  (sqrt(v) + eps)``;
- MoRet: both moments of Adam are reset every ``reset`` steps;

then AdamW's step with decoupled weight decay.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


class StableSPAM(torch.optim.Optimizer):
    """Parameters as in the paper; ``lr`` as for Adam.

    Raises:
        ValueError: a rate, decay or interval out of range; a sparse gradient.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        gamma1: float = 0.7,
        gamma2: float = 0.9,
        theta: float = 0.999,
        reset: int = 1000,
        weight_decay: float = 0.0,
        eps: float = 1e-8,
    ) -> None:
        if lr <= 0 or eps < 0 or weight_decay < 0 or reset < 1:
            raise ValueError(f"lr {lr}, eps {eps}, weight_decay {weight_decay} or reset {reset} is out of range")
        for name, decay in (
            ("beta1", betas[0]),
            ("beta2", betas[1]),
            ("gamma1", gamma1),
            ("gamma2", gamma2),
            ("theta", theta),
        ):
            if not 0 <= decay < 1:
                raise ValueError(f"{name} {decay} must be in [0, 1)")
        super().__init__(
            params,
            {
                "lr": lr, "betas": betas, "gamma1": gamma1, "gamma2": gamma2, "theta": theta, "reset": reset,
                "weight_decay": weight_decay, "eps": eps,
            },
        )  # fmt: skip

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:  # type: ignore[override]
        """One step; ``closure`` computes the loss and its gradients."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self._update(p, group)
        return loss

    def _update(self, p: Tensor, group: dict[str, Any]) -> None:
        if p.grad.is_sparse:
            raise ValueError("Stable-SPAM takes norms of whole gradients; sparse ones are not supported")
        state = self.state[p]
        if not state:
            state.update(step=0, age=0, m=torch.zeros_like(p), v=torch.zeros_like(p), top=0.0, norm=0.0, square=0.0)
        state["step"] += 1
        t = state["step"]
        if t % group["reset"] == 0:
            state["m"].zero_(), state["v"].zero_()
            state["age"] = 0
        state["age"] += 1
        g = _normalised(_clipped(p.grad, state, t, group["theta"]), state, t, group)
        p.mul_(1 - group["lr"] * group["weight_decay"])
        beta1, beta2 = group["betas"]
        state["m"].lerp_(g, 1 - beta1)
        state["v"].mul_(beta2).addcmul_(g, g, value=1 - beta2)
        scale = math.sqrt(1 - beta2 ** state["age"])
        denominator = state["v"].sqrt().div_(scale).add_(group["eps"])
        p.addcdiv_(state["m"], denominator, value=-group["lr"] / (1 - beta1 ** state["age"]))


def _clipped(g: Tensor, state: dict[str, Any], t: int, theta: float) -> Tensor:
    largest = float(g.abs().max())
    state["top"] = theta * state["top"] + (1 - theta) * largest
    bound = state["top"] / (1 - theta**t)
    return torch.where(g.abs() > bound, g * (bound / largest), g) if largest > bound else g


def _normalised(g: Tensor, state: dict[str, Any], t: int, group: dict[str, Any]) -> Tensor:
    norm = float(torch.linalg.vector_norm(g))
    gamma1, gamma2 = group["gamma1"], group["gamma2"]
    state["norm"] = gamma1 * state["norm"] + (1 - gamma1) * norm
    state["square"] = gamma2 * state["square"] + (1 - gamma2) * norm**2
    if norm == 0:
        return g
    mean, root = state["norm"] / (1 - gamma1**t), math.sqrt(state["square"] / (1 - gamma2**t))
    return g * (mean / (root + group["eps"]) / norm)
