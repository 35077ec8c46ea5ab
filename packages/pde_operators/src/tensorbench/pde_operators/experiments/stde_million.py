"""One step of training in a million dimensions: seconds and peak memory of draw, source, loss, gradient and optimizer.

A first step allocates and is not timed apart: ``step_seconds`` and ``step_peak_mib`` are of the whole step, the first.
"""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd
import torch
from matplotlib.figure import Figure

from tensorbench.core import plotting
from tensorbench.core.run import Run
from tensorbench.pde_operators.stde import OnBall, StochasticPinn, TanhNet, ball

METHODS = {"stde": StochasticPinn}


def run(run: Run) -> None:
    """Build the network, then one step."""
    data = run.dataset.load(run.seed)
    options = dict(run.method.params)
    network = {name: options.pop(name) for name in ("block",) if name in options}
    if data.source is None:
        options |= {"solution": data.solution}
    scheme = METHODS[run.method.uses](data.operator, data.source, batch=min(data.batch, data.d), **options)
    generator, device = run.generator, run.device
    net = OnBall(TanhNet(data.d, generator=generator, **network)).to(device)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3, foreach=False)
    with run.time("step"):
        x = ball(data.points, data.d, generator).to(device)
        loss = scheme.loss(net, x, generator)
        loss.backward()
        optimizer.step()
    weights = sum(p.numel() for p in net.parameters())
    run.log(loss=loss, weights=weights, weight_mib=4 * weights / 2**20, finite=bool(torch.isfinite(loss)))


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Time and memory of the step."""
    fig, axes = plotting.figure(columns=2, cols=2, height=6)
    for ax, metric, text in zip(
        axes, ("step_seconds", "step_peak_mib"), ("time of a step (s)", "memory of a step (MiB)"), strict=True
    ):
        if len(records):
            plotting.bars(ax, records, metric)
            ax.set(ylabel=text, xlabel="")
        else:
            plotting.empty(ax)
    plotting.legend(fig)
    yield "step", fig
