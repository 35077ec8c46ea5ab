"""What the inverse-free rule converges to on fixed statistics, and whether it trains in half precision.

Two kinds of dataset. Statistics of layers: the rule runs to its fixed point and KFAC takes the best of many dampings,
by the divergence from the Gaussian of the damped curvature. Digits: a perceptron is trained, with factors and
statistics in float32 or bfloat16 (then under autocast), learning rates tuned alike.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor

from tensorbench.core import plotting
from tensorbench.core import records as rec
from tensorbench.core.run import Run
from tensorbench.core.training import fit
from tensorbench.optimizers.base import NonFiniteGradientError, NonFiniteLossError
from tensorbench.optimizers.structured_ngd import INGD, KFAC, fisher_kl, fixed_point, fixed_point_residual
from tensorbench.optimizers.structured_ngd.fisher_kl import damped_kfac
from tensorbench.optimizers.tasks import images

BF16 = torch.bfloat16


def run(run: Run) -> None:
    """One of the two kinds."""
    METHODS[run.method.uses](run, **run.method.params)


# --- fixed statistics ----------------------------------------------------------------------------------------------


def inverse_free(run: Run, damping: float, lr: float, refreshes: int, keep: int, sweep: list[float]) -> None:
    """Run each layer to its fixed point; log the history of the first one's residual, and its divergence by damping."""
    worst, total = 0.0, 0.0
    for number, (U, G) in enumerate(_layers(run)):
        found = fixed_point(U, G, damping, lr=lr, refreshes=refreshes, tolerance=1e-10)
        worst = max(worst, fixed_point_residual(found.A, found.B, U, G, damping))
        divergence = float(fisher_kl(found.A, found.B, U, G, damping))
        total += divergence
        run.log(**{f"kl_layer_{number}": divergence})
        if number == 0:
            for k in np.unique(np.geomspace(1, len(found.residuals), keep).astype(int)):
                run.log(step=int(k), residual_history=found.residuals[k - 1])
    run.log(residual=worst, kl=total)
    U, G = _layers(run)[0]
    for value in sweep:
        found = fixed_point(U, G, value, lr=lr, refreshes=refreshes, tolerance=1e-8)
        run.log(step=value, kl_by_damping=float(fisher_kl(found.A, found.B, U, G, value)))


def kfac_damped(run: Run, damping: float, grid: int, sweep: list[float]) -> None:
    """Each layer at the best damping of a grid from 1e-12 to 10, plain or balanced, by the divergence itself."""
    total = 0.0
    for number, (U, G) in enumerate(_layers(run)):
        best, where = _best_kfac(U, G, damping, grid)
        total += best
        same = float(fisher_kl(*damped_kfac(U, G, damping), U, G, damping))
        run.log(**{f"kl_layer_{number}": best, f"best_damping_{number}": where, f"kl_same_damping_{number}": same})
    run.log(kl=total)
    U, G = _layers(run)[0]
    for value in sweep:
        run.log(step=value, kl_by_damping=_best_kfac(U, G, value, grid)[0])


def _best_kfac(U: Tensor, G: Tensor, damping: float, grid: int) -> tuple[float, float]:
    """The least divergence and the damping of KFAC that has it."""
    return min(
        (float(fisher_kl(*damped_kfac(U, G, float(value), balanced=balanced), U, G, damping)), float(value))
        for value in np.geomspace(1e-12, 10, grid)
        for balanced in (False, True)
    )


def _layers(run: Run) -> list[tuple[Tensor, Tensor]]:
    return [(torch.from_numpy(U), torch.from_numpy(G)) for U, G in run.dataset.load(run.seed)]


# --- training in low precision -------------------------------------------------------------------------------------


def train_ingd(run: Run, lr: float, steps: int, precision: str, **options: Any) -> None:
    """``precision``: fp32; mixed (bfloat16 factors, statistics and passes, float32 weights); bf16 (weights too)."""
    options["warmup"] = tuple((int(k), float(v)) for k, v in options["warmup"])
    _train(run, lambda model: INGD(model, lr, dtype=None if precision == "fp32" else BF16, **options), steps, precision)


def train_kfac(run: Run, lr: float, steps: int, precision: str, **options: Any) -> None:
    """KFAC; in low precision its inverses are computed in float32, after a try without."""
    low = precision != "fp32"
    if low and run.trial is None:
        try:
            torch.linalg.inv(torch.eye(4, dtype=BF16, device=run.device))
            refused = False
        except (RuntimeError, NotImplementedError):
            refused = True
        run.log(inverse_refuses_bfloat16=refused)
    _train(run, lambda model: KFAC(model, lr, dtype=BF16 if low else None, **options), steps, precision)


