"""Sketches: the transform against SciPy, S against its dense form, E[S^T S] = I, tensor sketches, bad input."""

import numpy as np
import pytest
from scipy.linalg import hadamard

from tensorbench.decomposition.baselines.sketching import ScipyCountSketch, SklearnProjection
from tensorbench.decomposition.sketch.hadamard import fwht, next_power_of_two
from tensorbench.decomposition.sketch.measures import oce_beta, oce_samples, ose_distortion
from tensorbench.decomposition.sketch.sketches import (
    CountSketch,
    GaussianSketch,
    LeverageSampling,
    Rademacher,
    RowSampling,
    SparseEmbedding,
    UniformSampling,
    leverage_scores,
)
from tensorbench.decomposition.sketch.structured import SRHT, BalancedGaussianPooled, TensorSketch, TensorSRHT

PLAIN = {
    "gaussian": GaussianSketch,
    "rademacher": Rademacher,
    "count": CountSketch,
    "osnap": lambda n, m, g: SparseEmbedding(n, m, g, s=2),
    "uniform": UniformSampling,
    "leverage": lambda n, m, g: LeverageSampling(n, m, g, A=np.random.default_rng(0).standard_normal((n, 2))),
    "srht": SRHT,
    "srht_replace": lambda n, m, g: SRHT(n, m, g, replace=True),
    "pooled": BalancedGaussianPooled,
    "pooled_short": lambda n, m, g: BalancedGaussianPooled(n, m, g, block=2),
    "sklearn": SklearnProjection,
    "scipy": ScipyCountSketch,
}
TENSOR = {"tensor_srht": TensorSRHT, "tensor_sketch": TensorSketch}


@pytest.fixture
def rng():
    return np.random.default_rng(5)


# --- the transform --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("implementation", ["numpy", "numba"])
@pytest.mark.parametrize(("n", "k"), [(1, 2), (2, 3), (8, 1), (32, 5), (512, 3), (2048, 2)])
def test_fwht_is_scipys_hadamard_product(rng, n, k, implementation):
    X = rng.standard_normal((n, k))
    np.testing.assert_allclose(fwht(X.copy(), implementation=implementation), hadamard(n) @ X, atol=1e-10)


@pytest.mark.parametrize("implementation", ["numpy", "numba"])
def test_fwht_works_in_place_along_any_axis_of_a_view(rng, implementation):
    big = rng.standard_normal((3, 16, 10))
    before, view = big.copy(), big[:, :, ::2]
    assert fwht(view, axis=1, implementation=implementation) is view
    np.testing.assert_allclose(big[:, :, ::2], np.einsum("ij,ajb->aib", hadamard(16), before[:, :, ::2]), atol=1e-12)
    np.testing.assert_array_equal(big[:, :, 1::2], before[:, :, 1::2])


def test_blocks_of_the_compiled_transform_meet(rng):
    X = rng.standard_normal((4096, 40))  # more rows than a block has
    np.testing.assert_allclose(fwht(X.copy(), implementation="numba"), fwht(X.copy()), atol=1e-10)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_fwht_twice_is_n_times_the_identity(rng, dtype):
    X = rng.standard_normal((256, 7)).astype(dtype)
    out = fwht(fwht(X.copy()))
    assert out.dtype == dtype
    np.testing.assert_allclose(out / 256, X, atol=1e-5 if dtype == np.float32 else 1e-13)


def test_next_power_of_two():
    assert [next_power_of_two(n) for n in (1, 2, 3, 4, 5, 1024, 1025)] == [1, 2, 4, 4, 8, 1024, 2048]


# --- one interface --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PLAIN)
def test_apply_is_the_dense_matrix(rng, name):
    sketch = PLAIN[name](37, 11, 3)
    S, X = sketch.dense(), rng.standard_normal((37, 4))
    assert S.shape == (11, 37)
    np.testing.assert_allclose(sketch.apply(X), S @ X, atol=1e-12)
    np.testing.assert_allclose(sketch.apply(X[:, 0]), S @ X[:, 0], atol=1e-12)
    np.testing.assert_array_equal(PLAIN[name](37, 11, 3).dense(), S)  # the seed decides
    assert not np.array_equal(PLAIN[name](37, 11, 4).dense(), S)


def mean_of_gram(make, n, draws):
    grams = np.stack([(S := make(t).dense()).T @ S for t in range(draws)])
    return grams.mean(axis=0), grams.std(axis=0) / np.sqrt(draws), n


@pytest.mark.parametrize("name", [name for name in PLAIN if name != "sklearn"])
def test_expectation_of_the_gram_matrix_is_the_identity(name):
    mean, error, n = mean_of_gram(lambda t: PLAIN[name](6, 4, np.random.default_rng([t, 8])), 6, 2000)
    assert (np.abs(mean - np.eye(n)) <= 5 * error + 1e-12).all()


@pytest.mark.parametrize("name", TENSOR)
def test_tensor_sketches_are_unbiased(name):
    mean, error, n = mean_of_gram(lambda t: TENSOR[name]((3, 2), 4, np.random.default_rng([t, 9])), 6, 2000)
    assert (np.abs(mean - np.eye(n)) <= 5 * error + 1e-12).all()


@pytest.mark.parametrize("name", TENSOR)
@pytest.mark.parametrize("sizes", [(16, 8), (5, 11)])
def test_apply_kron_is_the_product_with_the_kronecker_matrix(rng, name, sizes):
    sketch = TENSOR[name](sizes, 20, 1)
    U, V = rng.standard_normal((sizes[0], 3)), rng.standard_normal((sizes[1], 2))
    np.testing.assert_allclose(sketch.apply_kron(U, V), sketch.dense() @ np.kron(U, V), atol=1e-12)


