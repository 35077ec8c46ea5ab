"""The tensor-network engine: contraction, least squares with and without a mask, gradients, rings, warm starts."""

from __future__ import annotations

import numpy as np
import opt_einsum
import pytest
import tensorly as tl
from tensorly.decomposition import tensor_train

from tensorbench.decomposition.network import (
    TensorNetwork,
    als,
    best_order,
    canonical_ring,
    network_plan,
    random_network,
    ring_cores,
    ring_network,
    ring_order,
    warm_start,
)
from tensorbench.decomposition.network.adam import fit_adam
from tensorbench.decomposition.network.alternating import _key


def ring_ranks(ranks, dims):
    order = len(ranks)
    matrix = np.ones((order, order), dtype=int)
    for k, rank in enumerate(ranks):
        matrix[k, (k + 1) % order] = matrix[(k + 1) % order, k] = rank
    matrix[range(order), range(order)] = dims
    return matrix


def graph_ranks(order, dims, generator, top=3):
    matrix = np.triu(generator.integers(1, top + 1, (order, order)), 1)
    matrix = matrix + matrix.T
    matrix[range(order), range(order)] = dims
    return matrix


STRUCTURES = {
    "ring": ring_ranks([2, 3, 2, 3], (3, 4, 2, 3)),
    "train": ring_ranks([2, 3, 2, 1], (3, 4, 2, 3)),
    "complete": graph_ranks(4, (3, 2, 4, 3), np.random.default_rng(0)),
    "star": np.array([[3, 1, 1, 2], [1, 4, 1, 2], [1, 1, 3, 3], [2, 2, 3, 1]]),
    "apart": ring_ranks([2, 1, 3, 1], (3, 4, 2, 3)),
}
THIN_RING = ring_ranks([2, 2, 3, 2], (4, 5, 6, 4))


@pytest.fixture
def generator():
    return np.random.default_rng(3)


def dense(network):
    """Oracle: one einsum over all full-order cores."""
    order = network.order
    terms = []
    for i, core in enumerate(network.cores):
        labels = [(min(i, j), max(i, j)) if j != i else (order, i) for j in range(order)]
        terms += [core, [a * 100 + b for a, b in labels]]
    return opt_einsum.contract(*terms, [order * 100 + i for i in range(order)])


@pytest.mark.parametrize("name", STRUCTURES)
def test_full_is_the_einsum_over_all_bonds(name, generator):
    network = random_network(STRUCTURES[name], generator)
    np.testing.assert_allclose(network.full(), dense(network), atol=1e-13)
    assert network.num_params() == sum(np.prod(row) for row in STRUCTURES[name])


def test_ring_matches_tensorly_and_converts_back(generator):
    cores = [generator.standard_normal(s) for s in [(2, 3, 4), (4, 2, 3), (3, 4, 1), (1, 3, 2)]]
    network = ring_network(cores)
    np.testing.assert_allclose(network.full(), tl.tr_to_tensor(cores), atol=1e-12)
    back, line = ring_cores(network.permute([2, 0, 3, 1]))
    modes = [[2, 0, 3, 1][v] for v in line]
    np.testing.assert_allclose(tl.tr_to_tensor(back), network.full().transpose(modes), atol=1e-12)


def test_ring_order_refuses_what_is_no_ring():
    with pytest.raises(ValueError, match=r"vertex \d has 3 bonds"):
        ring_order(STRUCTURES["star"])
    assert ring_order(STRUCTURES["ring"][np.ix_([0, 2, 1, 3], [0, 2, 1, 3])]) in {(0, 2, 1, 3), (0, 3, 1, 2)}


def test_canonical_ring_is_the_same_tensor_left_orthogonal(generator):
    cores = [generator.standard_normal(s) for s in [(2, 3, 4), (4, 2, 3), (3, 4, 2)]]
    canonical = canonical_ring(cores)
    np.testing.assert_allclose(tl.tr_to_tensor(canonical), tl.tr_to_tensor(cores), atol=1e-12)
    for core in canonical[:-1]:
        matrix = core.reshape(-1, core.shape[2])
        np.testing.assert_allclose(matrix.T @ matrix, np.eye(matrix.shape[1]), atol=1e-12)
    for one, again in zip(canonical, canonical_ring(canonical), strict=True):
        np.testing.assert_allclose(one, again, atol=1e-10)


