"""Unfoldings, their singular values and sparse tensors: against numpy, tensorly and each other."""

from __future__ import annotations

import numpy as np
import pytest
import tensorly as tl

from tensorbench.decomposition import linalg
from tensorbench.decomposition.linalg import COO

SHAPES = [(5, 7), (4, 5, 6), (3, 2, 4, 5), (30, 2, 3)]


def sparse(shape: tuple[int, ...], nnz: int, seed: int = 0) -> COO:
    rng = np.random.default_rng(seed)
    cells = rng.choice(int(np.prod(shape)), nnz, replace=False)
    return COO(np.stack(np.unravel_index(cells, shape)), rng.standard_normal(nnz), shape)


@pytest.mark.parametrize("shape", SHAPES)
def test_unfolding_follows_tensorly(shape):
    X = np.random.default_rng(0).standard_normal(shape)
    for mode in range(X.ndim):
        np.testing.assert_array_equal(linalg.unfold(X, mode), tl.unfold(X, mode))


def test_several_modes_become_rows_in_the_order_given():
    X = np.arange(24.0).reshape(2, 3, 4)
    np.testing.assert_array_equal(linalg.unfold(X, [2, 0])[1 * 2 + 1], X[1, :, 1])


@pytest.mark.parametrize("shape", SHAPES)
def test_multiply_follows_tensorly(shape):
    rng = np.random.default_rng(1)
    X = rng.standard_normal(shape)
    matrices = [rng.standard_normal((3, size)) for size in shape]
    np.testing.assert_allclose(linalg.multiply(X, matrices), tl.tenalg.multi_mode_dot(X, matrices), atol=1e-12)
    np.testing.assert_allclose(
        linalg.multiply(X, matrices, skip=1), tl.tenalg.multi_mode_dot(X, matrices, skip=1), atol=1e-12
    )


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("method", ["gram", "svd", "rsvd"])
def test_squared_singular_values_match_numpy(shape, method):
    X = np.random.default_rng(2).standard_normal(shape)
    for mode in range(X.ndim):
        expected = np.linalg.svd(tl.unfold(X, mode), compute_uv=False) ** 2
        found = linalg.squared_singular_values(X, mode, method)
        assert found.shape == (shape[mode],)
        np.testing.assert_allclose(found[: len(expected)], expected, rtol=1e-9, atol=1e-12)
        assert not found[len(expected) :].any()


@pytest.mark.parametrize("shape", SHAPES)
def test_energy_of_every_unfolding_is_the_squared_norm(shape):
    X = np.random.default_rng(3).standard_normal(shape)
    for mode in range(X.ndim):
        assert linalg.squared_singular_values(X, mode).sum() == pytest.approx(np.sum(X**2), rel=1e-10)


def test_long_modes_use_the_short_side(monkeypatch):
    X = np.random.default_rng(4).standard_normal((30, 2, 3))
    expected = linalg.squared_singular_values(X, 0)
    monkeypatch.setattr(linalg, "GRAM_LIMIT", 10)
    np.testing.assert_allclose(linalg.squared_singular_values(X, 0), expected, rtol=1e-9, atol=1e-12)


def test_randomised_values_of_a_low_rank_unfolding_are_accurate():
    rng = np.random.default_rng(5)
    X = np.einsum("ar,br,cr->abc", *(rng.standard_normal((40, 4)) for _ in range(3)))
    np.testing.assert_allclose(
        linalg.squared_singular_values(X, 0, "rsvd", rank=8)[:4],
        linalg.squared_singular_values(X, 0, "svd")[:4],
        rtol=1e-8,
    )


def test_rounding_noise_is_taken_as_zero_and_small_values_are_kept():
    left, right = np.linalg.qr(np.random.default_rng(6).standard_normal((9, 9)))[0], np.eye(9)
    X = left @ np.diag([1.0, 1e-3, 1e-6, 0, 0, 0, 0, 0, 0]) @ right
    assert np.count_nonzero(linalg.squared_singular_values(X, 0)) == 3
    X = left @ np.diag([1.0, 1e-3, 1e-12, 0, 0, 0, 0, 0, 0]) @ right  # squared: too small for a Gram matrix
    assert np.count_nonzero(linalg.squared_singular_values(X, 0, "gram")) == 2
    assert np.count_nonzero(linalg.squared_singular_values(X, 0, "svd")) == 3


