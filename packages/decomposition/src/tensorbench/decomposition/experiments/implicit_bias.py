"""Where gradient descent on a tubal factor goes: its phases, the width and the size of the start, few measurements.

Each dataset asks one question (a protocol of this module); the steps of its history are what it sweeps.

- ``phases`` (step iteration): figure 2 of the paper, 2.5 times ``iterations``, width 100.
- ``width`` (step width, or iteration for the curves ``error_width_…``): figure 3.
- ``start_size`` (step alpha): figure 4, at widths 200 and 10 (``…_narrow``); the artifact `grid.csv` has both as rows.
- ``half_measurements``: a start of 1 against one of 1e-7 with half of figure 3's measurements.
- ``recovery`` (step case): four problems for every method, steps scaled as 1 / m from the paper's 285 measurements.
- ``diagram`` (step m): recovery of each tubal rank, same scaling.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tensorbench.core import plotting
from tensorbench.core import records as rec
from tensorbench.core.run import Run
from tensorbench.decomposition.datasets.tubal import TubalSensing
from tensorbench.decomposition.tubal import theory
from tensorbench.decomposition.tubal.algebra import tubal_rank, tubal_singular_values
from tensorbench.decomposition.tubal.gradient_descent import TubalGD, TubalGDResult
from tensorbench.decomposition.tubal.measurements import least_squares
from tensorbench.decomposition.tubal.tnn import tnn_recover
from tensorbench.decomposition.tubal.trajectory import spectral_phase_end

MEASUREMENTS = 285  # of figures 3 and 4, for which the paper's step is meant
WIDTHS = (10, 50, 100, 200, 400)
STARTS = (1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8)
SLOPE_STARTS = (1e-1, 1e-2, 1e-4, 1e-6)
SHOWN_STARTS = (1.0, 1e-1, 1e-2, 1e-4, 1e-7)
RANKS, COUNTS = (1, 2, 3, 4), (60, 90, 120, 150, 180, 210, 240)
EFFECTIVE = 1e-2  # tubal singular values of U * U^T below this share of the largest do not count
RECOVERED = 1e-2


def relative_error(tensor: np.ndarray, target: np.ndarray) -> float:
    """Frobenius norm of the difference over that of the target."""
    return float(np.linalg.norm(tensor - target) / np.linalg.norm(target))


def descend(data: TubalSensing, run: Run, **changes) -> TubalGDResult:
    """Gradient descent with the run's parameters, some changed."""
    p = run.method.params
    settings = {"R": p["width"], "alpha": p["alpha"], "step": p["step"], "iters": p["iterations"]}
    record_every = changes.pop("record_every", 100)
    gd = TubalGD(**{**settings, **changes}, record_every=record_every, generator=run.rng)
    return gd.fit(data.operator, data.y, data.target, data.rank)


def solve_gd(data: TubalSensing, run: Run) -> np.ndarray:
    """U * U^T; the step that fits this number of measurements, stopping at the size of the start. Adam's steps do not
    scale with the gradient."""
    p = run.method.params
    optimizer = p.get("optimizer", "gd")
    step = p["step"] * (1.0 if optimizer == "adam" else MEASUREMENTS / data.operator.m)
    return descend(data, run, step=step, stop=p["alpha"], optimizer=optimizer).tensor()


def solve_tnn(data: TubalSensing, run: Run) -> np.ndarray:
    """Least tubal nuclear norm among the positive semidefinite tensors that fit."""
    return tnn_recover(data.operator, data.y, iters=run.method.params["iterations"]).tensor


METHODS = {
    "tubal_gd": solve_gd,
    "tubal_nuclear_norm": solve_tnn,
    "least_squares": lambda data, run: least_squares(data.operator, data.y),
}


def run(run: Run) -> None:
    """The protocol of the dataset."""
    with run.time("fit"):
        PROTOCOLS[run.dataset.name](run)


