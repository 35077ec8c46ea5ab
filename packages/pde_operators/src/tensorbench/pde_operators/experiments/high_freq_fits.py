"""What the experiments on high-frequency equations fit: Gaussian processes, physics-informed networks, and grids.

Every function takes a problem and returns a :class:`Fit`. ``valid_residual``, by which settings are chosen, knows
nothing of the solution: the root mean square of the equation's residual at points that were not fitted, over that of
the source, plus the same of the boundary values.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tensorbench.core.errors import unknown
from tensorbench.core.training import History
from tensorbench.pde_operators.baselines.grid_collocation import solve_on_grid
from tensorbench.pde_operators.datasets.high_frequency import HighFrequencyProblem
from tensorbench.pde_operators.gp_high_freq.problem import on_grid
from tensorbench.pde_operators.gp_high_freq.solver import GPHMSolver
from tensorbench.pde_operators.kernels import MixtureKernel, plain
from tensorbench.pde_operators.pinn import networks
from tensorbench.pde_operators.pinn.samplers import Box, boundary, interior
from tensorbench.pde_operators.pinn.training import AdaptiveWeight, Points, residual, train_pinn

TEST_POINTS = {1: 300, 2: 100, 3: 30}  # in each coordinate; 300 is the reference's
VALID_POINTS = 500


@dataclass
class Fit:
    """A solved problem: values on any grid, seconds, (seconds, error) on the way, residual where nothing was fitted."""

    predict: Callable[[Sequence[np.ndarray]], np.ndarray]
    seconds: float
    curve: list[tuple[float, float]] = field(default_factory=list)
    valid_residual: float = float("nan")
    solver: GPHMSolver | None = None
    steps: int = 0
    diverged: bool = False


def testing_axes(item: HighFrequencyProblem) -> list[np.ndarray]:
    """Equispaced test coordinates with both ends."""
    return [np.linspace(0, item.length, TEST_POINTS[item.dimension])] * item.dimension


def relative_error(item: HighFrequencyProblem, predicted: np.ndarray) -> float:
    """Relative L2 error on the grid of the test axes."""
    truth = item.problem.solution(*np.meshgrid(*testing_axes(item), indexing="ij"))
    return float(np.linalg.norm(predicted - truth) / np.linalg.norm(truth))


def fit_gp(
    item: HighFrequencyProblem,
    seed: int,
    *,
    radial: str = "matern52",
    mixture: bool = True,
    algorithm: str = "exact",
    components: int = 30,
    steps: int = 200,
    lr: float = 0.05,
    boundary_weight: float = 200.0,
    weights: str = "log",
    prior: str = "jeffreys",
    change_point: float = 0.5,
    newton_steps: int = 2,
    cg_steps: int = 300,
    points: int | None = None,
    plane_steps: int | None = None,
    evaluations: int = 8,
) -> Fit:
    """GP-HM, or a plain kernel (``mixture=False``), by ``exact`` inner solves or the ``paper``'s descent on everything.

    ``two_stage`` uses exact inner solves; the last ``1 - change_point`` of its steps fit a second process with a
    Matérn kernel. In more than one coordinate ``plane_steps`` are the steps, and the inner solves are conjugate
    gradients of at most ``cg_steps`` products. Nothing is random.
    """
    if algorithm not in ("exact", "paper", "two_stage"):
        raise ValueError(unknown("algorithm", algorithm, ["exact", "paper", "two_stage"]))
    if item.dimension > 1 and plane_steps is not None:
        steps = plane_steps
    problem = on_grid(item.problem, [points or item.points] * item.dimension, item.length)

    def kernel() -> MixtureKernel:
        if not mixture:
            return plain(radial)
        return MixtureKernel(components, radial=radial, freq_scale=item.freq_scale, weights=weights, prior=prior)

    inner = "dense" if item.dimension == 1 else "cg"
    solver = GPHMSolver(
        problem, [kernel() for _ in problem.shape], boundary_weight=boundary_weight, inner=inner,
        newton_steps=newton_steps, cg_steps=cg_steps, tolerance=1e-6,
    )  # fmt: skip

    def predict(axes: Sequence[np.ndarray], index: tuple[int, ...] | None = None) -> np.ndarray:
        return solver.predict([torch.as_tensor(a, dtype=torch.float64) for a in axes], index).numpy()

    def evaluate(_: GPHMSolver) -> dict[str, float]:
        return {"error": relative_error(item, predict(testing_axes(item)))}

    first = round(change_point * steps) if algorithm == "two_stage" else steps
    histories = [_run_gp(solver, algorithm, first, lr, evaluate, evaluations)]
    if algorithm == "two_stage":
        solver.refine([plain("matern52") for _ in problem.shape])
        histories.append(_run_gp(solver, algorithm, steps - first, lr, evaluate, evaluations))
    curve, before = [], 0.0
    for history in histories:
        curve += [(before + history.seconds * k / history.steps, m["error"]) for k, m in history.evaluations]
        before += history.seconds
    axes = [np.linspace(0, item.length, 2 * n - 1)[1::2] for n in problem.shape]  # between the collocation points
    found = {i: predict(axes, i) for i in item.problem.pde.operators}
    mesh = np.meshgrid(*axes, indexing="ij")
    source = item.problem.source(*mesh)
    inside = item.problem.pde.residual(found, source, mesh)
    edge = (predict([a.numpy() for a in problem.axes]))[problem.boundary.numpy()] - problem.values.numpy()
    return Fit(
        predict, before, curve, _judge(inside, source, edge, problem.values.numpy()), solver,
        sum(h.steps for h in histories), any(h.diverged for h in histories),
    )  # fmt: skip


def _run_gp(solver: GPHMSolver, algorithm: str, steps: int, lr: float, evaluate: Any, evaluations: int) -> History:
    how = solver.fit if algorithm == "paper" else solver.fit_exact
    return how(steps, lr, evaluate=evaluate, evaluate_every=max(1, steps // max(1, evaluations)))


def fit_pinn(
    item: HighFrequencyProblem,
    seed: int,
    *,
    network: str = "mlp",
    steps: int = 2000,
    plane_steps: int | None = None,
    lr: float = 1e-3,
    hidden: int = 64,
    depth: int = 3,
    batch: int = 256,
    boundary_batch: int = 16,
    weight: float | str = 1.0,
    scales: Sequence[float] = (1.0, 20.0),
    omega: float = 30.0,
    evaluations: int = 8,
) -> Fit:
    """A physics-informed network on fresh random points in every step, learning rate falling by a cosine.

    The residual is divided by the root mean square of the source, the boundary error by that of the boundary values, so
    that ``weight`` means the same for every problem; ``adaptive`` balances gradients.
    """
    generator = torch.Generator().manual_seed(seed)
    d, box = item.dimension, Box((0.0,) * item.dimension, (item.length,) * item.dimension)
    sizes: dict[str, Any] = {"hidden": hidden, "depth": depth, "generator": generator}
    if network == "mlp":
        model: nn.Module = networks.MLP(d, box=(box.low, box.high), **sizes)
    elif network == "fourier":
        model = networks.FourierNet(d, scales=scales, **sizes)
    elif network == "siren":
        model = networks.Siren(d, box=(box.low, box.high), omega=omega, **sizes)
    else:
        raise ValueError(unknown("network", network, ["mlp", "fourier", "siren"]))
    if d > 1 and plane_steps is not None:
        steps = plane_steps
    source, solution = item.problem.source, item.problem.solution
    probe = interior(box, VALID_POINTS, torch.Generator().manual_seed(seed + 1), sampling="sobol")
    edge = boundary(box, 50, generator)
    values = solution(*edge.T).float()
    scale, edge_scale = _rms(source(*probe.T)), _rms(values)

    def batches() -> Iterator[Points]:
        while True:
            x, b = interior(box, batch, generator), boundary(box, boundary_batch, generator)
            yield Points(x, source(*x.T), b, solution(*b.T))

    axes = testing_axes(item)
    mesh = torch.as_tensor(np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, d), dtype=torch.float32)

    def on(points: Tensor) -> np.ndarray:
        with torch.no_grad():
            return model(points).reshape(-1).double().numpy()

    def evaluate(_: nn.Module) -> dict[str, float]:
        return {"error": relative_error(item, on(mesh).reshape([len(a) for a in axes]))}

    balance = AdaptiveWeight() if weight == "adaptive" else float(weight) / edge_scale**2
    started = time.perf_counter()
    history = train_pinn(
        item.problem.pde, model, batches(), steps=steps, lr=lr, weight=balance, schedule="cosine",
        residual_scale=scale, evaluate=evaluate, evaluate_every=max(1, steps // max(1, evaluations)),
    )  # fmt: skip
    if history.seconds <= 0:
        history.seconds = time.perf_counter() - started
    left = residual(item.problem.pde, model, probe, source(*probe.T)).detach().numpy()

    def predict(axes: Sequence[np.ndarray]) -> np.ndarray:
        points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
        return on(torch.as_tensor(points.reshape(-1, d), dtype=torch.float32)).reshape(points.shape[:-1])

    curve = [(history.seconds * k / history.steps, m["error"]) for k, m in history.evaluations]
    judged = _judge(left, source(*probe.T).numpy(), on(edge) - values.numpy(), values.numpy())
    return Fit(predict, history.seconds, curve, judged, steps=history.steps, diverged=history.diverged)


def fit_grid(item: HighFrequencyProblem, seed: int, *, kind: str, points: int | None = None) -> Fit:
    """Chebyshev collocation or finite differences with as many points as the Gaussian process has."""
    started = time.perf_counter()
    n = points or item.points
    found = solve_on_grid(item.problem, [n] * item.dimension, [item.length] * item.dimension, kind)
    seconds = time.perf_counter() - started
    error = relative_error(item, found(testing_axes(item)))
    return Fit(found, seconds, [(seconds, error)], steps=found.newton_steps)


METHODS: dict[str, Callable[..., Fit]] = {"gp": fit_gp, "pinn": fit_pinn, "grid": fit_grid}


def _rms(values: Tensor) -> float:
    return max(float(values.double().square().mean().sqrt()), 1e-3)


def _judge(inside: np.ndarray, source: np.ndarray, edge: np.ndarray, values: np.ndarray) -> float:
    """Relative residual of the equation plus that of the boundary values."""

    def rms(v: np.ndarray) -> float:
        return float(np.sqrt(np.mean(np.square(v, dtype=np.float64))))

    return rms(inside) / max(rms(source), 1e-3) + rms(edge) / max(rms(values), 1e-3)
