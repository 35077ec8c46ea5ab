"""The figures of ``nested_thresholds``: theory as lines, simulations as markers with 95 % intervals over seeds."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tensorbench.core import plotting
from tensorbench.core import records as rec
from tensorbench.core.claims.statistics import mean_interval
from tensorbench.decomposition.spiked import spectra, tensor_theory
from tensorbench.decomposition.spiked import unfolding_theory as theory
from tensorbench.decomposition.spiked.accuracy_theory import PREDICTIONS, tensor_accuracy, unfolding_accuracy

BAR = "#C9D9E8"
GAP_DIMS = (150, 300, 60)  # where no record says the sizes: those of the paper's clustering figure


def _history(records: pd.DataFrame, metric: str, dataset: str) -> pd.DataFrame:
    history = rec.history(records, metric)
    return history[history["dataset"] == dataset] if len(history) else history


def _markers(ax: Axes, history: pd.DataFrame, method: str, shift: float = 1.0, **look: object) -> None:
    """Means over seeds with 95 % intervals, at `shift` times the step; no line unless the look has one."""
    points = history[history["method"] == method] if len(history) else history
    if points.empty:
        return
    shown = plotting.style(method) | {"linestyle": "none", "elinewidth": 0.7, "markersize": 3.5} | look
    steps, means, below, above = [], [], [], []
    for step in np.unique(points["step"].to_numpy(dtype=float)):
        interval = mean_interval(points["value"].to_numpy(dtype=float)[points["step"] == step])
        steps.append(shift * step)
        means.append(interval.mean)
        below.append(0.0 if interval.low is None else interval.mean - interval.low)
        above.append(0.0 if interval.high is None else interval.high - interval.mean)
    ax.errorbar(steps, means, yerr=[below, above], **shown)  # type: ignore[arg-type]


def spectrum(records: pd.DataFrame) -> Figure:
    """Eigenvalues of both unfoldings at the largest size."""
    fig, axes = plotting.figure(columns=2, cols=2, height=6.2)
    kept = rec.artifacts(records, "eigenvalues.npz")
    if kept.empty:
        for ax in axes:
            plotting.empty(ax)
        return fig
    with np.load(kept["path"].iloc[0]) as stored:
        values = {name: stored[name] for name in stored.files}
    largest = max(int(name.split("_")[1]) for name in values)
    sizes = _parameter(records, "spectrum", "sizes")
    dims = next(tuple(size) for size in sizes if sum(size) == largest)
    row = records[records["dataset"] == "spectrum"].iloc[0]
    second = theory.SecondUnfolding(dims, float(row["dataset.beta_M"]), float(row["dataset.rho"]))
    third = theory.ThirdUnfolding(4.0)
    for ax, law, name, title in (
        (axes[0], second, "second", rf"second unfolding, $\beta_M = {second.beta_M:g}$, $\rho = {second.rho:g}$"),
        (axes[1], third, "third", r"third unfolding, $\beta_M = 3$, $\varrho = 4$"),
    ):
        found = values[f"{name}_{largest}"]
        shown = spectra.histogram(found, law)
        ax.bar(shown.edges[:-1], shown.heights, np.diff(shown.edges), align="edge", color=BAR, edgecolor="white",
               linewidth=0.3, label="eigenvalues")  # fmt: skip
        low, high = law.support[0][0], law.support[-1][1]
        line = np.linspace(low, high, 400)
        ax.plot(line, law.density(line), color="#0072B2", label="limiting density")
        top = 1.15 * float(shown.heights.max())
        ax.plot(found, np.full(len(found), -0.03 * top), "|", color="#555555", markersize=3, markeredgewidth=0.5)
        ax.axvline(law.spike, color="#D55E00", linestyle="--", linewidth=1, label="predicted spike")
        ax.plot(
            found[-1:], [0], "o", color="#D55E00", markersize=5, clip_on=False, label="largest eigenvalue", zorder=5
        )
        ax.set(title=title, xlabel="rescaled eigenvalue", ylim=(-0.06 * top, top))
        ax.grid(False)
    axes[0].set_ylabel("density")
    plotting.legend(fig)
    return fig


def _parameter(records: pd.DataFrame, dataset: str, name: str) -> list:
    return list(records[records["dataset"] == dataset][f"dataset.{name}"].iloc[0])


def phase_diagram(records: pd.DataFrame) -> Figure:
    """Predicted and simulated alignment with y, and the curve above which it is positive."""
    fig, axes = plotting.figure(columns=2, cols=2, height=7.2, sharey=True)
    paths = list(rec.artifacts(records, "grid.npz")["path"])
    if not paths:
        for ax in axes:
            plotting.empty(ax)
        return fig
    grids = []
    for path in paths:
        with np.load(path) as stored:
            grids.append({name: stored[name] for name in stored.files})
    axis, dims = grids[0]["axis"], tuple(grids[0]["dims"])
    found = np.mean([grid["found"] for grid in grids], axis=0)
    fine = np.linspace(axis[0] / 2, axis[-1] + axis[0] / 2, 300)
    smooth = theory.SecondUnfolding(dims, fine[None, :], fine[:, None]).alignment
    line = np.linspace(theory.threshold_beta_M(dims) * (1 + 1e-6), fine[-1], 500)
    for ax, image, edges, title in (
        (axes[0], smooth, fine, "limit"),
        (axes[1], found, axis, f"simulated, {dims[0]} × {dims[1]} × {dims[2]}"),
    ):
        mesh = ax.pcolormesh(edges, edges, image, vmin=0, vmax=1, cmap="viridis", shading="nearest", rasterized=True)
        ax.plot(line, theory.threshold_rho(dims, line), color="white", linewidth=1.4, label=r"threshold $\zeta = 0$")
        ax.axvline(theory.threshold_beta_M(dims), color="white", linewidth=1, linestyle=":",
                   label=r"threshold of $M$ itself")  # fmt: skip
        ax.set(title=title, xlabel=r"$\beta_M$", xlim=(fine[0], fine[-1]), ylim=(fine[0], fine[-1]))
        ax.grid(False)
    axes[0].set_ylabel(r"$\rho$")
    fig.colorbar(mesh, ax=list(axes), label="squared alignment with y", aspect=30, pad=0.02)
    box = plotting.legend(axes[1], loc="upper right", labelcolor="white", fontsize=7.5, frameon=True, framealpha=0.45)
    if box is not None:
        box.get_frame().set(facecolor="black", edgecolor="none")
    return fig


# Starts of the rank-one approximation: place, colour and marker, distinct from those of what is drawn beside them.
STARTS = {
    "unfolding": (0.97, "#009E73", "o", "rank one, from the unfoldings"),
    "truth": (1.0, "#404040", "x", "rank one, from the truth"),
    "random": (1.03, "#CC79A7", "v", "rank one, from random vectors"),
    "two_step": (1.06, "#E69F00", "D", "two-step estimate"),
}


def transition(records: pd.DataFrame) -> Figure:
    """Alignment across the threshold of the unfolding."""
    fig, ax = plotting.figure(columns=2, height=7.4)
    rows = records[records["dataset"] == "transition"] if len(records) else records
    if rows.empty:
        plotting.empty(ax)
        return fig
    dims, beta_M = tuple(_parameter(records, "transition", "sizes")[0]), float(rows["dataset.beta_M"].iloc[0])
    threshold = float(theory.threshold_rho(dims, beta_M))
    ratios = np.geomspace(0.18, 4.2, 120)
    ax.plot(ratios, theory.SecondUnfolding(dims, beta_M, ratios * threshold).alignment, color="#0072B2",
            label="unfolding, limit")  # fmt: skip
    per_square = float(theory.rho_from_beta(dims, 1.0))
    limits = [tensor_theory.solve(dims, beta_M, float(np.sqrt(r * threshold / per_square))).q_y[0] ** 2 for r in ratios]
    ax.plot(ratios, limits, color="#009E73", linestyle="--", label="rank one, limit")
    _markers(ax, _history(records, "alignment", "transition"), "unfolding", color="#0072B2", marker="s",
             label="unfolding")  # fmt: skip
    for name, (shift, colour, marker, text) in STARTS.items():
        history = _history(records, f"{name}_alignment", "transition")
        _markers(ax, history, "rank_one", shift, color=colour, marker=marker, label=text)
    plotting.log_axis(ax, "x", ticks=[0.2, 0.4, 0.6, 1, 1.5, 2.5, 4])
    plotting.reference(ax, x=1)
    ax.set(xlabel=r"strength $\rho$ over the threshold of the unfolding", ylabel="squared alignment with y")
    ax.set(ylim=(-0.03, 0.95))
    plotting.legend(fig, ncols=4)
    return fig


SHOWN = {"unfolding": "unfolding", "rank_one": "rank one", "weighted_mean": "weighted mean (oracle)"}


def accuracy(records: pd.DataFrame) -> Figure:
    """Clustering accuracy over |mu| for weak and strong gains."""
    fig, axes = plotting.figure(columns=2, cols=2, height=7.8, sharey=True)
    rows = records[records["dataset"] == "multiview"] if len(records) else records
    dims = _dims(rows)
    line = np.linspace(0.01, 5, 250)
    for ax, h, metric in ((axes[0], 0.5, "accuracy_weak"), (axes[1], 1.5, "accuracy_strong")):
        history = _history(records, metric, "multiview")
        ax.set(title=f"|h| = {h:g}", xlabel="|μ|")
        if history.empty:
            plotting.empty(ax)
            continue
        for name, text in SHOWN.items():
            look = plotting.style(name)
            ax.plot(line, PREDICTIONS[name](dims, line, h), color=look["color"], linewidth=1.2, label=f"{text}, limit")
        for name in ("unfolding", "rank_one", "two_step", "weighted_mean", "kmeans", "spectral", "parafac"):
            few = name in ("kmeans", "spectral", "parafac")
            look = {"markersize": 6, "markerfacecolor": "none"} if few else {"markersize": 3, "alpha": 0.8}
            _markers(ax, history, name, **look)
    axes[0].set_ylabel("accuracy")
    axes[0].set_ylim(0.48, 1.02)
    plotting.legend(fig, ncols=4)
    return fig


def _dims(rows: pd.DataFrame) -> tuple[int, int, int]:
    if rows.empty or "dataset.p" not in rows:
        return GAP_DIMS
    p, n, m = (int(rows[f"dataset.{name}"].iloc[0]) for name in "pnm")
    return p, n, m


def gap(records: pd.DataFrame) -> Figure:
    """Predicted accuracy of the best rank-one approximation minus that of the unfolding."""
    fig, ax = plotting.figure(height=7.0)
    rows = records[records["dataset"] == "multiview"] if len(records) else records
    dims = _dims(rows)
    mu, gains = np.linspace(0.05, 5, 100), np.linspace(0.2, 2, 60)
    difference = np.array([tensor_accuracy(dims, mu, h) - unfolding_accuracy(dims, mu, h) for h in gains])
    mesh = ax.pcolormesh(mu, gains, 100 * difference, cmap="magma", vmin=0, vmax=50, shading="nearest", rasterized=True)
    edges = [tensor_theory.threshold_beta_M(dims, h) for h in gains]
    ax.plot(edges, gains, color="white", linewidth=1.2, label="threshold, rank one")
    per_square = float(theory.rho_from_beta(dims, 1.0))
    reach = np.linspace(theory.threshold_beta_M(dims) * (1 + 1e-6), 5, 400)
    needed = np.sqrt(theory.threshold_rho(dims, reach) / per_square)
    ax.plot(reach, needed, color="white", linewidth=1.2, linestyle="--", label="threshold, unfolding")
    fig.colorbar(mesh, ax=ax, label="gap in accuracy (points)")
    ax.set(xlabel="|μ|", ylabel="|h|", xlim=(mu[0], mu[-1]), ylim=(gains[0], gains[-1]))
    ax.grid(False)
    plotting.legend(ax, loc="upper right", labelcolor="white", fontsize=7.5)
    return fig


def finite_size(records: pd.DataFrame) -> Figure:
    """How fast simulations approach the limits."""
    fig, ax = plotting.figure(height=7.0)
    plotted = False
    looks = plotting.styles(["distance", "spike_error", "alignment_error"])
    names = {
        "distance": "Kolmogorov distance",
        "spike_error": "relative error of the spike",
        "alignment_error": "error of the alignment",
    }
    steps: list[float] = []
    for metric, text in names.items():
        history = _history(records, metric, "spectrum")
        if history.empty:
            continue
        plotted = True
        means = history.groupby("step")["value"].mean()
        steps = sorted(means.index)
        ax.plot(means.index, means, **(looks[metric] | {"label": text}))
    if not plotted:
        plotting.empty(ax)
        return fig
    plotting.log_axis(ax, "xy")
    plotting.log_axis(ax, "x", ticks=steps)
    ax.set(xlabel=r"size $n_1 + n_2 + n_3$", ylabel="mean distance from the limit")
    if len(steps) > 1:
        history = _history(records, "distance", "spectrum")
        first = history[history["step"] == steps[0]]["value"].mean()
        plotting.guide(ax, -1.0, through=(steps[0], float(first)))
    plotting.legend(ax)
    return fig


def digits(records: pd.DataFrame) -> Figure:
    """Accuracy on noisy views of two digits."""
    fig, ax = plotting.figure(columns=2, height=6.8)
    history = _history(records, "digits_accuracy", "multiview")
    if history.empty:
        plotting.empty(ax)
        return fig
    for name in ("weighted_mean", "two_step", "rank_one", "parafac", "unfolding", "kmeans", "spectral"):
        _markers(ax, history, name, linestyle=plotting.style(name)["linestyle"], linewidth=1.1)
    plotting.log_axis(ax, "x", ticks=sorted(history["step"].unique()))
    ax.set(xlabel="strength of the digits (noise of variance 1 / (p + n + m))", ylabel="accuracy")
    plotting.legend(fig, ncols=4)
    return fig
