"""How fast and how far fitters of the inverse Hessian get: with clean, noisy and drifting products, in low precision.

A panel is a kind of pairs at a size, say ``noisy_10``; its metrics are ``<panel>_error``, ‖P H - I‖_F after so many
updates (the step), and ``<panel>_floor``, its mean over the second half of the updates. ``clean_<n>_late`` is the error
from 1,000 updates on and ``clean_<n>_decay`` the change of its natural logarithm from 1,000 to 2,000. In low precision
the error is the mean square of P g - v over the entries of the gradient g = H v just seen.
"""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from tensorbench.core import plotting
from tensorbench.core import records as rec
from tensorbench.core.run import Run
from tensorbench.optimizers.psgd import (
    BFGS,
    SPDGD,
    ClosedForm,
    Diagonal,
    EuclidGD,
    Fitter,
    GLn,
    InverseFree,
    LowRank,
    Triangular,
    studies,
    tridiagonal,
)
from tensorbench.optimizers.psgd.inverse_free import Geometry

POINTS = 41  # of a curve, evenly on a logarithmic axis
TAIL = 32  # more of them in the second half, where floors are read
LATE = 1000
KINDS = ("clean", "noisy", "drift")
Make = Callable[[int], Fitter]


def on_group(kind: Callable[..., Fitter], panel: str, seed: int, *, mu: float = 1.0, noisy_mu: float = 0.1) -> Make:
    """A Lie group or the manifold, with a smaller step where products are noisy."""
    return partial(kind, mu=noisy_mu if panel == "noisy" else mu)


def inverse_free(panel: str, seed: int, *, geometry: Geometry, lr: float = 0.1) -> Make:
    """The reference code's step everywhere."""
    return partial(InverseFree, geometry=geometry, lr=lr)


def low_rank(panel: str, seed: int, *, rank: int, lr: float = 0.1) -> Make:
    """Diagonal and low rank."""
    return lambda n: LowRank(n, rank, lr, generator=torch.Generator().manual_seed(seed))


def closed_form(panel: str, seed: int, *, window: float = 0.999) -> Make:
    """The inverse root of the running mean."""
    return partial(ClosedForm, window=window)


