"""Which precisions for the layers of a trained classifier: guided search against fixed widths and other allocations.

The steps of the histories are targets in per cent of the accuracy with all layers at 16 bits, measured on the
validation samples that a search sees; the test samples are looked at once, with what it returns. A metric's name ends
in the sensitivity that ordered the layers (``bits_noise``); without an ending it is the mean over the paper's three,
or the method's one config. ``cost`` is bytes of weights relative to 16 bits, ``bitops`` multiply-accumulates times
both widths, ``energy`` that of the multiply-accumulates on integer circuits of these widths, also relative to 16 bits.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from tensorbench.core import records as rec
from tensorbench.core.run import Run
from tensorbench.quantization.ent.mac_energy import mac_joules
from tensorbench.quantization.experiments import ptq_figures
from tensorbench.quantization.ptq import search
from tensorbench.quantization.ptq.calibrate import calibrate, refine_scales
from tensorbench.quantization.ptq.cost import bit_operations, energy, mean_weight_bits, model_bytes, relative
from tensorbench.quantization.ptq.folding import fold_batch_norm
from tensorbench.quantization.ptq.journal import Journal
from tensorbench.quantization.ptq.sensitivity import METRICS, Scores, order_by, sensitivity
from tensorbench.quantization.ptq.wrap import QuantModel
from tensorbench.quantization.tasks.classifiers import Task

PAPER = ("quant_error", "noise", "hessian")
GUIDED = (*PAPER, "loss", "sqnr")  # those that look at the model; "size" and "random" are controls
SCORED = 128  # samples that sensitivities look at
BATCH = 250


class Bench:
    """A calibrated model, its accuracies, and the costs of its configs."""

    def __init__(self, task: Task, options: dict[str, Any], extra: tuple[str, ...] = ()) -> None:
        self.bits = tuple(options["bits"])
        self.task = task
        x, y = (part[: options["samples"]] for part in task.train)
        self.scored = (x[:SCORED], y[:SCORED])
        self.plain = fold_batch_norm(task.model)  # in float32
        self.model = QuantModel.wrap(self.plain, x[:1], (16, *self.bits, *extra))
        calibrate(self.model, [x], options.get("observer", "max"))
        loader = list(zip(x.split(32), y.split(32), strict=True))
        for b in self.bits:
            with self.model.at(b):
                refine_scales(self.model, loader, lr=options["refine_lr"])
        self.layers = self.model.layers()
        self.joules = {b: mac_joules(b) for b in (16, *self.bits)}  # of a multiply-accumulate
        self.seconds = 0.0  # within evaluate
        self.reference_test = self.test(self.uniform(16))

    def evaluate(self, config: dict[str, Any]) -> float:
        """Validation accuracy."""
        start = time.perf_counter()
        with self.model.at(config):
            accuracy = accuracy_of(self.model, *self.task.valid)
        self.seconds += time.perf_counter() - start
        return accuracy

    def test(self, config: dict[str, Any]) -> float:
        with self.model.at(config):
            return accuracy_of(self.model, *self.task.test)

    def cost(self, config: dict[str, Any]) -> float:
        return relative(model_bytes, self.layers, config)

    def energy(self, config: dict[str, Any]) -> float:
        return relative(partial(energy, mac_joules=self.joules), self.layers, config)

    def uniform(self, precision: int | str) -> dict[str, Any]:
        return dict.fromkeys(self.model.names, precision)


def accuracy_of(model: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, y: torch.Tensor) -> float:
    """Share of samples whose largest output is their label's."""
    with torch.inference_mode():
        right = sum(int((model(a).argmax(1) == b).sum()) for a, b in zip(x.split(BATCH), y.split(BATCH), strict=True))
    return right / len(y)


