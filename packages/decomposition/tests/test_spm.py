"""Subspace power method: worked examples, recovery, theory, equivariance, block terms, bad input."""

import numpy as np
import pytest
import sympy
import torch
from scipy.linalg import subspace_angles

from tensorbench.decomposition.cp.block_term import block_term_spm, symmetric_power
from tensorbench.decomposition.cp.extraction import deflate
from tensorbench.decomposition.cp.flattening import flatten
from tensorbench.decomposition.cp.gpca import gpca_spm
from tensorbench.decomposition.cp.power import Side, subspace_power
from tensorbench.decomposition.cp.refine import cp_refine, mttkrp
from tensorbench.decomposition.cp.spm import (
    rank_bound,
    spm,
    spm_gradient,
    spm_hessian,
    spm_objective,
    symmetric_subspace,
)
from tensorbench.decomposition.cp.symmetric import khatri_rao_power, lowrank_symmetric, symmetrize
from tensorbench.decomposition.selection import factor_match_score

COLUMNS = np.array([(1, 0, 2, 1), (2, 1, 0, -1), (0, 1, 1, 2), (1, -1, 1, 0), (3, 1, -1, 1)], dtype=float).T


def planted(d, r, m, seed=0):
    rng = np.random.default_rng(seed)
    A = rng.standard_normal((d, r))
    A /= np.linalg.norm(A, axis=0)
    lam = rng.choice([-1.0, 1.0], r) * rng.uniform(0.5, 2, r)
    return A, lam, lowrank_symmetric(A, lam, m)


def relative_error(result, T):
    return np.linalg.norm(result.full() - T) / np.linalg.norm(T)


def test_worked_example_of_order_4():
    result = spm(lowrank_symmetric(COLUMNS, np.array([1, -2, 0.5, 1, 3]), 4))
    np.testing.assert_allclose(np.sort(result.weights), [-72, 9, 18, 36, 432], atol=1e-6)


def test_worked_example_of_order_3():
    result = spm(lowrank_symmetric(COLUMNS[:, :4], np.array([1, -2, 0.5, 1]), 3))
    want = [5.19615242, 7.34846923, 14.69693846, 29.39387691]
    np.testing.assert_allclose(np.sort(np.abs(result.weights)), want, atol=1e-7)


CASES = [(4, 6, 8), (4, 6, 15), (3, 7, 7), (3, 5, 2), (5, 5, 9), (6, 4, 14), (4, 2, 1)]


@pytest.mark.parametrize(("m", "d", "r"), CASES)
def test_exact_recovery_with_the_rank_found(m, d, r):
    A, lam, T = planted(d, r, m, seed=m * d)
    result = spm(T, generator=1)
    assert result.rank == r
    assert relative_error(result, T) < 1e-11
    assert factor_match_score([A], [result.factors], lam, result.weights) > 1 - 1e-9
    np.testing.assert_allclose(np.linalg.norm(result.factors, axis=0), 1, atol=1e-13)


@pytest.mark.parametrize("batch", [1, 3, 128])
@pytest.mark.parametrize("adaptive", [True, False])
def test_batches_and_shifts_give_the_same_decomposition(batch, adaptive):
    _, lam, T = planted(5, 7, 4)
    result = spm(T, batch=batch, adaptive=adaptive, generator=2)
    np.testing.assert_allclose(np.sort(result.weights), np.sort(lam), atol=1e-9)


@pytest.mark.parametrize("order", [3, 5])
def test_two_dimensions_agree_with_sylvester(order):
    """The components of a binary form are the roots of its apolar form, which Sylvester finds by linear algebra."""
    roots, weights = ([0.5, -2.0], [3.0, 1.0]) if order == 3 else ([0.5, -2.0, 1.5], [3.0, 1.0, -2.0])
    vectors = np.array([[1.0, t] for t in roots]).T
    T = lowrank_symmetric(vectors, np.array(weights), order)
    entries = [T[(0,) * (order - k) + (1,) * k] for k in range(order + 1)]
    r = len(roots)
    hankel = sympy.Matrix(order - r + 1, r + 1, lambda i, j: sympy.nsimplify(entries[i + j]))
    t = sympy.symbols("t")
    kernel = hankel.nullspace()[0]
    apolar = sympy.Poly(sum(kernel[j] * t**j for j in range(r + 1)), t)
    want = np.sort([float(sympy.re(z)) for z in apolar.nroots()])
    result = spm(T) if r <= rank_bound(2, order) else None
    if result is None:
        with pytest.raises(ValueError, match="exceeds"):
            spm(T)
        return
    np.testing.assert_allclose(np.sort(result.factors[1] / result.factors[0]), want, atol=1e-9)