def precision(
    run: Run, factors: list[torch.Tensor], *, geometry: Geometry, precisions: list[str], steps: int, lr: float = 0.1
) -> None:
    """One geometry of Kronecker factors in several precisions."""
    curve = np.unique(np.geomspace(1, steps, 30).round().astype(int)).tolist()
    at = sorted({*curve, *range(steps * 9 // 10, steps + 1, 10)})
    seeds = {getattr(torch, name): torch.Generator().manual_seed(run.seed) for name in precisions}
    found = studies.precision_study(geometry, factors, at, seeds, lr=lr)  # type: ignore[arg-type]
    level = {}
    for name in precisions:
        errors = found[getattr(torch, name)]
        for step in curve:
            run.log(step=step, **{f"{name}_error": errors[step]})
        level[name] = statistics.median(error for step, error in errors.items() if step >= steps * 9 // 10)
        run.log(**{f"{name}_level": level[name], f"{name}_finite": all(math.isfinite(e) for e in errors.values())})
    for low, high in (("bfloat16", "float32"), ("float32", "float64")):
        if low in level and high in level:
            run.log(**{f"{low}_over_{high}": level[low] / level[high]})


METHODS: dict[str, Callable] = {
    "gl": partial(on_group, GLn),
    "triangular": partial(on_group, Triangular),
    "diagonal": partial(on_group, Diagonal),
    "spd": partial(on_group, SPDGD),
    "euclid": partial(on_group, EuclidGD),
    "low_rank": low_rank,
    "inverse_free": inverse_free,
    "closed_form": closed_form,
    "bfgs": lambda panel, seed: BFGS,
    "kron": precision,
}


def run(run: Run) -> None:
    """All panels of one fitter, or one geometry in several precisions."""
    data = run.dataset.load(run.seed)
    if run.method.uses == "kron":
        precision(run, data, **run.method.params)
        return
    options = dict(run.method.params)
    own, only = options.pop("steps", {}), options.pop("only", None)
    for size in data.sizes:
        for number, kind in enumerate(KINDS):
            panel = f"{kind}_{size}"
            steps = own.get(panel, data.steps)
            if not steps or (only and panel not in only):
                continue
            make = METHODS[run.method.uses](kind, run.seed, **options)
            generator = torch.Generator().manual_seed(1000 * run.seed + 10 * size + number)
            at = points(steps)
            H = tridiagonal(size)
            if kind == "clean":
                errors = studies.convergence_study(make, H, at, generator)
            elif kind == "noisy":
                errors = studies.noise_study(make, H, at, generator, data.noise)
            else:
                errors = studies.tracking_study(make, size, at, generator)
            _log(run, panel, errors)


def points(steps: int) -> list[int]:
    """Numbers of updates at which the error is taken."""
    curve = np.unique(np.geomspace(1, steps, POINTS).round().astype(int))
    tail = np.linspace(steps // 2, steps, TAIL + 1).round().astype(int)
    marks = [mark for mark in (LATE, 2 * LATE, 4 * LATE) if mark <= steps]
    return sorted({*curve.tolist(), *tail.tolist(), *marks})


def _log(run: Run, panel: str, errors: studies.Errors) -> None:
    shown = set(np.unique(np.geomspace(1, max(errors), POINTS).round().astype(int)).tolist())
    shown |= {LATE, 2 * LATE, 4 * LATE, max(errors)}
    for step, error in errors.items():
        if step in shown:
            run.log(step=step, **{f"{panel}_error": error})
        if panel.startswith("clean") and step >= LATE and step in shown:
            run.log(step=step, **{f"{panel}_late": error})
    half = max(errors) / 2
    run.log(**{f"{panel}_floor": statistics.fmean(error for step, error in errors.items() if step >= half)})
    if panel.startswith("clean") and errors.get(2 * LATE, 0) > 0 and errors.get(LATE, 0) > 0:
        run.log(**{f"{panel}_decay": math.log(errors[2 * LATE]) - math.log(errors[LATE])})


# --- figures ---------------------------------------------------------------------------------------------------------

PAPER = ("gl", "triangular", "closed_form", "closed_form_mean", "bfgs")
GROUPS = ("spd", "euclid", "diagonal", "low_rank")
FREE = ("q0p5eq1p5", "quad", "qeq", "qep", "pro4p")
TITLES = {"clean": "clean products", "noisy": "noise 0.01", "drift": "drifting Hessian"}


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """The paper's three panels at the smaller size, all fitters with clean products, and the precisions."""
    sizes = sorted(int(found.group(1)) for name in records if (found := re.fullmatch(r"clean_(\d+)_error", str(name))))
    fig, axes = plotting.figure(columns=2, cols=3, height=6.2)
    for ax, kind in zip(axes, KINDS, strict=True):
        _curves(ax, records, f"{kind}_{sizes[0]}_error" if sizes else "", [*PAPER, "q0p5eq1p5"], axes="xy")
        ax.set(title=TITLES[kind], xlabel="updates", ylabel="‖PH − I‖" if kind == "clean" else "")
    plotting.legend(fig)
    yield "panels", fig

    fig, axes = plotting.figure(columns=2, rows=2, cols=2, height=11.5)
    for row, size in zip(axes, [*sizes, *sizes][:2] or [0, 0], strict=True):
        for ax, names in zip(row, (("gl", *GROUPS), ("gl", *FREE)), strict=True):
            _curves(ax, records, f"clean_{size}_error", names, axes="y")
            ax.set(title=f"n = {size}", xlabel="updates", ylabel="‖PH − I‖" if ax is row[0] else "")
    plotting.legend(fig)
    yield "fitters", fig

    fig, ax = plotting.figure()
    looks = plotting.styles(["q0p5eq1p5_kron float64", "q0p5eq1p5_kron float32", "q0p5eq1p5_kron bfloat16",
                             "eq_kron float64", "eq_kron float32"])  # fmt: skip
    plotting.log_axis(ax, "xy")
    drawn = False
    for name, look in looks.items():
        method, precision = name.split(" ")
        part = records[records["method"] == method] if len(records) else records
        history = rec.history(part, f"{precision}_error") if len(part) else pd.DataFrame()
        if history.empty:
            continue
        history = history[np.isfinite(history["value"]) & (history["value"] > 0)]
        curve = history.assign(log=np.log(history["value"])).groupby("step")["log"].mean()
        ax.plot(curve.index, np.exp(curve.to_numpy()), markevery=0.12,
                **{**look, "label": f"{plotting.label(method)}, {precision}"})  # fmt: skip
        drawn = True
    if not drawn:
        plotting.empty(ax)
    ax.set(xlabel="updates", ylabel="mean square of Pg − v")
    plotting.legend(fig)
    yield "precision", fig


def _curves(ax, records: pd.DataFrame, metric: str, names, *, axes: str) -> None:
    shown = records[records["method"].isin(names)] if len(records) else records
    has = shown[shown[metric].notna()] if metric in shown else shown[:0]
    logged = list(has["method"])
    if not logged:
        plotting.empty(ax)
        return
    history = rec.history(shown[shown["method"].isin(logged)], metric)
    plotting.log_axis(ax, axes)
    plotting.series(ax, history, "step", "value", order=[n for n in names if n in set(logged)])


def slowdown(records: pd.DataFrame) -> list[float]:
    """Decay of GL(n)'s logarithmic error over that of the triangular group's, seed by seed."""
    decay = records.pivot(index="seed", columns="method", values="clean_10_decay")
    return (decay["gl"] / decay["triangular"]).tolist()
