"""Norm loss: weights of each output unit pulled softly towards norm one.

Georgiou, Schmitt, Bäck, Chen, Lew (2020, ICPR; arXiv 2103.06583). For every row w_o of a weight (a kernel flattened to
(out, in · height · width)) the loss gets

    NL = factor · Σ_layers Σ_o (target − √(ε + |w_o|²))²,    ∂NL/∂w_o = 2 factor (1 − target/√(ε + |w_o|²)) w_o,

a soft version of the oblique manifold of matrices with unit rows. ``NormLoss`` adds it to a loss, ``DecoupledNormLoss``
applies its gradient to the weights beside an optimizer's step, as Ranger21 does (Wright, Demeure 2021, arXiv
2106.13731).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tensorbench.core.errors import unknown

from .base import check_members, checked_loss, nonnegative, positive
from .together import Joint

Per = Literal["output", "input", "tensor"]
_PER = ("output", "input", "tensor")
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_SMALL = 65536  # entries up to which tensors of one shape are stacked, where calls cost more than the copy
Weights = Iterable[Tensor] | Iterable[tuple[str, Tensor]] | Mapping[str, Tensor]


@dataclass(frozen=True)
class RowNorms:
    """Of one layer's rows: mean, standard deviation (over rows), least and largest norm, mean of |norm − 1|."""

    mean: float
    std: float
    least: float
    largest: float
    deviation: float


def layers(model: nn.Module, *, classifier: bool = False, depthwise: bool = True) -> dict[str, nn.Module]:
    """The convolutions and linear layers whose weights are regularised, by name; layers that share a weight once.

    Args:
        classifier: the last linear layer too.
        depthwise: convolutions with one input channel a group too.
    """
    linear = [m for m in model.modules() if isinstance(m, nn.Linear)]
    found: dict[str, nn.Module] = {}
    seen: set[int] = set()
    for name, module in model.named_modules():
        if not isinstance(module, (nn.Linear, *_CONVOLUTIONS)):
            continue
        if isinstance(module, nn.Linear) and module is linear[-1] and not classifier:
            continue
        if isinstance(module, _CONVOLUTIONS) and not depthwise and module.groups == module.in_channels > 1:
            continue
        key = id(next(iter(module._parameters.values()))) if "weight" in module._parameters else id(module)
        if key not in seen:
            seen.add(key)
            found[name] = module
    return found


def _named(params: Weights, include: Callable[[str, Tensor], bool] | None) -> list[tuple[str, Tensor]]:
    items = list(params.items()) if isinstance(params, Mapping) else list(params)
    pairs = [item if isinstance(item, tuple) else (str(number), item) for number, item in enumerate(items)]
    kept, seen = [], set()
    for name, w in pairs:
        if id(w) in seen or (include is not None and not include(name, w)):
            continue
        seen.add(id(w))
        kept.append((name, w))
    if not kept:
        raise ValueError("there are no weights to regularise; the list is empty or include=... refuses all")
    return kept


def _check(name: str, w: Tensor, per: str) -> None:
    if per not in _PER:
        raise ValueError(unknown("per", per, _PER))
    if not w.is_floating_point():
        raise ValueError(f"weight {name!r} is {w.dtype}; norm loss is of real numbers")
    if per != "tensor" and w.ndim < 2:
        raise ValueError(
            f"weight {name!r} has shape {tuple(w.shape)} and so no {per} units; leave it out or use per='tensor'"
        )


def _squares(w: Tensor, per: str) -> Tensor:
    """Σ w² of each unit, in float32 at least, with the weight's number of axes."""
    axes = {"output": range(1, w.ndim), "input": (0, *range(2, w.ndim)), "tensor": range(w.ndim)}[per]
    wide = torch.promote_types(w.dtype, torch.float32)
    return torch.linalg.vector_norm(w, dim=tuple(axes), keepdim=True, dtype=wide).square()


def rows_loss(rows: Tensor, target: float, eps: float) -> Tensor:
    """Σ_o (target − √(eps + |w_o|²))² of the rows of a matrix; plain enough for ``torch.jit.script``."""
    return (target - (eps + rows.square().sum(dim=1)).sqrt()).square().sum()


