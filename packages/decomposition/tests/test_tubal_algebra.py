"""The t-product algebra: against block-circulant matrices, identities, Eckart-Young, worked examples, bad input."""

import numpy as np
import pytest

from tensorbench.decomposition.tubal.algebra import (
    average_rank,
    fourier_singular_values,
    from_slices,
    is_orthogonal,
    multi_rank,
    principal_angle,
    real_slices,
    slice_weights,
    spectral_norm,
    t_condition_number,
    t_identity,
    t_inverse,
    t_product,
    t_svd,
    t_svt,
    t_transpose,
    to_slices,
    truncate,
    tubal_nuclear_norm,
    tubal_rank,
    tubal_singular_values,
)

CASES = [(kind, k) for kind in ("fft", "dct") for k in (1, 2, 3, 4, 5)]


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def bcirc(A):
    """The block-circulant matrix of the frontal slices."""
    k = A.shape[2]
    return np.block([[A[:, :, (i - j) % k] for j in range(k)] for i in range(k)])


def unfold(A):
    return np.concatenate(list(np.moveaxis(A, 2, 0)))


@pytest.mark.parametrize("k", [1, 2, 3, 4, 7])
def test_t_product_is_the_block_circulant_product(rng, k):
    A, B = rng.standard_normal((4, 3, k)), rng.standard_normal((3, 5, k))
    np.testing.assert_allclose(unfold(t_product(A, B)), bcirc(A) @ unfold(B), atol=1e-12)
    np.testing.assert_allclose(bcirc(t_transpose(A)), bcirc(A).T, atol=0)


@pytest.mark.parametrize("kind", ["fft", "dct"])
def test_one_frontal_slice_is_a_matrix(rng, kind):
    A, B = rng.standard_normal((4, 3, 1)), rng.standard_normal((3, 5, 1))
    np.testing.assert_allclose(t_product(A, B, kind)[:, :, 0], A[:, :, 0] @ B[:, :, 0], atol=1e-12)


@pytest.mark.parametrize(("kind", "k"), CASES)
def test_ring_identities(rng, kind, k):
    A, B, C = (rng.standard_normal(shape) for shape in ((4, 3, k), (3, 5, k), (5, 2, k)))
    left = t_product(t_product(A, B, kind), C, kind)
    np.testing.assert_allclose(left, t_product(A, t_product(B, C, kind), kind), atol=1e-12)
    np.testing.assert_allclose(
        t_transpose(t_product(A, B, kind), kind),
        t_product(t_transpose(B, kind), t_transpose(A, kind), kind),
        atol=1e-12,
    )
    np.testing.assert_allclose(t_product(A, t_identity(3, k, kind), kind), A, atol=1e-12)
    square = rng.standard_normal((4, 4, k))
    np.testing.assert_allclose(t_product(square, t_inverse(square, kind), kind), t_identity(4, k, kind), atol=1e-9)


@pytest.mark.parametrize(("kind", "k"), CASES)
def test_transform_is_an_isometry_up_to_weights(rng, kind, k):
    A = rng.standard_normal((3, 4, k))
    slices = to_slices(A, kind)
    np.testing.assert_allclose(from_slices(slices, k, kind), A, atol=1e-14)
    weighted = slice_weights(k, kind) @ (np.abs(slices) ** 2).sum(axis=(1, 2))
    assert weighted == pytest.approx(np.sum(A**2), rel=1e-13)
    assert np.abs(slices[real_slices(k, kind)].imag).max() < 1e-14


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize(("kind", "k"), CASES)
def test_t_svd_reconstructs_with_orthogonal_factors(rng, kind, k, full):
    A = rng.standard_normal((5, 3, k))
    U, S, V, values = t_svd(A, full, kind)
    assert U.shape[1] == (5 if full else 3)
    rebuilt = t_product(t_product(U, S, kind), t_transpose(V, kind), kind)
    np.testing.assert_allclose(rebuilt, A, atol=1e-12)
    assert is_orthogonal(U, transform=kind)
    assert is_orthogonal(V, transform=kind)
    assert not is_orthogonal(A, transform=kind)
    tubes = np.linalg.norm(S[np.arange(3), np.arange(3)], axis=1)
    np.testing.assert_allclose(tubes, tubal_singular_values(A, kind), atol=1e-12)
    assert (np.diff(values, axis=1) <= 0).all()