def phases(run: Run) -> None:
    """Curves every 50 iterations; what claims read is taken from every tenth."""
    data: TubalSensing = run.dataset.load(run.seed)
    iters = 5 * run.method.params["iterations"] // 2
    result = descend(data, run, R=100, iters=iters, record_every=10)
    history = result.history
    for i in range(0, len(history["iteration"]), 5):
        curves = {name: values[i] for name, values in history.items() if name != "iteration"}
        run.log(step=history["iteration"][i], **curves)
    last = {name: values[-1] for name, values in history.items() if name != "iteration"}
    first_phase = np.flatnonzero(history["test_error"] >= 0.9)
    best = first_phase[np.argmin(history["angle_spectral"][first_phase])]
    alpha, step = run.method.params["alpha"], run.method.params["step"]
    run.log(
        **last,
        aligned_angle=history["angle_spectral"][best],
        aligned_angle_power=history["angle_power"][first_phase].min(),
        aligned_iteration=history["iteration"][best],
        spectral_end=spectral_phase_end(history),
        predicted_iterations=theory.spectral_iterations(data.operator, data.y, data.rank, alpha, step),
        sigma_gap=abs(history["sigma"][-1] - 1.0),
        effective_rank=tubal_rank(result.tensor(), EFFECTIVE),
    )


def width(run: Run) -> None:
    """Error curves and final errors for every width."""
    data: TubalSensing = run.dataset.load(run.seed)
    for R in run.progress(WIDTHS, desc="widths"):
        result = descend(data, run, R=R)
        history = result.history
        for at, error in zip(history["iteration"], history["test_error"], strict=True):
            run.log(step=at, **{f"error_width_{R}": error})
        run.log(
            step=R,
            final_error=history["test_error"][-1],
            final_train_error=history["train_error"][-1],
            effective_rank=tubal_rank(result.tensor(), EFFECTIVE),
        )


def start_size(run: Run) -> None:
    """Final errors, effective rank and singular values for every start."""
    data: TubalSensing = run.dataset.load(run.seed)
    grid = []
    for alpha in run.progress(STARTS, desc="starts"):
        wide, narrow = (descend(data, run, R=R, alpha=alpha, record_every=10**9) for R in (200, 10))
        for R, result in ((200, wide), (10, narrow)):
            errors = [result.history[name][-1] for name in ("test_error", "train_error")]
            grid.append([R, alpha, *errors, tubal_rank(result.tensor(), EFFECTIVE)])
        sizes = tubal_singular_values(wide.factor)
        run.log(
            step=alpha,
            final_error=wide.history["test_error"][-1],
            final_train_error=wide.history["train_error"][-1],
            final_error_narrow=narrow.history["test_error"][-1],
            effective_rank=grid[-2][-1],
            effective_rank_narrow=grid[-1][-1],
            **{f"sigma_{i + 1}": size for i, size in enumerate(sizes)},
        )
    columns = ["width", "alpha", "test_error", "train_error", "effective_rank"]
    pd.DataFrame(grid, columns=columns).to_csv(run.artifact("grid.csv"), index=False)


def half_measurements(run: Run) -> None:
    """The same problem from a large and from a small start."""
    data: TubalSensing = run.dataset.load(run.seed)
    large, small = (descend(data, run, alpha=alpha, record_every=10**9) for alpha in (1.0, run.method.params["alpha"]))
    errors = large.history["test_error"][-1], small.history["test_error"][-1]
    run.log(
        error_large=errors[0],
        error_small=errors[1],
        train_error_large=large.history["train_error"][-1],
        train_error=small.history["train_error"][-1],
        test_error=errors[1],
        effective_rank=tubal_rank(small.tensor(), EFFECTIVE),
        large_over_small=errors[0] / errors[1],
        small_start_wins=bool(errors[0] >= 2 * errors[1]),
    )


def recovery(run: Run) -> None:
    """Every case with the run's method."""
    solve = METHODS[run.method.uses]
    for step, (name, data) in enumerate(run.dataset.load(run.seed).items()):
        X = solve(data, run)
        run.log(
            step=step,
            test_error=relative_error(X, data.target),
            train_error=float(np.linalg.norm(data.operator.forward(X) - data.y) / np.linalg.norm(data.y)),
            effective_rank=tubal_rank(X, EFFECTIVE),
        )
        run.log(**{f"{name}_error": relative_error(X, data.target)})


