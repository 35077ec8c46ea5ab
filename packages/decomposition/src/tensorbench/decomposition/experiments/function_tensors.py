"""How few numbers a function of three variables needs: Chebyshev-Tucker beside grids, plain interpolation and TT-cross.

Each kind of dataset is a question of its own (a protocol of this module).

- ``smooth_functions`` (step: samples per variable): relative error at 2000 random points (by the seed) of every method;
  final values at ``final`` samples. For Chebyshev-Tucker also the two parts of the error, that of the interpolant and
  that of the compression, and how far its ranks are from those of an HOSVD of the tensor on 128³ cell centres.
- ``newton_kernel``, ``newton_reference`` (step: nodes per variable): error on the middle slice of the grid, the long
  range and the whole kernel.
- ``biomolecule``, ``lattice_reference``, ``lattice_potential``: a potential in canonical form; error on the middle
  slice, ranks, ranks after compressing the core, singular values of the factors (step: index).
- ``particle_clusters`` (step: number of particles): the same for growing systems, and the error of the whole
  range-separated potential against the direct sum.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from tensorbench.core import plotting
from tensorbench.core import records as rec
from tensorbench.core.run import Run
from tensorbench.decomposition.baselines import functions as baselines
from tensorbench.decomposition.baselines.functions import Fitted
from tensorbench.decomposition.datasets.functions import BOX, FUNCTIONS, long_range
from tensorbench.decomposition.formats import CP
from tensorbench.decomposition.functional.chebtuck import ChebTucker
from tensorbench.decomposition.functional.chebtuck_build import column_coefficients, from_cp, from_function
from tensorbench.decomposition.functional.chebyshev import midpoints
from tensorbench.decomposition.functional.molecules import Particles
from tensorbench.decomposition.functional.newton import RangeSeparated, newton_quadrature, range_split
from tensorbench.decomposition.functional.truncation import hosvd_tol, left_singular

POINTS = 2000
RANK_GRID = 128  # cells per direction of the grid whose HOSVD ranks are compared with
ROUNDING = 1e-6  # tolerance of compressing a core: the errors of the systems themselves are of this size
VALUES = 64  # singular values that are kept for the figure


def fit_chebtuck(f: Callable, n: int, tol: float = 1e-7) -> Fitted:
    """Algorithm 1 on [-1, 1]³."""
    model = from_function(f, n, tol=tol)
    return Fitted(model, model.storage, model.ranks)


METHODS = {
    "chebyshev_tucker": fit_chebtuck,
    "plain_chebyshev": baselines.plain_chebyshev,
    "grid_tucker": baselines.grid_tucker,
    "grid_interpolator": baselines.grid_interpolator,
    "tt_cross": baselines.tt_cross,
}


def run(run: Run) -> None:
    """The protocol of the dataset."""
    PROTOCOLS[run.dataset.uses](run)


def functions(run: Run) -> None:
    """Every function with every number of samples; the last values are those at ``final`` samples."""
    options = dict(run.method.params)
    fit, sizes, final = METHODS[run.method.uses], options.pop("sizes"), options.pop("final")
    options.pop("m", None)  # the other protocols'
    points = run.rng.uniform(*BOX, (POINTS, 3))
    rows = []
    for name, f in run.dataset.load(run.seed).items():
        exact = f(*points.T)
        for n in sorted(sizes, key=lambda n: n == final):  # the final one last, so that its values stay
            start = time.perf_counter()
            model = fit(f, n, **options)
            built = time.perf_counter()
            values = model.evaluate(points)
            evaluated = time.perf_counter()
            run.log(step=n, **{f"error_{name}": _relative(values, exact)})
        rows.append(
            {
                "error": _relative(values, exact),
                "storage": model.storage,
                "max_rank": max(model.ranks, default=np.nan),
                "build_seconds": built - start,
                "evaluate_seconds": evaluated - built,
            }
        )
        if run.method.uses == "chebyshev_tucker":
            plain = baselines.plain_chebyshev(f, final).evaluate(points)
            grid = hosvd_tol(baselines.sample(f, midpoints(RANK_GRID)), options["tol"])[0].shape
            rows[-1] |= {
                "interpolation_error": _relative(plain, exact),
                "compression_error": float(np.abs(values - plain).max() / np.abs(exact).max()),
                "rank_gap": max(abs(r - s) for r, s in zip(model.ranks, grid, strict=True)),
            }
    table = pd.DataFrame(rows)
    run.log(
        worst_error=table["error"].max(),
        median_error=table["error"].median(),
        storage=table["storage"].mean(),
        build_seconds=table["build_seconds"].mean(),
        evaluate_seconds=table["evaluate_seconds"].mean(),
    )
    if table["max_rank"].notna().all():
        run.log(max_rank=table["max_rank"].max())
    if "rank_gap" in table:
        run.log(
            rank_gap=table["rank_gap"].max(),
            interpolation_error=table["interpolation_error"].max(),
            compression_error=table["compression_error"].max(),
        )


def newton(run: Run) -> None:
    """Long range and whole kernel on every grid; final values at ``m`` nodes, the worst (long) or best (full) grid."""
    m, tol = run.method.params["m"], run.method.params["tol"]
    final: dict[str, list[float]] = {"long": [], "full": [], "long_rank": [], "full_rank": []}
    for n, kernel in run.dataset.load(run.seed).items():
        for part, cp in (("long", range_split(kernel)[0]), ("full", kernel)):
            for nodes in sorted({33, 65, 129, 257} | {m} if run.scale != "smoke" else {m}):
                model = _system(cp, nodes, tol)
                error = slice_errors(cp, model)[1]
                run.log(step=nodes, **{f"{part}_error_{n}": error, f"{part}_rank_{n}": max(model.ranks)})
                if nodes == m:
                    final[part].append(error)
                    final[f"{part}_rank"].append(max(model.ranks))
    run.log(
        long_error=max(final["long"]),
        full_error=min(final["full"]),
        long_rank=max(final["long_rank"]),
        full_rank=max(final["full_rank"]),
    )
    # Coefficients of the widest Gaussian of the long range that is not flat, and of the narrowest of the short range.
    columns = kernel.factors[0].numpy()
    for name, index in (("long", range_split(kernel)[0].rank - 1), ("short", -1)):
        size = np.abs(column_coefficients(columns[:, [index]], m)[::2, 0])  # every other one: the functions are even
        for k, value in enumerate(size / size.max()):
            run.log(step=2 * k, **{f"{name}_column": max(value, 1e-18)})


def system(run: Run) -> None:
    """A potential in canonical form, reduced construction."""
    m, tol = run.method.params["m"], run.method.params["tol"]
    cp = run.dataset.load(run.seed)
    with run.time("build"):
        model = _system(cp, m, tol)
    rounded = model.round(ROUNDING)
    error, relative = slice_errors(cp, model)
    run.log(
        slice_error=error,
        slice_relative=relative,
        max_rank=max(model.ranks),
        storage=model.storage,
        rounded_rank=max(rounded.ranks),
        rounded_error=slice_errors(cp, rounded)[0],
    )
    unit = cp.normalized().factors[-1].numpy()
    for k, value in enumerate(left_singular(column_coefficients(unit, m))[1][:VALUES]):
        run.log(step=k + 1, singular_value=max(value, 1e-18))
    if run.seed == 0:
        exact, approximation = middle_slice(cp), _model_slice(cp, model)
        every = slice(None, None, max(1, len(exact) // 192))
        np.savez_compressed(
            run.artifact("slice.npz"),
            exact=exact[every, every].astype(np.float32),
            error=(approximation - exact)[every, every].astype(np.float32),
        )


def clusters(run: Run) -> None:
    """Growing systems of one kind; ``rank_growth`` is the largest system's maximal rank over the smallest one's."""
    m, tol = run.method.params["m"], run.method.params["tol"]
    ranks, rounded, errors = [], [], []
    systems: dict[int, Particles] = run.dataset.load(run.seed)
    for count, particles in systems.items():
        cp = long_range(particles)
        model = _system(cp, m, tol)
        ranks.append(max(model.ranks))
        rounded.append(max(model.round(tol).ranks))
        errors.append(slice_errors(cp, model)[1])
        run.log(step=count, max_rank=ranks[-1], rounded_rank=rounded[-1], slice_relative=errors[-1])
        if run.seed == 0:
            unit = cp.normalized().factors[-1].numpy()
            for k, value in enumerate(left_singular(column_coefficients(unit, m))[1][:VALUES]):
                run.log(step=k + 1, **{f"singular_value_{count}": max(value, 1e-18)})
    run.log(
        rank_growth=ranks[-1] / ranks[0],
        rounded_growth=rounded[-1] / rounded[0],
        max_rank=ranks[-1],
        slice_relative=max(errors),
        storage=model.storage,
    )
    run.log(potential_error=_potential_error(particles, m, tol, run.rng))


def _potential_error(particles: Particles, m: int, tol: float, rng: np.random.Generator) -> float:
    """Relative error of the range-separated potential at random points that are no nearer to a particle than 0.02."""
    kernel = newton_quadrature(0.01, np.sqrt(12), eps=tol)
    potential = RangeSeparated.from_particles(particles.charges, particles.positions, kernel, m, None, tol)
    points = rng.uniform(*BOX, (500, 3))
    gaps = np.linalg.norm(points[:, None] - particles.positions, axis=2)
    far = gaps.min(axis=1) > 0.02
    return _relative(potential(points[far]), (1 / gaps[far]) @ particles.charges)


PROTOCOLS = {
    "smooth_functions": functions,
    "newton_kernel": newton,
    "newton_reference": newton,
    "biomolecule": system,
    "lattice_reference": system,
    "lattice_potential": system,
    "particle_clusters": clusters,
}


def _system(cp: CP, m: int, tol: float) -> ChebTucker:
    return from_cp(cp.weights.numpy(), [F.numpy() for F in cp.factors], m, None, tol)


def middle_slice(cp: CP) -> np.ndarray:
    """Values on the cell centres next to the middle of the last direction, as the authors take it."""
    first, second, third = (F.numpy() for F in cp.factors)
    return (first * (cp.weights.numpy() * third[len(third) // 2 - 1])) @ second.T


def _model_slice(cp: CP, model: ChebTucker) -> np.ndarray:
    axes = [midpoints(n, *BOX) for n in cp.shape]
    axes[-1] = axes[-1][[cp.shape[-1] // 2 - 1]]
    return model.grid(*axes)[..., 0]


def slice_errors(cp: CP, model: ChebTucker) -> tuple[float, float]:
    """Largest error on the middle slice, absolute and relative to the largest value there."""
    exact = middle_slice(cp)
    worst = float(np.abs(_model_slice(cp, model) - exact).max())
    return worst, worst / float(np.abs(exact).max())


def _relative(values: np.ndarray, exact: np.ndarray) -> float:
    return float(np.abs(values - exact).max() / np.abs(exact).max())


# --- claims ---------------------------------------------------------------------------------------------------------


def ranks_saved(records: pd.DataFrame) -> list[float]:
    """Per seed, by how much compressing the core to the tolerance ``ROUNDING`` lowers the largest rank."""
    return list(records["max_rank"] - records["rounded_rank"])


# --- figures --------------------------------------------------------------------------------------------------------

TITLES = {
    "cosine": "cos(x+y+z)",
    "exponential": "exp(sin(x+2y)+zx)",
    "shifted_newton": "1/|x−(1.5, 0, 0)|",
    "runge": "1/(1+25r²)",
    "slater": "exp(−r)",
}


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Errors against samples, the Newton kernel, growing systems, and the error on a slice."""
    yield "degree", _draw_degree(records)
    yield "newton", _draw_newton(records)
    yield "systems", _draw_systems(records)
    yield "slice", _draw_slices(records)


