"""Compressed coordinates, symmetrisation, moments and eigenpairs of symmetric tensors."""

from itertools import permutations
from math import comb

import numpy as np
import pytest

from tensorbench.decomposition.cp.flattening import flatten
from tensorbench.decomposition.cp.moments import cumulant, debias, moment, pairings_of_identity
from tensorbench.decomposition.cp.ss_hopm import apply_power, ss_hopm
from tensorbench.decomposition.cp.symmetric import (
    asymmetry,
    compress,
    contract,
    expand,
    khatri_rao_power,
    lowrank_symmetric,
    monomials,
    rank_bound,
    symmetric_indices,
    symmetrize,
)

SIZES = [(2, 3), (3, 2), (4, 1), (3, 4), (5, 3), (1, 3), (3, 0)]


def rng():
    return np.random.default_rng(0)


@pytest.mark.parametrize(("d", "n"), SIZES)
def test_indices_cover_the_full_tensor(d, n):
    indices = symmetric_indices(d, n)
    assert indices.size == comb(d + n - 1, n) and indices.multiplicity.sum() == d**n
    for flat, multi in enumerate(np.ndindex(*(d,) * n)):
        assert tuple(indices.representatives[indices.position[flat]]) == tuple(sorted(multi))


@pytest.mark.parametrize(("d", "n"), SIZES)
def test_compress_is_an_isometry_with_inverse_expand(d, n):
    x = rng().standard_normal((symmetric_indices(d, n).size, 3))
    full = expand(x, d, n)
    np.testing.assert_allclose(compress(full, d, n), x, atol=1e-14)
    np.testing.assert_allclose(full.T @ full, x.T @ x, atol=1e-12)


@pytest.mark.parametrize(("d", "n"), SIZES)
def test_monomials_are_compressed_powers(d, n):
    x = rng().standard_normal((d, 4))
    np.testing.assert_allclose(monomials(x, n), compress(khatri_rao_power(x, n), d, n), atol=1e-13)


@pytest.mark.parametrize(("d", "n"), [s for s in SIZES if s[1] >= 1])
def test_contract_leaves_one_index(d, n):
    x, v = rng().standard_normal((d, 3)), rng().standard_normal((symmetric_indices(d, n).size, 3))
    full = expand(v, d, n).reshape((d,) * n + (3,))
    want = np.stack([apply_power(full[..., s], x[:, s], n - 1) for s in range(3)], axis=1)
    np.testing.assert_allclose(contract(v, x, n), want, atol=1e-12)


def test_symmetrize_is_the_mean_over_permutations():
    T = rng().standard_normal((3, 3, 3, 3))
    want = np.mean([T.transpose(p) for p in permutations(range(4))], axis=0)
    np.testing.assert_allclose(symmetrize(T), want, atol=1e-14)
    assert asymmetry(symmetrize(T)) < 1e-15 < asymmetry(T)


def test_partial_symmetrize_touches_its_group_only():
    T = rng().standard_normal((3, 4, 3))
    S = symmetrize(T, [[0, 2], [1]])
    np.testing.assert_allclose(S, (T + T.transpose(2, 1, 0)) / 2)
    assert asymmetry(S, [[0, 2], [1]]) == 0


@pytest.mark.parametrize("order", [3, 4, 6])
def test_compressed_flattening_keeps_the_spectrum(order):
    d, half = 3, (order + 1) // 2
    T = lowrank_symmetric(rng().standard_normal((d, 4)), np.array([1.0, -2, 0.5, 3]), order)
    small = np.linalg.svd(flatten(T, (tuple(range(order)),), (half,)), compute_uv=False)
    full = np.linalg.svd(T.reshape(d**half, -1), compute_uv=False)
    np.testing.assert_allclose(full[: len(small)], small, atol=1e-12)
    np.testing.assert_allclose(full[len(small) :], 0, atol=1e-12)


def test_lowrank_is_the_sum_of_powers():
    A, lam = rng().standard_normal((3, 2)), np.array([2.0, -1.0])
    want = sum(w * np.einsum("i,j,k,l,m->ijklm", *[a] * 5) for w, a in zip(lam, A.T, strict=True))
    np.testing.assert_allclose(lowrank_symmetric(A, lam, 5), want, atol=1e-13)


@pytest.mark.parametrize(("d", "m", "bound"), [(10, 4, 45), (20, 4, 190), (40, 3, 40), (8, 5, 36), (6, 6, 50)])
def test_rank_bound(d, m, bound):
    assert rank_bound(d, m) == bound


@pytest.mark.parametrize("order", [1, 2, 3, 4, 5, 6])
def test_moment_is_the_mean_of_powers(order):
    Y = rng().standard_normal((7, 3))
    want = np.mean([np.prod(np.meshgrid(*[y] * order, indexing="ij"), axis=0) for y in Y], axis=0)
    np.testing.assert_allclose(moment(Y, order, max_entries=30), want, atol=1e-12)