def search_guided(find: Callable[..., search.SearchResult], bench: Bench, run: Run, orders: dict[str, Scores]) -> None:
    """One of the paper's searches along every order (repeated random ones are averaged) to every target."""
    journal = Journal()
    found: list[dict[str, Any]] = []
    for target in run.method.params["targets"]:
        rows: dict[str, list[dict[str, float]]] = {}
        for name, scores in orders.items():
            order = order_by(scores, bench.bits)
            result = find(order, bench.bits, target, bench.evaluate, journal=journal)
            metric = name.split("@")[0]
            rows.setdefault(metric, []).append(_row(bench, result))
            found.append({"metric": metric, "target": target, "config": result.config, **rows[metric][-1]})
        _log(run, target, {metric: _mean(one) for metric, one in rows.items()})
    _keep(run, bench, journal, found)


def _mean(rows: list[dict[str, float]]) -> dict[str, float]:
    """Of several orders of one kind; the guarantee and the margin are those of the worst."""
    return {key: float((min if key in ("meets", "margin") else np.mean)([row[key] for row in rows])) for key in rows[0]}


def _row(bench: Bench, result: search.SearchResult) -> dict[str, float]:
    test = bench.test(result.config)
    return {
        "bits": mean_weight_bits(bench.layers, result.config),
        "cost": bench.cost(result.config),
        "bitops": relative(bit_operations, bench.layers, result.config),
        "energy": bench.energy(result.config),
        "evaluations": float(result.evaluations),
        "valid": result.accuracy,
        "test": test,
        "meets": float(result.accuracy >= result.threshold),
        "margin": 100 * (test / bench.reference_test - result.target),
    }


def _log(run: Run, target: float, means: dict[str, dict[str, float]]) -> None:
    step = 100 * target
    for metric, row in means.items():
        run.log(step=step, **{f"{key}_{metric}": row[key] for key in ("bits", "cost", "bitops", "evaluations", "test")})
    own = [means[m] for m in PAPER if m in means] or list(means.values())
    shown = ("bits", "cost", "bitops", "energy", "evaluations", "valid", "test")
    run.log(step=step, **{key: float(np.mean([row[key] for row in own])) for key in shown})
    met = all(row["meets"] == 1 for row in means.values())
    margin = min(row["margin"] for row in means.values())
    run.log(
        meets_target=met and bool(run.metrics.get("meets_target", True)),
        worst_margin=min(margin, run.metrics.get("worst_margin", math.inf)),
    )


def _keep(run: Run, bench: Bench, journal: Journal, found: list[dict[str, Any]]) -> None:
    """What the figures need, of the first seed."""
    if run.seed == 0:
        visited = [[bench.cost(e.config), e.accuracy] for e in journal.evaluations]
        text = json.dumps({"layers": list(bench.model.names), "visited": visited, "found": found,
                           "weights": [layer.weights for layer in bench.layers]})  # fmt: skip
        run.artifact("configs.json").write_text(text, encoding="utf-8")


def _orders(bench: Bench, run: Run) -> dict[str, Scores]:
    """Scores by metric; random ones as ``random@0``, ``random@1``, … (each averaged as one order)."""
    orders: dict[str, Scores] = {}
    for metric in run.method.params["metrics"]:
        repeats = run.method.params["random_orders"] if metric == "random" else 1
        for k in range(repeats):
            generator = torch.Generator().manual_seed(1000 * run.seed + 10 * list(METRICS).index(metric) + k)
            with run.time(f"scores_{metric}"):
                scores = sensitivity(metric, bench.model, bench.scored, bench.bits, generator=generator)
            orders[f"{metric}@{k}"] = scores
    return orders


def run_guided(bench: Bench, run: Run) -> None:
    """Bisection or greedy search along every order."""
    orders = _orders(bench, run)
    find = search.bisection_search if run.method.uses == "bisection" else search.greedy_search
    with run.time("search"):
        search_guided(find, bench, run, orders)