def test_tensor_srht_has_rows_of_both_transforms():
    sketch = TensorSRHT((4, 2), 5, 2)
    full = np.kron(hadamard(4) * sketch.signs[0], hadamard(2) * sketch.signs[1])
    picked = full[sketch.rows[0] * 2 + sketch.rows[1]]
    np.testing.assert_allclose(sketch.dense(), picked / np.sqrt(5), atol=1e-14)


# --- what makes each what it is -------------------------------------------------------------------------------------


def test_pooled_sketch_is_its_product_of_six_matrices():
    n, m, s = 13, 4, 8  # padded far beyond the next power of two of n
    sketch = BalancedGaussianPooled(n, m, 6, block=s)
    N = sketch.N
    assert m * s == N == 32
    J = np.eye(N)[:, :n]
    signs = np.ones(N)
    signs[:n] = sketch.signs
    F, Pi = hadamard(N) / np.sqrt(N), np.eye(N)[sketch.order]
    B = np.kron(np.eye(m), np.ones(s))
    np.testing.assert_allclose(sketch.dense(), B @ np.diag(sketch.weights) @ Pi @ F @ np.diag(signs) @ J, atol=1e-13)


def test_default_block_of_the_pooled_sketch():
    assert BalancedGaussianPooled(4096, 512, 0).block == 32
    assert BalancedGaussianPooled(4096, 100, 0).block == 128


def test_full_srht_is_orthogonal():
    S = SRHT(16, 16, 0).dense()
    np.testing.assert_allclose(S.T @ S, np.eye(16), atol=1e-14)


def test_sparse_embeddings_have_s_entries_in_different_rows():
    S = SparseEmbedding(50, 10, 0, s=3).dense()
    assert ((S != 0).sum(axis=0) == 3).all()
    np.testing.assert_allclose(np.abs(S[S != 0]), 3**-0.5)


def test_count_sketch_has_the_law_of_scipys():
    x = np.arange(1.0, 9.0)
    ours, theirs = (
        np.array([np.sum(kind(8, 4, np.random.default_rng([t, 1])).apply(x) ** 2) for t in range(3000)])
        for kind in (CountSketch, ScipyCountSketch)
    )
    for power in (1, 2):
        a, b = ours**power, theirs**power
        assert abs(a.mean() - b.mean()) <= 4.5 * np.hypot(a.std(), b.std()) / np.sqrt(3000)


def test_leverage_sampling_picks_rows_that_matter(rng):
    A = np.vstack([np.eye(3), np.zeros((20, 3))])
    assert set(LeverageSampling(23, 200, 0, A=A).rows) == {0, 1, 2}
    X = rng.standard_normal((40, 5))
    np.testing.assert_allclose(leverage_scores(X), np.diag(X @ np.linalg.pinv(X)), atol=1e-12)
    assert leverage_scores(np.column_stack([X, X[:, 0]])).sum() == pytest.approx(5)


def test_count_sketch_errs_by_sqrt_m_and_the_srht_does_not():
    g, h = np.eye(256)[0], np.eye(256)[1]
    values = oce_samples(lambda t: CountSketch(256, 16, t), g, h, 400)
    np.testing.assert_allclose(np.unique(values.round(12)), [0.0, 4.0])
    assert 0.02 < (values > 0).mean() < 0.12  # 1/16 in expectation, 25 of 400
    srht = oce_beta(lambda t: SRHT(256, 64, t), g, h, 200)
    assert 0 < srht[0.5] < srht[0.99] <= srht[1.0] < 6


def test_distortion_is_that_of_the_basis(rng):
    A = rng.standard_normal((256, 4)) * [1, 10, 100, 1000]
    low, high = ose_distortion(SRHT(256, 256, 0), A)
    assert (low, high) == pytest.approx((1, 1), abs=1e-12)
    low, high = ose_distortion(SRHT(256, 64, 0), A)
    assert 0.5 < low < 1 < high < 1.5


# --- bad input ------------------------------------------------------------------------------------------------------

X8 = np.ones((8, 2))


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: fwht(np.ones(12)), "pad to 16"),
        (lambda: fwht(np.ones(8, dtype=int)), "float array"),
        (lambda: fwht(np.ones(8), implementation="fortran"), "numpy"),
        (lambda: CountSketch(0, 3), "n = 0"),
        (lambda: CountSketch(8, 2.5), "m = 2.5"),
        (lambda: SRHT(6, 9), "without replacement"),
        (lambda: SRHT(6, 4, pad=False), "padding is disabled"),
        (lambda: SRHT(6, 4).apply(X8), "takes 6 rows"),
        (lambda: CountSketch(8, 4).apply(np.full((8, 2), np.nan)), "16 NaN"),
        (lambda: SparseEmbedding(8, 3, s=4), "1..m"),
        (lambda: RowSampling(3, 2, p=np.array([1.0, -1.0, 0.5])), "finite numbers >= 0"),
        (lambda: BalancedGaussianPooled(8, 4, block=0), "block = 0"),
        (lambda: TensorSRHT(8, 4), "pair of sizes"),
        (lambda: oce_samples(lambda t: SRHT(8, 4, t), np.zeros(8), np.ones(8), 3), "not be zero"),
    ],
)
def test_bad_input_is_told(call, text):
    with pytest.raises(ValueError, match=text):
        call()


def test_plain_sketches_say_that_they_have_no_kronecker_product():
    with pytest.raises(TypeError, match="use TensorSRHT"):
        SRHT(8, 4).apply_kron(np.ones((4, 1)), np.ones((2, 1)))
