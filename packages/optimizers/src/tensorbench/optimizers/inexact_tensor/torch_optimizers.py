"""ASCN, S-ARTEM and restarted ASCN as torch optimizers: all parameters are one vector x.

They need the graph: the closure returns the loss and calls no ``backward``. Each step evaluates it twice, at v
(gradient and curvature) and at the new point (a fresh gradient: where the closure draws a mini-batch, draw a new one
each call). After a step the parameters are x_{t+1}. The exact solver forms the Hessian, d × d; use ``solver="krylov"``
where that is too large. See :mod:`.ascn`, :mod:`.sartem` and :mod:`.restarts` for the methods.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from tensorbench.optimizers import base
from tensorbench.optimizers.autodiff import hvp_of_grads
from tensorbench.optimizers.flat import flatten, unflatten
from tensorbench.optimizers.inexact_tensor import ascn, restarts, sartem
from tensorbench.optimizers.inexact_tensor.estimating import EstimatingSequence
from tensorbench.optimizers.inexact_tensor.oracles import Rng

Closure = Callable[[], Tensor]


class _ClosureOracle:
    """What a closure over parameters says of one vector; it leaves the vector in the parameters."""

    def __init__(self, parameters: list[Tensor], sigma1: float, delta2: float, delta3: float) -> None:
        self.parameters = parameters
        self.sigma1, self.delta2, self.delta3 = sigma1, delta2, delta3
        self.closure: Closure | None = None
        self.losses: list[Tensor] = []  # of the gradients asked for in this step
        self._at: Tensor | None = None
        self._gradients: list[Tensor] = []

    def set(self, x: Tensor) -> None:
        """Write the vector to the parameters."""
        with torch.no_grad():
            for p, part in zip(self.parameters, unflatten(x, self.parameters), strict=True):
                p.copy_(part)

    def value(self, x: Tensor) -> Tensor:
        self.set(x)
        assert self.closure is not None
        return base.checked_loss(self.closure).detach()

    def grad(self, x: Tensor, rng: Rng = None) -> Tensor:
        self.set(x)
        loss, self._gradients = base.gradients_with_graph(self.closure, self.parameters)
        self.losses.append(loss.detach())
        self._at = x
        return flatten(g.detach() for g in self._gradients)

    def _graph(self, x: Tensor) -> list[Tensor]:
        """Gradients at x that can be differentiated again."""
        if self._at is not x:
            self.grad(x)
        return self._gradients

    def hvp(self, x: Tensor, rng: Rng = None) -> Callable[[Tensor], Tensor]:
        gradients = self._graph(x)
        return lambda v: flatten(hvp_of_grads(gradients, self.parameters, unflatten(v, self.parameters)))

    def hess(self, x: Tensor, rng: Rng = None) -> Tensor:
        product = self.hvp(x)
        H = torch.stack([product(e) for e in torch.eye(len(x), dtype=x.dtype, device=x.device)])
        return (H + H.T) / 2

    def third_vec(self, x: Tensor, h: Tensor, rng: Rng = None) -> Tensor:
        along = unflatten(h, self.parameters)
        product = hvp_of_grads(self._graph(x), self.parameters, along, create_graph=True)
        return flatten(hvp_of_grads(product, self.parameters, along))


class _Accelerated(base.Optimizer):
    """Keeps the state of a method per parameter (x0, s, y) and its numbers with the first one."""

    needs_graph = True

    def __init__(self, params: Any, defaults: dict[str, Any]) -> None:
        super().__init__(params, defaults)
        if len(self.param_groups) != 1:
            raise ValueError("these methods take all parameters as one vector; pass one parameter group")
        group = self.param_groups[0]
        self._oracle = _ClosureOracle(group["params"], group["sigma1"], group["delta2"], group.get("delta3", 0.0))
        self._method(group)  # refuses bad numbers

    def _method(self, group: dict[str, Any]) -> ascn.ASCN:
        raise NotImplementedError

    def _before(self, state: ascn.State, group: dict[str, Any]) -> ascn.State:
        return state

    def step(self, closure: Closure | None = None) -> Tensor:  # type: ignore[override]
        """One step; returns the loss at v. Where it is refused, parameters and state are as they were."""
        if closure is None:
            raise ValueError(
                "this optimizer needs curvature: pass step() a closure that returns the loss, without backward()"
            )
        group, oracle = self.param_groups[0], self._oracle
        x = flatten(p.detach() for p in group["params"])
        options = dict(group)
        oracle.closure, oracle.losses = closure, []
        try:
            before = self._before(self._load(x), group)
            after = self._method(group).step(before)
        except BaseException:
            oracle.set(x)
            group.update(options)
            raise
        finally:
            oracle.closure, oracle._at, oracle._gradients = None, None, []
        oracle.set(after.x)
        self._save(after)
        return oracle.losses[0]

    def _load(self, x: Tensor) -> ascn.State:
        parameters = self.param_groups[0]["params"]
        kept = self.state[parameters[0]]
        if "s" not in kept:
            return ascn.State(0, x, x.clone(), EstimatingSequence.at(x))
        x0, s, y = (flatten(self.state[p][name] for p in parameters) for name in ("x0", "s", "y"))
        return ascn.State(kept["step"], x, y, EstimatingSequence(x0, s, kept["c2"], kept["c3"], kept["c4"]))

    def _save(self, state: ascn.State) -> None:
        parameters = self.param_groups[0]["params"]
        sequence = state.sequence
        for name, vector in (("x0", sequence.x0), ("s", sequence.s), ("y", state.y)):
            for p, part in zip(parameters, unflatten(vector, parameters), strict=True):
                self.state[p][name] = part.clone()
        numbers = {"step": state.t, "c2": sequence.c2, "c3": sequence.c3, "c4": sequence.c4}
        self.state[parameters[0]].update(numbers)


class ASCN(_Accelerated):
    """Accelerated cubic Newton; ``M`` is at least 4 times the Hessian's Lipschitz constant. See :mod:`.ascn`."""

    def __init__(
        self,
        params: Any,
        M: float = 1.0,
        R: float | None = None,
        *,
        sigma1: float = 0.0,
        delta2: float = 0.0,
        solver: str = "exact",
    ) -> None:
        super().__init__(params, {"M": M, "R": R, "sigma1": sigma1, "delta2": delta2, "solver": solver})

    def _method(self, group: dict[str, Any]) -> ascn.ASCN:
        return ascn.ASCN(
            self._oracle,
            group["M"],
            group["R"],
            solver=group["solver"],
            sigma1=group["sigma1"],
            delta2=group["delta2"],
        )