def test_random_network_has_unit_expected_norm(generator):
    norms = [np.sum(random_network(STRUCTURES["complete"], generator).full() ** 2) for _ in range(400)]
    assert 0.8 < np.mean(norms) < 1.25


def test_best_order_of_a_scrambled_ring_cuts_two_bonds_at_most(generator):
    scrambled = generator.permutation(7)
    matrix = ring_ranks([3] * 7, [1] * 7)[np.ix_(scrambled, scrambled)]
    line = np.array(best_order(_key(matrix)))
    for cut in range(1, 7):
        assert (matrix[np.ix_(line[:cut], line[cut:])] > 1).sum() == 2


@pytest.mark.parametrize("name", STRUCTURES)
@pytest.mark.parametrize("masked", [False, True])
def test_error_never_rises_and_is_the_true_one(name, masked, generator):
    shape = tuple(np.diag(STRUCTURES[name]))
    target = generator.standard_normal(shape)
    mask = generator.random(shape) < 0.8 if masked else None
    fit = als(target, STRUCTURES[name], generator=generator, repeats=2, mask=mask, max_sweeps=25, tol=0.0)
    assert np.diff(fit.history, axis=0).max() <= 1e-10
    error = (target - fit.network.full()) * (1.0 if mask is None else mask)
    seen = target if mask is None else target * mask
    assert fit.rse == pytest.approx(np.sum(error**2) / np.sum(seen**2), rel=1e-9)
    assert fit.rse == fit.history[-1].min()


@pytest.mark.parametrize("name", ["ring", "complete", "star"])
def test_full_mask_and_both_routes_give_the_same_fit(name, generator, monkeypatch):
    ranks = STRUCTURES[name]
    target = generator.standard_normal(tuple(np.diag(ranks)))
    fits = []
    for route, mask in [("environment", None), ("gram", None), ("environment", np.ones(target.shape, bool))]:
        monkeypatch.setattr(
            "tensorbench.decomposition.network.alternating.network_plan",
            lambda key, force, route=route: network_plan(key, route),
        )
        fits.append(als(target, ranks, generator=np.random.default_rng(1), mask=mask, max_sweeps=6, tol=0.0))
    np.testing.assert_allclose(fits[1].history, fits[0].history, rtol=1e-8)
    np.testing.assert_allclose(fits[2].history, fits[0].history, rtol=1e-8)


@pytest.mark.parametrize("name", ["train", "complete", "star", "apart", "thin ring"])
def test_exact_data_is_recovered(name, generator):
    # (a ring with modes of 2 and 3 under bonds of 3 is a swamp for every ALS: its own test uses longer modes)
    ranks = THIN_RING if name == "thin ring" else STRUCTURES[name]
    target = 37.0 * random_network(ranks, generator).full()  # the scale of the data does not matter
    fit = als(target, ranks, generator=generator, repeats=3, max_sweeps=200, tol=1e-12)
    assert fit.converged and fit.rse <= 1e-12
    np.testing.assert_allclose(fit.network.full(), target, atol=1e-4)


def test_missing_entries_of_exact_data_are_completed(generator):
    ranks = ring_ranks([2, 2, 2, 2], (6, 6, 6, 6))
    target = random_network(ranks, generator).full()
    mask = generator.random(target.shape) < 0.5
    holes = np.where(mask, target, np.nan)
    fit = als(holes, ranks, generator=generator, repeats=3, mask=mask, max_sweeps=200, tol=1e-14)
    np.testing.assert_allclose(fit.network.full(), target, atol=1e-4)