@pytest.mark.parametrize(("kind", "k"), CASES)
def test_truncation_error_is_the_tail(rng, kind, k):
    A = rng.standard_normal((5, 4, k))
    values = fourier_singular_values(A, kind)
    for r in range(5):
        tail = slice_weights(k, kind) @ (values[:, r:] ** 2).sum(axis=1)
        assert np.sum((truncate(A, r, kind) - A) ** 2) == pytest.approx(tail, abs=1e-12)
    B = truncate(A, 2, kind)
    assert tubal_rank(B, transform=kind) == 2
    assert multi_rank(B, transform=kind) == (2,) * k


def test_ranks_count_slices(rng):
    slices = to_slices(rng.standard_normal((5, 4, 5)))
    slices[1] = slices[1][:, :1] @ slices[1][:1, :]  # stands for slices 1 and 4
    A = from_slices(slices, 5)
    assert multi_rank(A) == (4, 1, 4, 4, 1)
    assert average_rank(A) == np.linalg.matrix_rank(bcirc(A)) / 5 == 14 / 5
    assert tubal_rank(A) == 4


@pytest.mark.parametrize("k", [3, 4])
def test_norms_are_those_of_the_block_circulant_matrix(rng, k):
    A = rng.standard_normal((4, 3, k))
    singular = np.linalg.svd(bcirc(A), compute_uv=False)
    assert spectral_norm(A) == pytest.approx(singular.max())
    assert tubal_nuclear_norm(A) == pytest.approx(singular.sum() / k)
    assert t_condition_number(A) == pytest.approx(singular.max() / singular.min())


@pytest.mark.parametrize(("kind", "k"), CASES)
def test_singular_value_thresholding_is_the_prox(rng, kind, k):
    A, tau = rng.standard_normal((4, 3, k)), 0.7

    def objective(X):
        return tau * tubal_nuclear_norm(X, kind) + 0.5 * np.sum((X - A) ** 2)

    X = t_svt(A, tau, kind)
    best = objective(X)
    for size in (1e-3, 1e-1):
        assert all(objective(X + size * rng.standard_normal(A.shape)) > best for _ in range(20))
    np.testing.assert_allclose(t_svt(A, 0.0, kind), A, atol=1e-12)


def test_principal_angle_of_the_worked_example():
    U = np.array([[1, 0, 1], [1, 1, -1]]).T / np.sqrt([2, 3])
    V = np.array([[1, 2, -1], [2, 1, 4]]).T / np.sqrt([6, 21])
    expected = 0.487950036474266
    assert principal_angle(U[:, :, None], V[:, :, None]) == pytest.approx(expected, abs=1e-14)
    same_pages = [from_slices(np.stack([X, X]).astype(complex), 2) for X in (U, V)]
    assert principal_angle(*same_pages) == pytest.approx(expected, abs=1e-14)


@pytest.mark.parametrize("k", [1, 3, 4])
def test_principal_angle_is_invariant_and_accurate_near_zero(rng, k):
    Q = t_svd(rng.standard_normal((5, 5, k))).U
    U, V = (rng.standard_normal((5, 2, k)) for _ in range(2))
    angle = principal_angle(U, V)
    assert principal_angle(V, U) == pytest.approx(angle)
    assert principal_angle(t_product(Q, U), t_product(Q, V)) == pytest.approx(angle)
    assert principal_angle(t_product(U, rng.standard_normal((2, 2, k))), U) < 1e-12
    moved = U + 1e-10 * rng.standard_normal(U.shape)
    assert 1e-12 < principal_angle(U, moved) < 1e-8


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: t_product(np.ones((2, 2)), np.ones((2, 2))), "third-order"),
        (lambda: t_svd(np.ones((2, 2, 2), dtype=complex)), "complex"),
        (lambda: t_transpose(np.full((2, 2, 2), np.nan)), "NaN"),
        (lambda: t_product(np.ones((2, 3, 2)), np.ones((2, 3, 2))), "n x p x k and p x m x k"),
        (lambda: t_identity(2, 2, "dft"), "use one of fft, dct"),
        (lambda: truncate(np.ones((2, 3, 2)), 3), "outside 0..2"),
        (lambda: t_inverse(np.ones((2, 3, 2))), "n x n x k"),
        (lambda: t_inverse(np.ones((2, 2, 2))), "singular"),
        (lambda: t_svt(np.ones((2, 2, 2)), -1.0), "tau"),
        (lambda: tubal_rank(np.ones((2, 2, 2)), -1.0), "tol"),
        (lambda: principal_angle(np.ones((2, 3, 2)), np.ones((2, 3, 2))), "r <= n"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
