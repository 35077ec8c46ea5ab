"""Loss scaling: gradients multiplied on their way back, so that they fit a narrow format, and divided at the end.

The factor grows after a run of finite steps and shrinks after one that overflowed. Gradients that overflowed become
zero, those of other parameters are kept (Micikevicius et al. 2018 skip the whole step). With block scales it matters
only where their format is narrow (E4M3 without a tensor's scale).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


class _Amplify(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] * ctx.factor, None


class LossScaler:
    """``loss = scaler(loss)`` keeps its value; gradients of the attached parameters arrive as if it were not there.

    Args:
        parameters: of the model; their gradients are divided when they arrive. Backward once a step.
        factor: the first factor. growth, patience: what it is multiplied by after so many finite steps; 1 keeps it
            fixed.
    """

    def __init__(
        self, parameters: Iterable[Tensor], factor: float = 1024.0, *, growth: float = 2.0, patience: int = 200
    ) -> None:
        if factor <= 0 or growth < 1 or patience < 1:
            raise ValueError(f"factor {factor} must be positive, growth {growth} and patience {patience} at least 1")
        self.factor, self.growth, self.patience = factor, growth, patience
        self.overflowed = False
        self._finite = 0
        self._handles = [p.register_post_accumulate_grad_hook(self._arrive) for p in parameters if p.requires_grad]

    def __call__(self, loss: Tensor) -> Tensor:
        """The same loss; the factor is that of the last step's outcome."""
        if self.overflowed:
            self.factor, self._finite = self.factor / self.growth, 0
        else:
            self._finite += 1
            if self._finite > self.patience:
                self.factor, self._finite = self.factor * self.growth, 0
        self.overflowed = False
        return _Amplify.apply(loss, self.factor)

    def _arrive(self, parameter: Tensor) -> None:
        if parameter.grad is None:
            return
        parameter.grad.div_(self.factor)
        if not bool(torch.isfinite(parameter.grad).all()):
            self.overflowed = True
            parameter.grad.zero_()

    def remove(self) -> None:
        """Detach from the parameters."""
        for handle in self._handles:
            handle.remove()
