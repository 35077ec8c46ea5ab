"""Pruning by the Optimal Brain Surgeon with an approximate inverse of the Fisher matrix, and by simpler rules.

Hassibi and Stork (1992); WoodFisher, Singh and Alistarh (2020), arXiv 2004.14340 (blocks of F); M-FAC, Frantar,
Kurtic and Alistarh (2021), arXiv 2107.03356 (all of F). Removing weight i costs about wᵢ²/(2[F⁻¹]ᵢᵢ), and the others
should move by -wᵢ F⁻¹eᵢ/[F⁻¹]ᵢᵢ. Removing a set S, the moves of its members are added (``sum``, the papers'), or the
exact minimiser of the quadratic model under w_S = 0 is taken (``joint``).

Weights that are already gone are left out of F: what is left is the same problem in fewer unknowns. Several
recomputations share the way to the aimed sparsity so that the density falls by the same factor each time.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from tensorbench.core.errors import unknown

from ..base import in_interval, positive, whole
from .static import StaticMFAC

Rule = Literal["magnitude", "diagonal", "m_fac"]
Update = Literal["sum", "joint", "none"]
Collect = Callable[[nn.Module], Float[Tensor, "m d"]]


@dataclass(frozen=True)
class Policy:
    """How weights are chosen and the others moved.

    Args:
        rule: ``magnitude`` (smallest |w| of all layers together), ``diagonal`` (F's own diagonal, no move), ``m_fac``.
        damp: λ of F.
        block: rows of a block of F; ``None`` is all of F. For ``m_fac`` alone.
        update: ``sum``, ``joint`` or ``none``. For ``m_fac`` alone.
    """

    rule: Rule = "m_fac"
    damp: float = 1e-5
    block: int | None = None
    update: Update = "sum"

    def __post_init__(self) -> None:
        if self.rule not in ("magnitude", "diagonal", "m_fac"):
            raise ValueError(unknown("rule", self.rule, ("magnitude", "diagonal", "m_fac")))
        if self.update not in ("sum", "joint", "none"):
            raise ValueError(unknown("update", self.update, ("sum", "joint", "none")))
        positive("damp", self.damp)
        if self.block is not None:
            whole("block", self.block)


def prunable(model: nn.Module) -> list[str]:
    """Names of the weights that may be pruned: all of two axes or more, so neither biases nor norms."""
    return [name for name, p in model.named_parameters() if p.requires_grad and p.ndim >= 2]


def places(model: nn.Module) -> Bool[Tensor, " d"]:
    """Which entries of the vector of all trainable parameters may be pruned."""
    names = set(prunable(model))
    parts = [torch.full((p.numel(),), n in names) for n, p in model.named_parameters() if p.requires_grad]
    return torch.cat(parts)


class Masks:
    """Which weights of a model are left, by parameter name."""

    def __init__(self, kept: dict[str, Bool[Tensor, "*shape"]]) -> None:
        self.kept = kept

    @classmethod
    def of_nonzero(cls, model: nn.Module) -> Masks:
        """Weights that are not exactly zero are left."""
        weights = dict(model.named_parameters())
        return cls({name: weights[name].detach() != 0 for name in prunable(model)})

    @torch.no_grad()
    def apply(self, model: nn.Module) -> None:
        """Set what is gone to exact zeros; to be called after each step of an optimizer that knows nothing of it."""
        weights = dict(model.named_parameters())
        for name, kept in self.kept.items():
            weights[name].mul_(kept)

    def vector(self) -> Bool[Tensor, " p"]:
        """All masks as one vector, in the order of the model's prunable weights."""
        return torch.cat([kept.reshape(-1) for kept in self.kept.values()])

    def densities(self) -> dict[str, float]:
        """Share of the weights that is left, by name."""
        return {name: float(kept.double().mean()) for name, kept in self.kept.items()}

    def sparsity(self) -> float:
        """Share of all prunable weights that is gone."""
        return 1 - float(self.vector().double().mean())


def saliency(weights: Float[Tensor, " d"], inverse_diagonal: Float[Tensor, " d"]) -> Float[Tensor, " d"]:
    """w²/(2[F⁻¹]ᵢᵢ), the rise of the quadratic model when one weight is removed and the others follow."""
    return weights.square() / (2 * inverse_diagonal)


def surgeon_move(
    weights: Float[Tensor, " d"], removed: Bool[Tensor, " d"], inverse: StaticMFAC, update: Update = "sum"
) -> Float[Tensor, " d"]:
    """The change of all weights when those in ``removed`` go; with it they are exactly zero only under ``joint``.

    ``joint`` solves a system of as many unknowns as weights removed.
    """
    where = removed.nonzero()[:, 0]
    if update == "none" or not len(where):
        return torch.where(removed, -weights, torch.zeros_like(weights))
    if update == "sum":
        return inverse.mul(torch.where(removed, -weights / inverse.diag(), torch.zeros_like(weights)))
    columns = torch.zeros(inverse.d, len(where), dtype=weights.dtype, device=weights.device)
    columns[where, torch.arange(len(where))] = 1
    solved = inverse.mul_many(columns)
    return -solved @ torch.linalg.solve(solved[where], weights[where])


@torch.no_grad()
def prune_once(
    weights: Float[Tensor, " p"], kept: Bool[Tensor, " p"], sparsity: float, policy: Policy,
    grads: Float[Tensor, "m p"] | None = None,
) -> tuple[Float[Tensor, " p"], Bool[Tensor, " p"]]:  # fmt: skip
    """Weights and mask at the given sparsity, counted over all p; what was gone stays gone.

    Raises:
        ValueError: ``sparsity`` outside [0, 1), or a rule that needs gradients without them.
    """
    in_interval("sparsity", sparsity, 0, 1)
    left = kept.nonzero()[:, 0]
    surplus = len(left) - (len(kept) - round(sparsity * len(kept)))
    if surplus <= 0:
        return weights * kept, kept.clone()
    own = weights[left]
    inverse = None
    if policy.rule == "magnitude":
        score = own.abs()
    elif grads is None:
        raise ValueError(f"the rule {policy.rule!r} needs gradients")
    elif policy.rule == "diagonal":
        score = own.square() * (grads[:, left].square().mean(0) + policy.damp)
    else:
        inverse = StaticMFAC(grads[:, left], policy.damp, policy.block)
        score = saliency(own, inverse.diag())
    removed = torch.zeros(len(left), dtype=torch.bool, device=own.device)
    removed[score.argsort(stable=True)[:surplus]] = True
    if inverse is not None:
        own = own + surgeon_move(own, removed, inverse, policy.update)
    result, mask = torch.zeros_like(weights), kept.clone()
    mask[left[removed]] = False
    result[left] = own * ~removed
    return result, mask


def densities(sparsity: float, recomputations: int) -> list[float]:
    """Sparsities on the way to the aimed one, at each of which the density has fallen by the same factor."""
    in_interval("sparsity", sparsity, 0, 1)
    whole("recomputations", recomputations)
    return [1 - (1 - sparsity) ** (k / recomputations) for k in range(1, recomputations + 1)]


def one_shot(
    model: nn.Module, sparsity: float, policy: Policy, gradients: Collect | None = None, recomputations: int = 1
) -> Masks:
    """Prune without training between; F is computed ``recomputations`` times on the way. Changes the model.

    Args:
        gradients: ``gradients(model)`` gives one gradient a row over all trainable parameters, see
            :func:`tensorbench.optimizers.m_fac.gradients.collect`.

    Raises:
        ValueError: ``sparsity`` outside [0, 1), no prunable weights, a rule that needs gradients without them.
    """
    return gradual(model, densities(sparsity, recomputations), policy, gradients)


def gradual(
    model: nn.Module, sparsities: Sequence[float], policy: Policy, gradients: Collect | None = None,
    finetune: Callable[[nn.Module, Masks], None] | None = None,
) -> Masks:  # fmt: skip
    """Prune to each of the rising ``sparsities``, with ``finetune(model, masks)`` after each. Changes the model.

    Fine-tuning must call ``masks.apply(model)`` after its steps or train with ``MFAC(sparse=True)``; masks are applied
    once more after it.

    Raises:
        ValueError: sparsities that fall, or as for :func:`one_shot`.
    """
    names = prunable(model)
    if not names:
        raise ValueError(f"{type(model).__name__} has no weight of two axes or more to prune")
    if any(b < a for a, b in itertools.pairwise(sparsities)):
        raise ValueError(f"sparsities {list(sparsities)} must not fall")
    if policy.rule != "magnitude" and gradients is None:
        raise ValueError(f"the rule {policy.rule!r} needs gradients")
    tensors = [dict(model.named_parameters())[name] for name in names]
    columns = places(model).to(tensors[0].device)
    masks = Masks({name: torch.ones_like(t, dtype=torch.bool) for name, t in zip(names, tensors, strict=True)})
    for sparsity in sparsities:
        grads = None if policy.rule == "magnitude" or gradients is None else gradients(model)[:, columns]
        flat = torch.cat([t.detach().reshape(-1) for t in tensors])
        weights, kept = prune_once(flat, masks.vector(), sparsity, policy, grads)
        sizes = [t.numel() for t in tensors]
        with torch.no_grad():
            for t, piece in zip(tensors, weights.split(sizes), strict=True):
                t.copy_(piece.reshape(t.shape))
        pieces = kept.split(sizes)
        masks = Masks({n: k.reshape(t.shape) for n, t, k in zip(names, tensors, pieces, strict=True)})
        if empty := [name for name, density in masks.densities().items() if density == 0]:
            warnings.warn(f"all weights of {', '.join(empty)} are pruned at sparsity {sparsity:.3g}", stacklevel=2)
        if finetune is not None:
            finetune(model, masks)
            masks.apply(model)
    return masks


@torch.no_grad()
def multiply_adds(model: nn.Module, inputs: Tensor, masks: Masks) -> tuple[int, int]:
    """Multiplications of linear and convolutional layers for ``inputs``, with the masks and without them."""
    names = {module: name for name, module in model.named_modules()}
    sparse = dense = 0

    def count(module: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal sparse, dense
        weight = module.get_parameter("weight")
        kept = masks.kept.get(f"{names[module]}.weight" if names[module] else "weight")
        uses = output.numel() // weight.shape[0]  # of each row of weights
        dense += uses * weight.numel()
        sparse += uses * (weight.numel() if kept is None else int(kept.sum()))

    hooks = [
        m.register_forward_hook(count) for m in model.modules() if isinstance(m, (nn.Linear, nn.Conv1d, nn.Conv2d))
    ]
    try:
        model(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return sparse, dense