def _draw_degree(records: pd.DataFrame) -> Figure:
    fig, axes = plotting.figure(columns=2, rows=2, cols=3, height=10.5, sharey=True)
    for ax, name in zip(axes.flat, FUNCTIONS, strict=False):
        history = rec.history(records, f"error_{name}")
        ax.set(title=TITLES[name], ylim=(1e-16, 10))
        if history.empty:
            plotting.empty(ax)
            continue
        plotting.log_axis(ax, "x", ticks=(9, 17, 33, 65, 129))
        plotting.series(ax, history, "step", "value", log="y")
        ax.set(xlabel="samples per variable", ylabel="")
    for ax in axes[:, 0]:
        ax.set_ylabel("relative error")
    axes.flat[-1].set_axis_off()
    handles, labels = axes.flat[0].get_legend_handles_labels()
    if handles:
        axes.flat[-1].legend(handles, labels, loc="center", frameon=False)
    return fig


def _draw_newton(records: pd.DataFrame) -> Figure:
    fig, (left, right) = plotting.figure(columns=2, cols=2, height=6.5)
    parts = []
    for part, text in (("long", "long range"), ("full", "whole kernel")):
        for n in _suffixes(records, f"{part}_error_"):
            history = rec.history(records, f"{part}_error_{n}")
            chosen = history["dataset"] == _first(history, ("newton_reference", "newton_kernel"))
            parts.append(history[chosen].assign(line=f"{text}, n = {n}"))
    if parts:
        plotting.log_axis(left, "x", ticks=(33, 65, 129, 257))
        plotting.series(left, pd.concat(parts), "step", "value", by="line", log="y")
        left.set(xlabel="nodes per variable m", ylabel="relative error on the slice")
        plotting.legend(left, fontsize=7)
    else:
        plotting.empty(left)
    columns = []
    for name, text in (("long_column", "narrowest of the long range"), ("short_column", "narrowest of all")):
        history = rec.history(records, name)
        if len(history):
            chosen = history["dataset"] == _first(history, ("newton_reference", "newton_kernel"))
            columns.append(history[chosen].assign(line=text))
    if columns:
        plotting.series(right, pd.concat(columns), "step", "value", by="line", log="y")
        right.set(xlabel="degree k", ylabel="coefficient $|c_k|$ / largest", ylim=(1e-18, 10))
        plotting.legend(right, fontsize=7)
    else:
        plotting.empty(right)
    return fig


