"""Four small tasks trained with recipes of few-bit products.

The name of the dataset says which model of ``tasks`` learns it. All methods of a seed start from the same weights and
see the same batches, with AdamW and a cosine schedule at one learning rate for each task, chosen before any recipe
was run. Nothing is tuned. ``overhead`` is the operations that the recipe adds, over those of the products of the
quantised layers; ``bits_per_operation`` the traffic of their operands. First and last layers stay in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from tensorbench.core import plotting
from tensorbench.core.claims.statistics import mean_interval
from tensorbench.core.data.shared import LabelledImages, TokenText
from tensorbench.core.run import Run
from tensorbench.quantization.datasets.fp4 import Rows
from tensorbench.quantization.fp4.overhead import pareto
from tensorbench.quantization.fp4.recipes import Recipe
from tensorbench.quantization.fp4.simulator import (
    Task,
    char_lm_task,
    classify_task,
    diffusion_task,
    regression_task,
    simulate,
)
from tensorbench.quantization.layers import GemmSpec
from tensorbench.quantization.recipes import RECIPES

NOT_FP4 = ("fp32", "bf16", "mxfp8")
ORDER = (
    "bf16",
    "mxfp8",
    "mxfp4",
    "e4m3",
    "ue5m3",
    "ue5m3_held",
    "tensor",
    "tensor_sr",
    "tensor_h",
    "combined",
    "tensor_dge",
)


def _regression(data: Rows, seed: int) -> Task:
    return regression_task(data.features, data.targets, data.valid_features, data.valid_targets, seed)


def _classify(data: LabelledImages, seed: int) -> Task:
    return classify_task(data.train_images, data.train_labels, data.valid_images, data.valid_labels, seed)


def _diffusion(data: LabelledImages, seed: int) -> Task:
    return diffusion_task(data.train_images, data.valid_images, seed)


def _char_lm(data: TokenText, seed: int) -> Task:
    return char_lm_task(data.train, data.valid, len(data.vocabulary), seed)


TASKS: dict[str, Callable[[Any, int], Task]] = {
    "regression": _regression,
    "classify": _classify,
    "diffusion": _diffusion,
    "char_lm": _char_lm,
}
METHODS: dict[str, Callable[..., Recipe | GemmSpec | None]] = {
    "fp32": lambda: None,
    "bf16": lambda: RECIPES["bf16"],
    "recipe": Recipe,
}


def run(run: Run) -> None:
    """Train, evaluate, count."""
    options = dict(run.method.params)
    steps = options.pop("steps")[run.dataset.name]
    recipe = METHODS[run.method.uses](**options)
    task = TASKS[run.dataset.name](run.dataset.load(run.seed), run.seed)
    with run.time("train"):
        out = simulate(task, recipe, steps=steps, seed=run.seed, progress=run.progress)
    tail = max(1, steps // 10)
    run.log(
        **out.metrics,
        train_loss=float(np.mean(out.losses[-tail:])),
        overhead=out.cost.relative,
        bits_per_operation=out.cost.bits / out.cost.gemm_operations,
        diverged=float(out.diverged),
    )


# --- claims -------------------------------------------------------------------


def _losses(records: pd.DataFrame) -> pd.DataFrame:
    """Validation loss by (dataset, seed) and method."""
    return records.pivot_table(index=["dataset", "seed"], columns="method", values="valid_loss")


def _no_worse(records: pd.DataFrame, of: str, over: str, sign: float = 1.0) -> list[float]:
    """For each seed the tasks on which the loss of ``of`` is at most that of ``over`` plus ``sign`` float32 spreads."""
    table = _losses(records)
    spread = table["fp32"].groupby(level="dataset").std()
    excess = table[of] - table[over] - sign * table.index.get_level_values("dataset").map(spread).to_numpy()
    return (excess <= 0).groupby(level="seed").sum().astype(float).tolist()


def tasks_combination(records: pd.DataFrame) -> list[float]:
    """Tasks on which the combination is no worse than plain E4M3."""
    return _no_worse(records, "combined", "e4m3")


def tasks_over_tensor(records: pd.DataFrame) -> list[float]:
    """Tasks on which the combination is no worse than tensor scaling alone."""
    return _no_worse(records, "combined", "tensor")


def tasks_ue5m3(records: pd.DataFrame) -> list[float]:
    """Tasks on which UE5M3 alone is no worse than E4M3 with the tensor's scale."""
    return _no_worse(records, "ue5m3", "tensor")


def _no_worse_paired(records: pd.DataFrame, of: str, over: str, share: float = 0.25) -> list[float]:
    """For each seed the tasks on which ``of`` exceeds ``over`` by at most a share of the mean gap of ``over``."""
    table = _losses(records)
    gap = (table[over] - table["fp32"]).groupby(level="dataset").mean().clip(lower=0)
    margin = share * table.index.get_level_values("dataset").map(gap).to_numpy()
    return (table[of] - table[over] <= margin).groupby(level="seed").sum().astype(float).tolist()


def tasks_over_tensor_paired(records: pd.DataFrame) -> list[float]:
    """Tasks on which the combination is no worse than tensor scaling alone, by a margin smaller than its gap."""
    return _no_worse_paired(records, "combined", "tensor")


def tasks_ue5m3_paired(records: pd.DataFrame) -> list[float]:
    """Tasks on which UE5M3 alone is no worse than tensor scaling, by a margin smaller than its gap."""
    return _no_worse_paired(records, "ue5m3", "tensor")