def test_binary_quartic_of_rank_one_agrees_with_sylvester():
    result = spm(lowrank_symmetric(np.array([[3.0], [4.0]]), np.array([-2.0]), 4))
    np.testing.assert_allclose(result.weights, [-2 * 5.0**4])
    np.testing.assert_allclose(result.factors[:, 0], [0.6, 0.8], atol=1e-12)


def test_orthogonal_tensor_agrees_with_tensorly_power_iteration():
    from tensorly.decomposition import symmetric_parafac_power_iteration

    Q = np.linalg.qr(np.random.default_rng(0).standard_normal((5, 3)))[0]
    T = lowrank_symmetric(Q, np.array([3.0, 2.0, 1.0]), 3)
    np.random.seed(0)
    weights, factor = symmetric_parafac_power_iteration(T, 3, n_repeat=10, n_iteration=50)
    result = spm(T)
    np.testing.assert_allclose(np.sort(result.weights), np.sort(np.abs(weights)), atol=1e-6)
    assert factor_match_score([factor], [result.factors]) > 1 - 1e-6


@pytest.mark.parametrize(("m", "d", "r"), [(4, 6, 8), (3, 6, 6), (6, 4, 12)])
@pytest.mark.parametrize("adaptive", [True, False])
def test_objective_rises_and_ends_in_a_critical_point(m, d, r, adaptive):
    _, _, T = planted(d, r, m)
    n = (m + 1) // 2
    V = symmetric_subspace(T)
    compressed = np.linalg.svd(flatten(T, (tuple(range(m)),), (n,)))[0][:, :r]
    for seed in range(5):
        x = np.random.default_rng(seed).standard_normal((d, 1))
        out = subspace_power(
            compressed, Side((0,), (d,), (n,)), [x / np.linalg.norm(x)], adaptive=adaptive, history=True
        )
        f = np.concatenate(out.history)
        assert np.diff(f).min() > -1e-13
        assert out.converged.all()
        x = out.vectors[0][:, 0]
        assert spm_objective(V, x) == pytest.approx(out.objective[0], abs=1e-12)
        assert np.linalg.norm(spm_gradient(V, x, riemannian=True)) < 1e-12
        assert np.linalg.eigvalsh(spm_hessian(V, x)).max() < 1e-6  # a maximum, not a saddle


@pytest.mark.parametrize("n", [1, 2, 3])
def test_derivatives_of_the_objective(n):
    """Gradient and Riemannian Hessian against central differences along great circles."""
    rng, d = np.random.default_rng(n), 4
    powers = khatri_rao_power(rng.standard_normal((d, 3)), n)
    V = np.linalg.qr(powers)[0]
    x, v = rng.standard_normal((2, d))
    x /= np.linalg.norm(x)
    v -= x * (x @ v)
    v /= np.linalg.norm(v)

    def along(t):
        return spm_objective(V, np.cos(t) * x + np.sin(t) * v)

    h = 1e-4
    assert spm_gradient(V, x) @ v == pytest.approx((along(h) - along(-h)) / (2 * h), abs=1e-6)
    assert v @ spm_hessian(V, x) @ v == pytest.approx((along(h) - 2 * along(0) + along(-h)) / h**2, abs=1e-5)


def test_components_are_global_maxima_with_value_one():
    A, _, T = planted(6, 9, 4)
    V = symmetric_subspace(T)
    for a in A.T:
        assert spm_objective(V, a) == pytest.approx(1, abs=1e-12)
        assert np.linalg.norm(spm_gradient(V, a, riemannian=True)) < 1e-11


