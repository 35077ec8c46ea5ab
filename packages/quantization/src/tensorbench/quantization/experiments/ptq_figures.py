"""Figures of ``classify_ptq``."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from tensorbench.core import plotting
from tensorbench.core import records as rec
from tensorbench.quantization.front import pareto_places

SHOWN = "hessian"  # the sensitivity whose configs stand for a guided search where one has to
TARGET = 0.99
ORDERS = {"quant_error": "quant. error", "noise": "noise", "hessian": "Hessian", "loss": "loss", "sqnr": "SQNR",
          "size": "size", "random": "random"}  # fmt: skip
LOWEST = 88.0  # accuracy (%) below which configs are not drawn


def _kept(records: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """By dataset and method, what the first seed kept of its configs."""
    kept: dict[str, dict[str, Any]] = {}
    for row in rec.artifacts(records, "configs.json").itertuples():
        kept.setdefault(row.dataset, {})[row.method] = json.loads(row.path.read_text(encoding="utf-8"))
    return kept


def _nothing() -> Figure:
    fig, ax = plotting.figure(columns=2)
    plotting.empty(ax)
    return fig


def _found(one: dict[str, Any], target: float) -> dict[str, Any] | None:
    names = {f["metric"] for f in one["found"]}
    shown = SHOWN if SHOWN in names else next(iter(names))
    return next((f for f in one["found"] if f["metric"] == shown and f["target"] == target), None)


def front(records: pd.DataFrame) -> Figure:
    """Validation accuracy against relative bytes: every config visited, the front, and what methods returned."""
    kept = _kept(records)
    if not kept:
        return _nothing()
    fig, axes = plotting.figure(columns=2, cols=len(kept), height=7, squeeze=False, sharey=True)
    for ax, (dataset, methods) in zip(axes[0], kept.items(), strict=True):
        points = np.array([p for one in methods.values() for p in one["visited"]], dtype=float)
        points[:, 1] *= 100
        ax.plot(*points.T, ".", color="#B8B8B8", markersize=2.5, label="visited", zorder=1, rasterized=True)
        line = points[pareto_places(map(tuple, points))]
        ax.step(*line.T, where="post", color="#444444", linewidth=0.9, label="front of those", zorder=2)
        start = points[np.argmax(points[:, 0]), 1]
        plotting.reference(ax, y=100 * TARGET * start / 100, text="target 99 %")
        for name, one in methods.items():
            if (best := _found(one, TARGET)) is not None:
                look = plotting.style(name) | {"linestyle": "none"}
                ax.plot(best["cost"], 100 * best["valid"], markersize=6, markeredgecolor="white", markeredgewidth=0.6,
                        zorder=4 if name == "bisection" else 3, **look)  # fmt: skip
        ax.set(title=plotting.label(dataset), xlabel="bytes of weights, relative to 16 bits", ylim=(LOWEST, 99))
    axes[0, 0].set_ylabel("validation accuracy (%)")
    plotting.legend(fig)
    return fig


def layers(records: pd.DataFrame) -> Figure:
    """Bits of every layer of the configs found at 99 %."""
    kept = _kept(records)
    if not kept:
        return _nothing()
    fig, axes = plotting.figure(columns=2, rows=len(kept), height=5 * len(kept) + 0.8, squeeze=False)
    for ax, (dataset, methods) in zip(axes[:, 0], kept.items(), strict=True):
        chosen = {name: best for name, one in methods.items() if (best := _found(one, TARGET)) is not None}
        names = next(iter(methods.values()))["layers"]
        for name, dashes in (("uniform", "--"), ("uniform_any", ":")):
            if (same := chosen.pop(name, None)) is not None:
                look = {"color": plotting.style(name)["color"], "linewidth": 0.9, "linestyle": dashes}
                ax.axhline(same["config"][names[0]], label=plotting.label(name), zorder=1.5, **look)
        width = 0.8 / max(1, len(chosen))
        for k, (name, best) in enumerate(chosen.items()):
            at = np.arange(len(names)) + (k - (len(chosen) - 1) / 2) * width
            look = plotting.style(name)
            ax.bar(at, [best["config"][n] for n in names], 0.92 * width, color=look["color"], label=look["label"])
        texts = [n.replace("blocks.", "").replace("attention.", "") for n in names]
        if all(text.isdigit() for text in texts):
            texts = [f"linear {k + 1}" for k in range(len(texts))]
        ax.set_xticks(range(len(names)), texts, rotation=30, ha="right", rotation_mode="anchor")
        ax.set(title=plotting.label(dataset), ylabel="bits", yticks=(0, 2, 4, 8, 16))
        ax.grid(False, axis="x")
    plotting.legend(fig)
    return fig


def orders(records: pd.DataFrame) -> Figure:
    """Evaluations of both searches, and what they end at along every order."""
    guided = records[records["method"].isin(["bisection", "greedy"])] if len(records) else records
    metrics = [m for m in ORDERS if f"cost_{m}" in guided.columns]
    if guided.empty or not metrics:
        return _nothing()
    fig, (left, right) = plotting.figure(columns=2, cols=2, height=7.5, gridspec_kw={"width_ratios": [1, 1.5]})
    counts = rec.history(guided, "evaluations")
    counts = counts.groupby(["dataset", "method", "seed"], as_index=False)["value"].mean()
    plotting.bars(left, counts.rename(columns={"value": "evaluations"}), "evaluations", log=True)
    plotting.log_axis(left, "y", ticks=(5, 10, 20, 40, 80))
    left.set_ylabel("evaluations of one search")
    frames = [rec.history(guided, f"cost_{m}").assign(order=ORDERS[m]) for m in metrics]
    costs = pd.concat(frames).groupby(["order", "method", "seed"], as_index=False, sort=False)["value"].mean()
    plotting.bars(right, costs.rename(columns={"value": "cost"}), "cost", group="order")
    right.set_ylabel("bytes relative to 16 bits")
    right.set_xlabel("order of the layers")
    plotting.legend(fig)
    return fig