def norm_loss(
    params: Weights,
    factor: float,
    target: float = 1.0,
    eps: float = 1e-8,
    per: Per = "output",
    include: Callable[[str, Tensor], bool] | None = None,
) -> Float[Tensor, ""]:
    """NL, differentiable. Weights that appear twice count once.

    Args:
        params: tensors, (name, tensor) pairs or a map; half precision is summed in float32.
        eps: keeps the gradient finite at zero rows.
        per: whose norm: of ``output`` units (the first axis), ``input`` channels (the second) or whole tensors.
        include: ``include(name, tensor)`` says which count.

    Raises:
        ValueError: factor < 0, target ≤ 0, no weights, whole numbers, 0- or 1-D weights unless ``per="tensor"``, NaN,
            and zero units with ``eps = 0`` (which have no gradient).
    """
    nonnegative("factor", factor), positive("target", target), nonnegative("eps", eps)
    return factor * _total(_named(params, include), target, eps, per)


def _total(weights: list[tuple[str, Tensor]], target: float, eps: float, per: str) -> Tensor:
    """NL over its factor."""
    total = torch.zeros(())
    for number, (name, w) in enumerate(weights):
        _check(name, w, per)
        squares = _squares(w, per)
        if eps == 0 and not torch.compiler.is_compiling():
            _check_squares(name, squares.detach(), eps)
        part = (target - (eps + squares).sqrt()).square().sum()
        total = part if number == 0 else total + part.to(total.dtype)
    if not torch.compiler.is_compiling() and not bool(torch.isfinite(total.detach())):
        for name, w in weights:  # one look for all, and a second one only where something is wrong
            _check_squares(name, _squares(w, per).detach(), eps)
    return total


def _check_squares(name: str, squares: Tensor, eps: float) -> None:
    least = float(squares.min())  # NaN where there is one
    if least != least:
        raise ValueError(f"weight {name!r} has NaN")
    if eps == 0 and least == 0:
        raise ValueError(f"weight {name!r} has a unit of zeros, where the norm has no gradient; use eps > 0")


def norm_loss_grad(
    params: Weights, factor: float, target: float = 1.0, eps: float = 1e-8, per: Per = "output"
) -> list[Float[Tensor, "..."]]:
    """∂NL/∂w of each weight in closed form."""
    nonnegative("factor", factor), positive("target", target), nonnegative("eps", eps)
    found = []
    for name, w in _named(params, None):
        _check(name, w, per)
        w = w.detach()
        squares = _squares(w, per)
        _check_squares(name, squares, eps)
        found.append((2 * factor * (1 - target / (squares + eps).sqrt())).to(w.dtype) * w)
    return found


@torch.no_grad()
def norm_loss_step_(
    weights: list[Tensor], rate: float, target: float = 1.0, eps: float = 1e-8, per: Per = "output"
) -> None:
    """w ← w · (1 − 2 rate (1 − target/|w|)) in place: a step of gradient descent on NL with rate = lr · factor.

    Small weights of one shape are dealt with together.
    """
    alike: dict[Any, list[Tensor]] = {}
    for number, w in enumerate(weights):
        _check(str(number), w, per)
        alone = per != "output" or w.numel() > _SMALL
        alike.setdefault(number if alone else (w.shape, w.dtype, w.device), []).append(w)
    for group in alike.values():
        if len(group) == 1:
            w = group[0]
            w.mul_((1 - 2 * rate * (1 - target / (_squares(w, per) + eps).sqrt())).to(w.dtype))
            continue
        stacked = torch.stack(group).flatten(0, 1)
        squares = _squares(stacked, "output")
        stacked.mul_((1 - 2 * rate * (1 - target / (squares + eps).sqrt())).to(stacked.dtype))
        torch._foreach_copy_(group, list(stacked.view(len(group), *group[0].shape)))


class NormLoss(nn.Module):
    """``loss = criterion(...) + reg()`` with ``reg = NormLoss(model, factor=1e-2)``.

    It reads the weights of the model's convolutions and linear layers after any parametrisation (spectral norm,
    pruning, ...), the classifier left out unless asked for. Its state keeps factor, target, eps and the names.

    Attributes:
        factor: may be set between steps (:func:`schedule_factor`).
        names: of the layers that count.
    """

    def __init__(
        self,
        model: nn.Module,
        factor: float = 1e-2,
        target: float = 1.0,
        eps: float = 1e-8,
        *,
        classifier: bool = False,
        depthwise: bool = True,
    ) -> None:
        super().__init__()
        self.factor, self.target = nonnegative("factor", factor), positive("target", target)
        self.eps = nonnegative("eps", eps)
        chosen = layers(model, classifier=classifier, depthwise=depthwise)
        if not chosen:
            raise ValueError("the model has no convolution or linear layer to regularise besides a classifier")
        self._model = (model,)  # in a tuple, so that its weights are not this module's too
        self.names = tuple(chosen)

    def weights(self) -> dict[str, Tensor]:
        """The weights as they are now."""
        return {name: self._model[0].get_submodule(name).weight for name in self.names}  # type: ignore[misc]

    def forward(self) -> Tensor:
        """NL of the weights as they are now."""
        return self.factor * _total(list(self.weights().items()), self.target, self.eps, "output")

    def get_extra_state(self) -> dict[str, Any]:
        return {"factor": self.factor, "target": self.target, "eps": self.eps, "names": list(self.names)}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        known = dict(self._model[0].named_modules())
        for name in state["names"]:
            if name not in known:
                raise ValueError(unknown("layer", name, list(known)))
        self.factor, self.target, self.eps = state["factor"], state["target"], state["eps"]
        self.names = tuple(state["names"])


