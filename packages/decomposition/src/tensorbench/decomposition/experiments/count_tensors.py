"""Which decomposition of counts predicts held-out events best, and what the Tucker model finds.

One event in ten is held out at random (thinning), so that a model of the kept events predicts the others at a ninth of
its rate. Where the dataset has new months, a model of the months before them sees what passes in the new ones among the
most active actors and predicts all other pairs. ``test_loglik`` is the Poisson log-likelihood of all held-out cells,
divided by the held-out events.

BPTD also logs ``communities_found`` where the generating state is known: how many of its five largest communities have
a match with a cosine of token shares of at least 0.9 in the last sample. With ``offered`` it is fitted again with other
numbers of communities (the steps); ``small_communities`` are those of the main fit with less than 1 % of the tokens.
``differs`` holds what a method does differently on a dataset.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from tensorbench.core.run import Run
from tensorbench.decomposition.baselines import counts as baselines
from tensorbench.decomposition.counts.bptd import BPTD, effective_communities, loglik_per_event
from tensorbench.decomposition.counts.new_steps import blocks_new_steps, bptd_new_steps, bptf_new_steps
from tensorbench.decomposition.counts.related import BPTF, BlockModel
from tensorbench.decomposition.counts.splits import strong_generalisation_split, thin_split
from tensorbench.decomposition.counts.state import rates, token_shares
from tensorbench.decomposition.datasets.counts import CountTensor
from tensorbench.decomposition.experiments import count_figures

HELD_OUT = 0.1
GROUPS = 10  # of cells, by predicted rate
LARGEST = 5  # communities of the generating state that are looked for
FOUND = 0.9  # cosine of token shares


class Fit(NamedTuple):
    """What a model of the kept events says.

    ``rates()`` of all their cells; ``new_steps(counts, mask)``, rates of all cells of new months of which the pairs in
    the mask are observed; how many numbers the rates depend on; and the sampler where there is one.
    """

    rates: Callable[[], np.ndarray]
    parameters: int
    new_steps: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None
    model: BPTD | BPTF | BlockModel | None = None


def fit_bptd(
    counts: np.ndarray, seed: int, *, communities: int, topics: int, regimes: int, sweeps: int, burn: int, thin: int = 4
) -> Fit:
    """Bayesian Poisson Tucker decomposition."""
    model = BPTD(communities, topics, regimes, n_iter=sweeps, burn=burn, thin=thin, seed=seed).fit(counts)
    return Fit(model.posterior_mean, model.num_params, partial(bptd_new_steps, model, seed=seed), model)


def fit_bptf(counts: np.ndarray, seed: int, *, components: int, sweeps: int, burn: int, thin: int = 4) -> Fit:
    """Bayesian Poisson CP."""
    model = BPTF(components, n_iter=sweeps, burn=burn, thin=thin, seed=seed).fit(counts)
    return Fit(model.posterior_mean, model.num_params, partial(bptf_new_steps, model, seed=seed), model)


def fit_blocks(
    counts: np.ndarray,
    seed: int,
    *,
    communities: int,
    topics: int,
    regimes: int,
    sweeps: int,
    burn: int,
    **options: bool,
) -> Fit:
    """Hard memberships, with or without popularity of actors, actions and time steps."""
    model = BlockModel(communities, topics, regimes, n_iter=sweeps, burn=burn, seed=seed, **options).fit(counts)
    return Fit(model.posterior_mean, model.num_params, partial(blocks_new_steps, model), model)


def fit_cp_apr(counts: np.ndarray, seed: int, *, rank: int, iterations: int) -> Fit:
    """pyttb's Poisson CP, 1 % of independence mixed in."""
    options = {"seed": seed, "iterations": iterations}
    return Fit(
        partial(baselines.pyttb_cp_apr, counts, rank, **options),
        rank * sum(counts.shape),
        partial(baselines.pyttb_cp_apr_new_steps, counts, rank, **options),
    )


def fit_nonnegative_tucker(counts: np.ndarray, seed: int, *, ranks: list[int], iterations: int) -> Fit:
    """TensorLy's least-squares Tucker, 1 % of independence mixed in."""
    rates_of = partial(baselines.tensorly_non_negative_tucker, counts, tuple(ranks), seed=seed, iterations=iterations)
    return Fit(rates_of, int(np.prod(ranks)) + int(np.dot(ranks, counts.shape)))


def fit_independence(counts: np.ndarray, seed: int) -> Fit:
    """Product of margins."""
    new_steps = partial(baselines.independence_new_steps, counts)
    return Fit(partial(baselines.independence, counts), sum(counts.shape), new_steps)


METHODS = {
    "bptd": fit_bptd,
    "bptf": fit_bptf,
    "blocks": fit_blocks,
    "cp_apr": fit_cp_apr,
    "nonnegative_tucker": fit_nonnegative_tucker,
    "independence": fit_independence,
}


