"""CRT and gamma draws, allocation of tokens, thinning and splits, related models and baselines."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import digamma
from scipy.stats import chi2_contingency, chisquare, kstest

from tensorbench.decomposition.baselines import counts as baselines
from tensorbench.decomposition.counts import kernels
from tensorbench.decomposition.counts.bptd import BPTD, loglik_per_event
from tensorbench.decomposition.counts.conditionals import Prior, prior_sample
from tensorbench.decomposition.counts.inputs import check_counts
from tensorbench.decomposition.counts.new_steps import blocks_new_steps, bptd_new_steps, bptf_new_steps
from tensorbench.decomposition.counts.related import BPTF, BlockModel
from tensorbench.decomposition.counts.sampling import (
    compositional_allocate,
    crt,
    dirichlet_columns,
    gamma_safe,
    naive_allocate,
    sum_crt,
)
from tensorbench.decomposition.counts.splits import strong_generalisation_split, thin_split
from tensorbench.decomposition.counts.state import rates
from tensorbench.decomposition.linalg import COO

ALLOCATIONS = [compositional_allocate, naive_allocate]


def random_state(dims=(4, 3, 3, 2, 2, 2), seed=0):
    return prior_sample(dims, Prior(2.0, 2.0, 1.0), np.random.default_rng(seed))


@pytest.mark.parametrize(
    ("m", "r", "mean", "variance"),
    [(50, 0.7, 3.59523858, 2.21631513), (5, 2.0, 2.9, 0.93444), (200, 0.1, 1.57200714, None), (1, 0.3, 1.0, 0.0)],
)
def test_crt_has_the_mean_and_variance_of_a_sum_of_bernoullis(m, r, mean, variance):
    draws = crt(np.full(100_000, m), r, np.random.default_rng(0))
    assert r * (digamma(r + m) - digamma(r)) == pytest.approx(mean, abs=1e-7)
    assert abs(draws.mean() - mean) <= 4 * draws.std() / np.sqrt(draws.size) + 1e-12
    if variance is not None:
        assert draws.var() == pytest.approx(variance, rel=0.03)


def test_crt_edges_broadcasting_and_sums():
    rng = np.random.default_rng(1)
    assert crt(0, 2.0, rng) == 0 and crt(7, 0.0, rng) == 0
    assert crt(np.array([[1], [0]]), np.array([0.1, 5.0]), rng).tolist() == [[1, 1], [0, 0]]
    m = np.array([[3, 4], [0, 9]])
    total = sum_crt(m, np.full(m.shape, 1e9), rng, axis=(1,))  # every customer at a table of its own
    assert total.tolist() == [7, 9]


def test_gamma_draws_have_the_rate_and_survive_tiny_shapes():
    rng = np.random.default_rng(2)
    assert kstest(gamma_safe(np.full(4000, 2.5), 4.0, rng), "gamma", args=(2.5, 0, 1 / 4.0)).pvalue > 1e-3
    tiny = gamma_safe(np.zeros(1000), 1.0, rng)
    assert (tiny >= 1e-300).all() and (tiny < 1e-10).mean() > 0.99
    columns = dirichlet_columns(np.full((5, 3), 1e-4), rng)
    np.testing.assert_allclose(columns.sum(axis=0), 1)
    assert (columns > 0).all()


@pytest.mark.parametrize("allocate", ALLOCATIONS)
def test_tokens_add_up_in_every_margin(allocate):
    state = random_state()
    Y = np.random.default_rng(3).poisson(3, (4, 4, 3, 3)) * (1 - np.eye(4, dtype=int))[:, :, None, None]
    data = check_counts(Y)
    tokens = allocate(data.coords, data.values, state, np.random.default_rng(4))
    np.testing.assert_array_equal(tokens.sent.sum(axis=1), Y.sum(axis=(1, 2, 3)))
    np.testing.assert_array_equal(tokens.received.sum(axis=1), Y.sum(axis=(0, 2, 3)))
    np.testing.assert_array_equal(tokens.actions.sum(axis=1), Y.sum(axis=(0, 1, 3)))
    np.testing.assert_array_equal(tokens.times.sum(axis=1), Y.sum(axis=(0, 1, 2)))
    np.testing.assert_array_equal(tokens.blocks.sum(axis=(1, 2, 3)), tokens.times.sum(axis=0))
    np.testing.assert_array_equal(tokens.blocks.sum(axis=(0, 2, 3)), tokens.actions.sum(axis=0))
    np.testing.assert_array_equal(tokens.blocks.sum(axis=(0, 1, 3)), tokens.sent.sum(axis=0))
    np.testing.assert_array_equal(tokens.blocks.sum(axis=(0, 1, 2)), tokens.received.sum(axis=0))


def test_both_allocations_draw_from_the_normalised_products():
    state = random_state((2, 2, 2, 2, 2, 2), seed=5)
    i, j, a, t, y = 0, 1, 1, 0, 20_000
    weights = np.einsum(
        "r,k,c,d,rkcd->rkcd", state.Psi_TR[t], state.Phi_AK[a], state.Theta_VC[i], state.Theta_VC[j], state.Lambda_RKCC
    ).ravel()
    drawn = []
    for allocate in ALLOCATIONS:
        tokens = allocate(np.array([[i, j, a, t]]), np.array([y]), state, np.random.default_rng(6))
        drawn.append(tokens.blocks.ravel())
        expected = y * weights / weights.sum()
        common = expected > 5
        rest = [max(expected[~common].sum(), 1e-9)], [drawn[-1][~common].sum()]
        observed = np.concatenate([drawn[-1][common], rest[1]])
        expected = np.concatenate([expected[common], rest[0]])
        assert chisquare(observed, expected * observed.sum() / expected.sum()).pvalue > 1e-3
    table = np.stack(drawn)[:, np.sum(drawn, axis=0) > 10]
    assert chi2_contingency(table).pvalue > 1e-3


def test_allocation_survives_products_that_underflow():
    state = random_state((2, 2, 2, 2, 2, 2))
    state.Theta_VC[:] = [[1e-200, 2e-200], [3e-200, 1e-200]]
    state.Lambda_RKCC[:] = 1e-100
    state.Phi_AK[:], state.Psi_TR[:] = 0.5, 1.0
    for allocate in ALLOCATIONS:
        tokens = allocate(np.array([[0, 1, 0, 0]]), np.array([9000]), state, np.random.default_rng(7))
        np.testing.assert_allclose(tokens.sent[0] / 9000, [1 / 3, 2 / 3], atol=0.02)
        np.testing.assert_allclose(tokens.received[1] / 9000, [3 / 4, 1 / 4], atol=0.02)


def test_components_are_drawn_by_logarithms_where_all_products_underflow():
    factors = tuple(np.array([row]) for row in ([1e-200, 3e-200], [1e-200, 1e-200], [0.5, 0.5], [1.0, 1.0]))
    counts = tuple(np.zeros((1, 2), dtype=np.int64) for _ in factors)
    kernels.allocate_components(
        np.zeros((1, 4), dtype=np.int64), np.array([9000]), factors, np.random.default_rng(8), counts
    )
    for tokens in counts:
        np.testing.assert_allclose(tokens[0] / 9000, [1 / 4, 3 / 4], atol=0.02)


def test_thinning_keeps_every_event_and_gives_independent_poisson_parts():
    Y = np.random.default_rng(8).poisson(2.0, (60, 60, 4, 3))
    kept, held = thin_split(Y, 0.25, np.random.default_rng(9))
    np.testing.assert_array_equal(kept + held, Y)
    assert held.mean() == pytest.approx(0.5, abs=0.02) and held.var() == pytest.approx(0.5, abs=0.03)
    assert abs(np.corrcoef(kept.ravel(), held.ravel())[0, 1]) < 0.02


def test_strong_generalisation_shows_only_active_pairs_of_new_months():
    Y = np.zeros((4, 4, 2, 5), dtype=int)
    Y[0, 2, :, :3] = 5
    Y[1, 3, 0, 4] = 50  # in a test month: must not count as activity
    train, test, mask = strong_generalisation_split(2, 2, Y)
    assert train.shape[-1] == 3 and test.shape[-1] == 2
    assert np.argwhere(mask).tolist() == [[0, 2], [2, 0]]
    for T_test, top in ((5, 2), (0, 2), (1, 1), (1, 5)):
        with pytest.raises(ValueError, match="must"):
            strong_generalisation_split(T_test, top, Y)


def blocky(seed=0, V=12):
    """Two groups that act within themselves, two actions, three months."""
    group = np.arange(V) % 2
    rate = np.where(group[:, None] == group, 3.0, 0.1)[:, :, None, None] * np.array([[1.0], [0.3]]) * np.ones(3)
    return np.random.default_rng(seed).poisson(rate * (1 - np.eye(V))[:, :, None, None])


@pytest.mark.parametrize("corrected", [False, True])
def test_block_models_find_planted_blocks_and_keep_the_total(corrected):
    Y = blocky()
    model = BlockModel(4, 2, 2, degree_corrected=corrected, n_iter=60, burn=30, seed=1).fit(Y)
    same = model.actors[:, None] == model.actors
    group = np.arange(12) % 2
    assert not (same & (group[:, None] != group)).any()  # no cluster mixes the groups
    mean = model.posterior_mean()
    assert mean.sum() == pytest.approx(Y.sum(), rel=0.1) and (mean[np.arange(12), np.arange(12)] == 0).all()
    assert loglik_per_event(blocky(2), mean) > loglik_per_event(blocky(2), baselines.independence(Y)) + 0.1


def test_bptf_of_one_component_is_a_rank_one_poisson_model():
    Y = blocky()
    mean = BPTF(1, n_iter=200, burn=50, seed=0).fit(Y).posterior_mean()
    # With the diagonal excluded margins only nearly factorise; the prior moves little at 800 events.
    expected = baselines.independence(Y)
    off = ~np.eye(12, dtype=bool)
    assert np.corrcoef(mean[off].ravel(), expected[off].ravel())[0, 1] > 0.98
    assert mean.sum() == pytest.approx(Y.sum(), rel=0.05)


def test_related_models_agree_with_bptd_on_what_they_share():
    """All see two groups: CP of two components, Tucker of two communities and hard clusters predict about equally."""
    Y, new = blocky(), blocky(3)
    scores = [
        loglik_per_event(new, model.fit(Y).posterior_mean())
        for model in (
            BPTD(2, 1, 1, n_iter=100, burn=50, seed=0),
            BPTF(2, n_iter=100, burn=50, seed=0),
            BlockModel(4, 2, 1, n_iter=100, burn=50, seed=0),
        )
    ]
    assert np.ptp(scores) < 0.1


def test_baselines_match_their_definitions():
    Y = blocky()
    off = ~np.eye(12, dtype=bool)
    constant = baselines.constant(Y)
    np.testing.assert_allclose(constant[off], Y.sum() / (12 * 11 * 6))
    independence = baselines.independence(Y)
    assert independence.sum() == pytest.approx(Y.sum()) and (independence[~off] == 0).all()
    np.testing.assert_allclose(
        independence[0, 1] / independence[2, 3], independence[0, 1, 0, 0] / independence[2, 3, 0, 0]
    )
    tucker = baselines.tensorly_non_negative_tucker(Y, (2, 2, 2, 1), iterations=100)
    assert loglik_per_event(Y, tucker) > loglik_per_event(Y, independence)
    with pytest.raises(ValueError, match="smoothing"):
        baselines.tensorly_non_negative_tucker(Y, (1, 1, 1, 1), smoothing=1.0)


def test_pyttb_fits_a_poisson_cp():
    pytest.importorskip("pyttb")
    Y = blocky()
    fitted = baselines.pyttb_cp_apr(Y, 2, iterations=100)
    assert loglik_per_event(Y, fitted) > loglik_per_event(Y, baselines.independence(Y)) + 0.2
    assert fitted.sum() == pytest.approx(Y.sum()) and (fitted > 0).sum() > 0


def test_log_likelihood_is_scipys_over_events():
    from scipy.stats import poisson

    state = random_state()
    rate = rates(state)
    y = np.random.default_rng(1).poisson(rate)
    off = ~np.eye(4, dtype=bool)
    assert loglik_per_event(y, rate) == pytest.approx(poisson.logpmf(y[off], rate[off]).sum() / y.sum())
    impossible = y.copy()
    impossible[0, 1, 0, 0] += 1
    zero = rate.copy()
    zero[0, 1, 0, 0] = 0
    assert loglik_per_event(impossible, zero) == -np.inf


@pytest.mark.parametrize(
    ("counts", "mask", "message"),
    [
        (np.ones((3, 2, 1, 1)), None, "expected \\(V, V, A, T\\)"),
        (np.ones((3, 3, 1)), None, "expected \\(V, V, A, T\\)"),
        (np.ones((1, 1, 1, 1)), None, "at least 2 actors"),
        (np.zeros((3, 3, 1, 1)), None, "nothing to fit"),
        (-np.ones((3, 3, 1, 1)), None, "not a count"),
        (0.5 * np.ones((3, 3, 1, 1)), None, "0.5 is not a count"),
        (np.full((3, 3, 1, 1), np.nan), None, "9 counts are NaN"),
        (np.ones((3, 3, 1, 2)), np.ones((2, 2)), "mask has shape"),
        (np.ones((3, 3, 1, 2)), np.full((3, 3), 0.5), "0 \\(not observed\\) and 1"),
        (np.eye(3)[:, :, None, None], None, "nothing to fit"),
    ],
)
def test_bad_counts_teach(counts, mask, message):
    with pytest.raises(ValueError, match=message):
        check_counts(counts, mask)


def test_sparse_counts_are_the_dense_ones_and_the_diagonal_is_ignored_with_a_warning(caplog):
    Y = blocky()
    coords = np.argwhere(Y).T
    sparse = check_counts(COO(coords, Y[tuple(coords)].astype(float), Y.shape))
    dense = check_counts(Y)
    np.testing.assert_array_equal(sparse.coords, dense.coords)
    np.testing.assert_array_equal(sparse.values, dense.values)
    Y[3, 3, 0, 0] = 4
    with caplog.at_level("WARNING"):
        assert check_counts(Y).values.sum() == dense.values.sum()
    assert "4 events from an actor to itself" in caplog.text


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: crt(-1, 1.0, np.random.default_rng(0)), "whole numbers"),
        (lambda: crt(np.array([1.5]), 1.0, np.random.default_rng(0)), "whole numbers"),
        (lambda: crt(1, np.nan, np.random.default_rng(0)), "finite"),
        (lambda: gamma_safe(1.0, 0.0, np.random.default_rng(0)), "rate > 0"),
        (lambda: thin_split(np.ones((2, 2, 1, 1), dtype=int), 1.0, np.random.default_rng(0)), "between 0 and 1"),
        (lambda: thin_split(np.full((2, 2, 1, 1), 0.5), 0.5, np.random.default_rng(0)), "integer type"),
        (lambda: BPTF(0), "n_components=0"),
        (lambda: BlockModel(0), "at least one community"),
        (lambda: BlockModel(2, n_iter=5, burn=5), "burn < n_iter"),
        (lambda: BPTF(1).fit(blocky(), np.ones((3, 12, 12))), "BPTD's alone"),
    ],
)
def test_bad_arguments_teach(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def new_steps_of(Y, new, mask):
    """Rates of new steps by every model, and of the old ones."""
    bptd = BPTD(2, 1, 2, n_iter=120, burn=60, seed=0).fit(Y)
    bptf = BPTF(2, n_iter=120, burn=60, seed=0).fit(Y)
    blocks = [BlockModel(4, 2, 2, degree_corrected=dc, n_iter=60, burn=30, seed=1).fit(Y) for dc in (False, True)]
    quick = {"samples": 10, "sweeps": 20, "burn": 10}
    return {
        "bptd": (bptd_new_steps(bptd, new, mask, **quick), bptd.posterior_mean()),
        "bptf": (bptf_new_steps(bptf, new, mask, **quick), bptf.posterior_mean()),
        "gpirm": (blocks_new_steps(blocks[0], new, mask), blocks[0].posterior_mean()),
        "dcgpirm": (blocks_new_steps(blocks[1], new, mask), blocks[1].posterior_mean()),
        "independence": (baselines.independence_new_steps(Y, new, mask), baselines.independence(Y)),
    }


def test_unobserved_pairs_of_new_steps_are_predicted_and_say_nothing():
    """Steps like the old ones, seen through 8 of 12 actors: the models do as well as their rates of old steps would."""
    Y, new = blocky(), blocky(4)
    active = np.arange(12) < 8
    mask = np.outer(active, active).astype(int)
    hidden = mask == 0
    changed = np.where(mask[:, :, None, None] > 0, new, 7 * (1 - np.eye(12, dtype=int))[:, :, None, None])
    ours, same = new_steps_of(Y, new, mask), new_steps_of(Y, changed, mask)
    for name, (rate, old) in ours.items():
        np.testing.assert_allclose(rate, same[name][0])
        assert rate.shape == new.shape and (rate[np.arange(12), np.arange(12)] == 0).all()
        assert rate[hidden].sum() == pytest.approx(new[hidden].sum(), rel=0.25), name
        assert loglik_per_event(new, rate, hidden) > loglik_per_event(new, old, hidden) - 0.1, name


def test_a_new_step_of_twice_the_events_has_twice_the_rate():
    Y, mask = blocky(), 1 - np.eye(12, dtype=int)
    new = 4 * blocky(5)[..., :1]
    rates_of = new_steps_of(Y, new, mask)
    for name in ("bptd", "bptf", "dcgpirm", "independence"):
        assert rates_of[name][0].sum() == pytest.approx(new.sum(), rel=0.08), name


def test_poisson_cp_is_carried_on_to_new_steps():
    pytest.importorskip("pyttb")
    Y, new, mask = blocky(), blocky(4), np.outer(np.arange(12) < 8, np.arange(12) < 8).astype(int)
    rate = baselines.pyttb_cp_apr_new_steps(Y, 2, new, mask, iterations=100)
    hidden = mask == 0
    assert loglik_per_event(new, rate, hidden) > 0.1 + loglik_per_event(
        new, baselines.independence_new_steps(Y, new, mask), hidden
    )
    assert rate[hidden].sum() == pytest.approx(new[hidden].sum(), rel=0.25)


def test_bptf_samples_only_what_is_not_fixed():
    Y = blocky()
    one = BPTF(2, n_iter=20, burn=10, seed=0).fit(Y)
    fixed = {name: value for name, value in one.samples[-1].items() if name != "psi"}
    part = BPTF(2, n_iter=10, burn=5, seed=1).partial_fit(Y, fixed)
    for name, value in fixed.items():
        np.testing.assert_array_equal(part.samples[-1][name], value)
    with pytest.raises(ValueError, match="no variable of the model"):
        BPTF(2, n_iter=10, burn=5).partial_fit(Y, {"theta": np.ones(2)})
    with pytest.raises(ValueError, match="the model has \\(12, 2\\)"):
        BPTF(2, n_iter=10, burn=5).partial_fit(Y, {"send": np.ones((3, 2))})
    with pytest.raises(NotImplementedError, match="all of its variables"):
        BlockModel(2)._set({"core": np.ones(1)})
