"""Trained networks moved along their symmetry: do outputs stay, is the loss flat, is there a normal form?

A network is trained on digits; then the features of its stages are multiplied by random matrices, with the test
images as inputs. ``<kind>_fp32`` and ``<kind>_fp64`` are the largest change of an output over the largest output,
worst over the stages that allow the kind (where none does, ``orthogonal`` ones are applied to all of them: the symmetry
is broken); for ``gl`` and ``diagonal`` the step is the condition number. ``path_loss`` and ``chord_loss`` are the test
losses along exp(tA) of all stages at once and along the straight line to its end, ``path_distance`` the change of all
weights over their norm (steps: t).

``slope``, ``hessian`` and ``identity`` are those of :class:`tensorbench.pde_operators.symmetry.Flatness` for the
loss of 32 training images in float64, ``random_slope`` and ``random_hessian`` the same for random changes of the
same weights. ``copy_distance`` is that between a network and a randomly moved copy of it,
``copy_distance_canonical`` between their normal forms; ``other_distance…`` the same for a network trained from
another seed.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from tensorbench.core import plotting
from tensorbench.core import records as rec
from tensorbench.core.run import Run
from tensorbench.pde_operators.experiments.pde_net_training import Images, loss, prepare, score, train
from tensorbench.pde_operators.pde_resnet import PDEResNet, fuse
from tensorbench.pde_operators.symmetry import (
    apply_symmetry,
    canonicalize,
    flat_directions,
    group,
    interpolate,
    random_direction,
    random_symmetry,
    symmetry_report,
    weight_distance,
)

METHODS = {"pde": PDEResNet}
OTHER_SEED = 1000
MOVED = 10.0  # condition number of the move of a copy
SWEPT, DIFFERENTIATED = 100, 32  # images for many condition numbers, and for the Hessian


def run(run: Run) -> None:
    """Train, then move."""
    options = dict(run.method.params)
    conditions, points, angle = options.pop("conditions"), options.pop("points"), options.pop("angle")
    lr, steps, directions = options.pop("lr"), options.pop("steps"), options.pop("directions")
    forms = options.pop("forms")
    data = prepare(run.dataset.load(run.seed))

    def trained(seed: int) -> PDEResNet:
        model = PDEResNet(seed=seed, **options)
        train(model, data.train, seed, lr=lr, steps=steps)
        return fuse(model.eval())  # type: ignore[return-value]

    with run.time("fit"):
        model = trained(run.seed)
    generator = torch.Generator().manual_seed(run.seed)
    allowed = [_group(model, stage) for stage in range(len(model.stages))]
    run.log(test_accuracy=score(model, data.test)["accuracy"])
    _invariance(run, model, data, allowed, conditions, generator)
    _path(run, model, data, points, angle, generator)
    _flatness(run, model, data, allowed, directions, generator)
    if forms:
        _normal_forms(run, model, trained(run.seed + OTHER_SEED), data, allowed, generator)


def _group(model: PDEResNet, stage: int) -> str | None:
    try:
        return group(model, stage)
    except ValueError:
        return None


def _double(model: PDEResNet) -> PDEResNet:
    return copy.deepcopy(model).double()


def _invariance(
    run: Run, model: PDEResNet, data: Images, allowed: list[str | None], conditions: list[float], g: torch.Generator
) -> None:
    wide = _double(model)
    change = 0.0
    for kind in ("orthogonal", "gl", "diagonal"):
        stages = [stage for stage, most in enumerate(allowed) if most == "gl" or (most and kind == "orthogonal")]
        if not stages and kind != "orthogonal":
            continue
        images, labels = (part if kind == "orthogonal" else part[:SWEPT] for part in data.test)
        for condition in conditions if kind != "orthogonal" else [1.0]:
            worst = {"fp32": 0.0, "fp64": 0.0}
            for stage in stages or range(len(allowed)):
                Q = random_symmetry(kind, model.widths[stage], g, condition)  # type: ignore[arg-type]
                single = symmetry_report(model, images, Q, stage, labels, check=False)
                double = symmetry_report(wide, images.double(), Q, stage, check=False)
                worst = {"fp32": max(worst["fp32"], single.relative), "fp64": max(worst["fp64"], double.relative)}
                if kind == "orthogonal":
                    change = max(change, abs(single.accuracy_after - single.accuracy_before))
            found = {f"{kind}_{precision}": value for precision, value in worst.items()}
            run.log(**found, **({} if kind == "orthogonal" else {"step": condition}))  # type: ignore[arg-type]
    run.log(accuracy_change=change)


def _path(run: Run, model: PDEResNet, data: Images, points: int, angle: float, g: torch.Generator) -> None:
    """All stages turn at once, the fastest plane of each by ``angle`` radians."""
    turns = [angle * random_direction("orthogonal", width, g) for width in model.widths]

    def at(t: float) -> PDEResNet:
        moved = model
        for stage, A in enumerate(turns):
            moved = interpolate(moved, stage, A, t, check=False)
        return moved

    end, losses = at(1.0), []
    for t in np.linspace(0, 1, points):
        moved, chord = at(float(t)), copy.deepcopy(model)
        with torch.no_grad():
            for one, other in zip(chord.parameters(), end.parameters(), strict=True):
                one.lerp_(other, float(t))
        losses.append(score(moved, data.test)["loss"])
        run.log(
            step=float(t),
            path_loss=losses[-1],
            chord_loss=score(chord, data.test)["loss"],
            path_distance=weight_distance(model, moved),
        )
    run.log(loss_range=max(losses) - min(losses))


def _flatness(
    run: Run, model: PDEResNet, data: Images, allowed: list[str | None], directions: int, g: torch.Generator
) -> None:
    part = (data.train[0][:DIFFERENTIATED].double(), data.train[1][:DIFFERENTIATED])
    wide = _double(model)
    kinds: list[Any] = [most or "orthogonal" for most in allowed]
    found = [
        flat_directions(wide, stage, lambda m: loss(m, part), g, kind=kind, count=directions, power_steps=6)
        for stage, kind in enumerate(kinds)
    ]
    for name in ("slope", "hessian", "identity"):
        run.log(**{name: max(getattr(flatness, name) for flatness in found)})
    for name in ("random_slope", "random_hessian"):
        run.log(**{name: min(getattr(flatness, name) for flatness in found)})


def _normal_forms(
    run: Run, model: PDEResNet, other: PDEResNet, data: Images, allowed: list[str | None], g: torch.Generator
) -> None:
    images = data.train[0][:256].double()
    one, two = _double(model), _double(other)
    moved = one
    for stage, kind in enumerate(allowed):
        moved = apply_symmetry(moved, stage, random_symmetry(kind, one.widths[stage], g, MOVED))  # type: ignore[arg-type]
    forms = []
    for network in (one, moved, two):
        for stage in range(len(allowed)):
            network, _ = canonicalize(network, stage, images)
        forms.append(network)
    run.log(
        copy_distance=weight_distance(one, moved),
        copy_distance_canonical=weight_distance(forms[0], forms[1]),
        other_distance=weight_distance(one, two),
        other_distance_canonical=weight_distance(forms[0], forms[2]),
    )


# --- figures ---------------------------------------------------------------------------------------------------------


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Invariance against the condition number, and the loss along paths."""
    yield "invariance", _invariance_figure(records)
    yield "path", _path_figure(records)


