"""Shampoo, and Shampoo without its averages.

Gupta, Koren, Singer (2018, arXiv 1802.09568): with L and R the sums (here also averages) of G Gᵀ and Gᵀ G, the step is
−lr · L^(−1/4) G R^(−1/4). With the sums of one step alone it is −lr · U Vᵀ for G = U S Vᵀ: steepest descent under the
spectral norm (Bernstein, Newhouse 2024, arXiv 2409.20325, story II).

Tensors of more than two axes are taken as matrices (out, rest), vectors as columns with exponent doubled on their one
side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from .base import Check, Optimizer, check_gradients, checked_loss, in_interval, nonnegative, positive, share, whole
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

    Tensors of one shape are dealt with in one batch.
    """

    checks: ClassVar[Mapping[str, Check]] = {
        "lr": positive,
        "beta": partial(in_interval, low=0, high=1, closed="both"),
        "update_every": whole,
        "eps": nonnegative,
        "exponent": partial(in_interval, low=-1, high=0),
        "momentum": share,
        "weight_decay": nonnegative,
    }

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
            "lr": lr, "beta": beta, "update_every": update_every, "eps": eps, "exponent": exponent,
            "momentum": momentum, "weight_decay": weight_decay,
        }  # fmt: skip
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
            moving = [p for p in group["params"] if p.grad is not None]
            if not moving:
                continue
            found: dict[Tensor, Tensor] = {}
            for alike in self._stacks(moving):
                found.update(zip(alike, self._precondition(alike, group), strict=True))
            updates = [found[p] for p in moving]
            if group["momentum"]:
                kept = [self.state[p].setdefault("momentum", torch.zeros_like(p)) for p in moving]
                torch._foreach_mul_(kept, group["momentum"])
                torch._foreach_add_(kept, updates)
                updates = kept
            if group["weight_decay"]:
                torch._foreach_mul_(moving, 1 - group["lr"] * group["weight_decay"])
            torch._foreach_add_(moving, updates, alpha=-group["lr"])
        return loss

    def _stacks(self, params: list[Tensor]) -> list[list[Tensor]]:
        """Parameters that can be dealt with together: of one matrix's shape, as many steps old."""
        alike: dict[Any, list[Tensor]] = {}
        for p in params:
            key = (_matrix(p).shape, p.ndim > 1, p.dtype, p.device, self.state[p].get("step", 0))
            alike.setdefault(key, []).append(p)
        return list(alike.values())

    def _precondition(self, params: list[Tensor], group: dict[str, Any]) -> list[Tensor]:
        """The preconditioned gradients of parameters of one shape, whose statistics take the gradients in first."""
        beta, eps = group["beta"], group["eps"]
        G = torch.stack([_matrix(p.grad) for p in params])  # type: ignore[arg-type]
        matrices = params[0].ndim > 1
        sides = ("L", "R") if matrices else ("L",)
        exponent = group["exponent"] * (1 if matrices else 2)
        step = self.state[params[0]].get("step", 0)
        roots: list[Tensor] = []
        for side, n, product in zip(sides, G.shape[1:], (G @ G.mT, G.mT @ G), strict=False):
            for p in params:
                if side not in self.state[p]:
                    identity = torch.eye(n, dtype=G.dtype, device=G.device)
                    self.state[p][side] = eps * identity if beta else torch.zeros_like(identity)
            statistics = [self.state[p][side] for p in params]
            torch._foreach_mul_(statistics, beta)
            torch._foreach_add_(statistics, list(product), alpha=1.0 if beta == 1 else 1 - beta)
            if step % group["update_every"] == 0:
                root = _power(torch.stack(statistics), exponent, 0.0 if beta == 1 else eps)
                for p, own in zip(params, root, strict=True):
                    self.state[p][f"root_{side}"] = own.clone()  # not a view, which would keep the whole batch alive
            else:
                root = torch.stack([self.state[p][f"root_{side}"] for p in params])
            roots.append(root)
        update = roots[0] @ G
        if matrices:
            update = update @ roots[1]
        for p in params:
            self.state[p]["step"] = step + 1
        return [own.reshape(p.shape) for p, own in zip(params, update, strict=True)]


def _matrix(x: Tensor) -> Tensor:
    """A tensor as (out, rest), a vector as a column."""
    return x.flatten(1) if x.ndim > 1 else x.reshape(-1, 1)


def _power(A: Tensor, exponent: float, damping: float) -> Tensor:
    """A^exponent on A's range, plus damping."""
    for p in (1, 2, 4):
        if exponent == -1 / p:
            return inv_root(A, p, damping=damping)
    values, vectors = torch.linalg.eigh(A)
    floor = values[..., -1:].abs() * A.shape[-1] * torch.finfo(A.dtype).eps
    shifted = values.clamp_min(0) + damping
    powers = torch.where(shifted > floor, shifted**exponent, 0.0)
    return (vectors * powers[..., None, :]) @ vectors.mT


class ShampooNoEMA(Optimizer):
    """W ← W − lr · (G Gᵀ)^(−1/4) G (Gᵀ G)^(−1/4), computed as it is written."""

    checks: ClassVar[Mapping[str, Check]] = {"lr": positive}

    def __init__(self, params: Iterable[Any], lr: float = 0.02) -> None:
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:  # type: ignore[override]
        """One step; see :mod:`~.base` for the closure."""
        loss = None if closure is None else checked_loss(closure)
        check_gradients(p for group in self.param_groups for p in group["params"])
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    G = _matrix(p.grad)
                    p.add_(precondition(G, G @ G.mT, G.mT @ G).view_as(p), alpha=-group["lr"])
        return loss
