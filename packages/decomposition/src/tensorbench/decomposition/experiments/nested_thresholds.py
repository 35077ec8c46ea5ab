"""How well do unfoldings and the rank-one approximation see a signal under the nested matrix-tensor model? Theory
beside simulation.

Each dataset asks one question (a protocol of this module):

- ``spectrum`` (step n_T): eigenvalues, spike and alignment of the second and third unfolding, against their limits.
- ``transition`` (step rho / threshold): alignment of the second unfolding, or of the rank-one approximation from
  several starts, across the unfolding's threshold. For the unfolding also its alignment on a grid of beta_M
  and rho, at the second size.
- ``multiview`` (step |mu| or the digits' strength): clustering accuracy of every method.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from tensorbench.core.run import Run
from tensorbench.decomposition.baselines.clustering import kmeans_views, spectral_views
from tensorbench.decomposition.baselines.cp import tensorly_als
from tensorbench.decomposition.experiments import nested_figures as drawn
from tensorbench.decomposition.linalg import streaming_gram
from tensorbench.decomposition.spiked import estimators as est
from tensorbench.decomposition.spiked import spectra, tensor_theory
from tensorbench.decomposition.spiked import unfolding_theory as theory
from tensorbench.decomposition.spiked.accuracy_theory import PREDICTIONS
from tensorbench.decomposition.spiked.nested import NestedDraw, SecondGrams

STRONG, WEAK = 1.5, 0.5  # |h| of the two curves of accuracy
RATIOS = (0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 2.5, 4.0)
RATIOS_RANK_ONE = (0.2, 0.4, 0.6, 1.0, 1.5, 2.5)
RANDOM_STARTS = 2
DIGIT_STRENGTHS = (0.5, 0.6, 0.7, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0)
CLOSE = 0.05  # alignments that agree to this are the same
Curves = dict[tuple[float, float], float]  # accuracy by (|h|, |mu|)


def unfolding(T: np.ndarray, gains: np.ndarray, seed: int) -> np.ndarray:
    """The paper's tractable estimate."""
    return est.sign_labels(est.unfolding_estimator(T, 1))


def rank_one(T: np.ndarray, gains: np.ndarray, seed: int, **options: float) -> np.ndarray:
    """The paper's tensor estimate, from the unfoldings."""
    return est.sign_labels(est.rank_one_tensor(T, "unfolding", **options).y)  # type: ignore[arg-type]


def two_step(T: np.ndarray, gains: np.ndarray, seed: int) -> np.ndarray:
    """The gains from the third unfolding, then the mean that they weigh."""
    return est.sign_labels(est.two_step(T).y)


def weighted_mean(T: np.ndarray, gains: np.ndarray, seed: int) -> np.ndarray:
    """The oracle: the true gains."""
    return est.sign_labels(est.weighted_mean(T, gains))


def parafac(T: np.ndarray, gains: np.ndarray, seed: int, **options: float) -> np.ndarray:
    """TensorLy's rank-one fit, what the authors' simulations use."""
    model = tensorly_als(T, 1, seed=seed, **options)  # type: ignore[arg-type]
    return est.sign_labels(model.factors[1].numpy()[:, 0])


def kmeans(T: np.ndarray, gains: np.ndarray, seed: int, **options: int) -> np.ndarray:
    return kmeans_views(T, seed=seed, **options)


def spectral(T: np.ndarray, gains: np.ndarray, seed: int, **options: int) -> np.ndarray:
    return spectral_views(T, seed=seed, **options)


METHODS = {
    "unfolding": unfolding,
    "rank_one": rank_one,
    "two_step": two_step,
    "weighted_mean": weighted_mean,
    "parafac": parafac,
    "kmeans": kmeans,
    "spectral": spectral,
}


def run(run: Run) -> None:
    """The protocol of the dataset."""
    with run.time("fit"):
        PROTOCOLS[run.dataset.name](run)


