"""How strongly, and at which batch size: a residual network under norm loss, weight decay and other regularisers.

A run trains a network for every factor and batch size of its method. The steps of ``error_<batch>`` are factors (test
error, a share); regularisers without a factor have the one step 1. ``range``, ``spread`` and ``mean_error`` are over
the whole grid, in percentage points; ``best_error`` is the test error of the cell with the best validation error. A
network that diverged counts as wrong as one that always says the same.

With ``measure`` the row norms are followed: ``deviation`` is the mean of ||w| − 1| over all rows of convolutions and
``mean_norm`` the mean of |w|, of the last cell.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from tensorbench.core import plotting
from tensorbench.core import records as rec
from tensorbench.core.run import Run
from tensorbench.core.training import fit
from tensorbench.optimizers.norm_loss import effective_learning_rates, norm_loss, row_norm_stats
from tensorbench.optimizers.tasks import images
from tensorbench.optimizers.weight_regularizers import KINDS, create

METHODS = KINDS
CHANCE = 0.9  # error of a network that gives one answer
BATCHES = (32, 128, 512)


def decay(used: float) -> float:
    """A tenth of the learning rate in the last third, as the paper's step decay in its shape."""
    return 1.0 if used < 2 / 3 else 0.1


def train_cell(run: Run, data: images.Images, factor: float, batch: int) -> dict[str, float]:
    """One network: errors, and the state of its rows."""
    options = run.method.params
    generator = run.generator
    network = images.resnet8(generator, options["width"], options["norm"], data.classes)
    started = row_norm_stats(network)
    regulariser = create(run.method.uses, network, factor, generator=torch.Generator().manual_seed(run.seed))
    optimizer = torch.optim.SGD(network.parameters(), options["lr"], momentum=0.9, nesterov=True)
    steps = max(1, round(options["epochs"] * len(data.train[0]) / batch))
    every = options.get("measure")

    def loss(model: torch.nn.Module, samples: images.Part) -> torch.Tensor:
        value, penalty = images.loss(model, samples), regulariser.penalty()
        return value if penalty is None else value + penalty

    def after(step: int, _: float) -> None:
        regulariser.after_step(optimizer.param_groups[0]["lr"])
        if every and step % every == 0:
            run.log(step=step, **rows(network))
            rates = effective_learning_rates(network, optimizer.param_groups[0]["lr"])
            run.log(step=step, effective_rate=math.exp(np.mean(np.log(list(rates.values())))))

    if every:
        run.log(step=0, **rows(network))
        with torch.no_grad():
            for name in started:
                weight = network.get_parameter(f"{name}.weight")
                run.log(**{f"initial_loss_{name}": float(norm_loss([weight], 1.0))})
    history = fit(
        network, images.batches(data.train, generator, batch), loss, optimizer, steps=steps, schedule=decay,
        callback=after,
    )  # fmt: skip
    found = {"error": CHANCE, "valid": CHANCE, "diverged": float(history.diverged)}
    if not history.diverged and all(bool(torch.isfinite(p).all()) for p in network.parameters()):
        found |= {"error": images.measure(network, data.test)[1], "valid": images.measure(network, data.valid)[1]}
    return found | rows(network)


def rows(network: torch.nn.Module) -> dict[str, float]:
    """Of all rows of convolutions together."""
    kernels = [m.weight.detach().flatten(1) for m in network.modules() if isinstance(m, torch.nn.Conv2d)]
    norms = torch.cat([w.norm(dim=1) for w in kernels])
    return {"deviation": float((norms - 1).abs().mean()), "mean_norm": float(norms.mean())}


def run(run: Run) -> None:
    """The grid of one method."""
    options = run.method.params
    loaded = run.dataset.load(run.seed)
    count = min(options["train"], len(loaded.train_images))
    data = images.prepare(loaded, halve=run.dataset.name != "digits", train=count)
    cells = []
    grid = [(factor, batch) for batch in options["batches"] for factor in options["factors"]]
    for factor, batch in run.progress(grid, desc="cells"):
        found = train_cell(run, data, factor, batch)
        cells.append(found)
        run.log(step=factor, **{f"error_{batch}": found["error"], f"deviation_{batch}": found["deviation"]})
    errors = np.array([cell["error"] for cell in cells])
    if len(cells) > 1:
        run.log(range=100 * float(errors.max() - errors.min()), spread=100 * float(errors.std()))
    best = min(range(len(cells)), key=lambda k: (cells[k]["valid"], k))
    run.log(
        mean_error=100 * float(errors.mean()),
        best_error=100 * cells[best]["error"],
        best_factor=grid[best][0],
        best_batch=grid[best][1],
        diverged=sum(cell["diverged"] for cell in cells),
        deviation=cells[-1]["deviation"],
        mean_norm=cells[-1]["mean_norm"],
    )


