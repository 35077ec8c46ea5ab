"""What every optimizer here shares: checks at the door, and one rule for how an optimizer gets its curvature.

An optimizer with ``needs_graph = False`` steps as torch's do: ``optimizer.step()`` after ``loss.backward()``, or
``optimizer.step(closure)`` with a closure that clears the gradients, calls ``backward`` and returns the loss.

An optimizer with ``needs_graph = True`` takes a closure that returns the loss *with its graph* and calls no
``backward``: the optimizer differentiates it with ``torch.autograd.grad(..., create_graph=True)`` as often as it needs.
(``loss.backward(create_graph=True)`` keeps a reference cycle between a parameter and its gradient, which leaks.)

Every check is made before any state changes, so that a refused step leaves weights and state as they were.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

Closed = Literal["both", "left", "right", "neither"]
_LBFGS = ("d", "prev_flat_grad")  # of its state, those that are tensors
Check = Callable[[str, Any], Any]  # (name, value); ValueError where the value cannot be


class NonFiniteLossError(ValueError):
    """The loss is NaN or infinite; the step was refused, weights and state are as they were."""


class NonFiniteGradientError(ValueError):
    """A gradient holds NaN or infinity; the step was refused, weights and state are as they were."""


class Optimizer(torch.optim.Optimizer):
    """torch's optimizer, except that it refuses the state of another model and bad numbers in any parameter group."""

    needs_graph = False
    checks: ClassVar[Mapping[str, Check]] = {}  # of the hyperparameters that a group may have, by name
    one_for_all: ClassVar[tuple[str, ...]] = ()  # hyperparameters in which the groups must agree

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As torch's.

        Raises:
            ValueError: a hyperparameter outside its range, or one of its own where all groups share it.
        """
        super().add_param_group(param_group)
        try:
            self._check_group(self.param_groups[-1])
        except ValueError:
            self.param_groups.pop()
            raise

    def _check_group(self, group: dict[str, Any]) -> None:
        for name, check in self.checks.items():
            if name in group:
                check(name, group[name])
        for name in self.one_for_all:
            if group[name] != self.param_groups[0][name]:
                raise ValueError(
                    f"{type(self).__name__} has one {name} for all parameter groups, got {group[name]} "
                    f"beside {self.param_groups[0][name]}"
                )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As torch's.

        Raises:
            ValueError: the groups differ, or a tensor that the state keeps per parameter has another shape than the
                parameter.
        """
        check_state(self, state_dict)
        super().load_state_dict(state_dict)

    def _has_shape_of_parameter(self, name: str) -> bool:
        """Whether the state called ``name`` has the shape of its parameter; to be overridden where some has not."""
        return True

    def _shape_of_state(self, name: str, parameter: Tensor) -> tuple[int, ...]:
        """The shape that the state called ``name`` must have where its shape follows from the parameter's."""
        return tuple(parameter.shape)


def positive(name: str, value: float) -> float:
    """``value`` where it is a finite number above 0."""
    return in_interval(name, value, 0, math.inf, closed="neither")


def nonnegative(name: str, value: float) -> float:
    """``value`` where it is a finite number of at least 0."""
    return in_interval(name, value, 0, math.inf, closed="left")


def in_interval(name: str, value: float, low: float, high: float, *, closed: Closed = "left") -> float:
    """``value`` where it lies between ``low`` and ``high``; ``closed`` says which ends belong to the interval."""
    above = value >= low if closed in ("both", "left") else value > low
    below = value <= high if closed in ("both", "right") else value < high
    if not (above and below):
        left, right = "[" if closed in ("both", "left") else "(", "]" if closed in ("both", "right") else ")"
        raise ValueError(f"{name} {value} must be in {left}{low:g}, {high:g}{right}")
    return value


def share(name: str, value: float) -> float:
    """``value`` where it lies in [0, 1): the share of the past that an average keeps."""
    return in_interval(name, value, 0, 1)


def shares(name: str, values: Sequence[float]) -> Sequence[float]:
    """Several of them."""
    for number, value in enumerate(values):
        share(f"{name}[{number}]", value)
    return values