def _train(run: Run, make: Any, steps: int, precision: str) -> None:
    data = images.prepare(run.dataset.load(run.seed))
    generator = run.generator
    model = images.perceptron(generator)
    if precision == "bf16":
        model = model.to(BF16)
    task = images.task(model, data, generator)
    optimizer = make(model)
    low = precision != "fp32"

    def loss(network: Any, batch: images.Part) -> Tensor:
        context = torch.autocast("cpu", BF16) if precision == "mixed" else contextlib.nullcontext()
        with context:
            x = batch[0].to(BF16) if precision == "bf16" else batch[0]
            scores = network(x)
        return torch.nn.functional.cross_entropy(scores.float(), batch[1])

    failed = 0
    try:
        history = fit(model, task.batches, loss, optimizer, steps=steps, schedule="cosine", warmup=0.05)
        failed = int(history.diverged)
    except (NonFiniteGradientError, NonFiniteLossError):
        history, failed = None, 1
    tensors = [*model.parameters(), *(v for state in optimizer.state.values() for v in state.values())]
    broken = sum(int((~torch.isfinite(t)).sum()) for t in tensors if isinstance(t, Tensor)) + failed
    if broken or history is None:
        run.log(valid_loss=1e6, train_loss=math.nan, non_finite=max(1, broken), stays_finite=False)
        return
    if precision == "bf16":
        model = model.float()
    final = {name: images.measure(model, getattr(data, name)) for name in ("train", "valid", "test")}
    run.log(
        train_loss=final["train"][0], valid_loss=final["valid"][0], test_error=final["test"][1], non_finite=0,
        state_bytes=sum(t.numel() * t.element_size() for s in optimizer.state.values() for t in s.values()),
        milliseconds=1e3 * history.seconds / history.steps, low_precision=low, stays_finite=True,
    )  # fmt: skip
    if run.trial is None:
        for k in range(10, steps + 1, 10):
            run.log(step=k, batch_loss=float(np.mean(history.losses[k - 10 : k])))


METHODS: dict[str, Callable[..., None]] = {
    "inverse_free": inverse_free,
    "kfac_damped": kfac_damped,
    "ingd": train_ingd,
    "kfac": train_kfac,
}


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """The residual's fall and the divergences; losses by precision."""
    fig, (left, middle, right) = plotting.figure(columns=2, cols=3, height=6.5)
    rows = records[records["method"] == "inverse_free"] if len(records) else records
    history = rec.history(rows, "residual_history") if len(rows) else None
    if history is None or history.empty:
        for ax in (left, middle, right):
            plotting.empty(ax)
    else:
        looks = plotting.styles(list(pd.unique(history["dataset"])))
        for name, part in history.groupby("dataset", sort=False):
            for number, (_, line) in enumerate(part.groupby("seed")):
                text = looks[str(name)]["label"] if number == 0 else "_"
                left.plot(line["step"], line["value"], **looks[str(name)] | {"marker": "", "label": text})
        plotting.log_axis(left, "y")
        plotting.reference(left, y=1e-8, text="bound $10^{-8}$")
        left.set(xlabel="refreshes of the factors", ylabel="residual of the first layer")
        plotting.legend(left)
        both = records[records["method"].isin(["inverse_free", "kfac_damped"])]
        plotting.bars(middle, both, "kl", log=True)
        middle.set_ylabel("divergence, all layers (nats)")
        sweep = rec.history(both, "kl_by_damping")
        last = sweep[sweep["dataset"] == sweep["dataset"].iloc[-1]] if len(sweep) else sweep
        plotting.series(right, last, "step", "value", log="xy")
        right.set(xlabel="damping λ", ylabel="divergence, first layer (nats)")
        plotting.legend(right)
    yield "fixed_point", fig
    fig, ax = plotting.figure(height=7)
    rows = records[records["dataset"] == "digits"] if len(records) else records
    history = rec.history(rows, "batch_loss") if len(rows) else None
    if history is None or history.empty:
        plotting.empty(ax)
    else:
        plotting.series(ax, history, "step", "value", log="y")
        ax.set(xlabel="steps", ylabel="loss on the batches (nats, mean of 10)")
        plotting.legend(fig)
    yield "precision", fig