@pytest.mark.parametrize("m", [3, 4])
def test_rotation_equivariance(m):
    _, _, T = planted(5, 5, m)
    Q = np.linalg.qr(np.random.default_rng(9).standard_normal((5, 5)))[0]
    rotated = T
    for _ in range(m):
        rotated = np.tensordot(rotated, Q, axes=(0, 0))  # T(Q, ..., Q)
    a, b = spm(T), spm(rotated)
    np.testing.assert_allclose(a.weights, b.weights, atol=1e-9)
    cosine = np.abs(np.sum((Q.T @ a.factors) * b.factors, axis=0))
    np.testing.assert_allclose(cosine, 1, atol=1e-10)


@pytest.mark.parametrize("scale", [-3.0, 1e-8, 1e8])
def test_scaling_scales_the_weights(scale):
    _, _, T = planted(5, 6, 4)
    np.testing.assert_allclose(np.sort(spm(scale * T).weights), np.sort(scale * spm(T).weights), rtol=1e-8)


@pytest.mark.parametrize("m", [3, 4])
def test_deflation_is_the_decomposition_of_the_residual(m):
    A, lam, T = planted(6, 6, m)
    groups, n = (tuple(range(m)),), (m + 1) // 2
    M = flatten(T, groups, (n,))
    U, s, Vt = np.linalg.svd(M)
    U, V, C = U[:, :6], Vt[:6].T, np.diag(1 / s[:6])
    Side_left, Side_right = Side((0,), (6,), (n,)), Side((0,), (6,), (m - n,))
    a = A[:, [2]]
    left, right = Side_left.rank_one([a])[:, 0], Side_right.rank_one([a])[:, 0]
    U2, V2, C2 = deflate(U, V, C, U.T @ left, V.T @ right)
    residual = flatten(T - lowrank_symmetric(a, lam[[2]], m), groups, (n,))
    np.testing.assert_allclose(U2 @ np.linalg.inv(C2).T @ V2.T, residual, atol=1e-12)
    X, _, Yt = np.linalg.svd(residual)
    assert subspace_angles(U2, X[:, :5]).max() < 1e-9 and subspace_angles(V2, Yt[:5].T).max() < 1e-9


def test_signs_are_resolved():
    _, lam, T = planted(6, 8, 4)
    even = spm(T)
    np.testing.assert_allclose(np.sort(even.weights), np.sort(lam), atol=1e-10)
    assert (np.take_along_axis(even.factors, np.abs(even.factors).argmax(0)[None], 0) > 0).all()
    _, lam, T = planted(6, 5, 3)
    odd = spm(T)
    assert (odd.weights > 0).all()
    np.testing.assert_allclose(np.sort(odd.weights), np.sort(np.abs(lam)), atol=1e-10)


def test_same_seed_same_result_and_torch_input():
    _, _, T = planted(5, 6, 4)
    a, b = spm(T, generator=3), spm(torch.as_tensor(T), generator=np.random.default_rng(3))
    assert (a.factors == b.factors).all() and (a.weights == b.weights).all()
    np.testing.assert_allclose(a.to_cp().full().numpy(), T, atol=1e-12)


def test_noise_of_small_size_moves_the_result_little():
    _, _, T = planted(8, 10, 4)
    E = symmetrize(np.random.default_rng(1).standard_normal(T.shape))
    noisy = T + 1e-6 * E / np.linalg.norm(E)
    result = spm(noisy, rank=10)
    assert np.linalg.norm(result.full() - T) < 1e-6  # the noise itself has norm 1e-6
    polished = cp_refine(noisy, result.weights, [result.factors], (0,) * 4, steps=3)
    assert polished.history[-1] <= polished.history[0]


def test_refinement_converges_quadratically_and_mttkrp_is_its_definition():
    A, lam, T = planted(5, 4, 3)
    start = A + 1e-3 * np.random.default_rng(2).standard_normal(A.shape)
    refined = cp_refine(T, lam, [start], (0, 0, 0), steps=8, damping=1e-12)
    assert refined.history[0] > 1e-4 and refined.history[-1] < 1e-12
    B, D = np.random.default_rng(3).standard_normal((2, 5, 4))
    np.testing.assert_allclose(mttkrp(T, [A, B, D], 1), np.einsum("ijk,ir,kr->jr", T, A, D), atol=1e-12)


