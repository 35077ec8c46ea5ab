"""What PSGD costs: an update in matrix products, growth with the parameters, a training step beside AdamW's.

All in one process on one thread. The steps of ``lra_seconds`` are the parameters n.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor

from tensorbench.core import plotting
from tensorbench.core import records as rec
from tensorbench.core.run import Run
from tensorbench.core.timing import compare
from tensorbench.optimizers.psgd import PSGD, Kron, LowRank
from tensorbench.optimizers.tasks import Task, characters


def run(run: Run) -> None:
    """The three parts."""
    options = run.method.params
    repeats = options["repeats"]
    with torch.no_grad():
        _products(run, options["size"], repeats)
        _growth(run, options["parameters"], options["rank"], repeats)
    _training(run, repeats)


def _products(run: Run, n: int, repeats: int) -> None:
    """An update of two dense n × n factors, alone and followed by P g, over a product of n × n matrices."""
    g = torch.randn(n, n, generator=run.generator)
    fitter = Kron((n, n), dtype=torch.float32, generator=run.generator)
    pair = [torch.randn(n, n, generator=run.generator) for _ in range(2)]

    def update_and_apply() -> Tensor:
        fitter.whiten(g)
        return fitter.apply(g)

    times = compare(
        {"update": lambda: fitter.whiten(g), "cycle": update_and_apply, "product": lambda: pair[0] @ pair[1]},
        repeats=2 * repeats, warmup=2, min_seconds=0.03,
    )  # fmt: skip
    run.log(
        product_seconds=times["product"],
        update_products=times.ratio("update", "product").value,
        cycle_products=times.ratio("cycle", "product").value,
    )


def _growth(run: Run, sizes: list[int], rank: int, repeats: int) -> None:
    jobs: dict[str, Callable[[], object]] = {}
    for n in sizes:
        v, h = (torch.randn(n, generator=run.generator) for _ in range(2))
        fitter = LowRank(n, rank, damping=1e-9, dtype=torch.float32, generator=run.generator)
        jobs[str(n)] = lambda fitter=fitter, v=v, h=h: fitter._update(v, h)  # type: ignore[misc]
    times = compare(jobs, repeats=2 * repeats, min_seconds=0.03)
    for n in sizes:
        run.log(step=n, lra_seconds=times[str(n)])


def _training(run: Run, repeats: int) -> None:
    text = run.dataset.load(run.seed)

    def optimizers(task: Task) -> Iterator[tuple[str, torch.optim.Optimizer]]:
        from pytorch_optimizer import Kron as Peer

        yield "adamw", torch.optim.AdamW(task.model.parameters(), 1e-3)
        yield "psgd", PSGD(task.model.parameters(), 1e-3, momentum=0.9, whiten_momentum=True, init_scale=1.0)
        # Its structure is PSGD's default one then: the longer mode of a matrix diagonal, both of a square one full.
        yield "peer", Peer(task.model.parameters(), 1e-3, memory_save_mode="smart_one_diag",
                           pre_conditioner_update_probability=1.0)  # fmt: skip

    steps: dict[str, Callable[[], object]] = {}
    alone: dict[str, Callable[[], object]] = {}
    for name in ("adamw", "psgd", "peer"):
        task = characters.task(text, torch.Generator().manual_seed(run.seed))
        optimizer = dict(optimizers(task))[name]
        batch = next(task.batches)

        def step(task: Task = task, optimizer: torch.optim.Optimizer = optimizer, batch: object = batch) -> None:
            optimizer.zero_grad()
            task.loss(task.model, batch).backward()
            optimizer.step()

        step()
        steps[name], alone[name] = step, optimizer.step
    whole, only = compare(steps, repeats=3 * repeats), compare(alone, repeats=3 * repeats)
    for name in steps:
        run.log(**{f"{name}_step_seconds": whole[name], f"{name}_optimizer_seconds": only[name]})
    run.log(
        step_over_adamw=whole.ratio("psgd", "adamw").value,
        optimizer_over_peer=only.ratio("psgd", "peer").value,
    )


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Growth, and the parts of a training step."""
    fig, (left, right) = plotting.figure(columns=2, cols=2, height=6)
    growth = rec.history(records, "lra_seconds") if len(records) else pd.DataFrame()
    if growth.empty:
        plotting.empty(left)
    else:
        sizes = sorted(growth["step"].unique())
        plotting.log_axis(left, "x", ticks=sizes)
        plotting.log_axis(left, "y")
        plotting.series(left, growth, "step", "value")
        start = float(growth.loc[growth["step"] == sizes[0], "value"].mean())
        left.plot(sizes, [start * n / sizes[0] for n in sizes], color="#444444", linewidth=0.9, linestyle=":",
                  label="n")  # fmt: skip
        left.set(xlabel="parameters n", ylabel="time of an update (s)", title="low rank, update")
        plotting.legend(left)
    columns = ["adamw_step_seconds", "psgd_step_seconds", "peer_step_seconds"]
    if not len(records) or not set(columns) <= set(records):
        plotting.empty(right)
    else:
        parts = {"training step": "step", "optimizer alone": "optimizer"}
        names = {"adamw": "AdamW", "psgd": "PSGD", "peer": "PSGD of pytorch_optimizer"}
        rows = [
            {"seed": row["seed"], "dataset": part, "rule": shown, "milliseconds": 1e3 * row[f"{name}_{key}_seconds"]}
            for _, row in records.iterrows() for name, shown in names.items() for part, key in parts.items()
        ]  # fmt: skip
        long = pd.DataFrame(rows)
        plotting.bars(right, long, "milliseconds", by="rule")
        right.set(ylabel="time (ms)", title="character model")
        plotting.legend(right, loc="upper right", fontsize=7)
        right.set_ylim(top=1.45 * float(long["milliseconds"].max()))
    yield "cost", fig


METHODS = {"psgd": run}
