"""Learning rate and momentum of SGD from the spectrum of the batch's Hessian, while it trains.

Granziol, Zohren & Roberts (2022, arXiv 2006.09092): every so many steps a few Lanczos steps on a batch give the extreme
Ritz values L and l; heavy ball's optimal constants for a quadratic with these ends,

    lr = 4/(√L + √l)²,  momentum = ((√L - √l)/(√L + √l))²,

are set. The lowest Ritz value of a network is negative; its size is the scale of the noise, and stands for the smallest
curvature that can be told from it. Batch norm works in the mode that the model is in.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from .base import positive, whole
from .linops import LinearOperator, slq_density
from .lr_batch_size import heavy_ball


@dataclass(frozen=True)
class Setting:
    """What a look at the spectrum led to."""

    step: int
    largest: float
    lowest: float
    lr: float
    momentum: float


class SLQTuner:
    """Sets ``lr`` and ``momentum`` of an optimizer's groups; call it before the first step and after every one.

    ``fit(..., callback=tuner)`` of :mod:`tensorbench.core.training` does the latter; ``tuner.look(0)`` the former.

    Args:
        optimizer: torch.optim.SGD, or another with ``lr`` and ``momentum`` in its groups.
        operator: makes the Hessian (or Gauss-Newton matrix) of a batch at the present weights.
        every: steps between two looks.
        steps: of Lanczos, each one product.
        probes: Gaussian vectors; the ends are the outermost Ritz values of all of them.
        generator: draws the probes.
        share: of the learning rate that is set; 1 is the optimum for a quadratic and lies at the edge of stability.
        floor: smallest ratio l/L; a lowest Ritz value nearer to 0 is taken as this, which bounds the momentum.

    Raises:
        ValueError: an optimizer without momentum, numbers that make no sense, a loss without positive curvature.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        operator: Callable[[], LinearOperator],
        generator: torch.Generator,
        *,
        every: int = 50,
        steps: int = 10,
        probes: int = 1,
        share: float = 1.0,
        floor: float = 1e-3,
    ) -> None:
        if any("momentum" not in group for group in optimizer.param_groups):
            raise ValueError(f"{type(optimizer).__name__} has no momentum to set; use torch.optim.SGD")
        self.every, self.steps, self.probes = whole("every", every), whole("steps", steps, 2), whole("probes", probes)
        self.share, self.floor = positive("share", share), positive("floor", floor)
        self._optimizer, self._operator, self._generator = optimizer, operator, generator
        self.settings: list[Setting] = []

    def __call__(self, step: int, loss: float | None = None) -> None:
        """Look where ``step`` is a multiple of ``every``."""
        if step % self.every == 0:
            self.look(step)

    def look(self, step: int) -> Setting:
        """Run Lanczos and set the two numbers. Without positive curvature they stay as they were."""
        op = self._operator()
        density = slq_density(op, min(self.steps, op.shape[0]), self.probes, self._generator)
        largest, lowest = float(density.values.max()), float(density.values.min())
        if largest > 0:
            lr, momentum = heavy_ball(largest, min(largest, max(abs(lowest), self.floor * largest)))
            for group in self._optimizer.param_groups:
                group["lr"], group["momentum"] = self.share * lr, momentum
        group = self._optimizer.param_groups[0]
        self.settings.append(Setting(step, largest, lowest, float(group["lr"]), float(group["momentum"])))
        return self.settings[-1]

    def state_dict(self) -> dict[str, Any]:
        """The generator's state and what was set so far."""
        return {"generator": self._generator.get_state(), "settings": [vars(s) for s in self.settings]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue as if there had been no break."""
        self._generator.set_state(state["generator"])
        self.settings = [Setting(**s) for s in state["settings"]]
        if self.settings and math.isfinite(self.settings[-1].lr):
            for group in self._optimizer.param_groups:
                group["lr"], group["momentum"] = self.settings[-1].lr, self.settings[-1].momentum