def spectrum(run: Run) -> None:
    """Both unfoldings at every size. One pass over the noise, in slabs, gives a Gram matrix; its spectrum is compared
    with the limit. The errors are those of the draws' means, as an asymptotic formula predicts the mean first."""
    second, third = run.dataset.load(run.seed), run.dataset.load(run.seed, rho=None, varrho=4.0, beta_M=3.0, draws=1)
    kept = {}
    for draws, others in run.progress(list(zip(second, third, strict=True)), desc="sizes"):
        dims = draws[0].dims
        rho = float(theory.rho_from_beta(dims, draws[0].beta_T))
        law = theory.SecondUnfolding(dims, draws[0].beta_M, rho)
        rows = [_unfolded(draw, 1, draw.y, law) for draw in draws]
        law3 = theory.third_unfolding(dims, others[0].beta_M, others[0].beta_T)
        rows3 = [_unfolded(draw, 2, draw.z, law3) for draw in others]
        mean, mean3 = ({key: float(np.mean([row[key] for row in r])) for key in SPECTRAL} for r in (rows, rows3))
        run.log(
            step=sum(dims),
            **mean,
            **{f"{key}_third": value for key, value in mean3.items()},
            alignment_error=abs(mean["alignment"] - law.alignment),
            spike_error=abs(mean["spike"] / law.spike - 1),
        )
        kept[f"second_{sum(dims)}"], kept[f"third_{sum(dims)}"] = rows[0]["values"], rows3[0]["values"]
    if run.seed == 0:
        np.savez(run.artifact("eigenvalues.npz"), **kept)


SPECTRAL = ("alignment", "spike", "distance", "gram_seconds")


def _unfolded(
    draw: NestedDraw, mode: int, hidden: np.ndarray, law: theory.SecondUnfolding | theory.ThirdUnfolding
) -> dict:
    """Spectrum of one unfolding: rescaled eigenvalues, squared alignment, spike, and the distance of the bulk from
    `law`."""
    start = time.perf_counter()
    total = streaming_gram(draw.slabs(), mode)
    seconds = time.perf_counter() - start
    values, vectors = np.linalg.eigh(total)
    rescaled = spectra.rescale(values, draw.dims, mode)
    return {
        "values": rescaled,
        "alignment": float((vectors[:, -1] @ hidden) ** 2),
        "spike": float(rescaled[-1]),
        "distance": spectra.kolmogorov_distance(rescaled, law.distribution, spikes=1),
        "gram_seconds": seconds,
    }


def _phase_diagram(run: Run, draw: NestedDraw) -> None:
    """Squared alignment with y on a grid; every cell has the seed's noise."""
    cells = 20 if run.scale != "smoke" else 5
    axis = 3.0 * (np.arange(cells) + 1) / cells
    grams = SecondGrams(draw)
    beta_T = np.sqrt(axis / theory.rho_from_beta(draw.dims, 1.0))
    found = np.array(
        [
            [(est.leading_eigenvector(grams(b, t))[1] @ draw.y) ** 2 for b in axis]
            for t in run.progress(beta_T, desc="rows")
        ]
    )
    expected = theory.SecondUnfolding(draw.dims, axis[None, :], axis[:, None]).alignment
    np.savez(run.artifact("grid.npz"), axis=axis, found=found, expected=expected, dims=draw.dims)
    run.log(grid_error=float(np.abs(found - expected).mean()), worst_cell=float(np.abs(found - expected).max()))


def transition(run: Run) -> None:
    """Across the threshold of the second unfolding at fixed beta_M, the noise shared by all strengths."""
    (draw,), (smaller,) = run.dataset.load(run.seed)
    threshold = float(theory.threshold_rho(draw.dims, draw.beta_M))
    if run.method.uses == "unfolding":
        _transition_unfolding(run, draw, threshold)
        _phase_diagram(run, smaller)
    else:
        _transition_rank_one(run, draw, threshold)


def _beta_T(draw: NestedDraw, rho: float) -> float:
    return float(np.sqrt(rho / theory.rho_from_beta(draw.dims, 1.0)))


def _transition_unfolding(run: Run, draw: NestedDraw, threshold: float) -> None:
    grams = SecondGrams(draw)
    for ratio in RATIOS:
        rho = ratio * threshold
        _, vector = est.leading_eigenvector(grams(draw.beta_M, _beta_T(draw, rho)))
        expected = theory.SecondUnfolding(draw.dims, draw.beta_M, rho).alignment
        run.log(step=ratio, alignment=float((vector @ draw.y) ** 2), predicted=expected)


