"""Figures of ``count_tensors``. Each copes with records that are not there."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch

from tensorbench.core import plotting
from tensorbench.core import records as rec

PREDICTED = ("icews14", "icews14_new_months", "bptd_posterior", "planted")
SHOWN_ACTORS, SHOWN_NODES, SHOWN_TOPICS, SHOWN_ARROWS = 40, 12, 4, 25
SMALLEST_SHARE = 1e-4
Structure = Mapping[str, np.ndarray] | None


def prediction(records: pd.DataFrame) -> Figure:
    """Log-likelihood in excess of the independence model, a panel for each dataset."""
    shown = records[records["dataset"].isin(PREDICTED)] if len(records) else records
    datasets = list(dict.fromkeys(shown["dataset"])) if "test_loglik" in shown else []
    rows = -(-len(datasets) // 2) or 1
    fig, axes = plotting.figure(columns=2, rows=rows, cols=min(2, len(datasets)) or 1, height=6.0 * rows, squeeze=False)
    for ax in axes.flat[len(datasets) :]:
        plotting.empty(ax)
    for ax, dataset in zip(axes.flat, datasets, strict=False):
        rows = shown[shown["dataset"] == dataset]
        base = rows[rows["method"] == "independence"].set_index("seed")
        rows = rows[rows["method"] != "independence"]
        ax.set_title(plotting.label(dataset))
        if base.empty or rows.empty:
            plotting.empty(ax)
            continue
        methods = list(dict.fromkeys(rows["method"]))
        names = [plotting.label(method) for method in methods]
        for place, method in enumerate(methods):
            look = plotting.style(method)
            gain = rows[rows["method"] == method].set_index("seed")["test_loglik"] - base["test_loglik"]
            _markers(ax, gain, place, look["marker"], look["color"])
        truth = base["truth_loglik"].dropna() if "truth_loglik" in base else pd.Series(dtype=float)
        if len(truth):
            _markers(ax, truth - base["test_loglik"], len(names), "|", "black")
            names.append("true rates")
        ax.set_yticks(range(len(names)), names)
        ax.set_ylim(len(names) - 0.4, -0.6)
        ax.margins(x=0.12)
    fig.supxlabel("log-likelihood over independence (nats per event)", fontsize=9)
    return fig


def _markers(ax: Axes, values: pd.Series, place: int, marker: str, colour: str) -> None:
    shown = values.dropna()
    ax.plot(shown, np.full(len(shown), place), linestyle="none", marker=marker, color=colour, markersize=4.5, alpha=0.8)


def calibration(records: pd.DataFrame) -> Figure:
    """Events over predicted events by group of cells."""
    fig, ax = plotting.figure(columns=1, height=7.2)
    history = rec.history(records, "observed_over_predicted") if len(records) else pd.DataFrame()
    if len(history):
        dataset = "icews14" if (history["dataset"] == "icews14").any() else history["dataset"].iloc[0]
        wanted = ["bptd", "bptf", "dcgpirm", "cp_apr_20"]
        history = history[(history["dataset"] == dataset) & history["method"].isin(wanted)]
    if history.empty:
        plotting.empty(ax)
        return fig
    plotting.series(ax, history, "step", "value")
    plotting.reference(ax, y=1.0)
    ax.set(xlabel="group of cells, by predicted rate", ylabel="events / predicted events", xticks=range(1, 11))
    ax.set_ylim(bottom=0)
    plotting.legend(fig)
    return fig


def structure(records: pd.DataFrame) -> Structure:
    """The arrays that the run on ICEWS14 kept, or None."""
    kept = rec.artifacts(records, "structure.npz") if len(records) else pd.DataFrame()
    if kept.empty:
        return None
    with np.load(kept["path"].iloc[0], allow_pickle=False) as file:
        return dict(file)


def _by_size(found: Mapping[str, np.ndarray]) -> np.ndarray:
    return np.argsort(-found["tokens"].sum(axis=0), kind="stable")


def _short(name: object, letters: int) -> str:
    return textwrap.shorten(str(name), letters, placeholder=" …")


def communities(found: Structure) -> Figure:
    """Heat map, actors x communities."""
    fig, ax = plotting.figure(columns=2, height=15.0 if found is not None else 6.0)
    if found is None:
        plotting.empty(ax)
        return fig
    tokens = found["tokens"]
    active = np.argsort(-tokens.sum(axis=1), kind="stable")[:SHOWN_ACTORS]
    shares = (tokens / np.maximum(tokens.sum(axis=1, keepdims=True), 1))[active][:, _by_size(found)]
    order = np.lexsort((-shares.max(axis=1), shares.argmax(axis=1)))
    image = ax.imshow(shares[order], cmap="Blues", vmin=0, vmax=1, aspect="auto")
    ax.set_yticks(range(len(order)), [_short(found["actors"][active[n]], 36) for n in order], fontsize=7)
    ax.set_xticks(range(shares.shape[1]), [str(n + 1) for n in range(shares.shape[1])])
    ax.set_xlabel("community, by size")
    ax.grid(False)
    ax.tick_params(length=0)
    fig.colorbar(image, ax=ax, label="share of the actor's events", fraction=0.04, pad=0.02)
    return fig


def networks(found: Structure) -> Figure:
    """Communities on a circle, arrows from sender to receiver, a panel for each large topic."""
    if found is None:
        fig, ax = plotting.figure(columns=2, height=6.0)
        plotting.empty(ax)
        return fig
    by_topic = found["blocks"].sum(axis=0)  # regimes summed: (K, C, C)
    large = np.argsort(-by_topic.sum(axis=(1, 2)), kind="stable")[:SHOWN_TOPICS]
    fig, axes = plotting.figure(columns=2, rows=2, cols=2, height=12.4, squeeze=False)
    order = _by_size(found)[:SHOWN_NODES]
    tokens = found["tokens"].astype(float)
    typical = tokens**2 / np.maximum(tokens.sum(axis=1, keepdims=True), 1)  # many events, and most of them here
    who = [f"{n + 1} {_short(found['actors'][np.argmax(typical[:, c])], 24)}" for n, c in enumerate(order)]
    for ax, topic in zip(axes.flat, large, strict=False):
        _network(ax, by_topic[topic][np.ix_(order, order)] / by_topic[topic].sum(), who)
        leading = found["actions"][np.argsort(-found["topics"][:, topic], kind="stable")[:3]]
        ax.set_title("\n".join(_short(name, 52) for name in leading), fontsize=7.5, linespacing=1.0)
    for ax in axes.flat[len(large) :]:
        ax.axis("off")
    return fig


def _network(ax: Axes, flow: np.ndarray, names: Sequence[str]) -> None:
    """``flow[c, d]`` from c to d as arrows whose width grows with it; the names stand outside the circle."""
    size = len(flow)
    angle = np.pi / 2 - 2 * np.pi * np.arange(size) / size
    at = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    widest = max(flow.max(), 1e-12)
    for place in np.argsort(flow, axis=None)[::-1][:SHOWN_ARROWS]:
        c, d = divmod(int(place), size)
        if flow[c, d] <= 0.002:
            continue
        width = 0.4 + 3.6 * np.sqrt(flow[c, d] / widest)
        if c == d:
            ax.add_patch(
                Circle((1.1 * at[c][0], 1.1 * at[c][1]), 0.1, fill=False, linewidth=width, color="#D55E00", alpha=0.7)
            )
            continue
        ax.add_patch(
            FancyArrowPatch(
                tuple(at[c]),
                tuple(at[d]),
                connectionstyle="arc3,rad=0.15",
                arrowstyle="-|>",
                mutation_scale=5 + 2 * width,
                linewidth=width,
                color="#0072B2",
                alpha=0.55,
                shrinkA=4,
                shrinkB=4,
            )
        )
    ax.plot(*at.T, linestyle="none", marker="o", color="#404040", markersize=4, zorder=3)
    for (x, y), name in zip(at, names, strict=True):
        side = "left" if x > 0.15 else "right" if x < -0.15 else "center"
        ax.annotate(name, (1.28 * x, 1.28 * y), ha=side, va="center", fontsize=6.5)
    ax.set(xlim=(-2.6, 2.6), ylim=(-1.5, 1.5), aspect="equal")
    ax.axis("off")


def topics(found: Structure) -> Figure:
    """Bars of the leading actions of every topic."""
    if found is None:
        fig, ax = plotting.figure(columns=2, height=6.0)
        plotting.empty(ax)
        return fig
    share = found["blocks"].sum(axis=(0, 2, 3))
    order = np.argsort(-share, kind="stable")
    rows = -(-len(order) // 2)
    fig, axes = plotting.figure(columns=2, rows=rows, cols=2, height=2.9 * rows, squeeze=False, sharex=True)
    for n, (ax, topic) in enumerate(zip(axes.flat, order, strict=False)):
        weights = found["topics"][:, topic]
        leading = np.argsort(-weights, kind="stable")[:4]
        ax.barh(range(4), weights[leading], color=plotting.styles(map(str, order))[str(topic)]["color"], height=0.7)
        ax.set_yticks(range(4), [_short(found["actions"][a], 38) for a in leading], fontsize=6.5)
        ax.invert_yaxis()
        ax.set_title(f"topic {n + 1}: {share[topic] / share.sum():.0%} of events", loc="left")
        ax.grid(False, axis="y")
        ax.tick_params(axis="y", length=0)
    for ax in axes.flat[len(order) :]:
        ax.axis("off")
    fig.supxlabel("share of the action in the topic", fontsize=9)
    return fig


def shrinkage(records: pd.DataFrame) -> Figure:
    """Sorted shares of tokens for each number of communities offered."""
    fig, ax = plotting.figure(height=6.5)
    metrics = sorted(
        {name for points in records.get("_history", []) for name in points if name.startswith("share_of_")}
    )
    if not metrics:
        plotting.empty(ax)
        return fig
    metrics.sort(key=lambda name: int(name.rpartition("_")[2]))
    histories = [rec.history(records, name).assign(offered=f"{name.rpartition('_')[2]} offered") for name in metrics]
    frame = pd.concat(histories)
    ax.set_yscale("log")
    frame["value"] = frame["value"].clip(lower=SMALLEST_SHARE)
    plotting.series(ax, frame, "step", "value", by="offered", reducer="median")
    plotting.reference(ax, y=0.01, text="1 %")
    plotting.reference(ax, x=6, text="planted")
    ax.set(xlabel="community, by size", ylabel="share of tokens", ylim=(0.8 * SMALLEST_SHARE, 1))
    plotting.legend(ax, loc="lower left")
    return fig