def tasks_scale_format(records: pd.DataFrame) -> list[float]:
    """Tasks on which UE5M3 is better than plain E4M3 by a spread or more."""
    return _no_worse(records, "ue5m3", "e4m3", sign=-1.0)


def combination_on_front(records: pd.DataFrame) -> list[float]:
    """For each seed 1 where the combination is on the Pareto front of the four-bit recipes, else 0."""
    table = _losses(records)
    gap = table.sub(table["fp32"], axis=0).div(table["fp32"], axis=0).groupby(level="seed").mean()
    cost = records.groupby("method")["overhead"].mean()
    recipes = [name for name in gap.columns if name not in NOT_FP4]
    return [
        float("combined" in pareto({name: (float(cost[name]), float(row[name])) for name in recipes}))
        for _, row in gap.iterrows()
    ]


# --- figures ------------------------------------------------------------------


def _gaps(records: pd.DataFrame) -> pd.DataFrame:
    """Excess over float32 of the same seed, in per cent of float32's mean loss on the task."""
    table = _losses(records)
    base = table["fp32"].groupby(level="dataset").transform("mean")
    return 100 * table.sub(table["fp32"], axis=0).div(base, axis=0)


def _interval(values: pd.Series) -> tuple[float, float]:
    """Mean and half width; zero width for a single seed."""
    values = values.dropna()
    if len(values) < 2:
        return (float(values.mean()) if len(values) else np.nan), 0.0
    interval = mean_interval(values.to_numpy())
    return interval.mean, interval.high - interval.mean


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Loss gap against overhead, and the effect of each choice."""
    ready = len(records) > 0 and "fp32" in set(records["method"])
    yield "pareto", _pareto(records) if ready else plotting.nothing()
    yield "effects", _effects(records) if ready else plotting.nothing()


def _tasks(records: pd.DataFrame) -> list[str]:
    present = set(records["dataset"])
    return [name for name in TASKS if name in present]


def _pareto(records: pd.DataFrame) -> Figure:
    gaps, tasks = _gaps(records), _tasks(records)
    cost = records.groupby(["dataset", "method"])["overhead"].mean()
    columns = min(2, len(tasks))
    rows = -(-len(tasks) // columns)
    fig, axes = plotting.figure(columns=2, rows=rows, cols=columns, height=2.0 + 5.0 * rows)
    base = records[records["method"] == "fp32"].groupby("dataset")["valid_loss"]
    for ax, task in zip(np.atleast_1d(axes).flat, tasks, strict=False):
        group = base.get_group(task)
        if len(group) > 1:
            band = 200 * float(group.sem() / group.mean())
            ax.axhspan(-band, band, color="#EEEEEE", zorder=0)
        ax.axhline(0, color="#888888", linewidth=0.7)
        points = {}
        for method in [name for name in ORDER if name in gaps.columns]:
            mean, half = _interval(gaps.loc[task][method])
            if np.isnan(mean):
                continue
            look = plotting.style(method)
            ax.errorbar(100 * cost[task, method], mean, yerr=half, color=look["color"], marker=look["marker"],
                        linestyle="", elinewidth=0.8, capsize=1.5, label=look["label"])  # fmt: skip
            if method not in NOT_FP4:
                points[method] = (100 * float(cost[task, method]), mean)
        front = [points[name] for name in pareto(points)]
        ax.plot(*zip(*front, strict=True), color="#BBBBBB", linewidth=0.8, zorder=1)
        ax.set_yscale("symlog", linthresh=1.0)
        ax.set(
            title=plotting.label(task), xlabel="operations added (% of the products')", ylabel="loss over float32 (%)"
        )
    plotting.legend(fig)
    return fig


EFFECTS: dict[str, list[tuple[str, str]]] = {
    "tensor scale (E4M3)": [("e4m3", "tensor")],
    "UE5M3 for E4M3": [("e4m3", "ue5m3")],
    "E8M0, block 32\nfor UE5M3, block 16": [("ue5m3", "mxfp4")],
    "stochastic rounding": [("tensor", "tensor_sr"), ("tensor_h", "combined")],
    "Hadamard transform": [("tensor", "tensor_h"), ("tensor_sr", "combined")],
    "DGE, scale gradient": [("tensor", "tensor_dge")],
}


def _effects(records: pd.DataFrame) -> Figure:
    gaps, tasks = _gaps(records), _tasks(records)
    fig, ax = plotting.figure(columns=2, height=8.5)
    looks = plotting.styles(tasks)
    known = {name: pairs for name, pairs in EFFECTS.items() if all({a, b} <= set(gaps.columns) for a, b in pairs)}
    if not known:
        plotting.empty(ax)
        return fig
    ax.axvline(0, color="#888888", linewidth=0.7)
    for place, pairs in enumerate(known.values()):
        for shift, task in enumerate(tasks):
            part = gaps.loc[task]
            effect = sum((part[after] - part[before]) for before, after in pairs) / len(pairs)
            mean, half = _interval(effect)
            look = looks[task]
            height = place + 0.18 * (shift - (len(tasks) - 1) / 2)
            ax.errorbar(mean, height, xerr=half, color=look["color"], marker=look["marker"], linestyle="",
                        elinewidth=0.8, capsize=1.5, label=look["label"])  # fmt: skip
    ax.set_yticks(range(len(known)), list(known))
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    ax.set_xscale("symlog", linthresh=1.0)
    ax.set_xlabel("change of the validation loss (% of float32's)")
    plotting.legend(fig)
    return fig
