"""How fast do the solvers' errors fall with the grid and with the time step?

Every run solves one manufactured problem on growing grids with a step that is too small to matter (``space_error``, the
step of the history is the number of points a direction) and, where there is time, with growing numbers of steps on a
grid that is fine enough (``time_error``, the step is their number). Errors are relative in L². ``time_order`` is the
slope over the last three numbers of steps, ``space_order`` that over all grids; a Fourier method has no order in space,
and what is reported of it is ``space_fall``, how far the error fell from the coarsest grid to the finest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from tensorbench.core import plotting
from tensorbench.core.records import history
from tensorbench.core.run import Run
from tensorbench.core.timing import growth
from tensorbench.pde_operators.datasets.manufactured import Manufactured
from tensorbench.pde_operators.grids import grid, mesh
from tensorbench.pde_operators.solvers import burgers, darcy, heat, navier_stokes2d


def solve_own(problem: Manufactured, n: int, dt: float) -> tuple[np.ndarray, np.ndarray]:
    """The package's solver: found and exact solution at the final time."""
    bc = "neumann" if problem.equation == "darcy" else problem.bc  # both have points at the cells' centres
    x = mesh(grid(n, problem.length, bc), problem.dims)
    exact = problem.exact(problem.time, *x)
    if problem.equation == "darcy":
        assert problem.permeability is not None and problem.source is not None
        return darcy.solve(problem.permeability(0.0, *x), problem.source(0.0, *x)), exact
    initial = problem.exact(0.0, *x)
    source = problem.source
    driven = None if source is None else lambda t: source(t, *x)
    common: dict[str, Any] = {"dt": dt, "length": problem.length}
    if problem.equation == "burgers":
        return burgers.solve(initial, problem.time, viscosity=problem.coefficient, **common), exact
    if problem.equation == "heat":
        options: dict[str, Any] = {"diffusivity": problem.coefficient, "reaction": lambda u: u - u**3, "source": driven}
        return heat.solve(initial, problem.time, bc=problem.bc, **options, **common), exact
    return (
        navier_stokes2d.solve(initial, problem.time, viscosity=problem.coefficient, forcing=driven, **common),
        exact,
    )


def solve_py_pde(problem: Manufactured, n: int, dt: float) -> tuple[np.ndarray, np.ndarray]:
    """py-pde's second-order finite differences with its Runge-Kutta method, for Burgers' equation."""
    import pde

    if problem.equation != "burgers":
        raise ValueError(f"py_pde takes part in burgers alone here, not in {problem.equation}")
    cells = pde.CartesianGrid([(0.0, problem.length)], n, periodic=True)
    x = cells.axes_coords[0]

    class Burgers(pde.PDEBase):
        def evolution_rate(self, state: Any, t: float = 0) -> Any:
            slope = state.gradient("periodic", backend="scipy").data[0]
            curvature = state.laplace("periodic", backend="scipy").data
            return pde.ScalarField(state.grid, problem.coefficient * curvature - state.data * slope)

    state = pde.ScalarField(cells, problem.exact(0.0, x))
    equation: Any = Burgers()
    found = equation.solve(state, problem.time, dt=dt, backend="numpy", tracker=None, solver="runge-kutta")
    return found.data, problem.exact(problem.time, x)


METHODS: dict[str, Callable[[Manufactured, int, float], tuple[np.ndarray, np.ndarray]]] = {
    "own": solve_own,
    "py_pde": solve_py_pde,
}


def run(run: Run) -> None:
    """Errors over grids and steps, and their slopes."""
    problem: Manufactured = run.dataset.load(run.seed)
    options = dict(run.method.params)
    sizes, steps, finest = (_of(options[key], run.dataset.name) for key in ("points", "steps", "most_points"))
    solver = METHODS[run.method.uses]

    def error(n: int, count: int) -> float:
        found, exact = solver(problem, n, problem.time / count)
        return float(np.linalg.norm(found - exact) / np.linalg.norm(exact))

    many = int(options["most_steps"]) if problem.equation != "darcy" else 1
    with run.time("solve"):
        space = [error(n, many) for n in sizes]
        time = [error(finest, count) for count in steps]
    for n, value in zip(sizes, space, strict=True):
        run.log(step=n, space_error=value)
    for count, value in zip(steps, time, strict=True):
        run.log(step=count, time_error=value)
    run.log(space_fall=space[0] / space[-1])
    if run.method.uses != "own" or problem.bc != "periodic" or problem.equation == "darcy":  # else exponential
        run.log(space_order=-growth(sizes, space).exponent)
    if time:
        run.log(time_order=-growth(steps[-3:], time[-3:]).exponent)


def _of(table: dict[str, Any], dataset: str) -> Any:
    return table.get(dataset, table["else"])


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Errors against points a direction and against time steps."""
    fig, (left, right) = plotting.figure(columns=2, cols=2, height=7.2)
    for ax, metric, label, slope, through in (
        (left, "space_error", "points in each direction", -2, (16, 1e-2)),
        (right, "time_error", "time steps", -4, (20, 2e-6)),
    ):
        points = history(records, metric) if len(records) else records
        plotting.log_axis(ax, "y")
        ax.set_xlabel(label)
        ax.set_ylabel("relative error in L²")
        if not len(points):
            plotting.empty(ax)
            continue
        plotting.log_axis(ax, "x", ticks=sorted(points["step"].unique()))
        _lines(ax, points)
        plotting.guide(ax, slope, through=through)
    plotting.legend(fig)
    yield "orders", fig


def _lines(ax: Any, points: pd.DataFrame) -> None:
    names = [str(name) for name in pd.unique(points["dataset"])]
    looks = plotting.styles(ORDER)
    for name in sorted(names, key=lambda name: ORDER.index(name) if name in ORDER else len(ORDER)):
        for method, part in points[points["dataset"] == name].groupby("method"):
            middle = part.groupby("step")["value"].mean()
            look = dict(looks[name])
            if method != "own":
                look |= {"linestyle": ":", "fillstyle": "none"}
                look["label"] = f"{look['label']}, {plotting.label(str(method))}"
            ax.plot(middle.index, middle, **look)


ORDER = [
    "burgers_wave", "allen_cahn_periodic", "allen_cahn_dirichlet", "flow_on_torus", "darcy_smooth", "darcy_layers",
    "darcy_off_grid",
]  # fmt: skip
