"""Bayesian Poisson Tucker decomposition: published numbers, exactness of every conditional, recovery, bad input."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from scipy.stats import gamma, kstest, nbinom, poisson

from tensorbench.core import data
from tensorbench.decomposition.counts import conditionals as cond
from tensorbench.decomposition.counts.bptd import (
    BPTD,
    align_communities,
    effective_communities,
    generative_sample,
    loglik_per_event,
)
from tensorbench.decomposition.counts.conditionals import Counts, Prior, prior_sample, sweep
from tensorbench.decomposition.counts.geweke import draw_counts, geweke_test
from tensorbench.decomposition.counts.inputs import check_counts
from tensorbench.decomposition.counts.sampling import Allocation, compositional_allocate
from tensorbench.decomposition.counts.state import NAMES, State, rates, token_shares
from tensorbench.decomposition.datasets.counts import read_state

PRIOR = Prior(10.0, 2.0, 3.0)  # all compared moments are finite, and there is about one event a cell
DIMS = (3, 2, 2, 2, 2, 2)


def test_rates_of_the_published_state():
    there, reason = data.available("bptd_posterior")
    if not there:
        pytest.skip(reason)
    try:
        state = read_state(data.fetch(data.get("bptd_posterior").files[0]))
    except data.DataError as error:
        pytest.skip(str(error))
    assert state.dims == (249, 20, 72, 20, 6, 1)
    assert token_shares(state).sum() / 2 == pytest.approx(1106928.057, abs=1e-2)  # all rates off the diagonal
    cells = np.array([[0, 1, 2, 3], [10, 20, 0, 0], [5, 5, 0, 0]])
    np.testing.assert_allclose(rates(state, cells), [2.2157822423, 0.0215474211154, 0.0], rtol=1e-9)


def brute_rates(state):
    full = np.einsum(
        "ic,jd,ak,tr,rkcd->ijat", state.Theta_VC, state.Theta_VC, state.Phi_AK, state.Psi_TR, state.Lambda_RKCC
    )
    return full * (1 - np.eye(len(state.Theta_VC)))[:, :, None, None]


def test_rates_and_token_shares_against_their_definitions():
    state = prior_sample((4, 3, 2, 3, 2, 2), PRIOR, np.random.default_rng(0))
    full = brute_rates(state)
    np.testing.assert_allclose(rates(state), full)
    cells = np.argwhere(np.ones((4, 4, 3, 2)))[::7]
    np.testing.assert_allclose(rates(state, cells), full[tuple(cells.T)])
    assert token_shares(state).sum() == pytest.approx(2 * full.sum())
    np.testing.assert_allclose(token_shares(state).sum(axis=1), full.sum(axis=(1, 2, 3)) + full.sum(axis=(0, 2, 3)))


def test_permuting_communities_changes_nothing_and_alignment_undoes_it():
    state = prior_sample((6, 3, 2, 4, 2, 1), PRIOR, np.random.default_rng(1))
    order = np.array([2, 0, 3, 1])
    np.testing.assert_allclose(rates(state.permuted(order)), rates(state))
    np.testing.assert_allclose(state.permuted(order).core_shapes(), state.core_shapes()[:, :, order][..., order])
    back = align_communities(state, state.permuted(order))
    for name in NAMES:
        np.testing.assert_array_equal(getattr(back, name), getattr(state, name))


def worst(z):
    return max(map(abs, z.values()))


def test_geweke_joint_distribution():
    z = geweke_test(DIMS, PRIOR, np.random.default_rng(0), draws=5000)
    assert worst(z) < 4, z


def test_geweke_with_a_mask_for_each_time_step():
    mask = np.array([[[0, 1, 0], [1, 0, 1], [1, 0, 0]], [[0, 0, 1], [1, 0, 1], [1, 1, 0]]], dtype=float)
    z = geweke_test(DIMS, PRIOR, np.random.default_rng(1), draws=2000, mask=mask)
    assert worst(z) < 4, z


def without_theta_in_beta(state, counts, prior, rng):
    tokens = sweep(state, counts, prior, rng, fixed=("beta",))
    state.beta = float(cond.gamma_safe(prior.e + state.Theta_VC.shape[1] * state.alpha_V.sum(), prior.f, rng))
    return tokens


def with_the_diagonal(state, counts, prior, rng):
    return sweep(state, Counts(counts.coords, counts.values, counts.shape, np.ones_like(counts.mask)), prior, rng)


@pytest.mark.parametrize("broken", [without_theta_in_beta, with_the_diagonal])
def test_geweke_notices_a_wrong_sampler(broken):
    assert worst(geweke_test(DIMS, PRIOR, np.random.default_rng(2), draws=1500, step=broken)) > 4


def fixed_problem(seed=3):
    rng = np.random.default_rng(seed)
    state = prior_sample(DIMS, PRIOR, rng)
    counts = draw_counts(state, 1.0 - np.eye(3), rng)
    return state, counts, compositional_allocate(counts.coords, counts.values, state, rng)


def log_joint(state: State, tokens: Allocation, mask: np.ndarray, prior: Prior) -> float:
    """Log density of latents and tokens up to constants, written from the model and nothing else.

    Every class (i, j, a, t, r, k, c, d) of tokens is Poisson; the sums kept by an allocation are sufficient.
    """
    s = state
    expected = (brute_rates(s) * mask[:, :, None, None]).sum()
    value = -expected
    arrays = (s.Theta_VC, s.Phi_AK, s.Psi_TR, s.Lambda_RKCC)
    for array, count in zip(arrays, (tokens.actors, tokens.actions, tokens.times, tokens.blocks), strict=True):
        value += (count * np.log(array)).sum()
    ga = lambda x, shape, rate: gamma.logpdf(x, shape, scale=1 / rate).sum()  # noqa: E731
    value += ga(s.Theta_VC, s.alpha_V[:, None], s.beta) + ga(s.Psi_TR, prior.e, prior.f)
    value += ga(s.Lambda_RKCC, s.core_shapes(), s.delta) + ga(s.alpha_V, prior.e, prior.f)
    for weights in (s.eta_d_C, s.eta_a_C, s.nu_K, s.rho_R):
        value += ga(weights, prior.gamma0, s.zeta)
    return value + sum(ga(np.array(x), prior.e, prior.f) for x in (s.beta, s.delta, s.zeta))


UPDATES = {
    "Lambda_RKCC": lambda s, t, n, rng: cond.update_core(s, t, n, rng),
    "Psi_TR": lambda s, t, n, rng: cond.update_regimes(s, t, n, PRIOR, rng),
    "Theta_VC": lambda s, t, n, rng: cond.update_memberships(s, t, n, PRIOR, rng, ("alpha_V",)),
    "beta": lambda s, t, n, rng: cond.update_scalars(s, PRIOR, rng, ("delta", "zeta")),
    "delta": lambda s, t, n, rng: cond.update_scalars(s, PRIOR, rng, ("beta", "zeta")),
    "zeta": lambda s, t, n, rng: cond.update_scalars(s, PRIOR, rng, ("beta", "delta")),
}
FIRST = {"Lambda_RKCC": (1, 0, 0, 1), "Psi_TR": (1, 0), "Theta_VC": (0, 1)}


def cdf_on_grid(log_density, draws):
    """A distribution function from an unnormalised log density, on a grid beyond the draws."""
    grid = np.geomspace(np.min(draws) / 5, np.max(draws) * 3, 300)
    logs = np.array([log_density(x) for x in grid])
    weights = np.exp(logs - logs.max())
    mass = np.concatenate([[0], np.cumsum((weights[1:] + weights[:-1]) / 2 * np.diff(grid))])
    return lambda x: np.interp(x, grid, mass / mass[-1])


@pytest.mark.parametrize("name", UPDATES)
def test_conditional_is_the_normalised_joint_on_a_slice(name):
    state, counts, tokens = fixed_problem()
    rng, draws, where = np.random.default_rng(4), [], FIRST.get(name)
    for _ in range(1500):
        now = state.copy()
        UPDATES[name](now, tokens, counts, rng)
        draws.append(getattr(now, name)[where] if where else getattr(now, name))

    def log_density(x):
        now = state.copy()
        if where:
            getattr(now, name)[where] = x
        else:
            setattr(now, name, x)
        return log_joint(now, tokens, counts.mask, PRIOR)

    assert kstest(draws, cdf_on_grid(log_density, draws)).pvalue > 1e-3


@pytest.mark.parametrize("name", ["eta_d_C", "eta_a_C", "nu_K", "rho_R"])
def test_core_shapes_are_drawn_with_the_core_integrated_out(name):
    """A chain over one weight; its distribution is that of the negative binomial likelihood of the block counts."""
    state, counts, tokens = fixed_problem()
    state = prior_sample((3, 2, 2, 1, 1, 1), PRIOR, np.random.default_rng(5))
    counts = draw_counts(state, 1.0 - np.eye(3), np.random.default_rng(6))
    tokens = compositional_allocate(counts.coords, counts.values, state, np.random.default_rng(7))
    others = {"eta_d_C", "eta_a_C", "nu_K", "rho_R"} - {name}
    rng, draws = np.random.default_rng(8), []
    for _ in range(1500):
        for _ in range(4):
            cond.update_core_shapes(state, tokens, counts, PRIOR, rng, others)
        draws.append(getattr(state, name)[0])
    exposure = cond.exposures(state, counts)[:, None]

    def log_density(x):
        now = state.copy()
        getattr(now, name)[0] = x
        likelihood = nbinom.logpmf(tokens.blocks, now.core_shapes(), now.delta / (now.delta + exposure)).sum()
        return likelihood + gamma.logpdf(x, PRIOR.gamma0, scale=1 / now.zeta)

    assert kstest(draws, cdf_on_grid(log_density, draws)).pvalue > 1e-3


def test_alpha_is_drawn_with_theta_integrated_out():
    state = prior_sample((2, 1, 1, 2, 1, 1), PRIOR, np.random.default_rng(9))
    counts = draw_counts(state, 1.0 - np.eye(2), np.random.default_rng(10))
    tokens = compositional_allocate(counts.coords, counts.values, state, np.random.default_rng(11))
    rng, draws = np.random.default_rng(12), []
    for _ in range(1500):
        for _ in range(4):
            cond.update_memberships(state, tokens, counts, PRIOR, rng, ("Theta_VC",))
        draws.append(state.alpha_V[0])
    core = np.einsum("rkcd,r->cd", state.Lambda_RKCC, state.Psi_TR.sum(axis=0))
    rate = (core + core.T) @ state.Theta_VC[1]

    def log_density(x):
        likelihood = nbinom.logpmf(tokens.actors[0], x, state.beta / (state.beta + rate)).sum()
        return likelihood + gamma.logpdf(x, PRIOR.e, scale=1 / PRIOR.f)

    assert kstest(draws, cdf_on_grid(log_density, draws)).pvalue > 1e-3


def test_one_class_has_a_gamma_posterior():
    """C = K = R = 1 with everything but the core fixed: lambda ~ Ga(shape + y, delta + exposure) exactly."""
    Y = np.random.default_rng(13).poisson(2.0, (4, 4, 1, 3)) * (1 - np.eye(4, dtype=int))[:, :, None, None]
    fixed = {name: np.ones(shape) for name, shape in (("Theta_VC", (4, 1)), ("Phi_AK", (1, 1)), ("Psi_TR", (3, 1)))}
    fixed |= {"eta_d_C": np.ones(1), "eta_a_C": np.ones(1), "nu_K": np.ones(1), "rho_R": np.ones(1), "delta": 2.0}
    model = BPTD(1, 1, 1, n_iter=2000, burn=0, thin=1, seed=0).partial_fit(Y, fixed)
    draws = [sample.Lambda_RKCC.item() for sample in model.samples]
    assert kstest(draws, "gamma", args=(1 + Y.sum(), 0, 1 / (2 + 36))).pvalue > 1e-3
    assert model.posterior_mean()[0, 1, 0, 0] == pytest.approx((1 + Y.sum()) / 38, rel=0.02)


def test_hard_memberships_make_a_poisson_block_model():
    """R = K = 1 and one community each: every block's rate has a gamma posterior of its own."""
    z = np.array([0, 0, 1, 1, 1])
    Y = np.random.default_rng(14).poisson(1.5, (5, 5, 1, 1)) * (1 - np.eye(5, dtype=int))[:, :, None, None]
    fixed = {"Theta_VC": np.eye(2)[z], "Phi_AK": np.ones((1, 1)), "Psi_TR": np.ones((1, 1)), "delta": 1.0}
    fixed |= {"eta_d_C": np.array([1.0, 2.0]), "eta_a_C": np.array([0.5, 1.5]), "nu_K": np.ones(1), "rho_R": np.ones(1)}
    model = BPTD(2, 1, 1, n_iter=1500, burn=0, thin=1, seed=1).partial_fit(Y, fixed)
    one = np.eye(2)[z]
    events = one.T @ Y[:, :, 0, 0] @ one
    cells = one.T @ (1 - np.eye(5)) @ one
    shapes = np.array([[0.5, 2.0], [2.0, 3.0]])
    draws = np.stack([sample.Lambda_RKCC[0, 0] for sample in model.samples])
    for c, d in np.ndindex(2, 2):
        expected = gamma(shapes[c, d] + events[c, d], scale=1 / (1.0 + cells[c, d]))
        assert kstest(draws[:, c, d], expected.cdf).pvalue > 1e-3