def _draw_systems(records: pd.DataFrame) -> Figure:
    fig, (left, right) = plotting.figure(columns=2, cols=2, height=6.5)
    lines = []
    if "singular_value" in records:
        molecules = rec.history(records, "singular_value")
        lines.append(molecules.assign(line=molecules["dataset"].map(plotting.label)))
    counts = _suffixes(records, "singular_value_")
    for count in dict.fromkeys(counts[:1] + counts[-1:]):
        history = rec.history(records, f"singular_value_{count}")
        lines.append(history.assign(line=history["dataset"].map(plotting.label) + f", N = {count}"))
    if lines:
        plotting.series(left, pd.concat(lines), "step", "value", by="line", log="y")
        left.set(xlabel="index", ylabel="singular value of the factor", ylim=(1e-27, 100))
        plotting.legend(left, fontsize=6.5, loc="lower left", ncols=2, columnspacing=0.8, handlelength=1.6)
    else:
        plotting.empty(left)
    ranks = []
    for metric, text in (("max_rank", ""), ("rounded_rank", ", compressed")):
        history = rec.history(records, metric)
        if len(history):
            ranks.append(history.assign(line=history["dataset"].map(plotting.label) + text))
    if ranks:
        plotting.log_axis(right, "x", ticks=(50, 100, 200, 400))
        plotting.series(right, pd.concat(ranks), "step", "value", by="line")
        right.set(xlabel="number of particles N", ylabel="largest Tucker rank", ylim=(0, None))
        plotting.legend(right, fontsize=7)
    else:
        plotting.empty(right)
    return fig


