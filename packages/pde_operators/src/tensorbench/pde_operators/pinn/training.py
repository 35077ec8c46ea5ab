"""Residual losses of physics-informed networks and their training, plain, weighted, and with adapting weights.

    L = mean (F(u) - g)² over points inside + λ · mean (u - y)² over points on the boundary

(Raissi, Perdikaris and Karniadakis 2019). λ is a number, or follows the gradients ("learning-rate annealing" of Wang,
Teng and Perdikaris, "Understanding and mitigating gradient pathologies in PINNs", 2021, arXiv 2001.04536, eq. 40-41):
λ̂ = max |∇L_inside| / mean |∇L_boundary|, averaged exponentially. Derivatives are nested reverse-mode autograd.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tensorbench.core.training import History, fit
from tensorbench.pde_operators.diffops import PDE, Index


@dataclass(frozen=True)
class Points:
    """A batch: points inside with the source there, points on the boundary with the values there."""

    inside: Float[Tensor, "n d"]
    source: Float[Tensor, " n"]
    boundary: Float[Tensor, "m d"]
    values: Float[Tensor, " m"]

    def __post_init__(self) -> None:
        for name, points, numbers in (("inside", self.inside, self.source), ("boundary", self.boundary, self.values)):
            if points.ndim != 2 or numbers.shape != points.shape[:1]:
                raise ValueError(
                    f"{name}: points {tuple(points.shape)} with numbers {tuple(numbers.shape)}; give (n, d) and (n,)"
                )


def nested_derivatives(
    u: Callable[[Tensor], Tensor], x: Float[Tensor, "n d"], operators: Sequence[Index], *, create_graph: bool = True
) -> dict[Index, Tensor]:
    """∂^a u at each point for all multi-indices, by differentiating one coordinate at a time.

    ``u`` maps (n, d) to (n,) or (n, 1), row by row. Lower derivatives on the way are shared.
    """
    x = x if x.requires_grad else x.detach().requires_grad_(True)
    zero = (0,) * x.shape[1]
    found = {zero: u(x).reshape(len(x))}
    gradients: dict[Index, Tensor] = {}
    for operator in operators:
        if len(operator) != x.shape[1]:
            raise ValueError(f"multi-index {operator} does not fit points with {x.shape[1]} coordinates")
        at = zero
        for k, order in enumerate(operator):
            for _ in range(order):
                below, at = at, (*at[:k], at[k] + 1, *at[k + 1 :])
                if at in found:
                    continue
                if below not in gradients:
                    gradients[below] = _gradient(found[below], x)
                found[at] = gradients[below][:, k]
    kept = {operator: found[operator] for operator in operators}
    return kept if create_graph else {index: value.detach() for index, value in kept.items()}


def _gradient(values: Tensor, x: Tensor) -> Tensor:
    if not values.requires_grad:  # constant in x: what is differentiated was linear
        return torch.zeros_like(x)
    options: dict[str, Any] = {"create_graph": True, "allow_unused": True, "materialize_grads": True}
    return torch.autograd.grad(values.sum(), x, **options)[0]


def residual(pde: PDE, u: Callable[[Tensor], Tensor], x: Float[Tensor, "n d"], source: Tensor | float = 0.0) -> Tensor:
    """F(u) - source at the points."""
    return pde.residual(nested_derivatives(u, x, pde.operators), source, x.unbind(-1))


def losses(pde: PDE, model: nn.Module, points: Points) -> tuple[Tensor, Tensor]:
    """Mean square of the residual inside, and of the error on the boundary."""
    inside = residual(pde, model, points.inside, points.source).square().mean()
    return inside, (model(points.boundary).reshape(-1) - points.values).square().mean()


class AdaptiveWeight:
    """The weight of the boundary loss, from the ratio of gradients; call it every few steps."""

    def __init__(self, start: float = 1.0, *, memory: float = 0.9, every: int = 10):
        if not 0 <= memory < 1 or every < 1:
            raise ValueError(f"memory {memory} must be in [0, 1) and every {every} at least 1")
        self.value, self.memory, self.every, self._calls = start, memory, every, 0

    def update(self, inside: Tensor, boundary: Tensor, parameters: Sequence[Tensor]) -> float:
        """Look at the gradients of both losses (the graph is kept) where it is time to, and return the weight."""
        self._calls += 1
        if (self._calls - 1) % self.every == 0:
            options: dict[str, Any] = {"retain_graph": True, "allow_unused": True, "materialize_grads": True}
            of_inside = torch.autograd.grad(inside, parameters, **options)
            of_boundary = torch.autograd.grad(boundary, parameters, **options)
            mean = sum(float(g.abs().sum()) for g in of_boundary) / sum(g.numel() for g in of_boundary)
            if mean > 0:
                ratio = max(float(g.abs().max()) for g in of_inside) / mean
                self.value = self.memory * self.value + (1 - self.memory) * ratio
        return self.value


def train_pinn(
    pde: PDE,
    model: nn.Module,
    batches: Any,
    *,
    steps: int,
    lr: float = 1e-3,
    weight: float | AdaptiveWeight = 1.0,
    schedule: str | None = None,
    evaluate: Callable[[nn.Module], Mapping[str, float]] | None = None,
    evaluate_every: int | None = None,
    seconds: float | None = None,
    residual_scale: float = 1.0,
    **options: Any,
) -> History:
    """Adam on the loss above; further keywords go to ``tensorbench.core.training.fit``.

    Args:
        batches: a list of :class:`Points` (one: all points in every step), or what ``fit`` takes.
        weight: λ, or an :class:`AdaptiveWeight`.
        residual_scale: the residual is divided by it, so that sources of 1e4 and of 1 can share a learning rate.
    """
    if not lr > 0 or not residual_scale > 0:
        raise ValueError(f"lr {lr} and residual_scale {residual_scale} must be positive")
    parameters = [p for p in model.parameters() if p.requires_grad]

    def loss(network: nn.Module, points: Points) -> Tensor:
        inside, boundary = losses(pde, network, points)
        inside = inside / residual_scale**2
        factor = weight.update(inside, boundary, parameters) if isinstance(weight, AdaptiveWeight) else weight
        return inside + factor * boundary

    return fit(
        model, batches, loss, torch.optim.Adam(parameters, lr=lr), steps=steps, seconds=seconds, schedule=schedule,
        evaluate=evaluate, evaluate_every=evaluate_every, **options,
    )  # fmt: skip