def test_new_time_steps_are_fitted_with_the_rest_fixed():
    state, Y = generative_sample(Prior(5.0, 5.0, 1.5), (8, 4, 6, 2, 2, 2), np.random.default_rng(15), delta=1.0)
    fixed = {"Theta_VC": state.Theta_VC, "Phi_AK": state.Phi_AK, "Lambda_RKCC": state.Lambda_RKCC}
    model = BPTD(2, 2, 2, e=5.0, f=5.0, n_iter=100, burn=40, seed=0).partial_fit(Y, fixed)
    np.testing.assert_array_equal(model.state.Lambda_RKCC, state.Lambda_RKCC)
    assert model.posterior_mean().sum(axis=(0, 1, 2)) == pytest.approx(rates(state).sum(axis=(0, 1, 2)), rel=0.15)


@pytest.mark.parametrize(
    ("child", "parents"), (("Theta_VC", {"alpha_V"}), ("Lambda_RKCC", {"eta_d_C", "eta_a_C", "nu_K", "rho_R"}))
)
def test_what_is_drawn_with_a_variable_integrated_out_is_held_with_it(child, parents):
    state, counts, _ = fixed_problem()
    before = state.copy()
    sweep(state, counts, PRIOR, np.random.default_rng(0), fixed=(child,))
    for name in NAMES:
        assert np.array_equal(getattr(state, name), getattr(before, name)) == (name in parents | {child}), name