class DecoupledNormLoss(Joint):
    """Beside an optimizer: before its step every weight moves by −lr · ∂NL/∂w, so that momenta do not see NL.

    Args:
        optimizer: any of torch's; its groups' learning rates are used, so that a schedule holds for both.
        weights: those to regularise, a part of the optimizer's parameters.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        factor: float,
        weights: Iterable[Tensor],
        target: float = 1.0,
        eps: float = 1e-8,
        per: Per = "output",
    ) -> None:
        if getattr(optimizer, "needs_graph", False):
            raise ValueError("an optimizer that differentiates the loss itself cannot step beside a correction")
        super().__init__(optimizer)
        self.optimizer, self.per = optimizer, per
        self.factor, self.target = nonnegative("factor", factor), positive("target", target)
        self.eps = nonnegative("eps", eps)
        wanted = [w for _, w in _named(list(weights), None)]
        for number, w in enumerate(wanted):
            _check(str(number), w, per)
        own = {id(p): k for k, group in enumerate(optimizer.param_groups) for p in group["params"]}
        for number, w in enumerate(wanted):
            if id(w) not in own:
                raise ValueError(f"weight {number} (shape {tuple(w.shape)}) is no parameter of the optimizer")
        self._groups = [(k, [w for w in wanted if own[id(w)] == k]) for k in range(len(optimizer.param_groups))]

    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:  # type: ignore[override]
        """The closure where there is one, the correction, then the optimizer's step on the gradients that are there."""
        loss = None if closure is None else checked_loss(closure)
        check_members([self.optimizer])
        for k, weights in self._groups:
            rate = self.optimizer.param_groups[k]["lr"] * self.factor
            if weights and rate:
                norm_loss_step_(weights, rate, self.target, self.eps, self.per)
        self.optimizer.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        """The optimizer's, with factor, target and eps."""
        own = {"factor": self.factor, "target": self.target, "eps": self.eps}
        return {"optimizer": self.optimizer.state_dict(), "norm_loss": own}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Of the same optimizer and weights.

        Raises:
            ValueError: the state is of another model; nothing has changed.
        """
        own = state_dict["norm_loss"]
        self._load_members([state_dict["optimizer"]])
        self.factor, self.target, self.eps = own["factor"], own["target"], own["eps"]


def schedule_factor(regulariser: Any, schedule: Callable[[int], float]) -> Callable[[int], None]:
    """A hook ``hook(step)`` that multiplies the factor that ``regulariser`` has now by ``schedule(step)``."""
    start = regulariser.factor

    def hook(step: int) -> None:
        regulariser.factor = nonnegative("factor", start * schedule(step))

    return hook


@torch.no_grad()
def row_norm_stats(model: nn.Module, *, classifier: bool = False) -> dict[str, RowNorms]:
    """Norms of the rows of every layer that :func:`layers` names."""
    found = {}
    for name, module in layers(model, classifier=classifier).items():
        norms = module.weight.flatten(1).float().norm(dim=1)  # type: ignore[operator, union-attr]
        found[name] = RowNorms(
            float(norms.mean()), float(norms.std(correction=0)), float(norms.min()), float(norms.max()),
            float((norms - 1).abs().mean()),
        )  # fmt: skip
    return found


@torch.no_grad()
def effective_learning_rates(model: nn.Module, lr: float) -> dict[str, float]:
    """lr/|w|² by layer, the geometric mean over rows: the angle that a step turns a weight before a batch norm by."""
    found = {}
    for name, module in layers(model).items():
        squares = module.weight.flatten(1).float().square().sum(dim=1)  # type: ignore[operator, union-attr]
        found[name] = float(lr / squares.clamp_min(1e-30).log().mean().exp())
    return found
