"""What is asked of the primal alone (comparisons, shapes), and Python's operators."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from tensorbench.pde_operators.taylor.table import OPERATIONS, table
from tensorbench.pde_operators.taylor.tensor import TaylorTensor

_ON_PRIMAL = (  # noqa: SIM905
    "gt ge lt le eq ne __gt__ __ge__ __lt__ __le__ __eq__ __ne__ isfinite isnan isinf sign signbit floor ceil round "
    "detach zeros_like ones_like empty_like rand_like randn_like new_zeros new_ones new_tensor argmax argmin "
    "is_floating_point item all any is_complex"
).split()


def _on_primal(name: str) -> Callable[..., Any]:
    owner = next(space for space in (torch.Tensor, torch) if hasattr(space, name))
    function = getattr(owner, name)

    def rule(*args: Any, **kwargs: Any) -> Any:
        return function(*(a.primal if isinstance(a, TaylorTensor) else a for a in args), **kwargs)

    return rule


for _name in _ON_PRIMAL:
    table("primal only", _name)(_on_primal(_name))
for _name in ("shape", "ndim", "dtype", "device", "requires_grad", "is_cuda"):
    OPERATIONS[_name] = partial(lambda name, x: getattr(x, name), _name)
OPERATIONS["size"] = lambda x, dim=None: x.size(dim)
OPERATIONS["dim"] = lambda x: x.ndim
OPERATIONS["numel"] = lambda x: x.numel()

for _name in [name for name in OPERATIONS if name.startswith("__")]:
    setattr(TaylorTensor, _name, (lambda rule: lambda self, *args: rule(self, *args))(OPERATIONS[_name]))
TaylorTensor.__iter__ = lambda self: iter(OPERATIONS["unbind"](self))  # type: ignore[attr-defined]
TaylorTensor.__hash__ = object.__hash__  # type: ignore[method-assign]