def run_single(bench: Bench, run: Run) -> None:
    """Uniform widths, HAWQ's linear programme, or all configs from the cheapest on."""
    journal = Journal()
    found: list[dict[str, Any]] = []
    names = bench.model.names
    if run.method.uses == "ilp":
        generator = torch.Generator().manual_seed(1000 * run.seed)
        scores = sensitivity("hessian", bench.model, bench.scored, bench.bits, generator=generator)
    results = []
    with run.time("search"):
        for target in run.method.params["targets"]:
            common = (target, bench.evaluate)
            if run.method.uses == "ilp":
                result = search.ilp_search(
                    scores, bench.bits, *common, bench.cost, journal=journal, trials=run.method.params["trials"]
                )
            elif run.method.uses == "exhaustive":
                result = search.exhaustive(names, bench.bits, *common, bench.cost, journal=journal)
            else:
                result = search.uniform_search(names, bench.bits, *common, journal=journal)
            results.append(result)
    for result in results:
        row = _row(bench, result)
        found.append({"metric": run.method.uses, "target": result.target, "config": result.config, **row})
        _log(run, result.target, {run.method.uses: row})
    if run.method.uses == "uniform":
        for b in (16, *bench.bits):
            run.log(step=b, width_valid=bench.evaluate(bench.uniform(b)), width_test=bench.test(bench.uniform(b)))
        run.log(float_test=accuracy_of(bench.task.model, *bench.task.test))
    _keep(run, bench, journal, found)


def run_fixed(bench: Bench, run: Run) -> None:
    """Block formats everywhere, and torchao's weight-only integers: test accuracy, and bits of a weight."""
    for name in run.method.params["formats"]:
        config = bench.uniform(name)
        run.log(**{f"bits_{name}": mean_weight_bits(bench.layers, config), f"test_{name}": bench.test(config),
                   f"valid_{name}": bench.evaluate(config)})  # fmt: skip
    from tensorbench.quantization.ptq.torchao_weights import weight_only

    for b in (8, 4):
        model, share = weight_only(fold_batch_norm(bench.task.model), b)
        run.log(**{f"test_torchao_int{b}": accuracy_of(model, *bench.task.test),
                   f"valid_torchao_int{b}": accuracy_of(model, *bench.task.valid),
                   f"quantised_share_torchao_int{b}": share})  # fmt: skip


METHODS = {
    "bisection": run_guided,
    "greedy": run_guided,
    "uniform": run_single,
    "ilp": run_single,
    "exhaustive": run_single,
    "fixed": run_fixed,
}


def run(run: Run) -> None:
    """Calibrate, search, look at the test samples once."""
    options = dict(run.method.params)
    bench = Bench(run.dataset.load(run.seed), options, tuple(options.get("formats", ())))
    METHODS[run.method.uses](bench, run)


def _costs(records: pd.DataFrame, metrics: tuple[str, ...]) -> pd.DataFrame:
    """Logarithm of ``cost_<metric>``: a row per seed, dataset and target, a column per metric."""
    columns = {}
    for metric in metrics:
        points = rec.history(records, f"cost_{metric}").set_index(["seed", "dataset", "step"])
        columns[metric] = np.log(points["value"].astype(float))
    return pd.DataFrame(columns).sort_index()


def best_over_random(records: pd.DataFrame) -> np.ndarray:
    """Cost along the best of the informed orders over that along random ones, per seed; mean over datasets and targets.

    The best is chosen on the other seeds: chosen on the same, the luckiest of five would pass for the best.
    """
    table = _costs(records, (*GUIDED, "random")).groupby(level="seed").mean()
    if len(table) < 2:
        return np.full(len(table), np.nan)
    ratios = []
    for seed, row in table.iterrows():
        best = table.drop(index=seed)[list(GUIDED)].mean().idxmin()
        ratios.append(float(np.exp(row[best] - row["random"])))
    return np.array(ratios)


def spread(records: pd.DataFrame) -> np.ndarray:
    """Largest cost over the informed orders divided by the smallest of one model and target; mean of those per seed."""
    table = _costs(records, GUIDED)
    gap = table.max(axis=1) - table.min(axis=1)
    return np.exp(gap.groupby(level="seed").mean()).to_numpy()


def least_margin(records: pd.DataFrame) -> np.ndarray:
    """The worst margin on test samples over all models, per seed."""
    return records.groupby("seed")["worst_margin"].min().sort_index().to_numpy(dtype=float)


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Accuracy against cost, the bits of every layer, evaluations and costs by order."""
    yield "front", ptq_figures.front(records)
    yield "layers", ptq_figures.layers(records)
    yield "orders", ptq_figures.orders(records)
