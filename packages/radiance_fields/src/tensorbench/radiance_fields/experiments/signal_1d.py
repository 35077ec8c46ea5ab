"""Where the gradient of a shifted signal's error points home, by filter and width, and what that does to alignment.

Steps of the basin's history are the filter's deviation in thousandths of the period; those of ``shift_error_at`` are
steps of the joint optimisation of signals and shifts.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from tensorbench.core import plotting
from tensorbench.core import records as rec
from tensorbench.core.run import Run
from tensorbench.radiance_fields.joint_pose import shift_study as study

METHODS = {"unfiltered": "unfiltered", "gaussian": "gaussian", "box": "box"}
NEAR = 0.01  # of the period: a window nearer than this to its place is recovered


def run(run: Run) -> None:
    """The basin at each width, the formula against finite differences, and joint alignment."""
    signals = run.dataset.load(run.seed)
    options = dict(run.method.params)
    kind = METHODS[run.method.uses]
    worst = 0.0
    u = torch.linspace(0.003, 0.49, 40, dtype=torch.float64)
    for width in options["widths"]:
        p = study.filtered_power(signals.double(), kind, width)
        run.log(step=round(1000 * width), basin_at=study.basin(p).mean())
        exact = study.shift_gradient(p, u)
        difference = _finite_difference(study.filter_signals(signals.double(), kind, width), u)
        worst = max(worst, float((exact - difference).abs().max() / exact.abs().max()))
    run.log(
        gradient_error=worst, basin=study.basin(study.filtered_power(signals.double(), kind, options["shown"])).mean()
    )
    windows = study.open_windows(signals, run.generator, most=options["most"])
    with run.time("fit"):
        shifts, errors = study.align_windows(windows, kind, tuple(options["schedule"]), steps=options["steps"],
                                             lr=options["lr"], lr_shift=options["lr_shift"])  # fmt: skip
    for step, value in errors:
        run.log(step=step, shift_error_at=value)
    away = (shifts - windows.shifts).abs()[:, 1:]
    run.log(shift_error=away.mean(), recovered=(away < NEAR).float().mean())
    if run.seed == 0:
        u = torch.linspace(-0.5, 0.5, 401, dtype=torch.float64)
        p = study.filtered_power(signals[:1].double(), kind, options["shown"])
        np.savez_compressed(run.artifact("curves.npz"), u=u, loss=study.shift_loss(p, u)[0],
                            gradient=study.shift_gradient(p, u)[0])  # fmt: skip


def _finite_difference(signals: torch.Tensor, u: torch.Tensor, h: float = 2e-4) -> torch.Tensor:
    """Fourth-order central differences of the mean of (f(x) − f(x + u))² over x, the shift made by the spectrum."""
    spectrum = torch.fft.rfft(signals)
    k = torch.arange(spectrum.shape[-1], dtype=signals.dtype)
    n = signals.shape[-1]

    def loss(at: torch.Tensor) -> torch.Tensor:
        turned = spectrum[:, None] * torch.exp(2j * torch.pi * k * at[:, None])
        return (torch.fft.irfft(turned, n=n) - signals[:, None]).square().mean(-1)

    near, far = loss(u + h) - loss(u - h), loss(u + 2 * h) - loss(u - 2 * h)
    return (8 * near - far) / (12 * h)


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Loss and gradient of one signal; the basin over the width; errors of joint alignment."""
    fig, axes = plotting.figure(columns=2, cols=2, height=6.5)
    files = rec.artifacts(records, "curves.npz")
    files = files[files["method"].isin(["unfiltered", "gaussian"])] if len(files) else files
    for method, path in zip(files["method"], files["path"], strict=True):
        kept = np.load(path)
        look = plotting.style(method) | {"marker": ""}
        axes[0].plot(kept["u"], kept["loss"] / kept["loss"].max(), **look)
        axes[1].plot(kept["u"], kept["gradient"] / np.abs(kept["gradient"]).max(), **look)
    axes[0].set(xlabel="shift u (periods)", ylabel="loss / largest")
    axes[1].set(xlabel="shift u (periods)", ylabel="gradient / largest")
    plotting.legend(fig)
    yield "one_signal", fig

    fig, axes = plotting.figure(columns=2, cols=2, height=7)
    basins = rec.history(records, "basin_at")
    basins = basins.assign(step=basins["step"] / 1000)
    plotting.series(axes[0], basins[basins["method"] != "unfiltered"], "step", "value")
    lone = basins[basins["method"] == "unfiltered"]
    if len(lone):
        plotting.reference(axes[0], y=float(lone["value"].mean()), text="unfiltered")
    axes[0].set(xlabel="deviation σ (periods)", ylabel="basin (periods)", ylim=(0, None))
    plotting.series(axes[1], rec.history(records, "shift_error_at"), "step", "value", log="y")
    axes[1].set(xlabel="step of joint optimisation", ylabel="mean shift error (periods)")
    plotting.legend(fig)
    yield "basin", fig
