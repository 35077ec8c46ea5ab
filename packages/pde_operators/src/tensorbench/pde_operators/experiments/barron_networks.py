"""How many units approximate a solution: Maurey's sampling, greedy choices, random features, and a trained network.

The steps are the numbers of units k. ``squared_error`` is the mean of (net - u)² over a period, exact for cosines; on
the square, ridge units are judged on a grid of it. ``relative_l2`` is the root mean square on random points
of the square, relative, with 256 units: what all methods are compared by. The trained network minimises the energy and
sees no values of the solution.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from tensorbench.core import plotting
from tensorbench.core import records as rec
from tensorbench.core.run import Run
from tensorbench.pde_operators.barron import networks
from tensorbench.pde_operators.datasets.barron import Target

WIDTH = 256  # of the comparison
POINTS = 4096


def _points(data: Target, stream: int, seed: int, number: int = POINTS) -> np.ndarray:
    """Random points of the unit square, or of the torus."""
    side = 1.0 if data.period == 2.0 else data.period
    return side * np.random.default_rng([seed, stream]).random((number, data.function.d))


def _judge(run: Run, data: Target, net: Callable[[np.ndarray], np.ndarray]) -> None:
    """Relative error on test points, and on others for tuning."""
    for name, stream in (("relative_l2", 1), ("valid_l2", 2)):
        x = _points(data, stream, run.seed)
        truth = data.function(x)
        run.log(**{name: float(np.linalg.norm(net(x) - truth) / np.linalg.norm(truth))})


def maurey(run: Run, data: Target, *, units: list[int], draws: int) -> None:
    """Sampled cosines: mean over the draws of the exact squared error."""
    rng = run.rng
    C = data.function.mass()
    holds = True
    for k in units:
        nets = (networks.maurey_sample(data.function, k, rng) for _ in range(draws))
        error = float(np.mean([networks.mean_square_error(net, data.function) for net in nets]))
        variance = networks.maurey_variance(data.function, k)
        holds &= error <= 4 * C**2 / k
        run.log(step=k, squared_error=error, predicted=variance, barron_bound=4 * C**2 / k)
    run.log(below_bound=holds, mass=C, barron=data.function.barron_norm(), mean_square=data.function.mean_square())
    run.log(terms=data.function.terms)
    with run.time("fit"):
        net = networks.maurey_sample(data.function, WIDTH, rng)
    _judge(run, data, net)


def greedy_cosines(run: Run, data: Target, *, units: list[int]) -> None:
    """The largest terms."""
    for k in units:
        net = networks.greedy_cosines(data.function, k)
        run.log(step=k, squared_error=networks.mean_square_error(net, data.function))
    with run.time("fit"):
        net = networks.greedy_cosines(data.function, WIDTH)
    _judge(run, data, net)


def maurey_ridge(run: Run, data: Target, *, units: list[int], draws: int, activation: str) -> None:
    """Sampled ReLU units."""
    x, rng = _grid(), run.rng
    truth = data.function(x)
    for k in units:
        nets = (networks.maurey_sample(data.function, k, rng, activation) for _ in range(draws))
        run.log(step=k, squared_error=float(np.mean([np.mean((net(x) - truth) ** 2) for net in nets])))
    with run.time("fit"):
        net = networks.maurey_sample(data.function, WIDTH, rng, activation)
    _judge(run, data, net)


def greedy_ridge(run: Run, data: Target, *, units: list[int], dictionary: int, activation: str) -> None:
    """Orthogonal greedy over a random dictionary of ReLU units, fitted to values at random points, judged at others."""
    x, grid = _points(data, 3, run.seed), _grid()
    truth, exact = data.function(x), data.function(grid)
    inner, bias = networks.ridge_dictionary(data.function, dictionary, run.rng, activation)
    with run.time("fit"):
        atoms = networks.ACTIVATIONS[activation](x @ inner.T + bias)
        found = networks.greedy_fit(atoms, truth, max(units))

    def fitted(k: int) -> networks.TwoLayerNet:
        chosen = found.chosen[:k]
        weights = np.linalg.lstsq(atoms[:, chosen], truth, rcond=None)[0]
        return networks.TwoLayerNet(inner[chosen], bias[chosen], weights, activation)

    for k in units:
        if k <= len(found.chosen):
            run.log(step=k, squared_error=float(np.mean((fitted(k)(grid) - exact) ** 2)))
    _judge(run, data, fitted(WIDTH))


def random_features(run: Run, data: Target, *, units: list[int], scale: float, ridge: float) -> None:
    """Random cosines, outer weights by ridge regression on values of the solution."""
    x = _points(data, 3, run.seed)
    truth, grid = data.function(x), _grid()
    exact = data.function(grid)
    for k in units:
        net = networks.random_features(x, truth, k, run.rng, scale=scale, ridge=ridge)
        run.log(step=k, squared_error=float(np.mean((net(grid) - exact) ** 2)))
    with run.time("fit"):
        net = networks.random_features(x, truth, WIDTH, run.rng, scale=scale, ridge=ridge)
    _judge(run, data, net)


def deep_ritz(run: Run, data: Target, *, steps: int, points: int, lr: float, spread: float) -> None:
    """A network of the same width, trained on the energy."""
    import torch

    from tensorbench.pde_operators.barron.ritz import RitzNet, train_ritz

    generator = run.generator
    net = RitzNet(2, WIDTH, generator, spread)
    ((_, quartic),) = data.energy.powers

    def source(x: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(data.source(x.detach().cpu().numpy())).to(x)

    with run.time("fit"):
        history = train_ritz(
            net, source, reaction=data.energy.reaction, quartic=quartic, steps=steps, generator=generator,
            points=points, lr=lr, log=run.log,
        )  # fmt: skip
    if history.diverged:
        run.log(relative_l2=math.nan, valid_l2=math.inf)
        return

    def evaluate(x: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return net(torch.as_tensor(x, dtype=torch.float32)).numpy().astype(float)

    run.log(squared_error=float(np.mean((evaluate(_grid()) - data.function(_grid())) ** 2)))
    _judge(run, data, evaluate)


def _grid(n: int = 64) -> np.ndarray:
    """Midpoints of n × n squares."""
    x = (np.arange(n) + 0.5) / n
    return np.stack(np.meshgrid(x, x, indexing="ij"), axis=-1).reshape(-1, 2)


METHODS: dict[str, Callable[..., None]] = {
    "maurey": maurey,
    "greedy_cosines": greedy_cosines,
    "maurey_ridge": maurey_ridge,
    "greedy_ridge": greedy_ridge,
    "random_features": random_features,
    "deep_ritz": deep_ritz,
}


def run(run: Run) -> None:
    """Approximate the target."""
    METHODS[run.method.uses](run, run.dataset.load(run.seed), **run.method.params)


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Squared error against units, on each target."""
    names = list(pd.unique(records["dataset"])) if len(records) else []
    fig, axes = plotting.figure(columns=2, cols=max(len(names), 1), height=7.2, squeeze=False)
    if not names:
        plotting.empty(axes[0, 0])
    for ax, name in zip(axes[0], names, strict=False):
        plotting.log_axis(ax, "xy")
        rows = records[records["dataset"] == name]
        history = rec.history(rows, "squared_error")
        plotting.series(ax, history[history["value"] > 1e-16], "step", "value")
        bound = rec.history(rows[rows["method"] == "maurey"], "barron_bound")
        if len(bound := bound[bound["seed"] == bound["seed"].min()]):
            ax.plot(bound["step"], bound["value"], color="#222222", linestyle="--", linewidth=0.9, label="4C²/k")
            plotting.guide(ax, -1, through=(8, float(bound["value"].max()) / 16))
        if "squared_error" in rows and len(trained := rows[rows["method"] == "deep_ritz"]):
            look = plotting.style("deep_ritz")
            ax.plot(WIDTH, trained["squared_error"].mean(), linestyle="none", marker=look["marker"], markersize=7,
                    color=look["color"], label=look["label"])  # fmt: skip
        ax.set(xlabel="units k", ylabel="mean squared error", title=plotting.label(name))
    plotting.legend(fig)
    yield "units", fig
