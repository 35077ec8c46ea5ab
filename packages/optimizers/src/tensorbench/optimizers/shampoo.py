"""Shampoo, and Shampoo without its averages.

Gupta, Koren, Singer (2018, arXiv 1802.09568): with L and R the sums (here also averages) of G Gᵀ and Gᵀ G, the step is
−lr · L^(−1/4) G R^(−1/4). With the sums of one step alone it is −lr · U Vᵀ for G = U S Vᵀ: steepest descent under the
spectral norm (Bernstein, Newhouse 2024, arXiv 2409.20325, story II).

Tensors of more than two axes are taken as matrices (out, rest), vectors as columns with exponent doubled on their one
side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from .base import Optimizer, check_gradients, checked_loss, in_interval, nonnegative, whole
from .matrix_functions import inv_root


def precondition(
    G: Float[Tensor, "out in"], L: Float[Tensor, "out out"], R: Float[Tensor, "in in"]
) -> Float[Tensor, "out in"]:
    """L^(−1/4) G R^(−1/4) with pseudo-inverse roots."""
    return inv_root(L, 4) @ G @ inv_root(R, 4)


class Shampoo(Optimizer):
    """W ← W − lr · L^e G R^e with e = ``exponent`` (−1/4).

    Args:
        beta: L ← β L + (1 − β) G Gᵀ; 1 sums instead, as in the paper, and 0 keeps the last step's alone.
        update_every: steps between new roots.
        eps: times the identity, where L and R start (β > 0); also the damping of the roots with β < 1.
        momentum: of the preconditioned step, m ← momentum · m + step.

    Raises:
        ValueError: numbers outside their range.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.1,
        beta: float = 1.0,
        update_every: int = 1,
        eps: float = 1e-6,
        exponent: float = -0.25,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
    ) -> None:
        defaults = {
            "lr": nonnegative("lr", lr),
            "beta": in_interval("beta", beta, 0, 1, closed="both"),
            "update_every": whole("update_every", update_every),
            "eps": nonnegative("eps", eps),
            "exponent": in_interval("exponent", exponent, -1, 0),
            "momentum": in_interval("momentum", momentum, 0, 1),
            "weight_decay": nonnegative("weight_decay", weight_decay),
        }
        super().__init__(params, defaults)

    def _has_shape_of_parameter(self, name: str) -> bool:
        return name in ("momentum", "L", "R", "root_L", "root_R")

    def _shape_of_state(self, name: str, parameter: Tensor) -> tuple[int, ...]:
        if name == "momentum":
            return tuple(parameter.shape)
        rows = parameter.shape[0] if parameter.ndim > 1 else parameter.numel()
        n = rows if name.endswith("L") else parameter.numel() // max(rows, 1)
        return n, n

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:  # type: ignore[override]
        """One step; see :mod:`~.base` for the closure."""
        loss = None if closure is None else checked_loss(closure)
        check_gradients(p for group in self.param_groups for p in group["params"])
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                update = self._update(p, group)
                if group["momentum"]:
                    kept = self.state[p].setdefault("momentum", torch.zeros_like(p))
                    update = kept.mul_(group["momentum"]).add_(update)
                if group["weight_decay"]:
                    p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(update, alpha=-group["lr"])
        return loss

    def _update(self, p: Tensor, group: dict[str, Any]) -> Tensor:
        assert p.grad is not None
        G = p.grad.flatten(1) if p.ndim > 1 else p.grad.reshape(-1, 1)
        state, beta, eps = self.state[p], group["beta"], group["eps"]
        sides = ("L",) if p.ndim < 2 else ("L", "R")
        exponent = group["exponent"] * (2 if p.ndim < 2 else 1)
        if "step" not in state:
            state["step"] = 0
            for side, n in zip(sides, G.shape, strict=False):
                state[side] = eps * torch.eye(n, dtype=G.dtype, device=G.device) if beta else G.new_zeros(n, n)
        for side, product in zip(sides, (G @ G.mT, G.mT @ G), strict=False):
            state[side].mul_(beta).add_(product, alpha=1.0 if beta == 1 else 1 - beta)
            if state["step"] % group["update_every"] == 0:
                damping = 0.0 if beta == 1 else eps
                state[f"root_{side}"] = _power(state[side], exponent, damping)
        state["step"] += 1
        update = state["root_L"] @ G
        if p.ndim > 1:
            update = update @ state["root_R"]
        return update.view_as(p)


def _power(A: Tensor, exponent: float, damping: float) -> Tensor:
    """A^exponent on A's range, plus damping."""
    for p in (1, 2, 4):
        if exponent == -1 / p:
            return inv_root(A, p, damping=damping)
    values, vectors = torch.linalg.eigh(A)
    floor = values[-1].abs() * A.shape[-1] * torch.finfo(A.dtype).eps
    shifted = values.clamp_min(0) + damping
    powers = torch.where(shifted > floor, shifted**exponent, 0.0)
    return (vectors * powers) @ vectors.mT


class ShampooNoEMA(Optimizer):
    """W ← W − lr · (G Gᵀ)^(−1/4) G (Gᵀ G)^(−1/4), computed as it is written."""

    def __init__(self, params: Iterable[Any], lr: float = 0.02) -> None:
        super().__init__(params, {"lr": nonnegative("lr", lr)})

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:  # type: ignore[override]
        """One step; see :mod:`~.base` for the closure."""
        loss = None if closure is None else checked_loss(closure)
        check_gradients(p for group in self.param_groups for p in group["params"])
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    G = p.grad.flatten(1) if p.ndim > 1 else p.grad.reshape(-1, 1)
                    p.add_(precondition(G, G @ G.mT, G.mT @ G).view_as(p), alpha=-group["lr"])
        return loss
