"""First-order MAML on five characters from one example each: linear muP networks by width, and kernel limits.

The paper's protocol but for the size: 32 tasks an outer step, the tasks' gradients added up and clipped to norm 0.5,
SGD without a schedule, inner learning rate 0.4, one step of adaptation in training and 20 in validation and test.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from tensorbench.core import plotting
from tensorbench.core import records as rec
from tensorbench.core.claims.statistics import mean_interval
from tensorbench.core.run import Run
from tensorbench.optimizers.infinite_width.few_shot_tasks import FewShotTasks
from tensorbench.optimizers.infinite_width.kernel_learners import PoolLearner, kernel_matrix
from tensorbench.optimizers.infinite_width.linear_limit import FinLinear1LP, InfLinear1LP, Linear1LP
from tensorbench.optimizers.infinite_width.maml import MAML, Outcome

WAYS, TASKS, INNER_LR, CLIP, TEST_STEPS = 5, 32, 0.4, 0.5, 20
VALID_TASKS, TEST_TASKS, EVERY = 500, 1000, 100
PAPER = {2: 0.553, 8: 0.645, 32: 0.662, np.inf: 0.664}  # muP on all of Omniglot


class Linear:
    """A linear network of one hidden layer, of finite or infinite width."""

    def __init__(self, parts: dict[str, FewShotTasks], run: Run, width: Any, sigma_u: float, sigma_v: float,
                 bias_alpha: float) -> None:  # fmt: skip
        pixels = parts["train"].pool.shape[1]
        net: Linear1LP
        if width == "inf":
            net = InfLinear1LP(pixels, WAYS, sigma_u, sigma_v, bias_alpha=bias_alpha)
        else:
            net = FinLinear1LP(pixels, WAYS, width, sigma_u, sigma_v, bias_alpha=bias_alpha, seed=run.generator)
        self.parts, self.learner = parts, MAML(net, INNER_LR, clip=CLIP)

    def step(self, generator: torch.Generator, lr: float) -> Outcome:
        return self.learner.step(self.parts["train"].sample(TASKS, generator), lr)

    def evaluate(self, part: str, tasks: int, generator: torch.Generator) -> Outcome:
        return self.learner.evaluate(self.parts[part].sample(tasks, generator), TEST_STEPS)


class Kernel:
    """A kernel limit, as coefficients of the training images."""

    def __init__(self, parts: dict[str, FewShotTasks], run: Run, kernel: str, **variances: float) -> None:
        # The defaults of the authors' code: all standard deviations 1.
        self.options: dict[str, Any] = {"kernel": kernel, "varw": 1.0, "varb": 1.0, "varw2": 1.0}
        self.options.update(variances)
        self.parts, self.pool = parts, parts["train"].pool
        self.model = PoolLearner(kernel_matrix(self.pool, self.pool, **self.options), WAYS)
        self.learner = MAML(self.model, INNER_LR, clip=CLIP)

    def step(self, generator: torch.Generator, lr: float) -> Outcome:
        return self.learner.step(self.parts["train"].sample_numbers(TASKS, generator), lr)

    def evaluate(self, part: str, tasks: int, generator: torch.Generator) -> Outcome:
        new = self.parts[part].pool
        within, cross = kernel_matrix(new, new, **self.options), kernel_matrix(new, self.pool, **self.options)
        moved = MAML(self.model.elsewhere(within, cross), INNER_LR)
        return moved.evaluate(self.parts[part].sample_numbers(tasks, generator), TEST_STEPS)


METHODS: dict[str, Any] = {"linear": Linear, "kernel": Kernel}


def run(run: Run) -> None:
    """Meta-train, then adapt to new characters. Methods see the same tasks in a seed."""
    data = run.dataset.load(run.seed)
    options = dict(run.method.params)
    options |= options.pop("differs", {}).get(run.dataset.name, {})
    iterations, lr = options.pop("iterations"), options.pop("meta_lr")
    if run.trial is not None and iterations > 1000:
        iterations //= 2  # of a long training half is enough to tell rates apart; a short one has not settled by then
    parts = {name: FewShotTasks(torch.from_numpy(getattr(data, name)), WAYS) for name in ("train", "valid", "test")}
    method = METHODS[run.method.uses](parts, run, **options)
    draws = torch.Generator().manual_seed(1009 * run.seed + 1)
    seen: list[Outcome] = []
    with run.time("fit"):
        for step in run.progress(range(1, iterations + 1), desc="outer step"):
            seen.append(method.step(draws, lr))
            if step % EVERY == 0 or step == iterations:
                run.log(step=step, train_accuracy=np.mean([one.accuracy for one in seen]))
                seen.clear()
    valid = method.evaluate("valid", VALID_TASKS, torch.Generator().manual_seed(1009 * run.seed + 2))
    run.log(valid_accuracy=valid.accuracy)
    if run.trial is None:
        test = method.evaluate("test", TEST_TASKS, torch.Generator().manual_seed(1009 * run.seed + 3))
        run.log(test_accuracy=test.accuracy, test_loss=test.loss)


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Accuracy against width with the kernel limits, and training curves."""
    shown = records[records["dataset"] == "omniglot"] if len(records) else records
    if not len(shown):
        shown = records
    yield "width", _width(shown)
    fig, ax = plotting.figure(height=7)
    curves = rec.history(shown, "train_accuracy") if len(shown) else pd.DataFrame()
    if curves.empty:
        plotting.empty(ax)
    else:
        plotting.series(ax, curves, "step", "value")
        ax.set(xlabel="outer steps", ylabel="accuracy on training tasks")
        plotting.legend(fig)
    yield "curves", fig


