"""How sketches spread the error of least squares: over instances, rows m, columns d, and vectors.

A job asks all questions of one sketch; steps are rows m (``linf_by_rows``, ``l2_by_rows``, ``spike_quantile``), columns
d (``linf_by_d``, ``ratio_by_d``, ``rows_needed``), quantile levels (``oce_basis``, ``oce_random``) or iterations
(``refined``, ``newton_error``). Medians and quantiles are over ``trials`` sketches a seed, so over five times as many.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from tensorbench.core import plotting
from tensorbench.core import records as rec
from tensorbench.core.run import Run
from tensorbench.decomposition.baselines.sketching import SklearnProjection
from tensorbench.decomposition.datasets.sketching import real_designs
from tensorbench.decomposition.sketch.measures import (
    oce_samples,
    ose_distortion,
    random_direction,
    reference,
    required_rows,
)
from tensorbench.decomposition.sketch.regression import (
    RankWarning,
    exact_solve,
    iterative_sketching,
    newton_logistic,
    small_solve,
)
from tensorbench.decomposition.sketch.sketches import (
    CountSketch,
    GaussianSketch,
    LeverageSampling,
    RowSampling,
    Sketch,
    SparseEmbedding,
    UniformSampling,
    leverage_scores,
)
from tensorbench.decomposition.sketch.structured import SRHT, BalancedGaussianPooled

METHODS = {
    "srht": SRHT,
    "pooled": BalancedGaussianPooled,
    "gaussian_sketch": GaussianSketch,
    "count_sketch": CountSketch,
    "sparse_embedding": SparseEmbedding,
    "sklearn_projection": SklearnProjection,
    "leverage_sampling": LeverageSampling,
    "uniform_sampling": UniformSampling,
}
KINDS = ("gaussian", "coherent", "spikes", "polynomial")
RATIO = 8  # rows per column where rows are not swept
QUANTILES = (0.5, 0.9, 0.99, 1.0)
Make = Callable[[int, int, int], Sketch]  # rows n, rows m, number of the draw
Problem = tuple[np.ndarray, np.ndarray]


def run(run: Run) -> None:
    """All questions; rank-deficient draws count with their solution of least norm."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RankWarning)
        with run.time("sketching"):
            for question in (instances, by_rows, by_columns, inner_products, rows_needed, as_hessian):
                question(run)


def _maker(run: Run, question: int) -> tuple[Make, int]:
    """Draws of the run's sketch, different in each question, and how many of them."""
    options = dict(run.method.params)
    trials = options.pop("trials")
    for name in ("sweep_trials", "needed"):
        options.pop(name, None)
    kind = METHODS[run.method.uses]
    return lambda n, m, t: kind(n, m, np.random.default_rng([run.seed, question, n, m, t]), **options), trials


def _solutions(run: Run, question: int, problems: list[Problem], m: int, trials: int) -> list[list[np.ndarray]]:
    """Sketched solutions of problems with the same n: one list per problem. Oblivious draws are shared by them."""
    make, _ = _maker(run, question)
    n = len(problems[0][0])
    pairs = [np.column_stack(problem) for problem in problems]
    edges = np.cumsum([pair.shape[1] for pair in pairs])[:-1]
    if METHODS[run.method.uses] is LeverageSampling:
        scores = [leverage_scores(A) for A, _ in problems]
        draws = [[RowSampling(n, m, run.seed + 7919 * t + m, p=p).apply(X) for p, X in zip(scores, pairs, strict=True)]
                 for t in range(trials)]  # fmt: skip
    else:
        together = np.hstack(pairs)
        draws = [np.split(make(n, m, t).apply(together), edges, axis=1) for t in range(trials)]
    return [[small_solve(draw[k][:, :-1], draw[k][:, -1], "S A") for draw in draws] for k in range(len(pairs))]


def _median(values: list[tuple[float, float]]) -> tuple[float, float]:
    first, second = np.median(np.array(values), axis=0)
    return float(first), float(second)