def _transition_rank_one(run: Run, draw: NestedDraw, threshold: float) -> None:
    """From the unfoldings, from the truth, from random vectors and from the two-step estimate."""
    noise = next(draw.noise(draw.dims[0]))[1]
    options = dict(run.method.params)
    worst = {"unfolding": 0.0, "truth": 0.0}
    for ratio in run.progress(RATIOS_RANK_ONE, desc="strengths"):
        here = draw.with_strengths(beta_T=_beta_T(draw, ratio * threshold))
        T = here.tensor(noise)
        limit = float(tensor_theory.solve(draw.dims, draw.beta_M, here.beta_T).q_y[0])
        first = est.two_step(T)
        aligned = {
            "two_step": abs(first.y @ draw.y),
            "unfolding": abs(est.rank_one_tensor(T, "unfolding", **options).y @ draw.y),
            "truth": abs(est.rank_one_tensor(T, (draw.x, draw.y, draw.z), **options).y @ draw.y),
        }
        random = [
            abs(est.rank_one_tensor(T, "random", generator=1000 * run.seed + k, **options).y @ draw.y)
            for k in range(RANDOM_STARTS)
        ]
        success = np.mean([value > aligned["truth"] - CLOSE for value in random])
        run.log(
            step=ratio,
            predicted=limit**2,
            random_alignment=float(np.mean(np.square(random))),
            random_success=float(success),
            **{f"{name}_alignment": float(value**2) for name, value in aligned.items()},
            **{f"{name}_deviation": abs(aligned[name] - limit) for name in worst},
        )
        if ratio > 1:
            worst = {name: max(value, abs(aligned[name] - limit)) for name, value in worst.items()}
    run.log(**{f"{name}_worst": value for name, value in worst.items()})


def multiview(run: Run) -> None:
    """Accuracy over |mu| at two |h|, and over the strength of the digits. |mu| = 1 and 3 are seen on every draw of the
    dataset; `coarse` methods see nothing else, and on the first draw only."""
    problems = run.dataset.load(run.seed)
    options = dict(run.method.params)
    coarse = options.pop("coarse", False)

    def cluster(T: np.ndarray, gains: np.ndarray) -> np.ndarray:
        return METHODS[run.method.uses](T, gains, run.seed, **options)

    seconds: list[float] = []
    curves = _curves(run, problems.draws, coarse, cluster, seconds)
    predicted = [(curves[key], expected) for key, expected in _predictions(run, problems.draws[0], curves).items()]
    if predicted:
        run.log(curve_error=float(np.mean([abs(a - b) for a, b in predicted])))
    run.log(solve_seconds=float(np.mean(seconds)), parameters=sum(problems.draws[0].dims))
    for strength in DIGIT_STRENGTHS:
        T = problems.digits.tensor(strength)
        found = cluster(T, problems.digits.gains)
        run.log(step=strength, digits_accuracy=est.clustering_accuracy(found, problems.digits.labels))


def _curves(run: Run, draws: list[NestedDraw], coarse: bool, cluster: Callable, seconds: list[float]) -> Curves:
    """Accuracy by (|h|, |mu|), logged as it comes."""
    grid = np.round(np.linspace(0, 5, 26 if run.scale != "smoke" else 6), 6).tolist()
    found: dict[tuple[float, float], list[float]] = {}
    for k, draw in enumerate(draws[:1] if coarse else draws):
        noise = next(draw.noise(draw.dims[0]))[1]
        truth = est.sign_labels(draw.y)
        for mu in (1.0, 3.0) if k > 0 or coarse else run.progress(grid, desc="strengths"):
            for h in (STRONG, WEAK):
                T = draw.with_strengths(mu, h).tensor(noise)
                start = time.perf_counter()
                labels = cluster(T, h * draw.z)
                seconds.append(time.perf_counter() - start)
                found.setdefault((h, mu), []).append(est.clustering_accuracy(labels, truth))
    curves = {key: float(np.mean(values)) for key, values in found.items()}
    for (h, mu), value in curves.items():
        run.log(step=mu, **{"accuracy_strong" if h == STRONG else "accuracy_weak": value})
    run.log(strong_at_1=curves[STRONG, 1.0], weak_at_3=curves[WEAK, 3.0])
    return curves


def _predictions(run: Run, draw: NestedDraw, keys: Curves) -> Curves:
    """Predicted accuracy at the same points, for the methods that have a formula."""
    predict = PREDICTIONS.get(run.method.uses)
    if predict is None:
        return {}
    out = {(h, mu): float(predict(draw.dims, np.array([mu]), h)[0]) for h, mu in keys}
    run.log(predicted_strong_at_1=out[STRONG, 1.0], predicted_weak_at_3=out[WEAK, 3.0])
    return out


PROTOCOLS = {
    "spectrum": spectrum,
    "transition": transition,
    "multiview": multiview,
}


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Spectra, phase diagram, transition, accuracy, gap, finite sizes, digits."""
    yield "spectrum", drawn.spectrum(records)
    yield "phase_diagram", drawn.phase_diagram(records)
    yield "transition", drawn.transition(records)
    yield "accuracy", drawn.accuracy(records)
    yield "gap", drawn.gap(records)
    yield "finite_size", drawn.finite_size(records)
    yield "digits", drawn.digits(records)