def _width(records: pd.DataFrame) -> Figure:
    fig, ax = plotting.figure(height=7.6)
    if not len(records):
        plotting.empty(ax)
        return fig
    by_method = {
        str(name): mean_interval(part["test_accuracy"].to_numpy(dtype=float))
        for name, part in records.groupby("method")
    }
    finite = sorted(int(name[4:]) for name in by_method if name.startswith("mup_") and name[4:].isdigit())
    places = {n: float(np.log2(n)) for n in finite}
    edge = max(places.values(), default=7.0) + 2.0
    for k, n in enumerate(finite):
        found = by_method[f"mup_{n}"]
        _point(ax, places[n], found, "muP" if k == 0 else None)
    if "mup_inf" in by_method:
        _point(ax, edge, by_method["mup_inf"], None if finite else "muP")
    for name in ("mup_inf", "relu_ntk", "relu_gp", "lin_ntk"):
        if name not in by_method:
            continue
        found, look = by_method[name], plotting.style(name)
        ax.axhline(found.mean, color=look["color"], linestyle=look["linestyle"], label=look["label"])
        if found.low is not None and found.high is not None:
            ax.axhspan(found.low, found.high, color=look["color"], alpha=0.12, linewidth=0)
    if finite:
        for k, (wide, value) in enumerate(PAPER.items()):
            place = edge if np.isinf(wide) else float(np.log2(wide))
            ax.plot(place, value, "o", color="#444444", markerfacecolor="none", label="paper, muP" if k == 0 else None)
    ax.axhline(1 / WAYS, color="#999999", linewidth=0.8, linestyle=":", label="chance")
    ax.set_xticks([*places.values(), edge], [*map(str, finite), "∞"])
    ax.set(xlabel="width", ylabel="accuracy on new characters")
    plotting.legend(fig)
    return fig


def _point(ax: Any, at: float, found: Any, text: str | None) -> None:
    spread = None if found.low is None else [[found.mean - found.low], [found.high - found.mean]]
    ax.errorbar([at], [found.mean], yerr=spread, color="#222222", marker="o", linestyle="none", capsize=2, label=text)