def test_ring_with_one_bond_cut_is_the_tensor_train(generator):
    train = [generator.standard_normal(s) for s in [(1, 3, 2), (2, 4, 3), (3, 3, 2), (2, 3, 1)]]
    target = tl.tt_to_tensor(train)
    reference = tl.tt_to_tensor(tensor_train(target, [1, 2, 3, 2, 1]))
    fit = als(target, ring_ranks([2, 3, 2, 1], (3, 4, 3, 3)), generator=generator, repeats=3, max_sweeps=200, tol=0)
    np.testing.assert_allclose(fit.network.full(), reference, atol=1e-8 * np.abs(target).max())


def test_permuting_the_modes_permutes_the_fit(generator):
    ranks, order = THIN_RING, [2, 0, 3, 1]
    target = random_network(ranks, generator).full()
    turned = als(
        target.transpose(order), ranks[np.ix_(order, order)], generator=generator, repeats=3, max_sweeps=200, tol=1e-12
    )
    np.testing.assert_allclose(turned.network.full(), target.transpose(order), atol=1e-4)


def test_only_the_named_vertices_move(generator):
    target = generator.standard_normal((3, 4, 2, 3))
    start = random_network(STRUCTURES["ring"], generator)
    fit = als(target, start=start, vertices=[1, 2], max_sweeps=3)
    np.testing.assert_allclose(fit.network.cores[3], start.cores[3], atol=1e-13)
    assert not np.allclose(fit.network.cores[1], start.cores[1])
    direction = fit.network.cores[0] / np.linalg.norm(fit.network.cores[0])
    np.testing.assert_allclose(direction, start.cores[0] / np.linalg.norm(start.cores[0]), atol=1e-13)


def test_stopping_rules(generator):
    ranks = STRUCTURES["ring"]
    exact = random_network(ranks, generator)
    assert als(exact.full(), start=exact, max_sweeps=40).sweeps == 1
    noise = generator.standard_normal((3, 4, 2, 3))
    stalled = als(noise, np.where(np.eye(4, dtype=bool), ranks, 1), generator=generator, max_sweeps=500, stall=1e-4)
    assert stalled.converged and stalled.sweeps < 500


def test_adam_and_als_agree_on_an_easy_problem(generator):
    ranks = ring_ranks([2, 1, 2, 1], (3, 3, 3, 3))
    target = generator.standard_normal((3, 3, 3, 3))
    exact = als(target, ranks, generator=generator, repeats=4, max_sweeps=300, tol=0).rse
    fitted = fit_adam(target, ranks, generator=generator, repeats=4, max_steps=800, lr=3e-2, tol=0)
    assert fitted.rse == pytest.approx(exact, rel=1e-4)
    error = np.sum((fitted.network.full() - target) ** 2) / np.sum(target**2)
    assert error == pytest.approx(fitted.rse, rel=1e-9)


def test_adam_restarts_are_independent(generator):
    """The batched contraction gives each restart the loss that it has alone."""
    target = generator.standard_normal((3, 4, 2, 3))
    settings = {"max_steps": 20, "lr": 1e-2, "tol": 0, "check_every": 5}
    both = fit_adam(target, STRUCTURES["ring"], generator=np.random.default_rng(0), repeats=2, **settings)
    one = fit_adam(target, STRUCTURES["ring"], generator=np.random.default_rng(0), repeats=1, **settings)
    np.testing.assert_allclose(both.history[:, 0], one.history[:, 0], rtol=1e-10)


def test_adam_with_mask_sees_only_the_observed(generator):
    target = generator.standard_normal((3, 4, 2, 3))
    mask = generator.random(target.shape) < 0.8
    settings = {"max_steps": 30, "lr": 1e-2, "tol": 0}
    spoilt = np.where(mask, target, 1e6)
    a = fit_adam(target, STRUCTURES["ring"], generator=np.random.default_rng(0), mask=mask, **settings)
    b = fit_adam(spoilt, STRUCTURES["ring"], generator=np.random.default_rng(0), mask=mask, **settings)
    np.testing.assert_allclose(a.history, b.history)