def strength_range_ratio(records: pd.DataFrame) -> np.ndarray:
    """Range of the test error over factors, mean over batch sizes: norm loss over weight decay, by seed."""
    ranges: dict[str, list[pd.Series]] = {}
    for kind in ("norm_loss", "weight_decay"):
        rows = records[records["method"] == kind]
        ranges[kind] = [
            rec.history(rows, f"error_{batch}").groupby("seed")["value"].agg(lambda v: v.max() - v.min())
            for batch in BATCHES
        ]
    ours, theirs = (np.mean([r.to_numpy() for r in ranges[kind]], axis=0) for kind in ("norm_loss", "weight_decay"))
    return ours / theirs


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Heat maps of the test error, and row norms on the way."""
    yield "grid", _grid(records)
    yield "rows", _rows(records)


def _grid(records: pd.DataFrame) -> Figure:
    kinds = ("norm_loss", "weight_decay", "srip", "weight_norm", "oblique", "none")
    dataset = next((d for d in ("mnist10k", "digits") if len(records) and (records["dataset"] == d).any()), None)
    fig, axes = plotting.figure(columns=2, rows=1, cols=6, height=5.6, sharey=True, width_ratios=[4, 4, 4, 1, 1, 1])
    if dataset is None:
        plotting.empty(axes[0])
        return fig
    tables = {}
    for kind in kinds:
        rows = records[(records["method"] == kind) & (records["dataset"] == dataset)]
        lines = {b: rec.history(rows, f"error_{b}") for b in BATCHES if len(rows) and f"error_{b}" in rows.columns}
        means = {b: 100 * f.groupby("step")["value"].mean() for b, f in lines.items() if len(f)}
        if means:
            tables[kind] = pd.DataFrame(means).T.reindex(BATCHES).astype(float)
    shown = np.concatenate([t.to_numpy().ravel() for t in tables.values()]) if tables else np.array([1.0])
    low, high = float(np.nanmin(shown)), float(min(90.0, np.nanmax(shown)))
    from matplotlib.colors import LogNorm

    scale = LogNorm(max(low, 0.1), max(high, low + 0.1))
    for ax, kind in zip(axes, kinds, strict=True):
        ax.grid(False)
        ax.set_title(plotting.label(kind), fontsize=7.5)
        if kind not in tables:
            plotting.empty(ax, "–")
            continue
        table = tables[kind]
        ax.imshow(table.to_numpy(), norm=scale, cmap="viridis_r", aspect="auto")
        for (i, j), value in np.ndenumerate(table.to_numpy()):
            if math.isnan(value):
                continue
            dark = scale(value) > 0.55
            ax.text(j, i, f"{value:.1f}", ha="center", va="center", fontsize=7, color="white" if dark else "black")
        wide = table.shape[1] > 1
        ax.set_xticks(range(table.shape[1]), [f"{f:g}" if wide else "" for f in table.columns], fontsize=7)
        ax.set_yticks(range(table.shape[0]), [str(b) for b in table.index])
        if wide:
            ax.set_xlabel("factor")
    axes[0].set_ylabel("batch size")
    return fig


def _rows(records: pd.DataFrame) -> Figure:
    fig, (left, right) = plotting.figure(columns=2, cols=2)
    rows = records[records["method"].str.startswith("rows_")] if len(records) else records
    dataset = next((d for d in ("mnist10k", "digits") if len(rows) and (rows["dataset"] == d).any()), None)
    if dataset is None:
        plotting.empty(left)
        plotting.empty(right)
        return fig
    rows = rows[rows["dataset"] == dataset]
    plotting.series(left, rec.history(rows, "mean_norm"), "step", "value")
    left.set(xlabel="step", ylabel="mean norm of rows")
    plotting.reference(left, y=1.0)
    plotting.series(right, rec.history(rows, "deviation"), "step", "value", log="y")
    right.set(xlabel="step", ylabel="mean of ||w| − 1|")
    plotting.reference(right, y=0.1, text="claim: at most 0.1")
    plotting.legend(fig)
    return fig