@pytest.mark.parametrize("sizes", [(2, 2), (1, 2, 3), (1, 1)])
def test_block_terms_are_recovered(sizes):
    rng, d = np.random.default_rng(4), 7
    bases = [np.linalg.qr(rng.standard_normal((d, k)))[0] for k in sizes]
    T = np.zeros((d,) * 4)
    for basis, k in zip(bases, sizes, strict=True):
        core = symmetrize(rng.standard_normal((k,) * 4))
        T += np.einsum("abcd,ia,jb,kc,ld->ijkl", core, *[basis] * 4, optimize=True)
    result = block_term_spm(T)
    assert sorted(b.shape[1] for b in result.bases) == sorted(sizes)
    np.testing.assert_allclose(result.full(), T, atol=1e-9)
    for basis in bases:
        same = [subspace_angles(basis, b).max() for b in result.bases if b.shape == basis.shape]
        assert min(same) < 1e-6


def test_symmetric_power_is_a_homomorphism():
    rng = np.random.default_rng(0)
    A, B = rng.standard_normal((4, 3)), rng.standard_normal((3, 2))
    np.testing.assert_allclose(symmetric_power(A @ B, 3), symmetric_power(A, 3) @ symmetric_power(B, 3), atol=1e-12)


def test_gpca_clusters_points_on_planes():
    rng, d, sigma = np.random.default_rng(0), 6, 0.02
    bases = [np.linalg.qr(rng.standard_normal((d, 2)))[0] for _ in range(3)]
    label = np.repeat(np.arange(3), 300)
    x = np.concatenate([rng.standard_normal((300, 2)) @ basis.T for basis in bases])
    found = gpca_spm(x + sigma * rng.standard_normal(x.shape), 2, 3, sigma=sigma)
    agree = np.array([[np.mean(found.labels[label == i] == j) for j in range(3)] for i in range(3)])
    assert agree.max(axis=1).min() > 0.9 and sorted(agree.argmax(axis=1)) == [0, 1, 2]


@pytest.mark.parametrize(
    ("tensor", "options", "message"),
    [
        (np.ones((2, 2)), {}, "order 2"),
        (np.ones((2, 3, 2)), {}, "equal modes"),
        (np.ones((1, 1, 1)), {}, "mode 0 has size 1"),
        (np.random.default_rng(0).standard_normal((3, 3, 3)), {}, "not symmetric.*symmetrize_input=True"),
        (1j * np.ones((3, 3, 3)), {}, "complex"),
        (np.full((3, 3, 3), np.nan), {}, "27 NaN"),
        (np.zeros((3, 3, 3)), {}, "rank 0"),
        (np.ones((3, 3, 3, 3)), {"rank": 4}, r"rank 4 is outside 1\.\.3"),
        (np.ones((3, 3, 3)), {"rank": 0}, "rank 0 is outside"),
        (symmetrize(np.random.default_rng(0).standard_normal((3, 3, 3, 3))), {}, "rank 6 found exceeds 3"),
        (np.ones((3, 3, 3)), {"ftol": 0}, "ftol"),
        (np.ones((3, 3, 3)), {"ntries": 0}, "ntries >= 1"),
    ],
)
def test_bad_input_teaches(tensor, options, message):
    with pytest.raises(ValueError, match=message):
        spm(tensor, **options)


def test_asymmetric_input_can_be_averaged():
    _, lam, T = planted(4, 3, 3)
    skew = np.random.default_rng(0).standard_normal(T.shape)
    result = spm(T + skew - symmetrize(skew), symmetrize_input=True)
    np.testing.assert_allclose(np.sort(result.weights), np.sort(np.abs(lam)), atol=1e-9)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: block_term_spm(np.ones((3, 3, 3))), "even order"),
        (lambda: block_term_spm(planted(4, 4, 4)[2], rank=4, block=2), "not a multiple of 3"),
        (lambda: gpca_spm(np.ones((9, 4)), 2, 5), "at most 6 is possible"),
        (lambda: spm_objective(np.ones((7, 1)), np.ones(3)), "no power of"),
        (lambda: cp_refine(np.ones((2, 2, 2)), np.ones(1), [np.ones((2, 1))], (0, 0)), "names 2 modes"),
    ],
)
def test_bad_input_of_the_second_tier_teaches(call, message):
    with pytest.raises(ValueError, match=message):
        call()
