"""Several optimizers that step as one, each on its own parameters: Muon on matrices and AdamW on the rest, say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .base import check_members, checked_loss


class Together:
    """Optimizers over disjoint parameters behind the interface of one (``fit`` and learning-rate schedules take it).

    Raises:
        ValueError: none given, a parameter in two of them, or optimizers that take different kinds of closures.
    """

    def __init__(self, *optimizers: torch.optim.Optimizer) -> None:
        if not optimizers:
            raise ValueError("give at least one optimizer")
        kinds = {bool(getattr(optimizer, "needs_graph", False)) for optimizer in optimizers}
        if kinds != {False}:
            raise ValueError("an optimizer that differentiates the loss itself cannot share its closure with others")
        seen = [id(p) for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]]
        if len(set(seen)) < len(seen):
            raise ValueError("a parameter belongs to two of the optimizers")
        self.optimizers = optimizers

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return [group for optimizer in self.optimizers for group in optimizer.param_groups]

    @property
    def state(self) -> dict[Any, Any]:
        return {key: value for optimizer in self.optimizers for key, value in optimizer.state.items()}

    def zero_grad(self, set_to_none: bool = True) -> None:
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none)

    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        """One evaluation of the closure, then a step of each; where one of this package's would refuse, none steps."""
        loss = None if closure is None else checked_loss(closure)
        check_members(self.optimizers)
        for optimizer in self.optimizers:
            optimizer.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        return {"optimizers": [optimizer.state_dict() for optimizer in self.optimizers]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        saved = state_dict["optimizers"]
        if len(saved) != len(self.optimizers):
            raise ValueError(f"the state is of {len(saved)} optimizers, not of {len(self.optimizers)}")
        for optimizer, state in zip(self.optimizers, saved, strict=True):
            optimizer.load_state_dict(state)