def diagram(run: Run) -> None:
    """A new tensor and new measurements for every rank and number of measurements."""
    solve, recovered = METHODS[run.method.uses], []
    for m in run.progress(COUNTS, desc="measurements"):
        for rank in RANKS:
            data: TubalSensing = run.dataset.load(run.seed, r=rank, m=m)
            error = relative_error(solve(data, run), data.target)
            recovered.append(error <= RECOVERED)
            run.log(step=m, **{f"error_rank_{rank}": error, f"success_rank_{rank}": float(recovered[-1])})
    run.log(success=float(np.mean(recovered)))


PROTOCOLS = {
    "phases": phases,
    "width": width,
    "start_size": start_size,
    "half_measurements": half_measurements,
    "recovery": recovery,
    "diagram": diagram,
}


# --- claims ---------------------------------------------------------------------------------------------------------


def _final_errors(records: pd.DataFrame, steps: tuple[float, ...]) -> pd.DataFrame:
    """Seeds x steps: final test errors at some steps of the sweep."""
    history = rec.history(records, "final_error")
    return history.pivot_table(index="seed", columns="step", values="value")[list(steps)]


def start_ratio(records: pd.DataFrame) -> list[float]:
    """Per seed, the final test error from 1e-6 over that from 1e-2."""
    errors = _final_errors(records, (1e-6, 1e-2))
    return list(errors[1e-6] / errors[1e-2])


def start_slope(records: pd.DataFrame) -> list[float]:
    """Per seed, the log-log slope of the final test error over the four starts of the claim."""
    errors = np.log(_final_errors(records, SLOPE_STARTS).to_numpy())
    return list(np.polyfit(np.log(SLOPE_STARTS), errors.T, 1)[0])


def width_spread(records: pd.DataFrame) -> list[float]:
    """Per seed, the largest final test error of widths 10, 50, 200 over the smallest."""
    errors = _final_errors(records, (10, 50, 200))
    return list(errors.max(axis=1) / errors.min(axis=1))


