"""The table of operations that a Taylor tensor goes through: what each does, and of which kind it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tensorbench.pde_operators.taylor.tensor import TaylorTensor

OPERATIONS = TaylorTensor.operations
KINDS: dict[str, str] = {}


def table(kind: str, *names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a rule for torch functions and methods of these names."""

    def register(rule: Callable[..., Any]) -> Callable[..., Any]:
        for name in names:
            OPERATIONS[name], KINDS[name] = rule, kind
        return rule

    return register


def supported_operations() -> dict[str, list[str]]:
    """Names of the torch functions, methods and operators that have a rule, by kind."""
    return {kind: sorted(name for name in KINDS if KINDS[name] == kind) for kind in sorted(set(KINDS.values()))}