def test_unobserved_pairs_say_nothing_and_are_predicted():
    state, Y = generative_sample(Prior(3.0, 3.0, 1.2), (14, 3, 4, 2, 1, 1), np.random.default_rng(16), delta=0.05)
    mask = np.ones((14, 14), dtype=int)
    mask[:3, 7:10] = 0
    changed = Y.copy()
    changed[:3, 7:10] = 99
    one, other = (BPTD(2, 1, 1, n_iter=60, burn=30, seed=2).fit(y, mask) for y in (Y, changed))
    np.testing.assert_array_equal(one.posterior_mean(), other.posterior_mean())
    assert one.posterior_mean()[:3, 7:10].sum() == pytest.approx(rates(state)[:3, 7:10].sum(), rel=0.3)
    every_month = BPTD(2, 1, 1, n_iter=60, burn=30, seed=2).fit(Y, np.repeat(mask[None], 4, axis=0))
    np.testing.assert_allclose(every_month.posterior_mean(), one.posterior_mean(), rtol=1e-8)


def test_planted_communities_are_found_and_prediction_is_near_the_truth():
    tensor = data.load("planted_communities", seed=0, actors=18, communities=3, events=8000, topics=2, regimes=1)
    model = BPTD(6, 3, 2, n_iter=150, burn=100, seed=0).fit(tensor.counts)
    new = np.random.default_rng(17).poisson(rates(tensor.truth))
    truth = loglik_per_event(new, rates(tensor.truth))
    assert truth - 0.1 < model.score(new) < truth
    share = token_shares(tensor.truth)
    found = model.tokens.actors / np.maximum(np.linalg.norm(model.tokens.actors, axis=0), 1)
    assert ((share / np.linalg.norm(share, axis=0)).T @ found).max(axis=1).min() > 0.9
    assert effective_communities(share) == 3 and effective_communities(model.tokens.actors) <= 6
    assert model.trace[-1][1] > model.trace[0][1] and model.trace[-1][0] == 150


