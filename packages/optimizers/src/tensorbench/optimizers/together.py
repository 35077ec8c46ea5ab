"""Several optimizers that step as one, each on its own parameters: Muon on matrices and AdamW on the rest, say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .base import check_members, check_state, checked_loss


class Joint(torch.optim.Optimizer):
    """An optimizer made of others: its groups and state are theirs as they are now, so that torch's schedules hold.

    Raises:
        ValueError: L-BFGS among them, which takes a closure of its own.
    """

    members: tuple[torch.optim.Optimizer, ...]

    def __init__(self, *members: torch.optim.Optimizer) -> None:
        if any(isinstance(member, torch.optim.LBFGS) for member in members):
            raise ValueError("L-BFGS evaluates the loss several times a step and cannot share its closure with others")
        # Not torch's __init__, which would make groups and a state of its own: as if it came out of a pickle.
        super().__setstate__({"members": members, "defaults": {}})

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """The members' groups, themselves."""
        return [group for member in self.members for group in member.param_groups]

    @property
    def state(self) -> dict[Any, Any]:  # type: ignore[override]
        """What the members keep of each parameter, itself."""
        return {key: value for member in self.members for key, value in member.state.items()}

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Refused.

        Raises:
            ValueError: always: no one could say which member the group is for.
        """
        raise ValueError(f"{type(self).__name__} has no groups of its own; add the group to one of its optimizers")

    def zero_grad(self, set_to_none: bool = True) -> None:
        """The members'."""
        for member in self.members:
            member.zero_grad(set_to_none)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "step"}  # which a scheduler wraps

    def _load_members(self, states: Sequence[dict[str, Any]]) -> None:
        """All of the states or, where one is refused, none."""
        before = [member.state_dict() for member in self.members]
        try:
            for member, state in zip(self.members, states, strict=True):
                check_state(member, state)
                member.load_state_dict(state)
        except BaseException:
            for member, state in zip(self.members, before, strict=True):
                member.load_state_dict(state)
            raise


class Together(Joint):
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
        super().__init__(*optimizers)

    @property
    def optimizers(self) -> tuple[torch.optim.Optimizer, ...]:
        """Those given."""
        return self.members

    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:  # type: ignore[override]
        """One evaluation of the closure, then a step of each; a loss or gradient that is not finite, and none steps."""
        loss = None if closure is None else checked_loss(closure)
        check_members(self.members)
        for member in self.members:
            member.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        """Each optimizer's."""
        return {"optimizers": [member.state_dict() for member in self.members]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Of as many optimizers of the same kinds and shapes.

        Raises:
            ValueError: the state is of other optimizers or of another model; nothing has changed.
        """
        saved = state_dict["optimizers"]
        if len(saved) != len(self.members):
            raise ValueError(f"the state is of {len(saved)} optimizers, not of {len(self.members)}")
        self._load_members(saved)