# --- figures --------------------------------------------------------------------------------------------------------


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Phases, width, size of the start, spectrum and phase diagram."""
    fig, (left, right) = plotting.figure(columns=2, cols=2, height=7.0)
    curves = {"angle_spectral": "angle to L", "test_error": "test error", "sigma_error": "error of $\\sigma_r$",
              "train_error": "training error"}  # fmt: skip
    x = "thousand iterations"
    _curves(left, records, "phases", curves, x, unit=1000, reducer="median")
    left.set_ylabel("relative error, or sine of angle")
    curves |= {"angle_target": "angle to X*"}
    _curves(right, records, "phases", curves, x, log=True, unit=1000, reducer="median")
    plotting.legend(fig)
    yield "phases", fig

    fig, ax = plotting.figure(height=6.5)
    _curves(ax, records, "width", {f"error_width_{R}": f"R = {R}" for R in WIDTHS}, "iteration", log=True)
    ax.set_ylabel("test error")
    plotting.legend(ax)
    yield "width", fig

    fig, (ax, ranks) = plotting.figure(columns=2, cols=2, height=6.5)
    names = {"final_error": "test, R = 200", "final_error_narrow": "test, R = 10", "final_train_error": "training"}
    plotting.log_axis(ax, "x")
    _curves(ax, records, "start_size", names, "size of the start α", log=True)
    if ax.lines:
        plotting.guide(ax, 1.0, through=(1e-6, 1e-6))
    ax.set_ylabel("relative error")
    plotting.legend(ax)
    plotting.log_axis(ranks, "x")
    names = {"effective_rank": "R = 200", "effective_rank_narrow": "R = 10"}
    _curves(ranks, records, "start_size", names, "size of the start α")
    if ranks.lines:
        plotting.reference(ranks, y=3, text="rank of X*")
        ranks.set_ylim(2, 10)
    ranks.set_ylabel("effective tubal rank")
    plotting.legend(ranks, loc="upper left")
    yield "start_size", fig

    fig, ax = plotting.figure(height=6.5)
    _spectrum(ax, records)
    yield "spectrum", fig

    yield "diagram", _diagram(records)


def _history(records: pd.DataFrame, metric: str, dataset: str) -> pd.DataFrame:
    rows = records[records["dataset"] == dataset]
    return rec.history(rows, metric)


def _curves(
    ax: Axes,
    records: pd.DataFrame,
    dataset: str,
    names: dict[str, str],
    x: str,
    log: bool = False,
    unit: float = 1,
    reducer: str = "mean",
) -> None:
    """Several metrics of one dataset over their steps, in units of `unit`."""
    pieces = [_history(records, metric, dataset).assign(curve=text) for metric, text in names.items()]
    pieces = [piece for piece in pieces if len(piece)]
    ax.set_xlabel(x)
    if not pieces:
        return plotting.empty(ax)
    points = pd.concat(pieces)
    points["step"] = points["step"].astype(float) / unit
    plotting.series(ax, points, "step", "value", by="curve", reducer=reducer, log="y" if log else "")
    return None


def _spectrum(ax: Axes, records: pd.DataFrame) -> None:
    """Singular values by index, a line for each start."""
    names = [f"sigma_{i + 1}" for i in range(10)]
    pieces = [_history(records, name, "start_size").assign(index=i + 1) for i, name in enumerate(names)]
    pieces = [piece for piece in pieces if len(piece)]
    ax.set(xlabel="index", ylabel="tubal singular value of U")
    if not pieces:
        return plotting.empty(ax)
    values = pd.concat(pieces)
    at = values["step"].astype(float)
    values = pd.concat(
        [
            values[np.isclose(at, alpha, rtol=1e-6, atol=0)].assign(start=f"$α = 10^{{{np.log10(alpha):.0f}}}$")
            for alpha in SHOWN_STARTS
        ]
    )
    plotting.series(ax, values, "index", "value", by="start", log="y")
    ax.set_xticks(range(1, 11))
    plotting.legend(ax)
    return None


def _diagram(records: pd.DataFrame) -> Figure:
    """A map for each method that was run."""
    rows = records[records["dataset"] == "diagram"]
    methods = list(dict.fromkeys(rows["method"]))
    fig, axes = plotting.figure(columns=2, cols=max(1, len(methods)), height=6.5, squeeze=False)
    if not methods:
        plotting.empty(axes[0, 0])
    for ax, method in zip(axes[0], methods, strict=False):
        shares = []
        for rank in RANKS:
            history = rec.history(rows[rows["method"] == method], f"success_rank_{rank}")
            shares.append(history.groupby("step")["value"].mean())
        share = pd.DataFrame(shares, index=RANKS).astype(float)
        counts = share.columns.to_numpy(dtype=float)
        mesh = ax.pcolormesh(_edges(counts), _edges(np.array(RANKS, float)), share, cmap="Blues", vmin=0, vmax=1)
        plotting.reference(ax, x=theory.symmetric_unknowns(10, 4))
        for rank in RANKS:
            unknowns = theory.lowrank_unknowns(10, rank, 4)
            ax.plot([unknowns, unknowns], [rank - 0.5, rank + 0.5], color="#D55E00", linewidth=1.5)
        ax.grid(False)
        ax.set(xlabel="measurements m", title=plotting.label(method), xticks=counts, yticks=RANKS)
        ax.set_xlim(30, _edges(counts)[-1])
        if ax is axes[0, -1] or ax is axes[0][len(methods) - 1]:
            fig.colorbar(mesh, ax=axes[0].tolist(), label="share recovered")
    axes[0, 0].set_ylabel("tubal rank")
    return fig


def _edges(centres: np.ndarray) -> np.ndarray:
    half = np.diff(centres) / 2
    return np.concatenate([[centres[0] - half[0]], centres[:-1] + half, [centres[-1] + half[-1]]])
