"""Orders of the wave solvers on a standing wave, their energy, and how far two of them are apart on a pulse."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from tensorbench.core import plotting
from tensorbench.core import records as rec
from tensorbench.core.run import Run
from tensorbench.pde_operators.solvers.wave2d import assemble, gaussian, leapfrog, newmark, on_grid, unit_square

METHODS = {"q1": "q1", "p1": "p1", "p2": "p2", "leapfrog": None}


def run(run: Run) -> None:
    """Errors for all numbers of cells; the step is the width of a cell."""
    wave_of = run.dataset.load(run.seed)
    cells = run.method.params["cells"]
    element = METHODS[run.method.uses]
    for n in cells:
        if element is None:
            points, steps = _grid(n + 1), 2 * n
            speed, options = np.ones((n + 1, n + 1)), {"dt": wave_of.time / steps, "steps": steps, "every": steps}
            u = leapfrog(speed, wave_of.at(points, 0.0), **options).u[-1]
        else:
            wave = assemble(unit_square(n, element), element, mass=run.method.params["mass"])
            points, steps = wave.points, 4 * n
            u = newmark(wave, wave_of.at(points, 0.0), dt=wave_of.time / steps, steps=steps, every=steps).u[-1]
        difference = np.linalg.norm(u - wave_of.at(points, wave_of.time))
        run.log(step=1 / n, error=float(difference / np.linalg.norm(wave_of.largest(points))))
    if element is None:
        run.log(disagreement=disagreement(max(cells)))
    else:
        wave = assemble(unit_square(16, element), element, mass=run.method.params["mass"])
        pulse = gaussian(wave.points, (0.4, 0.6), 0.1) * wave.free
        energy = newmark(wave, pulse, dt=0.01, steps=run.method.params["drift_steps"], every=10).energy
        run.log(energy_drift=float(np.abs(energy / energy[0] - 1).max()))


def disagreement(n: int) -> float:
    """Largest relative difference over time of bilinear elements and leap-frog on n × n cells; a smooth medium."""

    def speed(x: np.ndarray) -> np.ndarray:
        return 1 + 0.3 * np.sin(np.pi * x[0]) * np.cos(np.pi * x[1])

    grid, steps = _grid(n + 1), 6 * n
    wave = assemble(unit_square(n), speed=speed)
    u0 = gaussian(wave.points, (0.45, 0.55), 0.1) * wave.free
    elements = on_grid(wave, newmark(wave, u0, dt=1 / steps, steps=steps, every=n).u)
    differences = leapfrog(speed(grid), gaussian(grid, (0.45, 0.55), 0.1), dt=1 / steps, steps=steps, every=n).u
    errors = np.linalg.norm(elements - differences, axis=(1, 2)) / np.linalg.norm(differences, axis=(1, 2))
    return float(errors.max())


def _grid(n: int) -> np.ndarray:
    line = np.linspace(0, 1, n)
    return np.stack(np.meshgrid(line, line, indexing="ij"))


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Error over the width of a cell."""
    fig, ax = plotting.figure(columns=1, height=7.5)
    ax.set(xlabel="width of a cell h", ylabel="relative L2 error")
    history = rec.history(records, "error") if len(records) else pd.DataFrame()
    if history.empty:
        plotting.empty(ax)
    else:
        plotting.series(ax, history, "step", "value", log="xy")
        bilinear = history[history["method"] == "q1"].sort_values("step")
        if len(bilinear):
            widest = bilinear.iloc[-1]
            plotting.guide(ax, 2, through=(widest["step"], 0.6 * widest["value"]), text="second order")
        widths = sorted(history["step"].unique())
        plotting.log_axis(ax, "x", ticks=widths)
        ax.set_xticks(widths, [f"1/{round(1 / h)}" for h in widths])
        plotting.legend(fig)
    yield "orders", fig