def _draw_slices(records: pd.DataFrame) -> Figure:
    stored = rec.artifacts(records, "slice.npz")
    if stored.empty:
        return plotting.nothing()
    there = set(stored["dataset"])
    order = [name for name in ("biomolecule", "lattice_reference", "vacant_lattice") if name in there]
    stored = stored.set_index("dataset").loc[order[:2]]
    fig, axes = plotting.figure(columns=2, rows=len(stored), cols=2, height=6.2 * len(stored), squeeze=False)
    for row, (name, path) in zip(axes, stored["path"].items(), strict=True):
        with np.load(path) as arrays:
            pictures = {"potential": arrays["exact"], "error": arrays["error"]}
        for ax, (what, picture) in zip(row, pictures.items(), strict=True):
            size = float(np.abs(picture).max()) or 1.0
            image = ax.imshow(picture.T, origin="lower", extent=(-1, 1, -1, 1), cmap="RdBu_r", vmin=-size, vmax=size)
            fig.colorbar(image, ax=ax, shrink=0.9)
            ax.set(title=f"{plotting.label(str(name))}, {what}", xlabel="x", ylabel="y")
            ax.grid(False)
    return fig


def _suffixes(records: pd.DataFrame, prefix: str) -> list[int]:
    """The numbers n for which there is a metric ``prefix`` + n, ascending."""
    return sorted(int(name[len(prefix) :]) for name in records if re.fullmatch(re.escape(prefix) + r"\d+", str(name)))


def _first(history: pd.DataFrame, names: tuple[str, ...]) -> str:
    return next((name for name in names if name in set(history["dataset"])), names[-1])