def run(run: Run) -> None:
    """Hold out, fit, score; for BPTD also what it found."""
    data = run.dataset.load(run.seed)
    options = dict(run.method.params)
    offered = options.pop("offered", {}).get(run.dataset.name, [])
    options |= options.pop("differs", {}).get(run.dataset.name, {})
    fit_method = partial(METHODS[run.method.uses], seed=run.seed, **options)
    if data.new_months:
        kept, held, observed = strong_generalisation_split(data.new_months, data.active, data.counts)
        with run.time("fit"):
            fit = fit_method(kept)
            if fit.new_steps is None:
                raise ValueError(f"{run.method.name} says nothing about new months; leave {run.dataset.name} out")
            predicted = fit.new_steps(held * observed[:, :, None, None], observed)
        _score(run, held, predicted, observed == 0, fit)
        return
    kept, held = thin_split(data.counts, HELD_OUT, np.random.default_rng([run.seed, 10]))
    with run.time("fit"):
        fit = fit_method(kept)
        predicted = fit.rates() * (HELD_OUT / (1 - HELD_OUT))
    _score(run, held, predicted, np.ones(held.shape[:2], dtype=bool), fit)
    if run.method.uses == "independence":
        run.log(constant_loglik=loglik_per_event(held, baselines.constant(kept) * (HELD_OUT / (1 - HELD_OUT))))
        if data.truth is not None:
            run.log(truth_loglik=loglik_per_event(held, rates(data.truth) * HELD_OUT))
    if "sweeps" in options:
        run.log(sweep_milliseconds=1000 * run.metrics["fit_seconds"] / options["sweeps"])
    if isinstance(fit.model, BPTD):
        if data.truth is not None:
            _communities(run, data, fit.model)
        if offered:
            _shrinkage(run, kept, held, options, offered, predicted, fit.model)
        _keep(run, data, fit.model)


def _score(run: Run, held: np.ndarray, predicted: np.ndarray, pairs: np.ndarray, fit: Fit) -> None:
    """Events of the ``pairs`` against their predicted rates."""
    cells = pairs & ~np.eye(len(held), dtype=bool)
    run.log(
        test_loglik=loglik_per_event(held, predicted, cells),
        parameters=fit.parameters,
        mae=float(np.abs(held - predicted)[cells].mean()),
        calibration_error=_calibration(run, held[cells], predicted[cells]),
    )


def _calibration(run: Run, held: np.ndarray, predicted: np.ndarray) -> float:
    """Sum over groups of cells of |events - predicted|, over all events. The step is the group."""
    order = np.argsort(predicted, axis=None)
    y, rate = held.ravel()[order], predicted.ravel()[order]
    share = np.cumsum(rate) / rate.sum()
    group = np.minimum((share * GROUPS).astype(int), GROUPS - 1)
    events, expected = (np.bincount(group, weights=w, minlength=GROUPS) for w in (y, rate))
    for g in range(GROUPS):
        if expected[g] > 0:
            run.log(step=g + 1, observed_over_predicted=events[g] / expected[g])
    return float(np.abs(events - expected).sum() / y.sum())


def _communities(run: Run, data: CountTensor, model: BPTD) -> None:
    """Best cosine with any community of the fit, for the largest communities of the generating state (the steps)."""
    truth, found = token_shares(data.truth), model.tokens.actors.astype(np.float64)
    largest = np.argsort(-truth.sum(axis=0), kind="stable")[:LARGEST]
    norms = np.linalg.norm(truth, axis=0)[:, None] * np.maximum(np.linalg.norm(found, axis=0), 1e-300)
    cosine = (truth.T @ found / norms).max(axis=1)[largest]
    for n, value in enumerate(cosine):
        run.log(step=n + 1, best_match=value)
    run.log(communities_found=int((cosine >= FOUND).sum()), weakest_match=cosine.min())


def _keep(run: Run, data: CountTensor, model: BPTD) -> None:
    """What the figures of communities, networks and topics need, of the first seed's last sample."""
    if run.seed != 0 or run.dataset.name != "icews14":
        return
    np.savez_compressed(
        run.artifact("structure.npz"),
        actors=np.array(data.actors),
        actions=np.array(data.actions),
        tokens=model.tokens.actors,
        blocks=model.tokens.blocks,
        topics=model.state.Phi_AK,
    )
    model.state.save(run.artifact("state.npz"))


def _shrinkage(
    run: Run, kept: np.ndarray, held: np.ndarray, options: dict, offered: list[int], predicted: np.ndarray, main: BPTD
) -> None:
    """More and more communities offered; their shares of the tokens by size are the metrics ``share_of_<offered>``."""
    loglik = {}
    for communities in sorted({options["communities"], *offered}):
        same = communities == options["communities"]
        if same:
            tokens, rate = main.tokens.actors, predicted
        else:
            fit = fit_bptd(kept, run.seed, **{**options, "communities": communities})
            assert isinstance(fit.model, BPTD)
            tokens, rate = fit.model.tokens.actors, fit.rates() * (HELD_OUT / (1 - HELD_OUT))
        loglik[communities] = loglik_per_event(held, rate)
        run.log(step=communities, loglik_offered=loglik[communities], effective=effective_communities(tokens))
        for n, share in enumerate(np.sort(tokens.sum(axis=0) / tokens.sum())[::-1]):
            run.log(step=n + 1, **{f"share_of_{communities}": share})
        if same:
            run.log(small_communities=communities - effective_communities(tokens))
    run.log(change_with_more=loglik[max(loglik)] - loglik[min(loglik)])


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Prediction, calibration, what BPTD finds on ICEWS14, and shrinkage."""
    yield "prediction", count_figures.prediction(records)
    yield "calibration", count_figures.calibration(records)
    structure = count_figures.structure(records)
    yield "communities", count_figures.communities(structure)
    yield "networks", count_figures.networks(structure)
    yield "topics", count_figures.topics(structure)
    yield "shrinkage", count_figures.shrinkage(records)