def _invariance_figure(records: pd.DataFrame) -> Figure:
    fig, axes = plotting.figure(columns=2, cols=2, height=7.2, gridspec_kw={"width_ratios": [1.5, 1]})
    free = records[records["method"] == "no_ball"] if len(records) else records
    curves = {"gl": "any matrix", "diagonal": "diagonal"}
    looks = plotting.styles([f"{kind}_{precision}" for kind in curves for precision in ("fp32", "fp64")])
    ax, drawn = axes[0], False
    plotting.log_axis(ax, "xy")
    for name, look in looks.items():
        history = rec.history(free, name) if len(free) else pd.DataFrame()
        if history.empty:
            continue
        drawn = True
        kind, precision = name.split("_")
        history = history[history["value"] > 0]  # changes of signs alone are exact
        levels = history.groupby("step")["value"].agg(["median", "min", "max"])
        ax.plot(levels.index, levels["median"], **look | {"label": f"{curves[kind]}, {precision}"})
        ax.fill_between(levels.index, levels["min"], levels["max"], color=look["color"], alpha=0.18, linewidth=0)
    if drawn:
        ax.set(xlabel="condition number of Q", ylabel="change of outputs (relative)")
        plotting.reference(ax, y=1e-4, text="bound, fp32")
        plotting.reference(ax, y=1e-10, text="bound, fp64")
        plotting.legend(ax, loc="lower right", ncols=2, bbox_to_anchor=(1, 1.0))
    else:
        plotting.empty(ax)
    ax = axes[1]
    names = [name for name in dict.fromkeys(records["method"])] if len(records) else []
    if not names:
        plotting.empty(ax)
        return fig
    plotting.log_axis(ax, "y")
    for at, name in enumerate(names):
        part = records[records["method"] == name]
        for precision, filled in (("fp32", True), ("fp64", False)):
            values = part[f"orthogonal_{precision}"].to_numpy(dtype=float)
            look = plotting.style(name)
            ax.plot(np.full(len(values), at), values, color=look["color"], marker=look["marker"], linestyle="none",
                    markerfacecolor=look["color"] if filled else "white")  # fmt: skip
    ax.set_xlim(-0.6, len(names) - 0.4)
    ax.set_xticks(range(len(names)), [plotting.label(name) for name in names], rotation=30, ha="right",
                  rotation_mode="anchor")  # fmt: skip
    ax.set(title="orthogonal Q", ylabel="change of outputs (relative)")
    for bound in (1e-4, 1e-10, 1e-1):
        plotting.reference(ax, y=bound)
    return fig


def _path_figure(records: pd.DataFrame) -> Figure:
    fig, axes = plotting.figure(columns=2, cols=2, height=6.6)
    loss_ax, distance_ax = axes
    names = list(dict.fromkeys(records["method"])) if len(records) else []
    if not names:
        for ax in axes:
            plotting.empty(ax)
        return fig
    for name in names:
        part = records[records["method"] == name]
        look = plotting.style(name)
        for metric, dashed in (("path_loss", False), ("chord_loss", True)):
            values = rec.history(part, metric).groupby("step")["value"].mean()
            if dashed and name != "pde":
                continue
            loss_ax.plot(
                values.index, values, color=look["color"], linestyle="--" if dashed else "-",
                marker="" if dashed else look["marker"],
                label=f"{look['label']}, straight line" if dashed else look["label"],
            )  # fmt: skip
        distance = rec.history(part, "path_distance").groupby("step")["value"].mean()
        distance_ax.plot(distance.index, 100 * distance, **look | {"label": None})
    plotting.log_axis(loss_ax, "y")
    loss_ax.set(xlabel="t", ylabel="test loss (nats)")
    distance_ax.set(xlabel="t", ylabel="change of the weights (% of norm)")
    plotting.reference(distance_ax, y=10, text="10 %")
    plotting.legend(fig)
    return fig
