"""Coordinate checks of four parametrisations under sign and Adam, exponents beside their predictions, a closed form.

Exponents are fitted for each seed over the widths. The steps of histories ``<rule>_<layer>_change`` are widths; the
changes are those after the last training step.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F

from tensorbench.core import plotting
from tensorbench.core import records as rec
from tensorbench.core.run import Run
from tensorbench.optimizers import widths as scaling
from tensorbench.optimizers.tasks.images import prepare
from tensorbench.optimizers.tensor_programs import abcd, limits, updates
from tensorbench.optimizers.tensor_programs.models import AbcdMLP, abcd_param_groups

LAYERS = ("input", "hidden", "output")
RULES: dict[str, updates.EntrywiseUpdate] = {"sign": updates.Sign(), "adam": updates.Adam()}


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def width(
    run: Run,
    *,
    preset: str,
    c: float | None = None,
    widths: tuple[int, ...] = (128, 256, 512, 1024),
    base: int = 128,
    steps: int = 3,
    lr: float = 0.001,
    batch: int = 64,
    closed_width: int = 8192,
) -> None:
    """Exponents of a preset, and its first sign step against the closed form where it has one."""
    images = prepare(run.dataset.load(run.seed))
    x, y = (part[:batch] for part in images.train)
    x, probe = x.flatten(1), images.valid[0][:batch].flatten(1)
    scheme = abcd.preset(preset, 3, **({} if c is None else {"c": c}))
    expected = dict(zip(LAYERS, abcd.classify(scheme).features, strict=True))
    names = {f"layers.{k}": name for k, name in enumerate(LAYERS)}
    for rule_name, rule in RULES.items():

        def optimizer(model: nn.Module, rule: updates.EntrywiseUpdate = rule) -> updates.Entrywise:
            return updates.Entrywise(abcd_param_groups(model, lr), rule)

        check = scaling.coordinate_check(
            lambda size, generator: AbcdMLP(x.shape[1], size, 10, scheme, generator, base=base),
            widths,
            scaling.steps_of(optimizer, loss, (x, y)),
            scaling.layer_outputs(probe, list(names)),
            steps=steps,
            seeds=[run.seed],
        )
        last = check[check["step"] == steps].assign(layer=lambda frame: frame["layer"].map(names))
        fitted = scaling.fit_exponents(last).set_index("layer")["exponent"]
        for size, layer, change in zip(last["width"], last["layer"], last["change"], strict=True):
            run.log(step=int(size), **{f"{rule_name}_{layer}_change": float(change)})
        gaps = {name: abs(float(fitted[name]) - expected[name]) for name in LAYERS}
        run.log(**{f"{rule_name}_{name}": float(fitted[name]) for name in LAYERS})
        run.log(**{f"{rule_name}_gap": max(gaps.values())})
    run.log(**{f"expected_{name}": expected[name] for name in LAYERS})
    if preset in ("mup_adam", "ntp_adam"):
        closed_form(run, preset, closed_width)


def closed_form(run: Run, preset: str, size: int, lr: float = 0.01) -> None:
    """One hidden linear layer, unit Gaussian weights, one sample with a positive error."""
    x = torch.tensor([[1.0, -2.0, 0.5, 0.3, -0.7, 1.2, 0.1, -0.4]])
    problem = limits.Problem(x, torch.tensor([[-20.0]]), x[:0])
    arch = limits.Arch(x.shape[1], 1, 1, "linear", (1.0, 1.0))
    f = limits.finite_run(
        arch, problem, updates.Sign(), abcd.preset(preset, 2), width=size, lr=lr, steps=1, generator=run.generator
    )
    expected = -lr * math.sqrt(2 / math.pi) * float(x.abs().sum() + x.norm())
    run.log(closed_form_error=abs(float(f[1] - f[0]) / expected - 1))


METHODS = {"width": width}


def run(run: Run) -> None:
    """All rules at all widths."""
    METHODS[run.method.uses](run, **run.method.params)


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Changes against the width, fitted against predicted exponents."""
    yield "growth", _growth(records)
    yield "exponents", _exponents(records)


def _growth(records: pd.DataFrame) -> Figure:
    fig, axes = plotting.figure(columns=2, cols=3, height=6.4)
    for ax, layer in zip(axes, LAYERS, strict=True):
        ax.set_title(f"{layer} layer" if layer != "output" else "output")
        frame = rec.history(records, f"adam_{layer}_change") if len(records) else pd.DataFrame()
        if frame.empty:
            plotting.empty(ax)
            continue
        plotting.log_axis(ax, "y")
        plotting.log_axis(ax, "x", ticks=sorted(frame["step"].unique()))
        plotting.series(ax, frame, "step", "value")
        start = frame["step"].min()
        low, high = frame["step"].min(), frame["step"].max()
        at = float(np.exp(np.log(frame.loc[frame["step"] == start, "value"]).mean()))
        for slope in sorted(set(records[f"expected_{layer}"].dropna())):
            ax.plot(
                [low, high], [at, at * (high / low) ** slope], color="#555555", linestyle=":", linewidth=0.9, zorder=1
            )
        ax.set(xlabel="width", ylabel="RMS change" if layer == "input" else "")
    plotting.legend(fig)
    return fig


def _exponents(records: pd.DataFrame) -> Figure:
    fig, axes = plotting.figure(columns=2, cols=2, height=6.6, sharey=True)
    for ax, rule in zip(axes, RULES, strict=True):
        ax.set_title({"sign": "sign", "adam": "Adam"}[rule])
        if not len(records):
            plotting.empty(ax)
            continue
        ends = (-1.7, 0.8)
        ax.plot(ends, ends, color="#888888", linewidth=0.8, linestyle=(0, (4, 2)), zorder=1)
        for place, (name, part) in enumerate(records.groupby("method", sort=False)):
            look = plotting.style(str(name))
            for layer in LAYERS:
                interval = plotting_interval(part[f"{rule}_{layer}"])
                at = float(part[f"expected_{layer}"].iloc[0]) + 0.035 * (place - 1.5)
                ax.errorbar(at, interval[0], yerr=interval[1], color=look["color"], marker=look["marker"], capsize=2,
                            linestyle="none", label=look["label"], elinewidth=1)  # fmt: skip
        ax.set(xlabel="predicted exponent", ylabel="fitted exponent" if rule == "sign" else "", xlim=ends, ylim=ends)
    plotting.legend(fig)
    return fig


def plotting_interval(values: pd.Series) -> tuple[float, float]:
    """Mean and half width of the 95 % interval (0 for a single value)."""
    from tensorbench.core.claims.statistics import mean_interval

    found = mean_interval(values.to_numpy())
    return found.mean, 0.0 if found.high is None else found.high - found.mean
