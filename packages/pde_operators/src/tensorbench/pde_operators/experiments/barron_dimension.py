"""-Δu + u + a u³ = f on tori of two to ten dimensions, by the flow on sparse trigonometric functions. Steps are d.

The flow stops once ‖(I - Δ)^{-1} DE(u)‖ in H1 is at most ``eps``; as D²E ≥ I - Δ here, the H1 error is then at most
``eps`` too. What is left out on the way (small terms, a cap, small pairs in products) is summed as Fourier mass Σ|c|;
``certificate_fine`` is the same number with ten times smaller pairs counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from tensorbench.core import plotting
from tensorbench.core import records as rec
from tensorbench.core.run import Run
from tensorbench.core.timing import measure
from tensorbench.pde_operators.barron import rates
from tensorbench.pde_operators.barron.descent import descend_sparse
from tensorbench.pde_operators.barron.tensor_grid import torus_differences, torus_values
from tensorbench.pde_operators.datasets.barron import torus_problem


def sparse_flow(
    run: Run,
    family: dict,
    *,
    dims: list[int],
    eta: float,
    eps: float,
    steps: int,
    relative: float,
    most: int,
    drop: float,
) -> None:
    """Norm, terms and steps in each dimension, and what the closed forms say."""
    for d in run.progress(dims, desc="dimensions"):
        problem = torus_problem(d, **family, drop=drop)
        with measure() as cost:
            flow = descend_sparse(problem, eta, steps, relative=relative, most=most, tolerance=eps)
        finer, _ = torus_problem(d, **family, drop=drop / 10).operator(flow.solution)
        fine = (finer - problem.source).inverse_shifted_laplacian().h1_norm()
        lower, upper = problem.energy.bounds(flow.largest)
        promise = rates.rates(lower, upper, rates.poincare_constant("torus", d, 2 * np.pi))
        B = rates.polynomial_bound(3, [1.0, 1.0, family["cubic"]], d)
        run.log(
            step=d, barron=flow.solution.barron_norm(), terms=flow.solution.terms, flow_steps=flow.steps,
            certificate=flow.certificate[-1], certificate_fine=fine, pruned_mass=sum(flow.pruned_mass),
            mass=flow.solution.mass(),
            flow_seconds=cost.seconds, source_barron=problem.source.barron_norm(), band=flow.solution.band_limit,
            upper=upper, eta_promised=promise.eta, log10_headline=rates.log10_headline(eps, d, B, 3),
        )  # fmt: skip
    run.log(reached=bool(all(value <= eps for name, _, value in run.history if name == "certificate")))


def tensor_grid(
    run: Run,
    family: dict,
    *,
    dims: list[int],
    eta: float,
    n: int,
    swept: list[int],
    eps: float,
    relative: float,
    most: int,
) -> None:
    """Finite differences on n^d points where they can be had; their number in all dimensions."""
    for d in swept:
        run.log(step=d, unknowns=float(n) ** d)
    for d in dims:
        problem = torus_problem(d, **family, drop=1e-8)
        flow = descend_sparse(problem, eta, 100, relative=relative, most=most, tolerance=eps)
        with measure() as cost:
            u, steps = torus_differences(problem.source, n, reaction=1.0, quartic=family["cubic"] / 4, eta=eta)
        truth = torus_values(flow.solution, n)
        error = float(np.linalg.norm(u - truth) / np.linalg.norm(truth))
        run.log(step=d, grid_error=error, grid_seconds=cost.seconds, grid_steps=steps)


METHODS: dict[str, Callable[..., None]] = {"sparse_flow": sparse_flow, "tensor_grid": tensor_grid}


def run(run: Run) -> None:
    """All dimensions by one method."""
    METHODS[run.method.uses](run, run.dataset.load(run.seed), **run.method.params)


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Terms and Barron norm against the dimension."""
    fig, axes = plotting.figure(columns=2, cols=2, height=6.8)
    looks = plotting.styles(list(pd.unique(records["dataset"])) if len(records) else [])
    for ax, metric, text in ((axes[0], "terms", "terms, unknowns"), (axes[1], "barron", "Barron norm")):
        plotting.log_axis(ax, "y")
        plotting.log_axis(ax, "x", ticks=(2, 3, 4, 6, 8, 10))
        for name, look in looks.items():
            rows = records[(records["dataset"] == name) & (records["method"] == "sparse_flow")]
            if rows.empty:
                continue
            points = rec.history(rows, metric).sort_values("step")
            ax.plot(points["step"], points["value"], **look)
        ax.set(xlabel="dimension d", ylabel=text)
    if len(records) and (grid := records[records["method"] == "tensor_grid"]).size:
        points = rec.history(grid.head(1), "unknowns").sort_values("step")
        label = "tensor grid, 16 points an axis"
        axes[0].plot(points["step"], points["value"], color="#222222", linestyle="--", marker="D", label=label)
    rows = records[records["method"] == "sparse_flow"] if len(records) else records
    if len(rows):
        points = rec.history(rows.head(1), "barron").sort_values("step")
        first = points.iloc[0]
        limits = axes[1].get_ylim()
        d, start = np.array([2.0, 10.0]), float(first["value"])
        axes[1].plot(d, start * (d / 2) ** 3, color="#222222", linestyle="-.", linewidth=0.9, label="slope 3")
        axes[1].set_ylim(limits[0], 2 * limits[1])
        plotting.guide(axes[1], 1, through=(float(first["step"]), float(first["value"])), text="slope 1")
    plotting.legend(fig)
    yield "dimension", fig
