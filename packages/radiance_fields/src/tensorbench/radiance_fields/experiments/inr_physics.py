"""Four times finer than measured: a functional tensor on coarse vorticity with and without the equation's residual.

The flow is known on every fourth grid point of each direction, at all of its times. ``interpolation`` is bicubic and
trigonometric interpolation of each frame. Trials are judged on another flow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from tensorbench.core import plotting
from tensorbench.core import records as rec
from tensorbench.core.run import Run
from tensorbench.radiance_fields import metrics
from tensorbench.radiance_fields.experiments import inr_common as common
from tensorbench.radiance_fields.implicit import compression, physics
from tensorbench.radiance_fields.implicit.training import train


def fit_functional(
    truth: np.ndarray, run: Run, *, duration: float, viscosity: float, factor: int, weight: float, times: int,
    lr: float, seconds: float, trial_seconds: float, at: list[float], **model: Any,
) -> np.ndarray:  # fmt: skip
    """F-INR on the coarse data, and on the residual at ``times`` random times a step where ``weight`` is positive."""
    n, _, frames = truth.shape
    box = physics.Box(n, duration)
    net = common.functional(3, 1, run.generator, std=1.0, **model).to(run.device)
    fine, coarse = box.axis(device=run.device), box.axis(factor, run.device)
    t = torch.linspace(-1, 1, frames, device=run.device)
    known = torch.from_numpy(truth[::factor, ::factor].astype(np.float32)).to(run.device)
    generator = run.generator

    def loss(net: Any, _: Any) -> torch.Tensor:
        data = (net.forward_grid([coarse, coarse, t])[..., 0] - known).square().mean()
        if not weight:
            return data
        some = (2 * torch.rand(times, generator=generator) - 1).to(run.device)
        return data + weight * physics.residual(net, box, some, viscosity).square().mean()

    def error(net: Any) -> float:
        return physics.relative_error(compression.to_numpy(net.forward_grid([fine, fine, t])[..., 0]), truth)

    budget = common.budget(run, seconds, trial_seconds, at)
    course = train(net, loss, lr=lr, schedule="cosine", metric=error if run.trial is None else None, **budget)
    common.log_course(run, course, "relative_error")
    run.log(weights=metrics.count_weights(net))
    with torch.no_grad():
        return compression.to_numpy(net.forward_grid([fine, fine, t])[..., 0])


def interpolation(truth: np.ndarray, run: Run, *, factor: int, kind: str, **_: Any) -> np.ndarray:
    """Each frame by itself."""
    return {"bicubic": physics.bicubic, "fourier": physics.fourier}[kind](truth[::factor, ::factor], factor)


OTHER_FLOW = 1000  # the seed of the flow that trials are judged on
METHODS: dict[str, Callable[..., Any]] = {"functional": fit_functional, "interpolation": interpolation}


def run(run: Run) -> None:
    """One flow for each seed."""
    truth = np.asarray(run.dataset.load(run.seed if run.trial is None else OTHER_FLOW))
    shared = {key: run.dataset.params[key] for key in ("duration", "viscosity")}
    predicted = METHODS[run.method.uses](truth, run, **shared, **run.method.params)
    if run.trial is not None:
        run.log(valid_error=physics.relative_error(predicted, truth))
        return
    run.log(relative_error=physics.relative_error(predicted, truth))
    if run.seed == 0:
        frame = truth.shape[2] // 2
        np.savez_compressed(run.artifact("frame.npz"), truth=truth[:, :, frame].astype(np.float32),
                            predicted=predicted[:, :, frame].astype(np.float32))  # fmt: skip


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    yield "super_resolution", _super_resolution(records)


def _super_resolution(records: pd.DataFrame) -> Figure:
    """The middle frame: truth, coarse data, what each method made of it, and the errors."""
    files = rec.artifacts(records, "frame.npz") if len(records) else pd.DataFrame()
    if not len(files):
        return plotting.nothing()
    found = {str(row.method): dict(np.load(str(row.path))) for row in files.itertuples()}
    truth = next(iter(found.values()))["truth"]
    top = float(np.abs(truth).max())
    looks: dict[str, Any] = {"cmap": "RdBu_r", "vmin": -top, "vmax": top}
    width = 15.6 / (len(found) + 1)
    fig, axes = plotting.figure(columns=2, rows=2, cols=len(found) + 1, height=2 * width + 1.6, squeeze=False)
    common.show(axes[0][0], truth, "vorticity, truth", **looks)
    common.show(axes[1][0], truth[::4, ::4], "what is known", **looks)
    for column, (method, fields) in enumerate(found.items(), start=1):
        value = float(records[records["method"] == method]["relative_error"].mean())
        common.show(axes[0][column], fields["predicted"], plotting.label(method), **looks)
        common.show(axes[1][column], np.abs(fields["predicted"] - truth), "error", f"relative {value:.3f}",
                    cmap="magma", vmin=0, vmax=top / 2)  # fmt: skip
    return fig
