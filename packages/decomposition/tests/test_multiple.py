"""The Multiple format: explicit sums, embeddings, ranks, and proximal ALS."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import tensorly as tl
import torch

from tensorbench.decomposition.formats import CP, TR, TT, Tucker
from tensorbench.decomposition.functional.multiple import (
    MultipleTensor,
    num_params,
    rank_bounds,
    select_ranks,
)
from tensorbench.decomposition.functional.pals import multiple_als, proximal_step, triple_als

CASES = (((3, 4, 5), (2, 3, 2)), ((3, 2, 4, 3), (2, 3, 1, 2)))


def loops(tensor: MultipleTensor) -> np.ndarray:
    """The definition, one entry and one term at a time."""
    out = np.zeros(tensor.shape)
    for idx in np.ndindex(*tensor.shape):
        for p in itertools.product(*map(range, tensor.ranks)):
            term = 1.0
            for n, factor in enumerate(tensor.factors):
                term *= float(factor[tuple(idx[n] if m == n else p[m] for m in range(len(p)))])
            out[idx] += term
    return out


@pytest.mark.parametrize(("shape", "ranks"), CASES)
def test_full_entry_and_count_agree_with_the_definition(shape, ranks):
    tensor = MultipleTensor.random(shape, ranks, seed=1)
    expected = loops(tensor)
    np.testing.assert_allclose(tensor.full(), expected, atol=1e-13)
    idx = np.stack([np.random.default_rng(0).integers(0, n, 7) for n in shape], axis=1)
    np.testing.assert_allclose(tensor.entry(idx), expected[tuple(idx.T)], atol=1e-13)
    assert tensor.shape == shape and tensor.ranks == ranks
    assert tensor.num_params() == num_params(shape, ranks) == sum(f.numel() for f in tensor.factors)


@pytest.mark.parametrize(("shape", "ranks"), CASES)
def test_permuting_modes_permutes_the_short_sizes(shape, ranks):
    tensor = MultipleTensor.random(shape, ranks)
    order = np.random.default_rng(3).permutation(len(shape)).tolist()
    turned = MultipleTensor(tuple(tensor.factors[n].permute(order) for n in order))
    assert turned.ranks == tuple(ranks[n] for n in order)
    np.testing.assert_allclose(turned.full(), tensor.full().permute(order), atol=1e-13)


def test_save_and_load(tmp_path):
    tensor = MultipleTensor.random((3, 4, 5), (2, 3, 2))
    tensor.save(tmp_path / "t.npz")
    assert torch.equal(MultipleTensor.load(tmp_path / "t.npz").full(), tensor.full())
    CP(None, (np.ones((2, 1)), np.ones((3, 1)))).save(tmp_path / "cp.npz")
    with pytest.raises(ValueError, match="holds a cp tensor"):
        MultipleTensor.load(tmp_path / "cp.npz")


@pytest.mark.parametrize("shape", ((4, 5, 6), (4, 5, 3, 6), (3, 2, 3, 2, 4)))
def test_tucker_cp_train_and_ring_embed(shape):
    rng, order = np.random.default_rng(0), len(shape)
    core = tuple(1 + (k + 1) % 3 for k in range(order))
    tucker = Tucker(rng.normal(size=core), tuple(rng.normal(size=pair) for pair in zip(shape, core, strict=True)))
    expected = tl.tucker_to_tensor((tucker.core.numpy(), [f.numpy() for f in tucker.factors]))
    found = MultipleTensor.from_tucker(tucker)
    np.testing.assert_allclose(found.full(), expected, atol=1e-12)
    assert found.ranks[0] == 1 and sorted(found.ranks[1:]) == sorted(core[1:])

    cp = CP(rng.normal(size=3), tuple(rng.normal(size=(n, 3)) for n in shape))
    found = MultipleTensor.from_cp(cp)
    np.testing.assert_allclose(found.full(), cp.full(), atol=1e-12)
    assert found.ranks == (3, 3, *[1] * (order - 2))

    bonds = [2, 3, 4, 2, 3][:order]
    ring = TR(tuple(rng.normal(size=(bonds[k], n, bonds[(k + 1) % order])) for k, n in enumerate(shape)))
    np.testing.assert_allclose(MultipleTensor.from_tt(ring).full(), ring.full(), atol=1e-11)
    bonds[0] = 1
    train = TT(tuple(rng.normal(size=(bonds[k], n, bonds[(k + 1) % order])) for k, n in enumerate(shape)))
    found = MultipleTensor.from_tt(train)
    np.testing.assert_allclose(found.full(), train.full(), atol=1e-12)
    assert 1 in found.ranks


@pytest.mark.parametrize(("shape", "ranks"), CASES)
def test_to_tucker_and_to_ring_are_the_same_tensor(shape, ranks):
    tensor = MultipleTensor.random(shape, ranks)
    tucker = tensor.to_tucker()
    np.testing.assert_allclose(tucker.full(), tensor.full(), atol=1e-12)
    allowed = [min(n, int(np.prod(ranks)) // r) for n, r in zip(shape, ranks, strict=True)]
    assert list(tucker.ranks) == allowed
    if len(shape) == 3:
        np.testing.assert_allclose(tensor.to_ring().full(), tensor.full(), atol=1e-13)
    else:
        with pytest.raises(ValueError, match="order 3"):
            tensor.to_ring()


def test_unfolding_ranks_are_the_products_of_the_other_short_sizes():
    X = MultipleTensor.random((20, 22, 24), (3, 4, 5)).full().numpy()
    assert rank_bounds(X) == (20, 15, 12)  # 4 · 5 capped by 20 rows
    assert rank_bounds(MultipleTensor.random((6, 7, 8), (1, 1, 1)).full().numpy()) == (1, 1, 1)


def test_selected_ranks_are_those_of_an_exact_tensor_and_fit_the_budget():
    X = MultipleTensor.random((20, 22, 24), (3, 4, 5)).full().numpy()
    assert select_ranks(X, 2000) == (3, 4, 5)
    tight = select_ranks(X, 500)
    assert num_params(X.shape, tight) <= 500 and tight != (1, 1, 1)
    with pytest.raises(ValueError, match="below the 66 parameters"):
        select_ranks(X, 60)


def test_als_returns_to_a_planted_tensor():
    truth = MultipleTensor.random((12, 11, 10), (2, 3, 2), seed=4)
    rng = np.random.default_rng(0)
    near = MultipleTensor(tuple(f + 1e-3 * torch.tensor(rng.normal(size=f.shape)) for f in truth.factors))
    fit = multiple_als(truth.full().numpy(), (2, 3, 2), init=near, max_iter=300, tol=1e-15)
    assert fit.relative_error < 1e-8
    np.testing.assert_allclose(fit.tensor.full(), truth.full(), atol=1e-7)


@pytest.mark.parametrize("init", ("random", "svd"))
def test_pals_descends_and_keeps_the_convergence_bound(init):
    X = MultipleTensor.random((12, 11, 10), (2, 3, 2), seed=5).full().numpy()
    noisy = X + 0.1 * np.random.default_rng(0).normal(size=X.shape)
    fit = multiple_als(noisy, (2, 3, 2), init=init, restarts=5, max_iter=80)
    assert fit.block_descent and (np.diff(fit.objective) <= 1e-12 * fit.objective[0]).all()
    assert 0 < fit.bound_used <= 1
    assert fit.relative_error <= 0.35
    assert fit.objective[-1] == min(fit.restarts)


@pytest.mark.parametrize("masked", (False, True))
def test_a_proximal_step_solves_its_block(masked):
    rng = np.random.default_rng(1)
    X, mask = rng.normal(size=(5, 6, 4)), rng.random((5, 6, 4)) < 0.7 if masked else None
    factors = [f.numpy() for f in MultipleTensor.random(X.shape, (2, 2, 3), seed=2).factors]
    seen = np.ones(X.shape) if mask is None else mask
    data = X * seen

    def objective(arrays):
        return 0.5 * float((((MultipleTensor(tuple(arrays)).full().numpy() - data) * seen) ** 2).sum())

    for n in range(3):
        new, value = proximal_step(data, factors, n, mask, rho=0.3)
        changed = [new if m == n else f for m, f in enumerate(factors)]
        delta = ((new - factors[n]) ** 2).sum()
        assert value == pytest.approx(objective(changed), rel=1e-10)
        assert objective(factors) - value >= 0.5 * 0.3 * delta - 1e-10
        best = value + 0.15 * delta
        for _ in range(5):  # no neighbour is better: it is the minimiser of the proximal objective
            step = new + 1e-4 * rng.normal(size=new.shape)
            changed[n] = step
            assert objective(changed) + 0.15 * ((step - factors[n]) ** 2).sum() > best
        frozen, _ = proximal_step(data, factors, n, mask, rho=1e12)
        np.testing.assert_allclose(frozen, factors[n], atol=1e-9)


def test_masked_pals_recovers_what_is_not_seen():
    X = MultipleTensor.random((15, 14, 13), (2, 2, 2), seed=6).full().numpy()
    mask = np.random.default_rng(0).random(X.shape) < 0.4
    fit = multiple_als(np.where(mask, X, np.nan), (2, 2, 2), mask, rho=1e-4, max_iter=300, tol=1e-13, restarts=4)
    assert np.linalg.norm(fit.tensor.full().numpy() - X) < 1e-4 * np.linalg.norm(X)


def test_triple_als_is_multiple_als_with_equal_ranks():
    X = np.random.default_rng(0).normal(size=(6, 5, 4))
    one, other = triple_als(X, 2, seed=3, max_iter=10), multiple_als(X, (2, 2, 2), seed=3, max_iter=10)
    for a, b in zip(one.tensor.factors, other.tensor.factors, strict=True):
        assert torch.equal(a, b)
    assert np.array_equal(one.objective, other.objective)


CUBE = np.arange(60.0).reshape(3, 4, 5)
BLIND = np.ones((3, 4, 5), dtype=bool)
BLIND[1] = False


@pytest.mark.parametrize(
    ("call", "message"),
    (
        (lambda: multiple_als(CUBE, (2, 2)), "one short size per mode"),
        (lambda: multiple_als(CUBE, (2, 0, 2)), "at least 1"),
        (lambda: multiple_als(CUBE, (2, 2.5, 2)), "whole numbers"),
        (lambda: multiple_als(CUBE, (1, 1, 1), BLIND), "slice 1 of mode 0"),
        (lambda: multiple_als(np.where(CUBE == 7, np.nan, CUBE), (1, 1, 1)), "not finite at index"),
        (lambda: multiple_als(CUBE, (1, 1, 1), rho=0), "rho 0 must be positive"),
        (lambda: multiple_als(CUBE, (1, 1, 1), init="zeros"), "init 'zeros'"),
        (lambda: multiple_als(CUBE, (1, 1, 1), init=MultipleTensor.random((3, 4, 5), (1, 1, 2))), "init has shape"),
        (lambda: triple_als(CUBE[0], 2), "of order 3"),
        (lambda: MultipleTensor((np.ones((2, 1)), np.ones((1, 3)), np.ones((1, 3)))), "has 2 axes"),
        (lambda: MultipleTensor((np.ones((2, 1, 2)), np.ones((1, 3, 1)), np.ones((1, 1, 3)))), "disagree"),
        (lambda: MultipleTensor.random((3, 4), (1, 1)).entry(np.array([[0]])), "1 columns"),
    ),
)
def test_bad_input_is_refused_with_the_reason(call, message):
    with pytest.raises(ValueError, match=message):
        call()
