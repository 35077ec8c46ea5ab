"""AdaHessian: Adam with the squared gradient replaced by the squared diagonal of the Hessian.

Yao, Gholami, Shen, Mustafa, Keutzer and Mahoney (2021), *ADAHESSIAN: An Adaptive Second Order Optimizer for Machine
Learning*, AAAI, arXiv 2006.00719. One Hessian-vector product a step with a random sign vector z estimates the diagonal,
D = z ∘ Hz (Hutchinson's method). Averaging |D| over a block, the entries of a convolution's kernel, cuts the variance;
the root of a moving mean of squares smooths it over steps:

    m ← β₁ m + (1 - β₁) g          v ← β₂ v + (1 - β₂) D²
    θ ← θ - η ( m/(1 - β₁ᵗ) / ((v/(1 - β₂ᵗ))^(k/2) + ε) + λ θ )

As in the authors' program |D| is taken before the block's mean (``signed_average=True`` is the paper's text, where
signs may cancel in a block), and the decay λ is decoupled and multiplied by η. Where a ReLU network has no curvature v
is zero and ε alone bounds the step; ``clip`` bounds it too.

The Hessian of a network with batch norm in training mode is that of the batch. Attention kernels without a second
derivative (flash attention) must be switched off: ``torch.nn.attention.sdpa_kernel(SDPBackend.MATH)``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from tensorbench.core.errors import unknown

from .autodiff import full_hessian, grad, hvp_of_grads
from .base import (
    Check,
    Optimizer,
    check_gradients,
    checked_loss,
    gradients_with_graph,
    in_interval,
    nonnegative,
    positive,
    shares,
    whole,
)
from .flat import flatten, unflatten
from .probes import Kind, Source, source

Block = Literal["conv2d", "row"] | int | None
Averaging = Literal["rms", "abs", "none"]
_AVERAGING = ("rms", "abs", "none")


def spatial_average(diagonal: Float[Tensor, "*shape"], block: Block = "conv2d") -> Float[Tensor, "*shape"]:
    """Every entry replaced by the mean over its block, in the shape of the tensor.

    ``conv2d`` averages over the last two axes of a tensor of four, over the last of three, and leaves others; ``row``
    averages over everything but the first axis of any tensor of at least two; a number cuts the flattened tensor into
    runs of so many entries; ``None`` leaves all.

    Raises:
        ValueError: an unknown block, or one that does not divide the number of entries.
    """
    if block is None:
        return diagonal
    if isinstance(block, str):
        if block not in ("conv2d", "row"):
            raise ValueError(unknown("block", block, ("conv2d", "row")))
        axes = tuple(range(1, diagonal.ndim)) if block == "row" else {4: (2, 3), 3: (2,)}.get(diagonal.ndim, ())
        return diagonal.mean(dim=axes, keepdim=True).expand_as(diagonal) if axes else diagonal
    whole("block", block)
    if diagonal.numel() % block:
        raise ValueError(
            f"block {block} does not divide the {diagonal.numel()} entries of shape {tuple(diagonal.shape)}"
        )
    runs = diagonal.reshape(-1, block)
    return runs.mean(1, keepdim=True).expand_as(runs).reshape(diagonal.shape)


@dataclass(frozen=True)
class DiagonalEstimate:
    """The estimated diagonal by parameter, and the standard error of each entry (NaN from a single probe)."""

    values: list[Tensor]
    errors: list[Tensor]


def hutchinson_diag(
    loss: Tensor | Sequence[Tensor], params: Sequence[Tensor], probes: int | Sequence[Sequence[Tensor]],
    draw: Source | None = None,
) -> DiagonalEstimate:  # fmt: skip
    """The Hessian's diagonal as the mean of z ∘ Hz over probes.

    Args:
        loss: a loss with its graph, or its gradients made with ``create_graph=True``.
        probes: the probes themselves (each a list in the shapes of ``params``), or how many ``draw`` shall draw.

    For random signs the variance of a single probe at entry i is Σ_{j≠i} H_ij².

    Raises:
        ValueError: no probes, a number without ``draw``, gradients without a graph.
    """
    params = list(params)
    if isinstance(loss, Tensor):
        gradients = grad(loss, params, create_graph=True)
    else:
        gradients = list(loss)
        if not any(g.requires_grad for g in gradients):
            raise ValueError(_NO_GRAPH)
    if isinstance(probes, int):
        if draw is None:
            raise ValueError("a number of probes needs a source to draw them, see probes.source")
        probes = [draw(params) for _ in range(whole("probes", probes))]
    if not len(probes):
        raise ValueError("at least one probe is needed")
    samples = [[z * h for z, h in zip(probe, _product(gradients, params, probe), strict=True)] for probe in probes]
    stacked = [torch.stack(entries) for entries in zip(*samples, strict=True)]
    count = len(samples)
    nan = float("nan")
    errors = [s.std(0) / count**0.5 if count > 1 else torch.full_like(s[0], nan) for s in stacked]
    return DiagonalEstimate([s.mean(0) for s in stacked], errors)


def exact_diag(closure: Callable[..., Tensor], params: Sequence[Tensor]) -> list[Tensor]:
    """The Hessian's diagonal from the whole Hessian, for at most 2000 parameters."""
    return unflatten(torch.diagonal(full_hessian(closure, params)).clone(), params)


