"""Mixed partial derivatives of low order: jets against nested autograd, whether they agree and what they cost.

One network (the paper's, float64 to compare values and float32 to compare time), the mean squared residual of an
equation and its gradient in the weights. ``difference`` is the largest difference of the residuals over their largest
value.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pandas as pd
import torch
from matplotlib.figure import Figure

from tensorbench.core import plotting
from tensorbench.core.run import Run
from tensorbench.core.timing import compare
from tensorbench.pde_operators.stde import TanhNet
from tensorbench.pde_operators.stde.low_order import EQUATIONS, loss, residuals

METHODS = {"jets": loss}
WAYS = {"jets": "jets", "nested": "nested autograd"}
NAMES = {"kdv2d": "2D KdV", "kp2d": "2D KP", "gkdv1d": "1D gKdV"}


def run(run: Run) -> None:
    """All equations in one process."""
    options = run.method.params
    total = {"jets": 0.0, "nested": 0.0}
    worst = 0.0
    for name in run.progress(EQUATIONS, desc="equation"):
        d = len(EQUATIONS[name][0].coordinates)
        x = run.dataset.load(run.seed, d=d)
        net = TanhNet(d, width=options["width"], generator=run.generator)
        exact = TanhNet(d, width=options["width"], generator=run.generator, dtype=torch.float64)
        a, b = (residuals(name, exact, x[:50].double(), method) for method in ("jets", "nested"))
        gap = max(float((p - q).abs().max() / q.abs().max()) for p, q in zip(a, b, strict=True))
        worst = max(worst, gap)

        def step(method: str, name: str = name, net: TanhNet = net, x: torch.Tensor = x) -> None:
            net.zero_grad()
            loss(name, net, x, method).backward()

        seconds = compare({m: partial(step, m) for m in total}, repeats=options["repeats"], min_seconds=0)
        run.log(**{f"{name}_jets": seconds["jets"], f"{name}_nested": seconds["nested"], f"{name}_difference": gap,
                   f"{name}_speedup": seconds.speedup("jets", "nested").value})  # fmt: skip
        if name in ("kdv2d", "kp2d"):
            total = {m: total[m] + seconds[m] for m in total}
    run.log(speedup=total["nested"] / total["jets"], difference=worst)


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Seconds of a step by equation."""
    fig, ax = plotting.figure(height=6.5)
    if not len(records):
        plotting.empty(ax)
    else:
        rows = [
            {"way": WAYS[kind], "equation": NAMES[name], "seed": seed, "value": value}
            for name in EQUATIONS
            for kind in ("jets", "nested")
            for seed, value in zip(records["seed"], 1000 * records[f"{name}_{kind}"], strict=True)
        ]
        plotting.bars(ax, pd.DataFrame(rows), "value", group="equation", by="way")
        ax.set(ylabel="time of a step (ms)", xlabel="")
        plotting.legend(fig)
    yield "time", fig
