"""Update rules that act on each entry of a gradient and its past: Q_t(g_0, ..., g_t).

A rule is a small value with ``apply(gradient, memory) -> (Q, memory)``; the memory is a tuple of tensors of the
gradient's shape and a number of steps, ``()`` before the first. The same rule serves a parameter of a network, the
samples of a limit, or a block of a matrix. Where an entry is 0/0 (a gradient that was always 0, without epsilon) the
update is 0.

Yang, Littwin (2023, arXiv 2308.01814): entrywise updates. The rules are signSGD (Bernstein et al. 2018), Adam (Kingma,
Ba 2015), RMSProp (Tieleman, Hinton 2012), Adagrad (Duchi et al. 2011) and Lion (Chen et al. 2023).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from tensorbench.core.errors import unknown
from tensorbench.optimizers import base

Memory = tuple[Any, ...]


class EntrywiseUpdate(Protocol):
    """A rule Q; ``is_scale_invariant`` if Q(s g_0, ..., s g_t) = Q(g_0, ..., g_t) for s > 0."""

    @property
    def is_scale_invariant(self) -> bool: ...

    def apply(self, gradient: Tensor, memory: Memory) -> tuple[Tensor, Memory]: ...


def _over(numerator: Tensor, denominator: Tensor) -> Tensor:
    """The quotient, 0 where the denominator is 0."""
    return (numerator / denominator).masked_fill_(denominator == 0, 0.0)


@dataclass(frozen=True)
class Identity:
    """Q = g: gradient descent, as a reference."""

    is_scale_invariant = False

    def apply(self, gradient: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        return gradient, memory


@dataclass(frozen=True)
class Sign:
    """Q = sign(g)."""

    is_scale_invariant = True

    def apply(self, gradient: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        return gradient.sign(), memory


@dataclass(frozen=True)
class Adam:
    """Adam with bias correction, as in torch."""

    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8

    def __post_init__(self) -> None:
        base.in_interval("beta1", self.beta1, 0, 1)
        base.in_interval("beta2", self.beta2, 0, 1)
        base.nonnegative("eps", self.eps)

    @property
    def is_scale_invariant(self) -> bool:
        return self.eps == 0

    def apply(self, gradient: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        first, second, step = memory or (torch.zeros_like(gradient), torch.zeros_like(gradient), 0)
        first = torch.lerp(first, gradient, 1 - self.beta1)
        second = torch.addcmul(self.beta2 * second, gradient, gradient, value=1 - self.beta2)
        step += 1
        # m / (1 - beta1^t) over sqrt(v / (1 - beta2^t)) + eps, with both corrections moved in front
        mean, root = 1 - self.beta1**step, (1 - self.beta2**step) ** 0.5
        return _over(first, second.sqrt().add_(self.eps * root)).mul_(root / mean), (first, second, step)


@dataclass(frozen=True)
class RMSProp:
    """g over the root of a running mean of g², as in torch (the mean starts at 0)."""

    alpha: float = 0.99
    eps: float = 1e-8

    def __post_init__(self) -> None:
        base.in_interval("alpha", self.alpha, 0, 1)
        base.nonnegative("eps", self.eps)

    @property
    def is_scale_invariant(self) -> bool:
        return self.eps == 0

    def apply(self, gradient: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        (second,) = memory or (torch.zeros_like(gradient),)
        second = self.alpha * second + (1 - self.alpha) * gradient.square()
        return _over(gradient, second.sqrt() + self.eps), (second,)


@dataclass(frozen=True)
class Adagrad:
    """g over the root of the sum of g²."""

    eps: float = 1e-10

    def __post_init__(self) -> None:
        base.nonnegative("eps", self.eps)

    @property
    def is_scale_invariant(self) -> bool:
        return self.eps == 0

    def apply(self, gradient: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        (second,) = memory or (torch.zeros_like(gradient),)
        second = second + gradient.square()
        return _over(gradient, second.sqrt() + self.eps), (second,)


@dataclass(frozen=True)
class ClippedSGD:
    """Q = g, no further from 0 than ``limit``."""

    limit: float = 1.0
    is_scale_invariant = False

    def __post_init__(self) -> None:
        base.positive("limit", self.limit)

    def apply(self, gradient: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        return gradient.clamp(-self.limit, self.limit), memory


@dataclass(frozen=True)
class Lion:
    """Sign of a mixture of momentum and gradient."""

    beta1: float = 0.9
    beta2: float = 0.99
    is_scale_invariant = True

    def __post_init__(self) -> None:
        base.in_interval("beta1", self.beta1, 0, 1)
        base.in_interval("beta2", self.beta2, 0, 1)

    def apply(self, gradient: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        (momentum,) = memory or (torch.zeros_like(gradient),)
        step = torch.lerp(momentum, gradient, 1 - self.beta1).sign()
        return step, (torch.lerp(momentum, gradient, 1 - self.beta2),)


UPDATES: dict[str, Callable[..., EntrywiseUpdate]] = {
    "sgd": Identity, "sign": Sign, "adam": Adam, "rmsprop": RMSProp, "adagrad": Adagrad, "clipped_sgd": ClippedSGD,
    "lion": Lion,
}  # fmt: skip


def update(name: str, **options: float) -> EntrywiseUpdate:
    """A rule by name."""
    if name not in UPDATES:
        raise ValueError(unknown("update", name, UPDATES))
    return UPDATES[name](**options)


class Entrywise(base.Optimizer):
    """w <- w - lr (Q(s g_0, ..., s g_t) + weight_decay w), with a factor s on the gradients of each group.

    Groups are those of :func:`..models.abcd_param_groups` (``lr``, ``gradient_scale``, ``weight_decay``), or any.

    Raises:
        ValueError: lr not positive, negative weight decay, gradients that are missing, sparse, complex or not finite.
    """

    checks: ClassVar[Mapping[str, base.Check]] = {
        "lr": base.positive,
        "gradient_scale": base.positive,
        "weight_decay": base.nonnegative,
    }

    def __init__(
        self,
        params: Iterable[Any],
        rule: EntrywiseUpdate,
        lr: float = 1e-3,
        *,
        gradient_scale: float = 1.0,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "gradient_scale": gradient_scale, "weight_decay": weight_decay})
        self.rule = rule

    def state_dict(self) -> dict[str, Any]:
        """torch's, with the rule's name."""
        return {**super().state_dict(), "rule": type(self.rule).__name__}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As torch's.

        Raises:
            ValueError: the state is of another rule, whose memory means something else, or of another model.
        """
        own = type(self.rule).__name__
        if state_dict.get("rule") != own:
            raise ValueError(f"this state is of the rule {state_dict.get('rule')}, this optimizer's is {own}")
        super().load_state_dict({key: state_dict[key] for key in ("state", "param_groups")})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One step; torch's closure."""
        loss = None if closure is None else base.checked_loss(closure)
        base.check_gradients([p for group in self.param_groups for p in group["params"]])
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                memory = tuple(state[f"memory{k}"] for k in range(len(state)))
                move, memory = self.rule.apply(group["gradient_scale"] * p.grad, memory)
                state.update({f"memory{k}": value for k, value in enumerate(memory)})
                if group["weight_decay"]:
                    p.mul_(1 - group["lr"] * group["weight_decay"])
                p.sub_(move, alpha=group["lr"])
        return loss