def hessian_trace(estimate: DiagonalEstimate) -> float:
    """The sum of an estimated diagonal."""
    return float(flatten(estimate.values).double().sum())


@dataclass
class RMSHessianAverage:
    """The root of the bias-corrected moving mean of squares, v̂^½, of one tensor; usable without the optimizer."""

    beta: float = 0.999
    mean_square: Tensor | None = None
    updates: int = 0

    def update(self, diagonal: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Take in an estimate of the diagonal and return the smoothed one, which is not negative."""
        in_interval("beta", self.beta, 0, 1)
        old = torch.zeros_like(diagonal) if self.mean_square is None else self.mean_square
        self.mean_square = self.beta * old + (1 - self.beta) * diagonal.square()
        self.updates += 1
        return (self.mean_square / (1 - self.beta**self.updates)).sqrt()


_NO_GRAPH = (
    "the gradients have no graph, so there is no Hessian: pass step() a closure that returns the loss, or make the "
    "gradients with torch.autograd.grad(..., create_graph=True)"
)


def _product(gradients: Sequence[Tensor], params: Sequence[Tensor], probe: Sequence[Tensor]) -> list[Tensor]:
    try:
        return hvp_of_grads(gradients, params, probe)
    except RuntimeError as error:
        named = re.search(r"derivative for (\S+) is not implemented", str(error))
        if named is None:
            raise
        raise ValueError(
            f"{named.group(1)} has no second derivative; replace it or switch it off (attention: sdpa_kernel(MATH))"
        ) from error


class AdaHessian(Optimizer):
    """See the module's text. ``step(closure)`` takes a closure that returns the loss without ``backward``; without a
    closure the gradients in ``.grad`` must have been made with ``create_graph=True``.

    Args:
        lr: step size η; 0.15 is the paper's for images.
        betas: of the gradient's and of the squared diagonal's moving means.
        eps: added to the denominator, in its units.
        weight_decay: λ, decoupled.
        hessian_power: k in [0, 1]; 0 is gradient descent with momentum (and a denominator of 1 + ε).
        block: what |D| is averaged over, see :func:`spatial_average`; may differ between parameter groups.
        n_probes: Hessian-vector products a refresh.
        update_every: refresh D every so many steps; between, v stays and no second derivative is computed.
        distribution: of the probes, ``rademacher`` or ``gaussian``.
        averaging: ``rms`` (the paper's), ``abs`` (moving mean of |D|), ``none`` (the last |D|).
        signed_average: average D, not |D|, over a block.
        clip: largest norm of the preconditioned gradient of all parameters together; None does not clip.
        seed: of the probes. ``draw`` (a :data:`probes.Source`) replaces them.

    Raises:
        ValueError: hyperparameters out of range; in ``step`` no closure and no graph, sparse, complex or non-finite
            gradients, a block that does not divide, an operation without second derivative (named).
    """

    needs_graph = True
    checks: ClassVar[Mapping[str, Check]] = {
        "lr": positive,
        "betas": shares,
        "eps": nonnegative,
        "weight_decay": nonnegative,
        "hessian_power": partial(in_interval, low=0, high=1, closed="both"),
    }

    def __init__(
        self, params: Iterable[Any], lr: float = 0.15, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-4,
        weight_decay: float = 0.0, hessian_power: float = 1.0, block: Block = "conv2d", n_probes: int = 1,
        update_every: int = 1, distribution: Kind = "rademacher", averaging: Averaging = "rms",
        signed_average: bool = False, clip: float | None = None, seed: int = 0, draw: Source | None = None,
    ) -> None:  # fmt: skip
        if averaging not in _AVERAGING:
            raise ValueError(unknown("averaging", averaging, _AVERAGING))
        if clip is not None:
            positive("clip", clip)
        self.n_probes, self.update_every = whole("n_probes", n_probes), whole("update_every", update_every)
        self.generator = torch.Generator().manual_seed(seed)
        self.draw = source(distribution, self.generator) if draw is None else draw
        self.averaging, self.signed_average, self.clip = averaging, signed_average, clip
        self.steps, self.refreshes = 0, 0
        settings = {"betas": betas, "eps": eps, "hessian_power": hessian_power, "block": block}
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, **settings})

    def state_dict(self) -> dict[str, Any]:
        """torch's, with the counters and the state of the generator of probes."""
        counters = {"steps": self.steps, "refreshes": self.refreshes, "generator": self.generator.get_state()}
        return {**super().state_dict(), "adahessian": counters}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict({key: state_dict[key] for key in ("state", "param_groups")})
        counters = state_dict["adahessian"]
        self.steps, self.refreshes = counters["steps"], counters["refreshes"]
        self.generator.set_state(counters["generator"].cpu())

    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:  # type: ignore[override]
        """One step; the loss before it."""
        refresh = self.steps % self.update_every == 0
        drawn = self.generator.get_state()
        try:
            loss, params, gradients = self._gradients(closure, refresh)
            diagonals = self._diagonals(params, gradients) if refresh else None
        except Exception:
            self.generator.set_state(drawn)  # a refused step leaves the probes to come as they were
            raise
        self.steps += 1
        self.refreshes += int(refresh)
        with torch.no_grad():
            detached = dict(zip(map(id, params), [g.detach() for g in gradients], strict=True))
            found = None if diagonals is None else dict(zip(map(id, params), diagonals, strict=True))
            updates = [self._group(group, detached, found) for group in self.param_groups]
            scale = 1.0
            if self.clip is not None:
                norms = torch._foreach_norm([u for part in updates for u in part])
                scale = min(1.0, self.clip / max(float(torch.stack(norms).norm()), 1e-30))
            for group, part in zip(self.param_groups, updates, strict=True):
                own = [p for p in group["params"] if id(p) in detached]
                if own:
                    if group["weight_decay"]:
                        torch._foreach_mul_(own, 1 - group["lr"] * group["weight_decay"])
                    torch._foreach_add_(own, part, alpha=-group["lr"] * scale)
        for p in params:
            p.grad = None  # a gradient with a graph would keep the graph alive
        return None if loss is None else loss.detach()

    def _gradients(
        self, closure: Callable[[], Tensor] | None, refresh: bool
    ) -> tuple[Tensor | None, list[Tensor], list[Tensor]]:
        all_params = [p for group in self.param_groups for p in group["params"] if p.requires_grad]
        if closure is not None:
            if refresh:
                loss, gradients = gradients_with_graph(closure, all_params)
                return loss, all_params, gradients
            loss = checked_loss(closure)
            found = torch.autograd.grad(loss, all_params, allow_unused=True)
            gradients = [torch.zeros_like(p) if g is None else g for p, g in zip(all_params, found, strict=True)]
            check_gradients(all_params, gradients)
            return loss, all_params, gradients
        params = [p for p in all_params if p.grad is not None]
        check_gradients(all_params)
        gradients = [p.grad for p in params if p.grad is not None]
        if refresh and not any(g.requires_grad for g in gradients):
            raise ValueError(_NO_GRAPH)
        return None, params, gradients

    def _diagonals(self, params: list[Tensor], gradients: list[Tensor]) -> list[Tensor]:
        """|D| by parameter, averaged over its block."""
        blocks = {id(p): group["block"] for group in self.param_groups for p in group["params"]}
        estimate = hutchinson_diag(gradients, params, self.n_probes, self.draw).values
        check_gradients(params, [d.detach() for d in estimate])
        signed = [d.detach() if self.signed_average else d.detach().abs() for d in estimate]
        return [spatial_average(d, blocks[id(p)]).abs() for d, p in zip(signed, params, strict=True)]

    def _group(
        self, group: dict[str, Any], gradients: dict[int, Tensor], diagonals: dict[int, Tensor] | None
    ) -> list[Tensor]:
        """m̂ / denominator for each parameter of the group that has a gradient; moves the averages."""
        params = [p for p in group["params"] if id(p) in gradients]
        if not params:
            return []
        beta1, beta2 = group["betas"]
        for p in params:
            if not self.state[p]:
                self.state[p]["exp_avg"] = torch.zeros_like(p)
                self.state[p]["exp_hessian"] = torch.zeros_like(p)
        means = [self.state[p]["exp_avg"] for p in params]
        curvatures = [self.state[p]["exp_hessian"] for p in params]
        torch._foreach_lerp_(means, [gradients[id(p)] for p in params], 1 - beta1)
        if diagonals is not None:
            fresh = [diagonals[id(p)] for p in params]
            if self.averaging == "rms":
                torch._foreach_mul_(curvatures, beta2)
                torch._foreach_addcmul_(curvatures, fresh, fresh, 1 - beta2)
            elif self.averaging == "abs":
                torch._foreach_lerp_(curvatures, fresh, 1 - beta2)
            else:
                torch._foreach_copy_(curvatures, fresh)
        denominators = self._denominators(curvatures, group)
        updates = torch._foreach_div(means, 1 - beta1**self.steps)
        torch._foreach_div_(updates, denominators)
        return list(updates)

    def _denominators(self, curvatures: list[Tensor], group: dict[str, Any]) -> list[Tensor]:
        power = group["hessian_power"]
        if self.averaging == "none":
            sizes = [c.clone() for c in curvatures]
        else:
            sizes = list(torch._foreach_div(curvatures, 1 - group["betas"][1] ** self.refreshes))
            if self.averaging == "rms":
                torch._foreach_sqrt_(sizes)
        if power != 1.0:
            sizes = list(torch._foreach_pow(sizes, power))
        torch._foreach_add_(sizes, group["eps"])
        return sizes