@pytest.mark.parametrize("shape", SHAPES)
def test_sparse_and_dense_agree(shape):
    X = sparse(shape, 15)
    dense = X.full()
    assert X.norm2 == pytest.approx(np.sum(dense**2))
    for mode in range(X.ndim):
        np.testing.assert_allclose(linalg.gram(X, mode), linalg.gram(dense, mode), atol=1e-12)
        np.testing.assert_allclose(
            linalg.squared_singular_values(X, mode, "svd"), linalg.squared_singular_values(dense, mode), atol=1e-10
        )
    order = list(range(X.ndim))[::-1]
    np.testing.assert_array_equal(X.permute(order).full(), dense.transpose(order))


@pytest.mark.parametrize("cut", [1, 2])
def test_streaming_gram_equals_the_whole(cut):
    X = np.random.default_rng(7).standard_normal((4, 9, 6))
    slabs = np.array_split(X, 3, axis=cut)
    np.testing.assert_allclose(linalg.streaming_gram(slabs, 0), linalg.gram(X, 0), rtol=1e-12)


def test_tails_and_the_truncation_rule():
    a = np.array([4.0, 2.0, 1.0, 1e-20])
    np.testing.assert_allclose(linalg.tails(a), [7.0, 3.0, 1.0, 1e-20, 0.0])
    assert linalg.tails(a)[3] == 1e-20  # summed from the small end: nothing is lost
    for tail, rank in [(10.0, 0), (3.0, 1), (2.9, 2), (1e-19, 3), (0.0, 4)]:
        assert linalg.rank_for_tail(a, tail) == rank


def test_khatri_rao_follows_tensorly():
    rng = np.random.default_rng(8)
    matrices = [rng.standard_normal((size, 3)) for size in (2, 4, 5)]
    np.testing.assert_allclose(linalg.khatri_rao(matrices), tl.tenalg.khatri_rao(matrices), atol=1e-14)


@pytest.mark.parametrize(
    ("coords", "values", "shape", "message"),
    [
        ([[0, 0], [1, 1]], [1.0, 2.0], (2, 2), "more than once"),
        ([[0, 2], [1, 1]], [1.0, 2.0], (2, 2), "outside the shape"),
        ([[-1, 0], [1, 1]], [1.0, 2.0], (2, 2), "outside the shape"),
        ([[0, 1], [1, 1]], [1.0, np.nan], (2, 2), "not finite"),
        ([[0.5, 1.0], [1.0, 1.0]], [1.0, 2.0], (2, 2), "whole numbers"),
        ([[0, 1]], [1.0, 2.0], (2, 2), "one row per mode"),
        ([[0, 1], [1, 1]], [1.0], (2, 2), "one column per value"),
    ],
)
def test_bad_sparse_tensors_are_refused(coords, values, shape, message):
    with pytest.raises(ValueError, match=message):
        COO(np.array(coords), np.array(values), shape)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="2 of 4 entries are not finite"):
        linalg.as_tensor(np.array([[1.0, np.nan], [np.inf, 0.0]]))
    with pytest.raises(ValueError, match="two non-empty modes"):
        linalg.as_tensor(np.ones(3))
    with pytest.raises(ValueError, match="two non-empty modes"):
        linalg.as_tensor(np.ones((3, 0, 2)))
    with pytest.raises(ValueError, match="unknown method 'gramm'"):
        linalg.squared_singular_values(np.eye(3), 0, "gramm")
    with pytest.raises(ValueError, match="no slab"):
        linalg.streaming_gram([], 0)
    with pytest.raises(ValueError, match="cut another mode"):
        linalg.streaming_gram([np.ones((2, 3)), np.ones((3, 3))], 0)
    with pytest.raises(ValueError, match="100000000000000 cells"):
        COO(np.zeros((2, 1), int), np.ones(1), (10**7, 10**7)).full()