class SARTEM(_Accelerated):
    """Accelerated tensor method of order ``p``; with p = 3, ``M`` at least 6 times the third derivative's constant."""

    def __init__(
        self,
        params: Any,
        M: float = 1.0,
        R: float | None = None,
        *,
        p: int = 3,
        sigma1: float = 0.0,
        delta2: float = 0.0,
        delta3: float = 0.0,
    ) -> None:
        super().__init__(params, {"M": M, "R": R, "p": p, "sigma1": sigma1, "delta2": delta2, "delta3": delta3})

    def _method(self, group: dict[str, Any]) -> ascn.ASCN:
        return sartem.SARTEM(self._oracle, group["p"], group["M"], group["R"])


class RestartedASCN(ASCN):
    """ASCN for strongly convex losses (``mu``): starts anew each time the distance is known to have shrunk by √2."""

    def __init__(
        self,
        params: Any,
        M: float = 1.0,
        R: float = 1.0,
        mu: float = 1e-4,
        *,
        sigma1: float = 0.0,
        delta2: float = 0.0,
        solver: str = "exact",
    ) -> None:
        super().__init__(params, M, R, sigma1=sigma1, delta2=delta2, solver=solver)
        group = self.param_groups[0]
        group["mu"], group["stage"] = base.positive("mu", mu), 0
        self._length(group)

    def _length(self, group: dict[str, Any]) -> int:
        return restarts.stage_length(group["M"], group["R"], group["mu"], 2.0, group["sigma1"], group["delta2"])

    def _before(self, state: ascn.State, group: dict[str, Any]) -> ascn.State:
        if state.t < self._length(group):
            return state
        group["R"], group["stage"] = group["R"] / 2**0.5, group["stage"] + 1
        return replace(state, t=0, y=state.x.clone(), sequence=EstimatingSequence.at(state.x))
