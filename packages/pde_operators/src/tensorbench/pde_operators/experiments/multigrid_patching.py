"""What multi-grid patches cost in accuracy and save in memory: own Navier-Stokes data, forcing to vorticity.

``operator`` trains one network on the whole domain (``levels: 0``) or on 2^levels × 2^levels patches, with or without
coarse views (``context``) and halo (``padding``), all with the same steps, batches of whole fields and rate.
``workers`` trains nothing: it counts, for 0, 1, … levels (the steps), the points that one worker holds, the bytes that
one forward pass of a patch keeps for the backward pass, and the peak of resident memory of both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from tensorbench.core import plotting
from tensorbench.core import records as rec
from tensorbench.core.run import Run
from tensorbench.core.timing import measure
from tensorbench.pde_operators.experiments import operator_training as training
from tensorbench.pde_operators.fno import FNO, count_weights
from tensorbench.pde_operators.layer_costs import kept_bytes
from tensorbench.pde_operators.losses import relative_l2
from tensorbench.pde_operators.patching import MultigridPatching2D

WHOLE, PATCHED = ("whole_fno", "whole_tfno"), ("multigrid_fno", "multigrid_tfno", "halo_fno", "blind_fno")


def run(run: Run) -> None:
    """Train and score, or count."""
    METHODS[run.method.uses](run, **run.method.params)


def operator(
    run: Run,
    *,
    modes: int,
    hidden: int,
    layers: int,
    steps: int,
    batch: int,
    rate: float,
    levels: int = 0,
    context: bool = True,
    padding: float = 0.0,
    factorization: str | None = None,
    rank: float = 0.1,
    joint: bool = False,
    loss: str = "l2",
) -> None:
    """One network."""
    fields = training.prepare(run.dataset.load(0), run.device)
    patching = MultigridPatching2D(levels, padding, context=context)
    network = FNO(
        patching.channels(fields.train[0].shape[1]),
        fields.train[1].shape[1],
        (modes, modes),
        hidden,
        layers,
        factorization=factorization,
        rank=rank,
        joint=joint,
        generator=run.generator,
    )
    model = training.Operator(network, patching, fields.target_scale).to(run.device)
    with run.time("fit"):
        history = training.train(model, fields.train, run, steps=steps, batch=batch, rate=rate, loss=loss)
    (name, pair), *others = fields.test.items()
    run.log(
        test_l2=training.error(model, pair),
        valid_l2=training.error(model, fields.valid),
        train_l2=training.error(model, fields.train),
        weights=count_weights(network),
        step_milliseconds=1000 * history.seconds / history.steps,
        diverged=history.diverged,
    )
    for name, pair in others:
        run.log(**{f"test_l2_{name}": training.error(model, pair)})
    if run.seed == 0:
        x, y = (part[:1] for part in fields.test[next(iter(fields.test))])
        with torch.no_grad():
            fields_out = {"input": x, "target": y, "prediction": model(x)}
        np.savez_compressed(run.artifact("fields.npz"), **{k: v[0, 0].cpu().numpy() for k, v in fields_out.items()})


def workers(
    run: Run, *, modes: int, hidden: int, layers: int, levels: list[int], batch: int, factorization: str | None = None
) -> None:
    """Points and memory of one worker, by levels."""
    x, y = (part[:batch] for part in training.prepare(run.dataset.load(0), run.device).train)
    kept = {}
    for level in levels:
        patching = MultigridPatching2D(level)
        inputs = patching.patch(x)[0][:: patching.patches**2].contiguous()  # one patch of each sample
        side = inputs.shape[-1]
        targets = y[..., :side, :side].contiguous()
        network = FNO(
            inputs.shape[1], 1, (modes, modes), hidden, layers, factorization=factorization, generator=run.generator
        ).to(run.device)

        def forward(network=network, inputs=inputs, targets=targets) -> torch.Tensor:
            return relative_l2(network(inputs), targets)

        kept[level] = kept_bytes(forward, network.parameters())
        forward().backward()
        with measure() as cost:
            forward().backward()
        peak = cost.peak_mib if np.isnan(cost.device_peak_mib) else cost.device_peak_mib
        run.log(step=level, points=side**2, activations_mib=kept[level] / 2**20, peak_of_a_step_mib=peak)
    points = [side for name, step, side in run.history if name == "points"]
    run.log(
        points_ratio=float(np.exp(np.mean(np.log(np.divide(points[:-1], points[1:]))))),
        activations_ratio=kept[levels[0]] / kept[levels[1]],
    )


METHODS: dict[str, Callable[..., None]] = {"operator": operator, "workers": workers}


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Errors, memory, and one field."""
    yield "errors", _errors(records)
    yield "memory", _memory(records)
    yield "fields", _fields(records)


