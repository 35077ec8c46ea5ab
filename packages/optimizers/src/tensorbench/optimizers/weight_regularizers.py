"""Ways to keep weights in place, behind one interface: what each adds to the loss and does around a step.

``create(kind, model, factor)`` gives an object with ``penalty()``, a term of the loss (or None), ``before_step()``,
which may change gradients, and ``after_step(lr)``, which may change weights. Kinds:

* ``none``;
* ``weight_decay``: factor/2 · |w|² in the loss; ``decoupled_weight_decay``: w ← (1 − lr · factor) w;
* ``norm_loss``, ``decoupled_norm_loss``: Georgiou et al. (2020, arXiv 2103.06583), see :mod:`~.norm_loss`;
* ``orthogonality``: factor · |W Wᵀ − I|²; ``srip``: factor · σ(W Wᵀ − I)², σ by two steps of the power method (Bansal,
  Chen, Wang 2018, arXiv 1810.09102);
* ``weight_norm``: w = g v/|v| (Salimans, Kingma 2016, arXiv 1602.07868), torch's parametrisation;
* ``oblique``: rows are put back to norm one after every step, or every ``every`` steps, which is projection-based
  weight normalisation (Huang et al. 2017, arXiv 1710.02338);
* ``riemannian``: the gradient's part along each row is removed before the step and rows are put back after it, which is
  Riemannian SGD on the oblique manifold where the optimizer is SGD without momentum.

All but ``weight_norm``, which needs no factor, act on the layers of :func:`~.norm_loss.layers`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tensorbench.core.errors import unknown

from .base import nonnegative, whole
from .norm_loss import layers, norm_loss, norm_loss_step_


@dataclass
class Regularizer:
    """No regulariser, and what the others do not override."""

    model: nn.Module
    factor: float = 0.0
    generator: torch.Generator | None = None
    every: int = 1
    steps: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        nonnegative("factor", self.factor)
        whole("every", self.every)
        self.layers = list(layers(self.model).values())
        if not self.layers:
            raise ValueError("the model has no convolution or linear layer to regularise besides a classifier")
        self.prepare()

    def prepare(self) -> None:
        """Change the model, before an optimizer takes its parameters."""

    def weights(self) -> list[Tensor]:
        """As they are now, after any parametrisation."""
        return [layer.weight for layer in self.layers]  # type: ignore[misc]

    def penalty(self) -> Float[Tensor, ""] | None:
        """What is added to the loss."""
        return None

    def before_step(self) -> None:
        """After gradients, before the optimizer."""

    def after_step(self, lr: float) -> None:
        """After the optimizer."""


class WeightDecay(Regularizer):
    def penalty(self):
        return 0.5 * self.factor * sum(w.square().sum() for w in self.weights())


class DecoupledWeightDecay(Regularizer):
    @torch.no_grad()
    def after_step(self, lr):
        torch._foreach_mul_(self.weights(), 1 - lr * self.factor)


class CoupledNormLoss(Regularizer):
    def penalty(self):
        return norm_loss(self.weights(), self.factor)


class StepNormLoss(Regularizer):
    def after_step(self, lr):
        norm_loss_step_([w.detach() for w in self.weights()], lr * self.factor)


def gram_excess(w: Float[Tensor, "out ..."]) -> Float[Tensor, "out out"]:
    """W Wᵀ − I of the rows."""
    rows = w.flatten(1)
    return rows @ rows.T - torch.eye(len(rows), dtype=rows.dtype, device=rows.device)


class Orthogonality(Regularizer):
    def penalty(self):
        return self.factor * sum(gram_excess(w).square().sum() for w in self.weights())


def spectral_isometry(
    w: Float[Tensor, "out ..."], generator: torch.Generator | None = None, iterations: int = 2
) -> Float[Tensor, ""]:
    """σ(W Wᵀ − I) from below by ``iterations`` steps of the power method from a random vector; differentiable."""
    excess = gram_excess(w)
    vector = torch.randn(len(excess), generator=generator).to(excess)
    for _ in range(iterations):
        vector = torch.nn.functional.normalize(excess @ vector, dim=0)
    return (excess @ vector).norm()


class SRIP(Regularizer):
    def penalty(self):
        return self.factor * sum(spectral_isometry(w, self.generator).square() for w in self.weights())


class WeightNorm(Regularizer):
    def prepare(self):
        for layer in self.layers:
            nn.utils.parametrizations.weight_norm(layer)


class Oblique(Regularizer):
    def prepare(self):
        self._project()

    @torch.no_grad()
    def _project(self) -> None:
        for w in self.weights():
            w.copy_(unit_rows(w))

    def after_step(self, lr):
        self.steps += 1
        if self.steps % self.every == 0:
            self._project()


class Riemannian(Oblique):
    @torch.no_grad()
    def before_step(self):
        for w in self.weights():
            if w.grad is not None:
                w.grad.copy_(tangent(w, w.grad))


def unit_rows(w: Float[Tensor, "out ..."]) -> Float[Tensor, "out ..."]:
    """The nearest tensor with rows of norm one; a row of zeros becomes a row of equal entries.

    That is the retraction of the oblique manifold.
    """
    rows = w.flatten(1)
    norms = rows.norm(dim=1, keepdim=True)
    flat = torch.full_like(rows, rows.shape[1] ** -0.5)
    return torch.where(norms > 0, rows / torch.where(norms > 0, norms, 1.0), flat).view_as(w)


def tangent(w: Float[Tensor, "out ..."], g: Float[Tensor, "out ..."]) -> Float[Tensor, "out ..."]:
    """g without its part along each unit row of w."""
    rows, change = w.flatten(1), g.flatten(1)
    return (change - (rows * change).sum(dim=1, keepdim=True) * rows).view_as(w)


KINDS: dict[str, type[Regularizer]] = {
    "none": Regularizer,
    "weight_decay": WeightDecay,
    "decoupled_weight_decay": DecoupledWeightDecay,
    "norm_loss": CoupledNormLoss,
    "decoupled_norm_loss": StepNormLoss,
    "orthogonality": Orthogonality,
    "srip": SRIP,
    "weight_norm": WeightNorm,
    "oblique": Oblique,
    "riemannian": Riemannian,
}


def create(
    kind: str, model: nn.Module, factor: float = 0.0, *, generator: torch.Generator | None = None, every: int = 1
) -> Regularizer:
    """The regulariser of that kind for ``model``. Make it before the optimizer: some change the model's parameters.

    Raises:
        ValueError: an unknown kind, a factor below 0, a model without layers to regularise.
    """
    if kind not in KINDS:
        raise ValueError(unknown("regulariser", kind, list(KINDS)))
    return KINDS[kind](model, factor, generator, every)


def regularized_step(
    regulariser: Regularizer, optimizer: torch.optim.Optimizer, loss: Callable[[], Tensor]
) -> Float[Tensor, ""]:
    """One step of the optimizer on ``loss()`` with the regulariser around it; the loss without the penalty."""
    optimizer.zero_grad()
    value = loss()
    penalty = regulariser.penalty()
    (value if penalty is None else value + penalty).backward()
    regulariser.before_step()
    optimizer.step()
    regulariser.after_step(optimizer.param_groups[0]["lr"])
    return value.detach()
