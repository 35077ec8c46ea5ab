"""Ranks of tree tensor networks under a budget: against the Tucker solvers and tensorly's tensor trains."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import tensorly as tl
from tensorly.decomposition import tensor_train as tt_svd

from tensorbench.decomposition.structure.packing import exact
from tensorbench.decomposition.structure.tree import (
    TreeSpec,
    hierarchical_tucker,
    tensor_train,
    tree_packing,
    tree_spectra,
    tucker_star,
)

RNG = np.random.default_rng(0)
X3 = RNG.random((5, 6, 7))
X4 = RNG.random((4, 3, 5, 2))


@pytest.mark.parametrize("budget", [19, 25, 40, 60, 90, 150, 400])
def test_the_star_is_the_tucker_packing(budget):
    found = tree_packing(X3, tucker_star(3), budget, "exact")
    best = exact(X3, budget)
    assert found.value == pytest.approx(best.value, rel=1e-12)
    assert found.params == best.params and tuple(found.ranks.values()) == best.shape


def test_train_edges_carry_the_singular_values_of_the_train():
    """What tensorly's TT-SVD loses at the first cut, all later ranks full, is the tail of that edge's values."""
    s = tree_spectra(X4, tensor_train(4))
    for place, edge in enumerate(s.tree.edges):
        rows = int(np.prod(X4.shape[: place + 1]))
        expected = np.linalg.svd(X4.reshape(rows, -1), compute_uv=False) ** 2
        np.testing.assert_allclose(s.values[edge], expected[: len(s.values[edge])], rtol=1e-9, atol=1e-12)
        full = [1, *(min(int(np.prod(X4.shape[:k])), int(np.prod(X4.shape[k:]))) for k in range(1, 4)), 1]
        for rank in range(1, full[place + 1] + 1):
            ranks = [*full[: place + 1], rank, *full[place + 2 :]]
            ranks = [min(r, int(np.prod(X4.shape[:k]))) for k, r in enumerate(ranks)]
            lost = np.sum((X4 - tl.tt_to_tensor(tt_svd(X4, ranks))) ** 2)
            assert lost == pytest.approx(s.values[edge][rank:].sum(), rel=1e-8, abs=1e-10)


@pytest.mark.parametrize("budget", [20, 40, 80, 120])
def test_the_surrogate_bounds_the_error_of_the_train(budget):
    found = tree_packing(X4, tensor_train(4), budget, "exact")
    train = tt_svd(X4, [1, *found.ranks.values(), 1])
    assert sum(factor.size for factor in train.factors) <= found.params <= budget
    assert np.sum((X4 - tl.tt_to_tensor(train)) ** 2) <= found.surrogate_loss * (1 + 1e-9) + 1e-12


@pytest.mark.parametrize("tree", [tucker_star(4), tensor_train(4), hierarchical_tucker(4)], ids=["star", "train", "ht"])
@pytest.mark.parametrize("budget", [45, 70, 120])
def test_methods_agree_with_brute_force(tree, budget):
    s = tree_spectra(X4, tree)
    shapes = product(*(range(1, s.ranks[edge] + 1) for edge in tree.edges))
    named = (dict(zip(tree.edges, shape, strict=True)) for shape in shapes)
    best = max(s.value(ranks) for ranks in named if tree.params(X4.shape, ranks) <= budget)
    assert tree_packing(s, None, budget, "exact").value == pytest.approx(best, rel=1e-12)
    for method in ("ip", "greedy"):
        found = tree_packing(s, None, budget, method)
        assert found.params <= budget
        assert 0.8 * best <= found.value <= best * (1 + 1e-12)
    smaller = max(46.0, budget / 1.25)
    if budget / 1.25 >= 45:
        assert tree_packing(s, None, budget, "ip").value >= tree_packing(s, None, smaller, "exact").value * (1 - 1e-6)


def test_parameter_counts():
    shape = (4, 3, 5, 2)
    star, train, ht = tucker_star(4), tensor_train(4), hierarchical_tucker(4)
    ranks = dict(zip(star.edges, (2, 3, 1, 2), strict=True))
    assert star.params(shape, ranks) == 2 * 3 * 1 * 2 + 4 * 2 + 3 * 3 + 5 * 1 + 2 * 2
    ranks = dict(zip(train.edges, (2, 3, 2), strict=True))
    assert train.params(shape, ranks) == 4 * 2 + 2 * 3 * 3 + 3 * 5 * 2 + 2 * 2
    assert len(ht.edges) == 5 and len(ht.graph) == 6
    assert ht.params(shape, {edge: 1 for edge in ht.edges}) == sum(shape) + 2


@pytest.mark.parametrize("order", range(2, 9))
def test_helpers_build_trees_over_all_modes(order):
    for build in (tucker_star, tensor_train, hierarchical_tucker):
        tree = build(order)
        assert tree.order == order
        degree = max(dict(tree.graph.degree).values())
        assert degree == {tucker_star: order, tensor_train: min(2, order - 1)}.get(build, 3 if order > 2 else 1)
        for edge in tree.edges:
            assert 0 < len(tree.cut(edge)) < order


def test_ranks_of_one_and_full_ranks():
    s = tree_spectra(X4, hierarchical_tucker(4))
    least = s.tree.params(X4.shape, {edge: 1 for edge in s.tree.edges})
    assert set(tree_packing(s, None, least).ranks.values()) == {1}
    full = tree_packing(s, None, 10**6)
    assert full.ranks == s.ranks
    assert full.surrogate_loss <= 1e-12 * s.norm2


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: TreeSpec((("a", "b"), ("b", "a2"), ("a2", "a")), {"a": (0,), "b": (1,)}), "do not form a tree"),
        (lambda: TreeSpec((("a", "b"), ("c", "d")), {"a": (0,), "b": (1,), "c": (2,), "d": (3,)}), "form a tree"),
        (lambda: TreeSpec((), {}), "form a tree"),
        (lambda: TreeSpec((("a", "b"),), {"a": (0,), "b": (2,)}), "must be 0, 1, 2"),
        (lambda: TreeSpec((("a", "b"),), {"a": (0,), "b": (0,)}), "must be 0, 1, 2"),
        (lambda: TreeSpec((("a", "b"),), {"a": (0,), "z": (1,)}), "no edge mentions"),
        (lambda: TreeSpec((("a", "b"), ("b", "c")), {"a": (0,), "b": (1,)}), "carry no mode"),
        (lambda: hierarchical_tucker(1), "no edge"),
        (lambda: tree_packing(X3, tucker_star(4), 100), "the tree has 4 modes"),
        (lambda: tree_packing(X3, None, 100), "give a tree"),
        (lambda: tree_packing(X3, tucker_star(3), 18), "needs at least 19"),
        (lambda: tree_packing(X3, tucker_star(3), 100, method="exat"), "did you mean 'exact'"),
        (lambda: tree_packing(X3, tucker_star(3), 100, eps=0.0), "eps"),
        (lambda: tree_packing(X3 * np.nan, tucker_star(3), 100), "not finite"),
    ],
)
def test_bad_input_says_what_is_wrong(call, message):
    with pytest.raises(ValueError, match=message):
        call()