def whole(name: str, value: int, least: int = 1) -> int:
    """``value`` where it is a whole number of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} {value!r} must be a whole number of at least {least}")
    return value


def check_gradients(parameters: Iterable[Tensor], gradients: Iterable[Tensor | None] | None = None) -> None:
    """Refuse gradients that would become a wrong step. ``gradients`` are those in ``.grad`` unless they are given.

    Raises:
        ValueError: a sparse or complex gradient, none at all.
        NonFiniteGradientError: NaN or infinity; the message names the parameter's number.
    """
    parameters = list(parameters)
    taken = [p.grad for p in parameters] if gradients is None else list(gradients)
    dense = [g for g in taken if g is not None]
    if not dense:
        raise ValueError("no parameter has a gradient; call backward() before step(), or pass a closure")
    for number, g in enumerate(taken):
        if g is not None and g.is_sparse:
            raise ValueError(f"the gradient of parameter {number} is sparse, which is not supported; use sparse=False")
        if g is not None and g.is_complex():
            raise ValueError(f"the gradient of parameter {number} is complex, which is not supported")
    _check_finite(taken)


def _check_finite(gradients: list[Tensor | None]) -> None:
    """NonFiniteGradientError where one has NaN or infinity."""
    values = [None if g is None else g.coalesce().values() if g.is_sparse else g for g in gradients]
    present = [v for v in values if v is not None]
    if not present:
        return
    # One pass and one wait for the device: a sum of norms is finite if and only if every gradient is.
    norms = torch._foreach_norm(present)
    if bool(torch.isfinite(torch.stack([norm.float() for norm in norms]).sum())):
        return
    for number, v in enumerate(values):
        if v is not None and not bool(torch.isfinite(v).all()):
            raise NonFiniteGradientError(
                f"the gradient of parameter {number} (shape {tuple(v.shape)}) has NaN or infinity; no step was made"
            )


def check_members(optimizers: Iterable[torch.optim.Optimizer]) -> None:
    """Refuse what one of ``optimizers`` would refuse, and numbers that are not finite, before any of them steps.

    torch's own may lack gradients or have sparse ones.

    Raises:
        ValueError: as :func:`check_gradients`.
    """
    for optimizer in optimizers:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        if isinstance(optimizer, Optimizer):
            check_gradients(parameters)
        else:
            _check_finite([p.grad for p in parameters])


def check_state(optimizer: torch.optim.Optimizer, state_dict: Mapping[str, Any]) -> None:
    """Refuse the state of another model, which torch's own optimizers load and stumble over at the next step.

    Of other libraries' optimizers nothing is known, and nothing refused.

    Raises:
        ValueError: a tensor that the state keeps per parameter has another shape than the parameter asks for.
    """
    saved = [index for group in state_dict["param_groups"] for index in group["params"]]
    own = [p for group in optimizer.param_groups for p in group["params"]]
    if len(saved) != len(own):
        return  # torch tells of this case
    for number, (index, parameter) in enumerate(zip(saved, own, strict=True)):
        for name, value in state_dict["state"].get(index, {}).items():
            if not isinstance(value, Tensor) or value.ndim == 0:
                continue
            expected = _expected_shape(optimizer, name, parameter)
            if expected is not None and tuple(value.shape) != expected:
                raise ValueError(
                    f"this state is of another model: {name!r} of parameter {number} has shape "
                    f"{tuple(value.shape)}, the parameter {tuple(parameter.shape)} needs {expected}"
                )


def _expected_shape(optimizer: torch.optim.Optimizer, name: str, parameter: Tensor) -> tuple[int, ...] | None:
    """The shape of the state called ``name``; None where it is not known."""
    shape = tuple(parameter.shape)
    if isinstance(optimizer, Optimizer):
        known = optimizer._has_shape_of_parameter(name)
        return tuple(optimizer._shape_of_state(name, parameter)) if known else None
    if not type(optimizer).__module__.startswith("torch.optim"):
        return None
    if isinstance(optimizer, torch.optim.LBFGS):  # one vector of all parameters
        return (sum(p.numel() for p in optimizer.param_groups[0]["params"]),) if name in _LBFGS else None
    if name in ("row_var", "col_var"):  # Adafactor's
        return (*shape[:-1], 1) if name == "row_var" else (*shape[:-2], 1, *shape[-1:])
    return shape


def checked_loss(closure: Callable[[], Tensor]) -> Tensor:
    """The loss that ``closure`` returns, with its graph where it has one.

    Raises:
        NonFiniteLossError: it is NaN or infinite.
        ValueError: it is not one number.
    """
    with torch.enable_grad():
        loss = closure()
    if loss.numel() != 1:
        raise ValueError(f"the loss must be one number, got shape {tuple(loss.shape)}; take its mean or sum")
    if not bool(torch.isfinite(loss.detach()).all()):
        raise NonFiniteLossError(f"the loss is {float(loss.detach())}; no step was made")
    return loss


def gradients_with_graph(closure: Callable[[], Tensor] | None, parameters: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """Loss and gradients that can be differentiated again, from the closure of an optimizer with ``needs_graph``.

    A parameter that the loss does not depend on gets a gradient of zeros.

    Raises:
        ValueError: no closure, or a loss without a graph.
    """
    if closure is None:
        raise ValueError(
            "this optimizer needs curvature: pass step() a closure that returns the loss, without backward()"
        )
    loss = checked_loss(closure)
    if loss.grad_fn is None:
        raise ValueError("the closure's loss has no graph; return the loss itself, not .item() or .detach()")
    gradients = torch.autograd.grad(loss, parameters, create_graph=True, allow_unused=True)
    filled = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, gradients, strict=True)]
    check_gradients(parameters, [g.detach() for g in filled])
    return loss, filled
