"""Figures of the experiments on the kinetic equation: errors, weights of branches, densities on the annulus itself."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tensorbench.core import plotting
from tensorbench.core import records as rec
from tensorbench.core.plotting import style
from tensorbench.pde_operators.solvers.kinetic import Annulus

STACKS = {f"stnn_k{branches}": branches for branches in (1, 2, 4, 8, 10, 20, 30)}


def accuracy(records: pd.DataFrame) -> Figure:
    """Test error against the branches of the stacks, and against the weights of everything."""
    fig, (left, right) = plotting.figure(columns=2, cols=2, height=6.6, sharey=True)
    stacks = records[records["method"].isin(STACKS)] if len(records) else records
    if stacks.empty:
        plotting.empty(left)
        plotting.empty(right)
        return fig
    shown = [branches for name, branches in STACKS.items() if (stacks["method"] == name).any()]
    plotting.log_axis(left, "x", ticks=shown)
    plotting.series(left, stacks.assign(K=stacks["method"].map(STACKS)), "K", "test_error", by=None, log="y")
    left.set(xlabel="stacked trains K", ylabel="relative L2 error")
    plotting.log_axis(right, "xy")
    for name in pd.unique(records["method"]):
        part = records[records["method"] == name]
        logs = np.log(part["test_error"].to_numpy(dtype=float))
        centre, spread = np.exp(logs.mean()), np.exp(logs)
        look = style(name)
        ends = [[max(0.0, centre - spread.min())], [max(0.0, spread.max() - centre)]]
        right.errorbar(part["weights"].mean(), centre, yerr=ends, color=look["color"], marker=look["marker"],
                       linestyle="none", label=look["label"], markersize=5, elinewidth=1, capsize=2)  # fmt: skip
    right.set(xlabel="weights")
    plotting.legend(fig)
    return fig


def experts(records: pd.DataFrame, method: str) -> Figure:
    """Softmax weights of each branch over ell and a2."""
    kept = rec.artifacts(records, "errors.npz") if len(records) else pd.DataFrame(columns=["method"])
    kept = kept[(kept["method"] == method)]
    found = [np.load(path) for path in kept.sort_values("seed")["path"]] if len(kept) else []
    found = [arrays for arrays in found if "expert_weights" in arrays]
    if not found:
        return plotting.nothing()
    arrays = found[0]
    weights = arrays["expert_weights"]
    K = weights.shape[-1]
    fig, axes = plotting.figure(columns=2, cols=K, height=4.6, sharey=True)
    image = None
    for k, ax in enumerate(np.atleast_1d(axes)):
        image = ax.pcolormesh(arrays["expert_ell"], arrays["expert_a2"], weights[:, :, k], vmin=0, vmax=1,
                              cmap="cividis", rasterized=True, shading="nearest")  # fmt: skip
        plotting.log_axis(ax, "x", ticks=_decades(arrays["expert_ell"]))
        ax.grid(False)
        ax.set(title=f"train {k + 1}", xlabel="mean free path")
    np.atleast_1d(axes)[0].set_ylabel("outer semi-axis")
    fig.colorbar(image, ax=list(np.atleast_1d(axes)), label="weight", pad=0.015, aspect=15)
    return fig


def _decades(values: np.ndarray) -> list[float]:
    """A few round powers of ten within the range, away from its ends."""
    low, high = np.log10(values[0]), np.log10(values[-1])
    inner = np.linspace(low + 0.1 * (high - low), high - 0.1 * (high - low), 3)
    return [float(f"{10**power:.1g}") for power in inner]


def shift(records: pd.DataFrame, methods: list[str]) -> Figure:
    """Error against a2 and ell, in range and outside, as means of groups of equally many samples."""
    fig, axes = plotting.figure(columns=2, cols=2, height=6.6, sharey=True)
    kept = rec.artifacts(records, "errors.npz") if len(records) else pd.DataFrame(columns=["method"])
    if not len(kept):
        for ax in axes:
            plotting.empty(ax)
        return fig
    panels = (
        (axes[0], 0, ("test", "wide"), "outer semi-axis (inner long semi-axis = 1)"),
        (axes[1], 1, ("short", "test", "long"), "mean free path (inner long semi-axis = 1)"),
    )
    for ax, column, sets, name in panels:
        trained: list[float] = []
        for method in methods:
            runs = [np.load(path) for path in kept[kept["method"] == method]["path"]]
            if not runs:
                continue
            look = style(method)
            for part in sets:
                values = runs[0][f"{part}_params"][:, column]
                error = np.mean([arrays[f"{part}_errors"] for arrays in runs], axis=0)
                at, mean = _grouped(values, error, 5 if part == "test" else 2)
                line = look | {"label": look["label"] if part == "test" else None}
                ax.plot(at, mean, **line)
                if part == "test":
                    trained = [float(values.min()), float(values.max())]
        if not trained:
            plotting.empty(ax)
            continue
        for end in _ends(kept, column, trained):
            plotting.reference(ax, x=end)
        ax.set_xlabel(name)
    plotting.log_axis(axes[0], "y")
    plotting.log_axis(axes[1], "x")
    axes[0].set_ylabel("relative L2 error")
    plotting.legend(fig)
    return fig


def _ends(kept: pd.DataFrame, column: int, trained: list[float]) -> list[float]:
    """Between which values training lay: halfway from the outermost test sample to the nearest shifted one."""
    arrays = np.load(kept["path"].iloc[0])
    low, high = trained
    above = arrays["wide_params" if column == 0 else "long_params"][:, column].min()
    ends = [(high + above) / 2]
    if column == 1:
        ends.append(float(np.sqrt(low * arrays["short_params"][:, column].max())))
    return ends


def _grouped(values: np.ndarray, error: np.ndarray, groups: int) -> tuple[np.ndarray, np.ndarray]:
    order = np.argsort(values, kind="stable")
    pieces = [piece for piece in np.array_split(order, groups) if len(piece)]
    return np.array([values[p].mean() for p in pieces]), np.array([error[p].mean() for p in pieces])


def on_annulus(ax: Axes, domain: Annulus, field: np.ndarray, **options):
    """A field on its own domain, each value in its cell; no axes but a scale in the aspect of the plane."""
    x, y = domain.cell_corners(*field.shape)
    image = ax.pcolormesh(x, y, field, rasterized=True, **options)
    ax.set_aspect("equal")
    ax.set_axis_off()
    return image


def fields(samples: list[dict[str, np.ndarray]]) -> Figure:
    """True density, prediction (one colour bar), and their difference, a row per sample."""
    if not samples:
        return plotting.nothing()
    fig, axes = plotting.figure(columns=2, rows=len(samples), cols=3, height=5.2 * len(samples), squeeze=False)
    for row, sample in zip(axes, samples, strict=True):
        a2, ell, flat = sample["params"]
        domain, truth, guess = Annulus(1 - float(flat), float(a2)), sample["truth"], sample["guess"]
        span = {"vmin": min(truth.min(), guess.min()), "vmax": max(truth.max(), guess.max()), "cmap": "viridis"}
        image = on_annulus(row[0], domain, truth, **span)
        on_annulus(row[1], domain, guess, **span)
        fig.colorbar(image, ax=list(row[:2]), shrink=0.75, pad=0.02, aspect=20, label="density")
        gap = guess - truth
        top = float(np.quantile(np.abs(gap), 0.995))
        image = on_annulus(row[2], domain, gap, vmin=-top, vmax=top, cmap="RdBu_r")
        fig.colorbar(image, ax=row[2], shrink=0.75, pad=0.02, aspect=20, extend="both", label="difference")
        error = np.linalg.norm(gap) / np.linalg.norm(truth)
        words = f"mean free path {ell:.2f}\nsemi-axes {1 - flat:.2f} and {a2:.1f}"
        row[0].text(-0.14, 0.5, words, transform=row[0].transAxes, rotation=90, ha="center", va="center", fontsize=8)
        row[0].set_title("solution")
        row[1].set_title(f"prediction, error {100 * error:.1f} %")
        row[2].set_title("prediction − solution")
    return fig


def per_sample(records: pd.DataFrame, paper: float) -> Figure:
    """Error of each published sample for each published model, over the mean free path."""
    fig, ax = plotting.figure(height=6.4)
    kept = rec.artifacts(records, "published.npz") if len(records) else pd.DataFrame()
    if not len(kept):
        plotting.empty(ax)
        return fig
    for method, path in zip(kept["method"], kept["path"], strict=True):
        arrays = np.load(path)
        ax.plot(arrays["params"][:, 1], 100 * arrays["errors"], **style(method) | {"linestyle": "none"})
    plotting.log_axis(ax, "x", ticks=(0.5, 1, 2, 4))
    ax.set_ylim(0, 1.15 * ax.get_ylim()[1])
    ax.set(xlabel="mean free path", ylabel="relative L2 error (%)")
    plotting.reference(ax, y=100 * paper)
    plotting.legend(fig)
    return fig