def test_warm_start_keeps_the_tensor_when_a_rank_grows(generator):
    network = random_network(STRUCTURES["complete"], generator)
    grown = network.adjacency()
    grown[0, 2] = grown[2, 0] = grown[0, 2] + 2
    np.testing.assert_allclose(warm_start(network, grown, generator, noise=0.0).full(), network.full(), atol=1e-13)
    noisy = warm_start(network, grown, generator)
    assert np.array_equal(noisy.adjacency(), grown)
    back = warm_start(noisy, network.adjacency(), generator)
    np.testing.assert_allclose(back.full(), network.full(), atol=1e-13)  # the light new slices are the ones dropped


def test_warm_start_helps_the_neighbour(generator):
    target = random_network(ring_ranks([3, 2, 3, 2], (4, 4, 4, 4)), generator).full()
    fit = als(target, ring_ranks([3, 2, 2, 2], (4, 4, 4, 4)), generator=generator, repeats=3, max_sweeps=60)
    grown = warm_start(fit.network, ring_ranks([3, 2, 3, 2], (4, 4, 4, 4)), generator)
    assert als(target, start=grown, max_sweeps=2).rse < fit.rse


def test_save_and_load(tmp_path, generator):
    network = random_network(STRUCTURES["star"], generator)
    network.save(tmp_path / "network.npz")
    np.testing.assert_array_equal(TensorNetwork.load(tmp_path / "network.npz").full(), network.full())
    assert network.graph().edges[2, 3]["rank"] == 3


BAD = {
    "zero": (lambda t, r: (np.zeros_like(t), r, {}), "target is zero"),
    "nan": (lambda t, r: (np.where(np.arange(t.size).reshape(t.shape) == 5, np.nan, t), r, {}), "not finite at index"),
    "vector": (lambda t, r: (t.ravel(), r, {}), "at least 2 modes"),
    "shape": (lambda t, r: (t[:2], r, {}), "structure has mode sizes"),
    "rank 0": (lambda t, r: (t, np.where(r == 2, 0, r), {}), "integers >= 1"),
    "lopsided": (lambda t, r: (t, r + np.triu(np.ones_like(r), 1), {}), "one way"),
    "not square": (lambda t, r: (t, r[:3], {}), "must be square"),
    "mask shape": (lambda t, r: (t, r, {"mask": np.ones((2, 2), bool)}), "mask has shape"),
    "mask hole": (
        lambda t, r: (t, r, {"mask": np.arange(3)[:, None, None, None] * np.ones(t.shape) > 0}),
        "slice 0 of",
    ),
    "sweeps": (lambda t, r: (t, r, {"max_sweeps": 0}), "max_sweeps"),
    "no generator": (lambda t, r: (t, r, {"generator": None}), "need a generator"),
    "nothing": (lambda t, r: (t, None, {}), "give a structure"),
}


@pytest.mark.parametrize("name", BAD)
def test_als_refuses(name, generator):
    change, message = BAD[name]
    target, ranks, options = change(generator.standard_normal((3, 4, 2, 3)), STRUCTURES["ring"])
    with pytest.raises(ValueError, match=message):
        als(target, ranks, **({"generator": generator} | options))


def test_other_refusals(generator):
    network = random_network(STRUCTURES["ring"], generator)
    with pytest.raises(ValueError, match="noise must be >= 0"):
        warm_start(network, STRUCTURES["ring"], generator, noise=-1.0)
    with pytest.raises(ValueError, match="mode sizes"):
        warm_start(network, ring_ranks([2, 2, 2, 2], (3, 3, 3, 3)), generator)
    with pytest.raises(ValueError, match=r"bond \(0, 1\) has size 2 at core 0 and 3 at core 1"):
        TensorNetwork([np.ones((2, 2)), np.ones((3, 2))])
    with pytest.raises(ValueError, match="needs 2 per core"):
        TensorNetwork([np.ones((2, 2, 2)), np.ones((2, 2))])
    with pytest.raises(ValueError, match="at least 3 cores"):
        ring_network([np.ones((2, 2, 2))] * 2)
    with pytest.raises(ValueError, match="over 2 GiB"):
        network_plan(_key(np.where(np.eye(6, dtype=bool), 64, 40)))