def test_same_seed_same_chain_and_state_files(tmp_path):
    Y = data.load("planted_communities", seed=1, actors=8, communities=2, events=500, months=3).counts
    one, two, other = (BPTD(3, 2, 1, n_iter=15, burn=5, seed=seed).fit(Y) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one.posterior_mean(), two.posterior_mean())
    assert not np.array_equal(one.posterior_mean(), other.posterior_mean())
    one.state.save(tmp_path / "state.npz")
    again = State.load(tmp_path / "state.npz")
    for name in NAMES:
        np.testing.assert_array_equal(getattr(again, name), getattr(one.state, name))
    np.savez(tmp_path / "other.npz", Theta_VC=np.ones(2))
    with pytest.raises(ValueError, match="it lacks"):
        State.load(tmp_path / "other.npz")


def test_generated_counts_follow_the_rates():
    rng = np.random.default_rng(18)
    state, Y = generative_sample(Prior(5.0, 5.0, 1.2), (6, 3, 3, 2, 2, 2), rng)
    assert (Y[np.arange(6), np.arange(6)] == 0).all()
    assert poisson.cdf(Y.sum(), rates(state).sum()) == pytest.approx(0.5, abs=0.4999)


GOOD = np.ones((3, 3, 2, 2), dtype=int)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (partial(BPTD, 0), "n_communities=0 must be"),
        (partial(BPTD, 2, 0), "n_topics=0"),
        (partial(BPTD, 2, 2, 1.5), "n_regimes=1.5"),
        (partial(BPTD, n_iter=10, burn=10), "0 <= burn < n_iter"),
        (partial(BPTD, e=0.0), "must be positive"),
        (lambda: BPTD(2, 1, 1).fit(-GOOD), "not a count"),
        (lambda: BPTD(2, 1, 1).partial_fit(GOOD, {"Theta": np.ones(1)}), "no variable of the model"),
        (lambda: BPTD(2, 1, 1).partial_fit(GOOD, {"Theta_VC": np.ones((3, 3))}), "the model has \\(3, 2\\)"),
        (lambda: BPTD(2, 1, 1).partial_fit(GOOD, {"delta": np.nan}), "finite"),
        (lambda: BPTD(2, 1, 1).partial_fit(GOOD, {"delta": 0.0}), "must be positive"),
        (lambda: BPTD(2, 1, 1).partial_fit(GOOD, {"Phi_AK": np.ones((2, 1))}), "topics are distributions"),
        (lambda: loglik_per_event(0 * GOOD, GOOD), "no event"),
        (lambda: geweke_test(DIMS, PRIOR, np.random.default_rng(0), draws=5), "draws=5"),
        (lambda: data.load("planted_communities", seed=0, actors=3), "an actor for each"),
    ],
)
def test_bad_input_teaches(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_check_counts_keeps_what_the_mask_shows():
    mask = np.ones((2, 3, 3), dtype=int)
    mask[1, 0, 1] = 0
    kept = check_counts(GOOD, mask)
    assert kept.values.sum() == 6 * 2 * 2 - 2
    assert not ((kept.coords[:, 0] == 0) & (kept.coords[:, 1] == 1) & (kept.coords[:, 3] == 1)).any()
