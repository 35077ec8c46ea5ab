"""The quasi-linear network without its ball, with narrower blocks, with activations: digits.

What is measured is said in :mod:`tensorbench.pde_operators.experiments.image_classification`.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from tensorbench.core import plotting
from tensorbench.core import records as rec
from tensorbench.pde_operators.experiments.image_classification import METHODS as METHODS
from tensorbench.pde_operators.experiments.image_classification import run as run


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Accuracy and stability of the variants, and what the filters do."""
    yield "ablations", _ablations(records)
    yield "filters", _filter_orders(records)


def _ablations(records: pd.DataFrame) -> Figure:
    fig, axes = plotting.figure(columns=2, cols=2, height=6.2)
    names = list(dict.fromkeys(records["method"])) if len(records) else []
    for ax, metric, text in zip(
        axes, ("test_accuracy", "highest_loss"), ("test accuracy (%)", "highest batch loss (nats)"), strict=True
    ):
        if not names:
            plotting.empty(ax)
            continue
        for at, name in enumerate(names):
            values = records[records["method"] == name][metric].to_numpy(dtype=float) * (100 if "acc" in metric else 1)
            look = plotting.style(name)
            ax.plot(at + np.linspace(-0.2, 0.2, len(values)), values, color=look["color"], marker=look["marker"],
                    linestyle="none", alpha=0.8)  # fmt: skip
            ax.plot([at - 0.3, at + 0.3], [values.mean()] * 2, color=look["color"], linewidth=1.5)
        ax.set_xticks(range(len(names)), [plotting.label(name) for name in names], rotation=30, ha="right",
                      rotation_mode="anchor")  # fmt: skip
        ax.set_ylabel(text)
        ax.grid(False, axis="x")
    if names:
        plotting.log_axis(axes[1], "y")
    return fig


def _filter_orders(records: pd.DataFrame) -> Figure:
    fig, ax = plotting.figure(height=6.4)
    shown = records[records["method"] == "pde"] if len(records) else records
    found = {name: rec.history(shown, f"order_share_{name}") for name in ("start", "trained")} if len(shown) else {}
    if not found or found["trained"].empty:
        plotting.empty(ax)
        return fig
    looks = plotting.styles(found)
    for k, (name, history) in enumerate(found.items()):
        values = history.groupby("step")["value"].mean()
        ax.bar(values.index.to_numpy(dtype=float) + 0.36 * (k - 0.5), 100 * values.to_numpy(), 0.34,
               color=looks[name]["color"], label={"start": "at the start", "trained": "trained"}[name])  # fmt: skip
    for order, ninths in enumerate((1, 2, 3, 2, 1)):
        ax.plot([order - 0.4, order + 0.4], [100 * ninths / 9] * 2, color="#444444", linewidth=0.9, linestyle="--",
                label="white noise" if order == 0 else None)  # fmt: skip
    ax.set_xticks(range(5), ["0: value", "1: slopes", "2", "3", "4"])
    ax.set(xlabel="order of the derivative", ylabel="share of the filters' squares (%)")
    ax.grid(False, axis="x")
    plotting.legend(ax)
    return fig
