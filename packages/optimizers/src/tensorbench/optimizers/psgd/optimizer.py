"""PSGD: gradients times a preconditioner that is fitted along the way, from Hessian products or from the gradients.

Preconditioned SGD of X.-L. Li (2015, arXiv 1512.04202; the fitting: 2024, arXiv 2402.11858). ``whiten=True`` fits
P ≈ E[g gᵀ]^(-½) and steps like an adaptive method; ``whiten=False`` fits P ≈ |H|⁻¹ from one Hessian product an update
and steps like Newton's method. No line search, and steps are normalised, so that lr needs little tuning.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from tensorbench.core.errors import unknown

from ..autodiff import grad, hvp_of_grads
from ..base import (
    Check,
    Optimizer,
    check_gradients,
    checked_loss,
    gradients_with_graph,
    in_interval,
    nonnegative,
    positive,
    share,
)
from ..flat import flatten, unflatten
from .inverse_free import Geometry, InverseFree, check_geometry
from .kronecker import Kron
from .low_rank import LowRank
from .pairs import Products, difference_products

Kind = Literal["kron", "lra", "dense"]
_KINDS = ("kron", "lra", "dense")
Part = Kron | LowRank | InverseFree


def _modes(p: Tensor) -> tuple[int, ...]:
    return tuple(p.squeeze().shape) or (1,)


def _two_positive(name: str, values: Sequence[float]) -> None:
    if len(values) != 2 or not all(value > 0 for value in values):
        raise ValueError(f"{name} {values} must be two positive numbers")


class PSGD(Optimizer):
    """
    Args:
        params: parameters or groups of them.
        lr: step along P g; by default 1e-3 when whitening and 1e-2 with Hessian products, where 1 is a Newton step.
        kind: ``kron``, a factor for each mode of each tensor; ``lra``, diagonal and low rank over all parameters of a
            group; ``dense``, a full matrix over them (up to some thousands of parameters).
        whiten: fit from gradients; else from Hessian products, which need ``step(closure)`` with a closure that
            returns the loss with its graph and calls no ``backward`` (``needs_graph``).
        geometry: how factors move, for ``kron`` and ``dense`` (:mod:`.inverse_free`).
        lr_preconditioner: normalised step of the fit, in (0, 2].
        momentum: of the average of the gradients that is preconditioned, in [0, 1).
        whiten_momentum: fit P from that average in place of the gradient.
        grad_clip_max_amps: when whitening, the largest root mean square and the largest entry of a step over lr.
        grad_clip_max_norm: with Hessian products, the largest norm of P g over all parameters.
        damping: bounds P by 1/damping.
        update_probability: share of the steps that update P.
        init_scale: Q starts as this times I; None takes it from the first step's gradients or products.
        products: ``exact`` Hessian products or ``finite_difference``s of gradients.
        rank: of ``lra``.
        max_size, max_skew: which modes of a tensor ``kron`` gives a full factor (:func:`.kronecker.dense_modes`).
        beta_lipschitz: how slowly the fit's Lipschitz constants forget.
        weight_decay: decoupled.
        seed: of the random vectors and of the coins; its generator's state is part of ``state_dict``.

    ``kron`` treats tensors of the same shape in one go.
    """

    checks: ClassVar[Mapping[str, Check]] = {
        "lr": positive,
        "lr_preconditioner": partial(in_interval, low=0, high=2, closed="right"),
        "momentum": share,
        "weight_decay": nonnegative,
        "grad_clip_max_amps": _two_positive,
        "grad_clip_max_norm": partial(in_interval, low=0, high=math.inf, closed="right"),
    }

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | None = None,
        *,
        kind: Kind = "kron",
        whiten: bool = True,
        geometry: Geometry = "Q0p5EQ1p5",
        lr_preconditioner: float = 0.1,
        momentum: float = 0.0,
        whiten_momentum: bool = False,
        grad_clip_max_amps: tuple[float, float] = (2.0, 10.0),
        grad_clip_max_norm: float = math.inf,
        damping: float = 1e-9,
        update_probability: float = 1.0,
        init_scale: float | None = None,
        products: Products = "exact",
        rank: int = 10,
        max_size: float = math.inf,
        max_skew: float = 1.0,
        beta_lipschitz: float = 0.9,
        weight_decay: float = 0.0,
        seed: int = 0,
    ) -> None:
        if kind not in _KINDS:
            raise ValueError(unknown("kind", kind, _KINDS))
        if products not in ("exact", "finite_difference"):
            raise ValueError(unknown("products", products, ["exact", "finite_difference"]))
        if whiten_momentum and not momentum:
            raise ValueError("whiten_momentum needs momentum > 0; without it the average is the gradient")
        self.kind, self.whiten, self.products = kind, whiten, products
        self.whiten_momentum, self.update_probability = whiten_momentum, update_probability
        self.needs_graph = not whiten
        in_interval("update_probability", update_probability, 0, 1, closed="right")
        if kind == "dense" and geometry == "EQ":
            raise ValueError("the dense kind has no EQ; use Q0p5EQ1p5, or kind='kron'")
        self._options: dict[str, Any] = {"damping": nonnegative("damping", damping), "beta": beta_lipschitz}
        if kind == "lra":
            self._options |= {"rank": rank}
        else:
            self._options |= {"geometry": check_geometry(geometry)}
        if kind == "kron":
            self._options |= {"max_size": max_size, "max_skew": max_skew, "stacked": True}
        self._init_scale = None if init_scale is None else positive("init_scale", init_scale)
        defaults = {
            "lr": (1e-3 if whiten else 1e-2) if lr is None else lr,
            "lr_preconditioner": lr_preconditioner,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "grad_clip_max_amps": grad_clip_max_amps,
            "grad_clip_max_norm": grad_clip_max_norm,
            "steps": 0,
        }
        super().__init__(params, defaults)
        self._parts: dict[Tensor, Part] = {}
        self._stacks: dict[int, list[list[Tensor]]] = {}
        self._generator = torch.Generator(self.param_groups[0]["params"][0].device).manual_seed(seed)
        for index in range(len(self.param_groups)):
            for stack in self._stacks_of(index):  # a rank or a shape that cannot be is an error now
                self._empty_part(stack)

    # --- parts: which parameters share a preconditioner --------------------------------------------------------------

    def _stacks_of(self, index: int) -> list[list[Tensor]]:
        """Parameters of one shape for ``kron`` (dimensions of 1 dropped), else all of the group."""
        parameters = [p for p in self.param_groups[index]["params"] if p.requires_grad]
        known = self._stacks.get(index)
        if known is not None and sum(map(len, known)) == len(parameters):
            return known
        stacks: dict[Any, list[Tensor]] = {}
        for p in parameters:
            key = (_modes(p), p.dtype, p.device) if self.kind == "kron" else None
            stacks.setdefault(key, []).append(p)
        self._stacks[index] = list(stacks.values())
        return self._stacks[index]

    def _new_part(self, stack: list[Tensor], scale: float) -> Part:
        first = stack[0]
        options: dict[str, Any] = self._options | {
            "init_scale": scale, "dtype": first.dtype, "device": first.device, "generator": self._generator,
        }  # fmt: skip
        if self.kind == "kron":
            return Kron(_modes(first), members=len(stack), **options)
        n = sum(p.numel() for p in stack)
        return LowRank(n, **options) if self.kind == "lra" else InverseFree(n, **options)

    def _empty_part(self, stack: list[Tensor]) -> Part:
        """A part whose tensors will be replaced; it leaves the optimizer's generator as it is."""
        kept, self._generator = self._generator, torch.Generator(self._generator.device)
        part = self._new_part(stack, 1.0)
        part.generator = self._generator = kept
        return part

    def _part(self, stack: list[Tensor], scale: Callable[[], float], lr: float) -> Part:
        """The stack's fitter, whose tensors are the state of the stack's first parameter."""
        first = stack[0]
        if first not in self._parts:
            loaded = dict(self.state[first])
            part = self._empty_part(stack) if loaded else self._new_part(stack, scale())
            if loaded:
                part.state = self.state[first]
            else:
                self.state[first] = part.state
            self._parts[first] = part
        part = self._parts[first]
        part.lr = lr
        return part

    def _gather(self, stack: list[Tensor], values: list[Tensor]) -> Tensor:
        if self.kind == "kron":
            return torch.stack([x.reshape(_modes(p)) for x, p in zip(values, stack, strict=True)])
        return flatten(values)

    def _scatter(self, stack: list[Tensor], x: Tensor) -> list[Tensor]:
        if self.kind != "kron":
            return unflatten(x, stack)
        return [part.view_as(p) for part, p in zip(x.unbind(), stack, strict=True)]

    # --- a step ------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:  # type: ignore[override]
        """One step.

        Raises:
            NonFiniteLossError, NonFiniteGradientError: the step was refused, weights and state are as they were.
            ValueError: sparse or complex gradients, none at all, or no closure where Hessian products are needed.
        """
        parameters = [p for group in self.param_groups for p in group["params"] if p.requires_grad]
        v: list[Tensor] = []
        h: list[Tensor] = []
        drawn = self._generator.get_state()
        try:
            update = self.update_probability == 1 or self._coin() < self.update_probability
            update = update or self.param_groups[0]["steps"] == 0
            if self.whiten:
                loss = None if closure is None else checked_loss(closure)
                check_gradients(parameters)
                gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
            else:
                loss, gradients, v, h = self._products(closure, parameters, update)
        except Exception:
            self._generator.set_state(drawn)  # a refused step leaves the coins and vectors to come as they were
            raise
        gradient = dict(zip(parameters, gradients, strict=True))
        pair = dict(zip(parameters, zip(v, h, strict=True), strict=True)) if v else {}
        scale = self._scale(gradients, v, h)
        directions: list[tuple[dict[str, Any], list[Tensor], Tensor]] = []
        for index, group in enumerate(self.param_groups):
            beta = min(group["steps"] / (1 + group["steps"]), group["momentum"])
            group["steps"] += 1
            for stack in self._stacks_of(index):
                direction = self._direction(group, stack, gradient, pair, update, scale, beta)
                directions.append((group, stack, direction))
        self._move(directions)
        return loss

    def _direction(
        self,
        group: dict[str, Any],
        stack: list[Tensor],
        gradient: dict[Tensor, Tensor],
        pair: dict[Tensor, tuple[Tensor, Tensor]],
        update: bool,
        scale: Callable[[], float],
        beta: float,
    ) -> Tensor:
        """P times the average gradient of a stack, P updated first."""
        part = self._part(stack, scale, group["lr_preconditioner"])
        g = average = self._gather(stack, [gradient[p] for p in stack])
        if group["momentum"]:
            average = part.state.setdefault("momentum", torch.zeros_like(g))
            average.lerp_(g, 1 - beta)
        if update and pair:
            v, h = (self._gather(stack, [pair[p][i] for p in stack]) for i in (0, 1))
            part._update(v, h)
        elif update:
            self._whiten(part, average if self.whiten_momentum else g)
        return part.apply(average)

    def _whiten(self, part: Part, g: Tensor) -> None:
        if isinstance(part, Kron):
            part.whiten(g)
            return
        v = torch.randn(g.shape, dtype=g.dtype, device=g.device, generator=self._generator)
        part._update(v, g)

    def _move(self, directions: list[tuple[dict[str, Any], list[Tensor], Tensor]]) -> None:
        """Clip, decay and step; a parameter without a gradient stays where it is."""
        limit = self.param_groups[0]["grad_clip_max_norm"]
        shrink: Tensor | float = 1.0
        if not self.whiten and not math.isinf(limit):
            norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(x).float() for *_, x in directions]))
            shrink = limit / norm.clamp(min=limit)
        for group, stack, direction in directions:
            changes = self._scatter(stack, self._clipped(group, direction) if self.whiten else direction * shrink)
            moving = [i for i, p in enumerate(stack) if not self.whiten or p.grad is not None]
            moved = [stack[i] for i in moving]
            if group["weight_decay"]:
                torch._foreach_mul_(moved, 1 - group["lr"] * group["weight_decay"])
            torch._foreach_add_(moved, [changes[i] for i in moving], alpha=-group["lr"])

    def _clipped(self, group: dict[str, Any], direction: Tensor) -> Tensor:
        mean, largest = group["grad_clip_max_amps"]
        if self.kind == "kron":  # each tensor by itself
            size = direction.flatten(1).square().mean(1).sqrt().view(-1, *[1] * (direction.ndim - 1))
        else:
            size = direction.square().mean().sqrt()
        return (direction * (mean / size.clamp(min=mean))).clamp(-largest, largest)

    def _products(
        self, closure: Callable[[], Tensor] | None, parameters: list[Tensor], update: bool
    ) -> tuple[Tensor, list[Tensor], list[Tensor], list[Tensor]]:
        """Loss, gradients, and where P is to be updated random vectors with their Hessian products."""
        if closure is None:
            raise ValueError("fitting from Hessian products needs step(closure); whiten=True does without")
        if not update or self.products == "finite_difference":
            with torch.enable_grad():
                loss = checked_loss(closure)
                gradients = grad(loss, parameters)
            check_gradients(parameters, gradients)
            if not update:
                return loss.detach(), gradients, [], []
        else:
            with torch.enable_grad():
                loss, gradients = gradients_with_graph(closure, parameters)
        v = [torch.randn(p.shape, dtype=p.dtype, device=p.device, generator=self._generator) for p in parameters]
        if self.products == "exact":
            h = hvp_of_grads(gradients, parameters, v)
        else:
            with torch.enable_grad():
                h = difference_products(closure, parameters, v, gradients)
        check_gradients(parameters, h)
        return loss.detach(), [g.detach() for g in gradients], v, h

    def _scale(self, gradients: list[Tensor], v: list[Tensor], h: list[Tensor]) -> Callable[[], float]:
        """The scale of Q at the start: (mean v²)^(1/4) (mean h⁴)^(-1/8), the largest mean over tensors."""

        def scale() -> float:
            if self._init_scale is not None:
                return self._init_scale
            largest = max(float(x.double().pow(4).mean()) for x in (h or gradients))
            start = max(largest + self._options["damping"] ** 4, 1e-300) ** (-1 / 8)
            if v:
                start *= (sum(float(x.double().square().sum()) for x in v) / sum(x.numel() for x in v)) ** 0.25
            return start

        return scale

    def _coin(self) -> float:
        return float(torch.rand((), generator=self._generator, device=self._generator.device))

    # --- state -------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """As torch's, with the state of the generator."""
        saved = super().state_dict()
        saved["param_groups"][0]["generator_state"] = self._generator.get_state()
        return saved

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As torch's; tensors keep the precision that they were saved in.

        Raises:
            ValueError: the state is of a model with other shapes, or of another kind of preconditioner.
        """
        saved = copy.deepcopy(state_dict)
        numbers = [index for group in saved["param_groups"] for index in group["params"]]
        own = [p for group in self.param_groups for p in group["params"]]
        generator_state = saved["param_groups"][0].pop("generator_state", None)
        kept: dict[Tensor, dict[str, Tensor]] = {}
        if len(numbers) == len(own):  # torch tells of the other case
            number = dict(zip(own, numbers, strict=True))
            for index in range(len(self.param_groups)):
                for stack in self._stacks_of(index):
                    found = saved["state"].get(number[stack[0]], {})
                    if found:
                        self._check_state(stack, found)
                        kept[stack[0]] = found
        super().load_state_dict(saved)
        self._parts.clear()
        for p, found in kept.items():
            self.state[p] = {name: tensor.to(p.device) for name, tensor in found.items()}
        if generator_state is not None:
            self._generator.set_state(generator_state.cpu())

    def _check_state(self, stack: list[Tensor], found: dict[str, Tensor]) -> None:
        expected = {name: tuple(tensor.shape) for name, tensor in self._empty_part(stack).state.items()}
        have = {name: tuple(tensor.shape) for name, tensor in found.items() if name != "momentum"}
        if have != expected:
            raise ValueError(f"this state is of another model or kind: it has {have}, this optimizer needs {expected}")

    def _has_shape_of_parameter(self, name: str) -> bool:
        return False  # a preconditioner has shapes of its own; load_state_dict compares them

    @property
    def preconditioners(self) -> list[Part]:
        """The fitters in use, one for each stack of parameters; empty before the first step."""
        return list(self._parts.values())