def instances(run: Run) -> None:
    """Four generated designs at d = 64 and four real ones: error constants and spread of the error."""
    _, trials = _maker(run, 0)
    n = run.dataset.params["n"]
    d = 64 if n >= 4096 else 8
    families = {kind: {kind: problem} for kind, problem in run.dataset.load(run.seed, d=d, kinds=KINDS).items()}
    groups: list[dict[str, Problem]] = [{k: p for family in families.values() for k, p in family.items()}]
    groups += [{name: problem} for name, problem in real_designs(seed=0).items()] if run.scale != "smoke" else []
    worst, whitened = [], []
    for group in groups:
        problems = list(group.values())
        columns = problems[0][0].shape[1]
        m = (RATIO if RATIO * columns <= len(problems[0][1]) else RATIO // 2) * columns
        few = trials if columns < 128 else max(2, trials // 4)
        for (name, (A, b)), found in zip(group.items(), _solutions(run, 0, problems, m, few), strict=True):
            exact, unit = reference(A, b), random_direction(A.shape[1])
            # A sampling may answer the spikes exactly, or not see them at all: then there is no error to spread.
            wrong = [x for x in found if np.any(x != exact.x)]
            plain, white = _median([exact.spread(x) for x in wrong]) if wrong else (0.0, 0.0)
            worst.append(plain / unit)
            whitened.append(white / unit)
            linf, l2 = _median([exact.constants(x) for x in found])
            run.log(
                **{f"linf_{name}": linf, f"l2_{name}": l2, f"spread_{name}": worst[-1], f"white_{name}": white / unit}
            )
    run.log(worst_spread=max(worst), whitened_spread=max(whitened))


def by_rows(run: Run) -> None:
    """m = 64, ..., 2048 at d = 32: medians on a Gaussian design, 90 % quantiles on the spikes (m <= d^2)."""
    _, trials = _maker(run, 1)
    trials = run.method.params.get("sweep_trials", trials)
    n = run.dataset.params["n"]
    d = 32 if n >= 4096 else 8
    problems = list(run.dataset.load(run.seed, d=d, kinds=("gaussian", "spikes")).values())
    exact = [reference(*problem) for problem in problems]
    lowest, quantised = math.inf, True
    for m in [m for m in (64, 128, 256, 512, 1024, 2048) if m <= n // 2]:
        plain, spiked = _solutions(run, 1, problems, m, trials)
        linf, l2 = _median([exact[0].constants(x) for x in plain])
        values = [exact[1].constants(x)[0] for x in spiked]
        # Ratios of small integers up to rounding for a CountSketch: 0.9999999999999998 would not be an error of 1.
        quantile = round(float(np.quantile(values, 0.9)), 12)
        run.log(step=m, linf_by_rows=linf, l2_by_rows=l2, spike_quantile=quantile)
        if m <= d * d:
            lowest = min(lowest, quantile)
        fractions = np.outer(np.array(values), np.arange(1, 9))
        quantised &= bool((np.abs(fractions - fractions.round()).min(axis=1) < 1e-9).all())
    run.log(lowest_spike_quantile=lowest, quantised=quantised)


def by_columns(run: Run) -> None:
    """m = 8 d for d = 8, ..., 128."""
    _, trials = _maker(run, 2)
    trials = run.method.params.get("sweep_trials", trials)
    n = run.dataset.params["n"]
    constant = {}
    for d in [d for d in (8, 16, 32, 64, 128) if 4 * RATIO * d <= n]:
        problems = list(run.dataset.load(run.seed, d=d, kinds=("gaussian", "spikes")).values())
        exact = [reference(*problem) for problem in problems]
        plain, spiked = _solutions(run, 2, problems, RATIO * d, trials)
        constant[d] = _median([exact[0].constants(x) for x in plain])[0]
        ratios = [exact[1].spread(x)[0] for x in spiked if np.any(x != exact[1].x)]
        run.log(step=d, linf_by_d=constant[d])
        if ratios:
            run.log(step=d, ratio_by_d=float(np.median(ratios)))
    if {16, 128} <= constant.keys():
        run.log(growth_in_d=constant[128] / constant[16])


def inner_products(run: Run) -> None:
    """g^T S^T S h over 400 sketches (m = 64, n = 256): two basis vectors, and two random directions."""
    if not METHODS[run.method.uses].oblivious:
        return
    make, _ = _maker(run, 3)
    n, m, trials = 256, 64, 400 if run.scale != "smoke" else 50
    g, h = np.zeros((n, 2)), np.zeros((n, 2))
    g[0, 0] = h[1, 0] = 1.0
    g[:, 1], h[:, 1] = run.rng.standard_normal((2, n))
    values = oce_samples(lambda t: make(n, m, t), g, h, trials)
    for q in QUANTILES:
        basis, random = np.quantile(values, q, axis=0)
        run.log(step=q, oce_basis=float(basis), oce_random=float(random))
    basis = values[:, 0]
    run.log(
        oce_median=float(np.median(basis)),
        oce_q99=float(np.quantile(basis, 0.99)),
        oce_max=float(basis.max()),
        oce_spread_pair_max=float(values[:, 1].max()),
        oce_max_is_sqrt_m=bool(abs(basis.max() - math.sqrt(m)) < 1e-12),
    )


def rows_needed(run: Run) -> None:
    """Rows for a constant of 0.9 (one collision of a CountSketch makes it 1) in 90 % of the draws on the spikes."""
    if not run.method.params.get("needed"):
        return
    make, _ = _maker(run, 4)
    n = run.dataset.params["n"]
    for d in (4, 8, 16, 32) if n >= 4096 else (4,):
        ((A, b),) = run.dataset.load(run.seed, d=d, kinds=("spikes",)).values()
        rows = required_rows(0.9, 0.1, lambda m, t: make(n, m, t), A, b, trials=12, steps=6)
        if math.isfinite(rows):
            run.log(step=d, rows_needed=rows)


def as_hessian(run: Run) -> None:
    """The sketch as a Hessian: refinement on the coherent design, and Newton's method for logistic regression."""
    if not METHODS[run.method.uses].oblivious:
        return
    make, _ = _maker(run, 5)
    n = run.dataset.params["n"]
    d = 64 if n >= 4096 else 8
    ((A, b),) = run.dataset.load(run.seed, d=d, kinds=("coherent",)).values()
    smallest, largest = ose_distortion(make(n, RATIO * d, 0), A)
    run.log(smallest_singular=smallest, largest_singular=largest)
    exact = exact_solve(A, b)
    for t, x in enumerate(iterative_sketching(A, b, lambda t: make(n, RATIO * d, t), 20)):
        run.log(step=t, refined=_relative(x, exact))
    if run.scale == "smoke":
        return
    X, y = real_designs(seed=0)["breast_cancer"]
    y = np.sign(y)
    answer = newton_logistic(X, y, None, 12)[-1]
    m = RATIO * X.shape[1]
    for t, w in enumerate(newton_logistic(X, y, lambda t: make(len(X), m, 100 + t), 8)):
        run.log(step=t, newton_error=_relative(w, answer))


def _relative(x: np.ndarray, exact: np.ndarray) -> float:
    return float(np.linalg.norm(x - exact) / np.linalg.norm(exact))


def _rate(records: pd.DataFrame, method: str) -> list[float]:
    """Per seed, the log-log slope of the error constant over m = 256, ..., 2048."""
    history = _history(records, "linf_by_rows")
    history = history[(history["method"] == method) & (history["step"] >= 256)]
    return [
        float(np.polyfit(np.log(rows["step"].astype(float)), np.log(rows["value"].astype(float)), 1)[0])
        for _, rows in history.groupby("seed")
        if len(rows) > 2
    ]


def rate_srht(records: pd.DataFrame) -> list[float]:
    """The rate of the SRHT."""
    return _rate(records, "srht")


def rate_with_replacement(records: pd.DataFrame) -> list[float]:
    """The rate of the SRHT whose rows may repeat."""
    return _rate(records, "srht_repeated")


def rate_pooled(records: pd.DataFrame) -> list[float]:
    """The rate of the Gaussian-pooled sketch."""
    return _rate(records, "pooled")


def _history(records: pd.DataFrame, metric: str) -> pd.DataFrame:
    return rec.history(records, metric)


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Rows, dimension, inner products, rows needed."""
    fig, axes = plotting.figure(columns=2, cols=2, height=7.5)
    for ax, metric, text in zip(axes, ("linf_by_rows", "spike_quantile"), ("Gaussian design", "spikes"), strict=True):
        if _lines(ax, _history(records, metric), (64, 128, 256, 512, 1024, 2048), (0.2, 0.5, 1, 2, 4)):
            ax.set(
                xlabel="rows m", ylabel="constant, median" if ax is axes[0] else "constant, 90 % quantile", title=text
            )
            plotting.guide(ax, -0.5, through=(512, 0.75 if ax is axes[0] else 0.9))
    plotting.legend(fig)
    yield "rows", fig

    fig, axes = plotting.figure(columns=2, cols=2, height=7.5)
    if _lines(axes[0], _history(records, "linf_by_d"), (8, 16, 32, 64, 128), (0.5, 0.6, 0.7, 0.8, 0.9, 1)):
        axes[0].set(xlabel="columns d (m = 8d)", ylabel="constant, median", title="Gaussian design")
    if _lines(axes[1], _history(records, "ratio_by_d"), (8, 16, 32, 64, 128), (0.1, 0.2, 0.3, 0.5, 1)):
        axes[1].set(xlabel="columns d (m = 8d)", ylabel="$|e|_\\infty / |e|_2$, median", title="spikes")
        d = np.geomspace(*axes[1].get_xlim(), 40)
        shape = {"color": "#444444", "linewidth": 0.9, "marker": ""}
        axes[1].plot(d, np.sqrt(2 * np.log(d) / d), linestyle="--", label="random direction", **shape)
        axes[1].plot(d, d**-0.5, linestyle=":", label="1/√d", **shape)
        axes[1].set_xlim(d[0], d[-1])
    plotting.legend(fig)
    yield "dimension", fig

    fig, axes = plotting.figure(columns=2, cols=2, height=6.5, sharey=True)
    for ax, metric, text in zip(axes, ("oce_basis", "oce_random"), ("basis vectors", "random directions"), strict=True):
        _quantiles(ax, _history(records, metric))
        ax.set(title=text)
    axes[0].set_ylabel(r"$\sqrt{m}\,|g^T S^T S h - g^T h|$")
    plotting.legend(fig)
    yield "oce", fig

    fig, ax = plotting.figure(height=7)
    history = _history(records, "rows_needed")
    # Where n rows were not enough for some seed, the mean of the others would flatter.
    history = history[history.groupby(["method", "step"])["value"].transform("size") == records["seed"].nunique()]
    if _lines(ax, history, (4, 8, 16, 32), (10, 30, 100, 300, 1000, 3000)):
        ax.set(xlabel="columns d", ylabel="rows needed")
        first = history[history["step"] == 4].groupby("method")["value"].mean()
        if "count_sketch" in first:
            plotting.guide(ax, 2, through=(4, 1.3 * first["count_sketch"]), text="d²")
        if "srht" in first:
            d = np.geomspace(4, 32, 40)
            shape = first["srht"] * d * np.log(d / 0.1) / (4 * math.log(40))
            ax.plot(d, 0.75 * shape, color="#444444", linewidth=0.9, linestyle="--", label="d log(d/δ)")
        plotting.legend(fig)
    yield "needed", fig


def _lines(ax: plotting.canvas.Axes, history: pd.DataFrame, ticks: tuple[int, ...], values: tuple[float, ...]) -> bool:
    if history.empty:
        plotting.empty(ax)
        return False
    plotting.log_axis(ax, "x", ticks=ticks)
    plotting.log_axis(ax, "y", ticks=values)
    plotting.series(ax, history, "step", "value")
    return True


def _quantiles(ax: plotting.canvas.Axes, history: pd.DataFrame) -> None:
    """A column of four marks per sketch, means over seeds."""
    if history.empty:
        plotting.empty(ax)
        return
    names = list(dict.fromkeys(history["method"]))
    means = history.groupby(["step", "method"])["value"].mean()
    looks = plotting.looks.styles(["median", "90 %", "99 %", "largest"])
    for q, (text, look) in zip(QUANTILES, looks.items(), strict=True):
        at = [k for k, name in enumerate(names) if (q, name) in means.index]
        ax.plot(at, [means[q, names[k]] for k in at], **(look | {"linestyle": "none", "label": text}))
    plotting.reference(ax, y=8.0, text="√m")
    ax.set_xticks(range(len(names)), [plotting.label(name) for name in names], rotation=30, ha="right",
                  rotation_mode="anchor")  # fmt: skip
    ax.set_xlim(-0.5, len(names) - 0.5)
    ax.grid(False, axis="x")
