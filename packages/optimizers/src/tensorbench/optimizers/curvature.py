"""Hessian and Gauss-Newton matrices of a model on a batch as linear operators, checked at the door.

The Hessian's operator keeps the graph of one gradient, so that each product costs one backward pass through it; the
parameters must not change while it is in use. Batch norm is taken in the mode the model is in: in training mode the
curvature is that of the loss with this batch's statistics, in evaluation mode that with the running ones.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .autodiff import Closure, Loss, _gauss_newton, grad, hvp_of_grads, objective
from .flat import check_distinct, flatten, trainable, unflatten
from .linops import LinearOperator

_KINKED = (nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.ReLU6, nn.Hardtanh, nn.MaxPool1d, nn.MaxPool2d, nn.Threshold)
_told: set[str] = set()


def hessian_operator(closure: Closure, params: Sequence[Tensor]) -> LinearOperator:
    """The Hessian of a closure's loss with respect to ``params``, as they are now.

    Raises:
        ValueError: the loss is not the same twice (dropout, augmentation), or not finite; when it is multiplied: the
            parameters were changed in between.
    """
    check_distinct(params)
    check_deterministic(closure)
    params = list(params)
    grads = grad(closure(), params, create_graph=True)
    d = sum(p.numel() for p in params)

    versions = [p._version for p in params]

    def matmat(block: Tensor) -> Tensor:
        if [p._version for p in params] != versions:
            raise ValueError("the parameters changed since this operator was made; make a new one at the new weights")
        columns = [flatten(hvp_of_grads(grads, params, unflatten(v, params))) for v in block.T]
        return torch.stack(columns, dim=1)

    return LinearOperator((d, d), matmat, params[0].dtype, params[0].device)


def hessian_of(model: nn.Module, loss: Loss, batch: Any) -> LinearOperator:
    """:func:`hessian_operator` of a model on a batch; kinks (ReLU) are told of once, since they have no curvature."""
    kinks = sorted({type(module).__name__ for module in model.modules() if isinstance(module, _KINKED)})
    if kinks and not _told.issuperset(kinks):
        _told.update(kinks)
        warnings.warn(f"{', '.join(kinks)}: second derivatives leave out the kinks, as is usual", stacklevel=2)
    return hessian_operator(objective(model, loss, batch), trainable(model))


def ggn_operator(model: nn.Module, loss: Loss, batch: Any) -> LinearOperator:
    """The Gauss-Newton matrix Jᵀ H_out J of a model on a batch.

    Raises:
        ValueError: the loss is not the same twice, or calls the model other than once.
    """
    check_deterministic(objective(model, loss, batch))
    params = trainable(model)
    d = sum(p.numel() for p in params)
    product = _gauss_newton(model, loss, batch)

    def matmat(block: Tensor) -> Tensor:
        return torch.stack([flatten(product(tuple(unflatten(v, params)))) for v in block.T], dim=1)

    return LinearOperator((d, d), matmat, params[0].dtype, params[0].device)


def check_deterministic(closure: Closure) -> None:
    """Refuse a loss that differs between two calls, since a Krylov method would mix two matrices.

    Raises:
        ValueError: it differs, or it is not finite.
    """
    with torch.no_grad():
        first, second = float(closure()), float(closure())
    if first != first or first in (float("inf"), float("-inf")):
        raise ValueError(f"the loss is {first}; curvature needs a finite one")
    if first != second:
        raise ValueError(
            f"the loss is {first} and then {second} on the same batch; use model.eval() or a dropout of 0 for curvature"
        )