@pytest.mark.parametrize("order", [2, 4, 6])
def test_gaussian_pairings(order):
    """Diagonal entries are the double factorials, and the tensor is invariant under rotations."""
    G = pairings_of_identity(3, order)
    Q = np.linalg.qr(rng().standard_normal((3, 3)))[0]
    rotated = G
    for _ in range(order):
        rotated = np.tensordot(rotated, Q, axes=(0, 0))
    assert G[(0,) * order] == pytest.approx({2: 1, 4: 3, 6: 15}[order])
    np.testing.assert_allclose(rotated, G, atol=1e-12)


@pytest.mark.parametrize("order", [2, 3, 4, 6])
def test_cumulants_in_one_dimension(order):
    """Against the textbook formulas in central moments, for the empirical law of a few points."""
    y = np.array([0.0, 1.0, 1.0, 4.0, 6.0])
    m = {k: np.mean((y - y.mean()) ** k) for k in range(2, 7)}
    want = {2: m[2], 3: m[3], 4: m[4] - 3 * m[2] ** 2, 6: m[6] - 15 * m[4] * m[2] - 10 * m[3] ** 2 + 30 * m[2] ** 3}
    assert cumulant(y[:, None], order).item() == pytest.approx(want[order], rel=1e-12)


@pytest.mark.parametrize("order", [3, 4, 6])
def test_cumulants_of_independent_variables_are_diagonal(order):
    """A product law on a grid has exactly independent coordinates."""
    grid = np.stack(np.meshgrid([0.0, 1.0, 5.0], [-1.0, 0.0, 2.0, 3.0], indexing="ij"), axis=-1).reshape(-1, 2)
    K = cumulant(grid, order)
    off = K.copy()
    off[(0,) * order] = off[(1,) * order] = 0
    assert np.abs(off).max() < 1e-10 * np.abs(K).max()


def test_debias_removes_gaussian_noise_exactly():
    """Moments of x + sigma z from the binomial expansion, in closed form."""
    x, sigma = rng().standard_normal((6, 2)), 0.7
    clean = {0: np.ones(()), **{k: moment(x, k) for k in (2, 4, 6)}}
    noisy = {
        k: symmetrize(
            sum(
                comb(k, j) * sigma**j * symmetrize(np.multiply.outer(pairings_of_identity(2, j), clean[k - j]))
                for j in range(0, k + 1, 2)
            )
        )
        for k in (2, 4, 6)
    }
    for k, value in debias(noisy, sigma).items():
        np.testing.assert_allclose(value, clean[k], atol=1e-11)


@pytest.mark.parametrize("shift", ["adaptive", "fixed", 2.0])
@pytest.mark.parametrize("order", [3, 4])
@pytest.mark.parametrize("maximize", [True, False])
def test_ss_hopm_finds_eigenpairs_monotonically(shift, order, maximize):
    T = symmetrize(rng().standard_normal((4,) * order))
    T /= np.linalg.norm(T)
    pair = ss_hopm(T, np.ones(4), shift, maximize=maximize)
    assert pair.converged and pair.residual < 1e-11
    np.testing.assert_allclose(apply_power(T, pair.vector, order - 1), pair.value * pair.vector, atol=1e-11)
    steps = np.diff(pair.history) * (1 if maximize else -1)
    assert steps.min() > -1e-13


def test_ss_hopm_on_matrices_gives_the_extreme_eigenvalues():
    M = symmetrize(rng().standard_normal((5, 5)))
    values = np.linalg.eigvalsh(M)
    assert ss_hopm(M, np.ones(5), "fixed").value == pytest.approx(values[-1], abs=1e-10)
    assert ss_hopm(M, np.ones(5), "fixed", maximize=False).value == pytest.approx(values[0], abs=1e-10)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: symmetric_indices(0, 2), "dim >= 1"),
        (lambda: ss_hopm(np.ones((2, 3, 2)), np.ones(2)), "modes differ"),
        (lambda: ss_hopm(rng().standard_normal((3, 3, 3)), np.ones(3)), "asymmetry"),
        (lambda: ss_hopm(np.ones((3, 3, 3)), np.zeros(3)), "non-zero vector"),
        (lambda: ss_hopm(np.ones((3, 3, 3)), np.ones(3), "large"), 'use "adaptive"'),
        (lambda: moment(np.ones((0, 3)), 2), "at least one observation"),
        (lambda: moment(np.ones((4, 3)), 0), "at least 1"),
        (lambda: moment(np.full((4, 3), np.nan), 2), "NaN"),
        (lambda: cumulant(np.ones((4, 3)), 5), "use 2, 3, 4 or 6"),
        (lambda: debias({4: np.ones((2,) * 4)}, 0.1), "all even orders"),
    ],
)
def test_bad_input_teaches(call, message):
    with pytest.raises(ValueError, match=message):
        call()