def _errors(records: pd.DataFrame) -> Figure:
    fig, ax = plotting.figure(columns=2, height=7)
    shown = records[records["method"].isin([*WHOLE, *PATCHED])] if len(records) else records
    if shown.empty or "test_l2" not in shown:
        plotting.empty(ax)
        return fig
    names = [m for m in (*WHOLE, *PATCHED) if (shown["method"] == m).any()]
    for place, name in enumerate(names):
        look = plotting.style(name)
        for metric, marker, fill in (("train_l2", "o", "none"), ("test_l2", "o", look["color"])):
            values = shown.loc[shown["method"] == name, metric].dropna()
            ax.plot(values, np.full(len(values), place), linestyle="none", marker=marker, markersize=5,
                    markeredgecolor=look["color"], markerfacecolor=fill, alpha=0.85)  # fmt: skip
    for metric, fill in (("training", "none"), ("test", "#444444")):
        ax.plot([], [], linestyle="none", marker="o", markeredgecolor="#444444", markerfacecolor=fill, label=metric)
    ax.set_yticks(range(len(names)), [plotting.label(n) for n in names])
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.set_xlim(left=0)
    ax.set_xlabel("relative L² error (a marker a seed)")
    plotting.legend(ax, loc="best")
    return fig


def _memory(records: pd.DataFrame) -> Figure:
    fig, axes = plotting.figure(columns=2, cols=2, height=6.5)
    for ax, metric, name in zip(
        axes, ("activations_mib", "peak_of_a_step_mib"), ("kept for the backward pass", "peak of a step"), strict=True
    ):
        try:
            history = rec.history(records, metric) if len(records) else pd.DataFrame()
        except (KeyError, ValueError):
            history = pd.DataFrame()
        if history.empty:
            plotting.empty(ax)
            continue
        plotting.log_axis(ax, "y")
        plotting.series(ax, history, "step", "value")
        first = history[history["step"] == history["step"].min()]["value"]
        steps = np.sort(history["step"].unique())
        ax.plot(steps, float(np.exp(np.log(first).mean())) / 4.0**steps, color="#666666", linewidth=0.8,
                linestyle=":", marker="", label="a quarter a level")  # fmt: skip
        ax.set_xticks(steps)
        ax.set(xlabel="levels", ylabel="memory of a worker (MiB)", title=name)
    plotting.legend(fig)
    return fig


def _fields(records: pd.DataFrame) -> Figure:
    """Predictions and errors of one test field, all on one scale; patch borders in grey."""
    kept = rec.artifacts(records, "fields.npz") if len(records) else pd.DataFrame(columns=["method", "path"])
    names = [m for m in ("whole_fno", "multigrid_fno", "halo_fno", "blind_fno") if (kept["method"] == m).any()]
    fig, axes = plotting.figure(columns=2, rows=2, cols=len(names) + 1, height=6.9, squeeze=False)
    if not names:
        for ax in axes.flat:
            plotting.empty(ax)
        return fig
    arrays = {name: dict(np.load(kept.loc[kept["method"] == name, "path"].iloc[0])) for name in names}
    target = arrays[names[0]]["target"]
    limit = float(np.abs(target).max())
    patched = {n: n != "whole_fno" for n in names}
    panels = [("vorticity", target, False)]
    panels += [(plotting.label(n).removesuffix(", FNO"), arrays[n]["prediction"], patched[n]) for n in names]
    forcing = arrays[names[0]]["input"]
    lower = [("forcing (scaled)", forcing * limit / np.abs(forcing).max(), False)] + [
        ("error", arrays[n]["prediction"] - target, patched[n]) for n in names
    ]
    image = None
    for ax, (title, values, bordered) in zip(axes.flat, panels + lower, strict=True):
        image = ax.imshow(values, cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
        ax.set(xticks=[], yticks=[])
        ax.set_title(title, fontsize=8)
        ax.grid(False)
        if bordered:
            middle = (len(values) - 1) / 2
            ax.axhline(middle, color="#444444", linewidth=0.7)
            ax.axvline(middle, color="#444444", linewidth=0.7)
    assert image is not None
    fig.colorbar(image, ax=axes, label="vorticity", shrink=0.85)
    return fig
