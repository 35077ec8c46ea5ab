"""What training rules share that precondition each layer's gradient, W's bias folded in, by Kronecker factors: hooks,
the refresh every T steps, momentum and weight decay, parameters outside of such layers, checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tensorbench.core.errors import unknown

from .. import kron
from ..base import (
    Check,
    NonFiniteGradientError,
    NonFiniteLossError,
    Optimizer,
    check_gradients,
    checked_loss,
    nonnegative,
    positive,
    share,
    whole,
)
from ..kron import Average, KroneckerStatistics, LayerStatistics, Shared

Others = Literal["refuse", "sgd"]
_DECAY_FROM = 20  # refreshes; earlier the preconditioner is still far from the curvature


class KroneckerOptimizer(Optimizer):
    """Momentum on preconditioned gradients; subclasses say how a layer's factors are refreshed and applied.

    The order is the reference code's: at every T-th step the factors take the statistics of that step's own pass, then
    precondition its gradient; weight decay is added to the preconditioned gradient from step 20·T on; then momentum.
    """

    checks: ClassVar[Mapping[str, Check]] = {
        "lr": positive,
        "damping": nonnegative,
        "weight_decay": nonnegative,
        "momentum": share,
        "T": whole,
    }

    def __init__(
        self,
        model: nn.Module,
        defaults: dict[str, Any],
        *,
        params: Iterable[Any] | None,
        dtype: torch.dtype | None,
        shared: Shared | None,
        average: Average,
        others: Others,
    ) -> None:
        if others not in ("refuse", "sgd"):
            raise ValueError(unknown("choice for other parameters", str(others), ["refuse", "sgd"]))
        found = kron.unsupported(model)
        if found and others == "refuse":
            raise ValueError(
                f"no Kronecker factors for {', '.join(found)}; only Linear and Conv2d layers have them; "
                "pass others='sgd' to train the rest by SGD with the same lr and momentum"
            )
        trained = [p for p in model.parameters() if p.requires_grad]
        super().__init__(trained if params is None else params, defaults)
        self.statistics = KroneckerStatistics(model, shared=shared, average=average, dtype=dtype)
        owner = {id(p): group for group in self.param_groups for p in group["params"]}
        missing = [name for name, layer in self.statistics.layers.items() if id(layer.weight) not in owner]
        if missing:
            raise ValueError(
                f"layers {missing} of the model are in no parameter group; freeze them or add their weights"
            )
        self._group = {name: owner[id(layer.weight)] for name, layer in self.statistics.layers.items()}
        self.dtype = dtype
        self._wanted = True
        for group in self.param_groups:
            group.setdefault("steps", 0)
        for name, layer in self.statistics.layers.items():
            d, p = kron.matrix_shape(layer)
            layer_dtype = dtype or layer.weight.dtype
            self.state[layer.weight].update(self._start(p, d, layer_dtype, layer.weight.device, self._group[name]))
        self.statistics.attach()
        self._arm()

    # --- what a subclass says -------------------------------------------------------------------------------------

    def _start(
        self, p: int, d: int, dtype: torch.dtype, device: torch.device, group: dict[str, Any]
    ) -> dict[str, Tensor]:
        """The factors at the start."""
        raise NotImplementedError

    def _refresh(self, factors: dict[str, Tensor], new: LayerStatistics, group: dict[str, Any]) -> None:
        """Let the factors take new statistics."""
        raise NotImplementedError

    def _precondition(
        self, factors: dict[str, Tensor], gradient: Float[Tensor, "d p"], group: dict[str, Any]
    ) -> Float[Tensor, "d p"]:
        """The factors times the gradient."""
        raise NotImplementedError

    # --- the step -------------------------------------------------------------------------------------------------

    @property
    def acc_stats(self) -> bool:
        """Whether passes count that fall in a step with a refresh; set it to mark the pass whose statistics to take."""
        return self._wanted

    @acc_stats.setter
    def acc_stats(self, value: bool) -> None:
        self._wanted = bool(value)
        self._arm()

    def _due(self, group: dict[str, Any]) -> bool:
        return group["steps"] % group["T"] == 0

    def _arm(self) -> None:
        self.statistics.collecting = self._wanted and any(self._due(group) for group in self.param_groups)

    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:  # type: ignore[override]
        """One step.

        Raises:
            ValueError: no gradient, or NaN in one, or a refresh is due and no pass left statistics; nothing changes.
        """
        try:
            loss = None if closure is None else checked_loss(closure)
            check_gradients([p for group in self.param_groups for p in group["params"]])
        except (NonFiniteLossError, NonFiniteGradientError):
            self.statistics.clear()  # those of the refused pass would be averaged with the next one's
            raise
        self._step()
        return loss

    @torch.no_grad()
    def _step(self) -> None:
        active = {n: layer for n, layer in self.statistics.layers.items() if layer.weight.grad is not None}
        fresh = [name for name in active if self._due(self._group[name])]
        without = [name for name in fresh if name not in self.statistics]
        if without:
            raise ValueError(
                f"no statistics of layers {without} were collected before this step, which is one in T that needs "
                "them; run the forward pass with gradients enabled after the optimizer was made (and, if you set "
                "acc_stats, with it true), then backward(), then step()"
            )
        for name in fresh:
            self._refresh(self.state[active[name].weight], self.statistics[name], self._group[name])
        self.statistics.clear()
        directions: dict[int, Tensor] = {}
        for name, layer in active.items():
            bias = layer.bias
            given = layer.weight.grad
            assert given is not None  # active
            gradient = kron.to_matrix(given, None if bias is None else self._bias_gradient(bias))
            made = self._precondition(self.state[layer.weight], gradient, self._group[name]).to(gradient.dtype)
            weight, shift = kron.from_matrix(made, layer)
            directions[id(layer.weight)] = weight
            if bias is not None and shift is not None:
                directions[id(bias)] = shift
        for group in self.param_groups:
            self._descend(group, directions)
            group["steps"] += 1
        self._arm()

    @staticmethod
    def _bias_gradient(bias: Tensor) -> Tensor:
        return torch.zeros_like(bias) if bias.grad is None else bias.grad

    def _descend(self, group: dict[str, Any], directions: dict[int, Tensor]) -> None:
        parameters = [p for p in group["params"] if p.grad is not None]
        if not parameters:
            return
        # Never in place on these: they may be the gradients themselves.
        steps: list[Tensor] = [directions.get(id(p), p.grad) for p in parameters]
        if group["weight_decay"] and group["steps"] >= _DECAY_FROM * group["T"]:
            steps = list(torch._foreach_add(steps, parameters, alpha=group["weight_decay"]))
        if group["momentum"]:
            for p in parameters:
                if "momentum_buffer" not in self.state[p]:
                    self.state[p]["momentum_buffer"] = torch.zeros_like(p)
            buffers = [self.state[p]["momentum_buffer"] for p in parameters]
            torch._foreach_mul_(buffers, group["momentum"])
            torch._foreach_add_(buffers, steps)
            steps = buffers
        torch._foreach_add_(parameters, steps, alpha=-group["lr"])

    # --- checkpoints ----------------------------------------------------------------------------------------------

    def _has_shape_of_parameter(self, name: str) -> bool:
        return name == "momentum_buffer"

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As torch's, except that factors keep their own dtype.

        Raises:
            ValueError: the state is of another model or of other structures.
        """
        own = [p for group in self.param_groups for p in group["params"]]
        saved = [index for group in state_dict["param_groups"] for index in group["params"]]
        kept: list[tuple[Tensor, str, Tensor]] = []
        for index, p in zip(saved, own, strict=False):
            for name, value in state_dict["state"].get(index, {}).items():
                mine = self.state[p].get(name)
                if name == "momentum_buffer" or mine is None:
                    continue
                if mine.shape != value.shape:
                    raise ValueError(
                        f"this state is of another model or structure: {name!r} has shape {tuple(value.shape)}, "
                        f"expected {tuple(mine.shape)}"
                    )
                kept.append((p, name, value.detach().to(mine, copy=True)))
        super().load_state_dict(state_dict)
        for p, name, value in kept:
            self.state[p][name] = value
        owner = {id(p): group for group in self.param_groups for p in group["params"]}
        self._group = {name: owner[id(layer.weight)] for name, layer in self.statistics.layers.items()}
        self.statistics.clear()
        self._arm()
