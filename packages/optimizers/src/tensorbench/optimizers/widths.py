"""How quantities of a network grow with its width: the coordinate check, exponents, and how far the best step moves.

A *coordinate check* trains the same network at several widths for a few steps and records, for every layer, the size of
a typical coordinate and how much it changed since the start (Yang et al., Tensor Programs V, 2022, arXiv 2203.03466,
appendix D.1). A *transfer sweep* trains at several widths with several learning rates; where the best of them moves, in
octaves (factors of two), says whether a learning rate found at a small width serves a large one.

Models, training and observation come in as functions, so that anything with a width can be checked::

    def model(width, generator): ...                 # a network, or whatever the other two functions understand
    def advance(model): ...                          # returns a function that does one training step
    def observe(model): ...                          # {name of the layer: its coordinates on fixed inputs}

:func:`layer_outputs` and :func:`steps_of` write the latter two for torch modules and optimizers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pandas as pd
import torch
from jaxtyping import Real
from torch import Tensor, nn

from tensorbench.core.claims.statistics import Interval, exponent, mean_interval
from tensorbench.core.errors import unknown

Model = TypeVar("Model")
Numbers = Real[np.ndarray, " n"] | Sequence[float] | Sequence[int]
MEASURES = ("size", "mean_abs", "change", "mean_abs_change")


def coordinate_check(
    model: Callable[[int, torch.Generator], Model],
    widths: Sequence[int],
    advance: Callable[[Model], Callable[[], Any]],
    observe: Callable[[Model], Mapping[str, Tensor]],
    *,
    steps: int = 3,
    seeds: int | Iterable[int] = 3,
) -> pd.DataFrame:
    """Sizes and changes of coordinates during the first ``steps`` steps.

    Args:
        model: ``model(width, generator)``; its randomness comes from the generator, which starts from the seed.
        widths: at least one; three distinct ones are needed to fit exponents.
        advance: ``advance(model)`` returns a function without arguments that makes one training step.
        observe: coordinates by name of a layer, on the same inputs at each call.
        seeds: a number of seeds, or the seeds themselves.

    Returns:
        One row for each width, seed, layer and step (0 is the start): ``size`` (root mean square of the coordinates),
        ``mean_abs``, and ``change`` and ``mean_abs_change`` of their difference from the start. Coordinates that are
        not finite give NaN or infinity.

    Raises:
        ValueError: no width, or one below 1; fewer than 0 steps; no seed; layers whose names or shapes change.
    """
    widths = list(widths)
    numbers = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
    if not widths or min(widths) < 1:
        raise ValueError(f"widths {widths} must be at least one number of at least 1")
    if steps < 0 or not numbers:
        raise ValueError(f"steps {steps} must be at least 0, and there must be a seed (got {len(numbers)})")
    rows = []
    for width in widths:
        for seed in numbers:
            network = model(width, torch.Generator().manual_seed(seed))
            step_once = advance(network)
            start = _seen(observe, network)
            for step in range(steps + 1):
                if step:
                    step_once()
                now = _seen(observe, network) if step else start
                if {name: value.shape for name, value in now.items()} != {
                    name: value.shape for name, value in start.items()
                }:
                    raise ValueError(f"observe(model) gave other layers or shapes at step {step} than at the start")
                rows += [
                    {"width": width, "seed": seed, "layer": name, "step": step, **_measures(value, start[name])}
                    for name, value in now.items()
                ]
    return pd.DataFrame(rows)


def _seen(observe: Callable[[Model], Mapping[str, Tensor]], network: Model) -> dict[str, Tensor]:
    with torch.no_grad():
        return {name: value.detach().clone() for name, value in observe(network).items()}


def _measures(now: Tensor, start: Tensor) -> dict[str, float]:
    moved = now - start
    values = (now.square().mean().sqrt(), now.abs().mean(), moved.square().mean().sqrt(), moved.abs().mean())
    return dict(zip(MEASURES, map(float, values), strict=True))


def layer_outputs(inputs: Any, layers: Sequence[str] | None = None) -> Callable[[nn.Module], dict[str, Tensor]]:
    """An ``observe``: the outputs of the submodules ``layers`` of a torch module when it is applied to ``inputs``.

    The default is every module that has parameters of its own. Of an output that is a tuple the first tensor counts.

    Raises (when called):
        ValueError: a layer that the model does not have, with the nearest name, or one that is never applied.
    """

    def observe(model: nn.Module) -> dict[str, Tensor]:
        modules = dict(model.named_modules())
        names = (
            layers
            if layers is not None
            else [n for n, m in modules.items() if any(True for _ in m.parameters(recurse=False))]
        )
        for name in names:
            if name not in modules:
                raise ValueError(unknown("layer", name, [n for n in modules if n]))
        seen: dict[str, Tensor] = {}

        def keep(name: str) -> Callable[..., None]:
            def hook(module: nn.Module, args: Any, output: Any) -> None:
                value = output[0] if isinstance(output, tuple) else output
                seen[name] = value.detach()

            return hook

        handles = [modules[name].register_forward_hook(keep(name)) for name in names]
        try:
            with torch.no_grad():
                model(inputs)
        finally:
            for handle in handles:
                handle.remove()
        if missing := [name for name in names if name not in seen]:
            raise ValueError(f"layer {missing[0]!r} was never applied to the inputs; leave it out of layers=")
        return {name: seen[name] for name in names}

    return observe


def steps_of(
    optimizer: Callable[[nn.Module], torch.optim.Optimizer],
    loss: Callable[[nn.Module, Any], Tensor],
    batches: Any | Callable[[], Iterable[Any]],
) -> Callable[[nn.Module], Callable[[], float]]:
    """An ``advance``: one step of ``optimizer(model)`` on ``loss(model, batch)``, for both kinds of closures.

    ``batches`` is one batch, used again and again, or a function that returns the batches of a run.
    """

    def advance(model: nn.Module) -> Callable[[], float]:
        rule = optimizer(model)
        stream = iter(batches()) if callable(batches) else None

        def step() -> float:
            batch = next(stream) if stream is not None else batches

            def closure() -> Tensor:
                value = loss(model, batch)
                if not getattr(rule, "needs_graph", False):
                    rule.zero_grad()
                    value.backward()
                return value

            return float(rule.step(closure).detach())  # type: ignore

        return step

    return advance


def fit_exponent(
    widths: Numbers,
    values: Numbers,
    confidence: float = 0.95,
) -> Interval:
    """Exponent of ``values`` ~ width^exponent by least squares through the logarithms, with its t interval.

    Raises:
        ValueError: fewer than 3 distinct widths (two points fit every line), values that are not positive and finite.
    """
    if len(set(map(float, widths))) < 3:
        raise ValueError(f"an exponent needs at least 3 different widths, got {sorted(set(map(float, widths)))}")
    return exponent(np.asarray(widths, dtype=float), np.asarray(values, dtype=float), confidence=confidence)


def fit_exponents(
    check: pd.DataFrame, measure: str = "change", by: Sequence[str] = ("layer", "step"), floor: float = 0.0
) -> pd.DataFrame:
    """An exponent with its interval for each layer and step of a coordinate check: ``exponent``, ``low``, ``high``.

    All seeds are points of one fit. Where no value exceeds ``floor`` (the changes of step 0, layers that stand still)
    there is no exponent and NaN stands; where some do not, or are not finite, the fit is refused.

    Raises:
        ValueError: an unknown measure, fewer than 3 widths, values that are partly zero or not finite.
    """
    if measure not in check.columns:
        raise ValueError(unknown("measure", measure, [m for m in MEASURES if m in check.columns]))
    rows = []
    for keys, part in check.groupby(list(by), sort=False):
        named = dict(zip(by, keys, strict=True))
        if (part[measure].abs() <= floor).all():
            found = Interval(math.nan, math.nan, math.nan, len(part))
        else:
            try:
                found = fit_exponent(part["width"].to_numpy(), part[measure].to_numpy())
            except ValueError as error:
                raise ValueError(f"{named}: {error}") from None
        rows.append(named | {"exponent": found.mean, "low": found.low, "high": found.high})
    return pd.DataFrame(rows)


class Shift(NamedTuple):
    """How far the best learning rate moves from the smallest to the largest width, in octaves, over seeds.

    ``at_edge``: the best is the first or last of the grid somewhere, so that it may lie beyond.
    """

    octaves: Interval
    best: pd.DataFrame
    at_edge: bool


def transfer_sweep(
    train: Callable[[int, float, int], float],
    widths: Sequence[int],
    lrs: Sequence[float],
    seeds: int | Iterable[int] = 1,
) -> pd.DataFrame:
    """``loss = train(width, lr, seed)`` on the whole grid, one row each; a loss that is not finite is divergence."""
    numbers = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
    return pd.DataFrame(
        [
            {"width": width, "lr": lr, "seed": seed, "loss": train(width, lr, seed)}
            for width in widths
            for lr in lrs
            for seed in numbers
        ]
    )


def best_lr(
    lrs: Numbers,
    losses: Numbers,
    *,
    refine: bool = False,
) -> float:
    """The learning rate of the least loss; losses that are not finite never win.

    With ``refine`` it is the lowest point of the parabola through the best and its two neighbours, on the logarithmic
    axis; the grid's own value at its edges or beside a divergence.

    Raises:
        ValueError: lengths that differ, learning rates that are not positive, no finite loss.
    """
    x, y = np.asarray(lrs, dtype=float), np.asarray(losses, dtype=float)
    if x.shape != y.shape or x.ndim != 1 or not (x > 0).all():
        raise ValueError(f"lrs {x.shape} must be positive, one for each loss {y.shape}")
    if not np.isfinite(y).any():
        raise ValueError("no learning rate gave a finite loss; extend the grid to smaller ones")
    order = np.argsort(x)
    at, y = np.log2(x[order]), np.where(np.isfinite(y[order]), y[order], np.inf)
    k = int(np.argmin(y))
    if not refine or k in (0, len(y) - 1) or not np.isfinite(y[k - 1 : k + 2]).all():
        return float(2 ** at[k])
    left, right = at[k] - at[k - 1], at[k + 1] - at[k]
    falls, rises = (y[k - 1] - y[k]) / left, (y[k + 1] - y[k]) / right
    if falls + rises <= 0:  # three equal losses
        return float(2 ** at[k])
    return float(2 ** (at[k] + (falls * right - rises * left) / (2 * (falls + rises))))


def lr_shift(sweep: pd.DataFrame, *, refine: bool = False) -> Shift:
    """Shift of the best learning rate between the smallest and the largest width, |log2(best / best)|, per seed.

    ``sweep`` has the columns ``width``, ``lr``, ``loss`` and perhaps ``seed``.

    Raises:
        ValueError: a missing column, fewer than two widths, a width at which everything diverged.
    """
    for name in ("width", "lr", "loss"):
        if name not in sweep.columns:
            raise ValueError(unknown("column", name, list(map(str, sweep.columns))))
    if sweep["width"].nunique() < 2:
        raise ValueError("a shift needs at least two widths")
    sweep = sweep if "seed" in sweep.columns else sweep.assign(seed=0)
    rows = [
        {"seed": seed, "width": width, "lr": best_lr(part["lr"].to_numpy(), part["loss"].to_numpy(), refine=refine)}
        for (seed, width), part in sweep.groupby(["seed", "width"], sort=True)
    ]
    best = pd.DataFrame(rows)
    ends = best.pivot(index="seed", columns="width", values="lr").to_numpy()
    shifts = np.abs(np.log2(ends[:, -1] / ends[:, 0]))
    edge = best["lr"].isin([sweep["lr"].min(), sweep["lr"].max()]).any()
    return Shift(mean_interval(shifts), best, bool(edge))
