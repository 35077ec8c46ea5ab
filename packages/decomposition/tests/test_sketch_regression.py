"""Sketched least squares: the error identity, exactness where it must be, the counterexample, Kronecker designs."""

import tracemalloc

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from tensorbench.decomposition.datasets.sketching import kronecker_digits, real_designs, sketching_designs
from tensorbench.decomposition.sketch.instances import KINDS, instance, polynomial
from tensorbench.decomposition.sketch.measures import (
    l2_constant,
    linf_constant,
    oce_beta,
    random_direction,
    reference,
    required_rows,
)
from tensorbench.decomposition.sketch.regression import (
    RankWarning,
    error_identity,
    exact_solve,
    iterative_sketching,
    kron_regression,
    kron_solve,
    newton_logistic,
    sketch_and_solve,
    sketched_normal_inverse,
)
from tensorbench.decomposition.sketch.sketches import CountSketch, GaussianSketch, LeverageSampling, SparseEmbedding
from tensorbench.decomposition.sketch.structured import SRHT, BalancedGaussianPooled, TensorSketch
from tensorbench.decomposition.sketch.theory import counterexample, rows_by_theorem

SKETCHES = {
    "gaussian": lambda A, m: GaussianSketch(len(A), m, 2),
    "srht": lambda A, m: SRHT(len(A), m, 2),
    "pooled": lambda A, m: BalancedGaussianPooled(len(A), m, 2),
    "count": lambda A, m: CountSketch(len(A), m, 2),
    "osnap": lambda A, m: SparseEmbedding(len(A), m, 2),
    "leverage": lambda A, m: LeverageSampling(len(A), m, 2, A=A),
}


@pytest.fixture(scope="module")
def problem():
    return instance("gaussian", 300, 6, 1)


@pytest.mark.parametrize("name", SKETCHES)
def test_error_identity(problem, name):
    A, b = problem
    sketch = SKETCHES[name](A, 48)
    direct = sketch_and_solve(A, b, sketch) - np.linalg.lstsq(A, b)[0]
    np.testing.assert_allclose(error_identity(A, b, sketch), direct, atol=1e-9)
    assert np.abs(direct).max() > 1e-3


@pytest.mark.parametrize("name", SKETCHES)
def test_consistent_systems_are_solved_exactly(problem, name):
    A, _ = problem
    x = np.arange(6.0)
    np.testing.assert_allclose(sketch_and_solve(A, A @ x, SKETCHES[name](A, 48)), x, atol=1e-10)


def test_an_orthogonal_sketch_is_exact():
    A, b = instance("coherent", 256, 5, 0)
    np.testing.assert_allclose(sketch_and_solve(A, b, SRHT(256, 256, 0)), exact_solve(A, b), atol=1e-10)


@pytest.mark.parametrize("d", [50, 200, 800])
def test_counterexample_errs_alike_in_every_dimension(d):
    A, b, sketch = counterexample(d, 3)
    assert abs(sketch_and_solve(A, b, sketch)[0]) == pytest.approx(0.0025062656641604, abs=1e-12)
    sigma = np.linalg.svd(sketch.dense(), compute_uv=False)
    assert 0.9 < sigma[-1] < sigma[0] < 1.1


def test_counterexample_is_a_coordinate_wise_embedding_for_fixed_vectors():
    d = 100
    g, h = np.eye(d + 1)[0], np.eye(d + 1)[1]
    beta = oce_beta(lambda t: counterexample(d, t)[2], g, h, 200)
    assert beta[0.99] < np.sqrt(np.log(2 / 0.01))  # where its error on the regression is 0.0025 sqrt(m) whatever m is


def test_variance_with_one_unknown_and_a_gaussian_sketch():
    a, r = np.eye(8)[0], 3 * np.eye(8)[1]
    errors = [sketch_and_solve(a[:, None], a + r, GaussianSketch(8, 20, t))[0] - 1 for t in range(4000)]
    assert np.var(errors) == pytest.approx(9 / 18, rel=0.12)  # |r|^2 / (m - 2)


def test_normal_inverse_is_that_of_the_sketched_matrix(problem):
    A, _ = problem
    sketch = SRHT(300, 64, 0)
    SA = sketch.dense() @ A
    np.testing.assert_allclose(sketched_normal_inverse(A, sketch), np.linalg.inv(SA.T @ SA), rtol=1e-9)


@pytest.mark.parametrize("refresh", [False, True])
@pytest.mark.parametrize("kind", ["gaussian", "coherent", "polynomial"])
def test_refinement_contracts_as_the_step_promises(kind, refresh):
    A, b = instance(kind, 1024, 16, 4)
    exact = exact_solve(A, b)
    iterates = iterative_sketching(A, b, lambda t: SRHT(1024, 256, t), 25, refresh=refresh)
    # In the norm of the fit; the bulk's edges are exceeded a little, hence 1.3.
    errors = [np.linalg.norm(A @ (x - exact)) for x in iterates]
    promised = 2 * 0.25 / (1 + 0.25**2)
    assert errors[25] <= (1.3 * promised) ** 25 * errors[0]
    assert min(errors[:13]) <= 1e-2 * errors[0]


def test_newton_agrees_with_scikit_learn_and_its_sketch_converges():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((400, 5))
    y = np.where(X @ np.arange(5) + rng.standard_normal(400) > 0, 1.0, -1.0)
    peer = LogisticRegression(C=1.0, fit_intercept=False, tol=1e-10, max_iter=1000).fit(X, y).coef_[0]
    exact = newton_logistic(X, y, None, 10)[-1]
    np.testing.assert_allclose(exact, peer, atol=1e-5)
    sketched = newton_logistic(X, y, lambda t: SRHT(400, 128, t), 25)
    np.testing.assert_allclose(sketched[-1], exact, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_constants_are_those_of_the_definition(kind):
    A, b = instance(kind, 128, 8, 0)
    x_star, x = np.linalg.pinv(A) @ b, np.ones(8)
    scale = np.linalg.norm(A @ x_star - b) * np.linalg.norm(np.linalg.pinv(A), 2)
    assert linf_constant(A, b, x) == pytest.approx(np.sqrt(8) * np.abs(x - x_star).max() / scale)
    assert l2_constant(A, b, x) == pytest.approx(np.linalg.norm(x - x_star) / scale)
    plain, white = reference(A, b).spread(x)
    assert plain == pytest.approx(np.abs(x - x_star).max() / np.linalg.norm(x - x_star))
    assert np.sqrt(1 / 8) - 1e-12 <= white <= 1


def test_rows_needed_grow_with_the_demand():
    A, b = instance("spikes", 1024, 4, 0)

    def rows(eps, trials=10):
        return required_rows(eps, 0.1, lambda m, t: GaussianSketch(1024, m, 100 * m + t), A, b, trials=trials)

    assert 8 <= rows(2.0) < rows(1.0) < rows(0.5) <= 1024
    assert rows(1e-9, trials=2) == np.inf


def test_theorems_have_their_shapes():
    at = {d: rows_by_theorem(0.1, 0.01, 10**6, d) for d in (64, 128)}
    assert at[128]["srht"] / at[64]["srht"] == pytest.approx(2)
    assert at[128]["pooled"] / at[64]["pooled"] == pytest.approx(2 * np.log(12800) / np.log(6400))
    assert at[64]["srht_earlier"] > 64 / 0.01
    with pytest.raises(ValueError, match=r"\(0, 1\)"):
        rows_by_theorem(1.5, 0.1, 100, 4)


# --- Kronecker designs ----------------------------------------------------------------------------------------------


def test_kronecker_regression_is_the_exact_answer_for_consistent_systems():
    A1, A2, _ = kronecker_digits(seed=0, n=20, d=3)
    x = np.arange(9.0)
    b = np.kron(A1, A2) @ x
    np.testing.assert_allclose(kron_solve(A1, A2, b), x, atol=1e-10)
    np.testing.assert_allclose(kron_regression(A1, A2, b, 40, 1), x, atol=1e-10)
    np.testing.assert_allclose(kron_regression(A1, A2, b, 40, 1, kind=TensorSketch), x, atol=1e-10)


def test_kronecker_regression_never_forms_the_design():
    rng = np.random.default_rng(0)
    A1, A2, b = rng.standard_normal((1024, 8)), rng.standard_normal((1024, 8)), rng.standard_normal(1024**2)
    tracemalloc.start()
    kron_regression(A1, A2, b, generator=0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200e6  # the design alone would take 537 MB


# --- data -----------------------------------------------------------------------------------------------------------


def test_designs_are_what_they_say():
    family = sketching_designs(seed=0, n=64, d=4, kinds=list(KINDS))
    assert {A.shape for A, _ in family.values()} == {(64, 4)}
    A, b = family["spikes"]
    assert np.array_equal(A.T @ A, np.eye(4)) and not (A.T @ b).any() and np.abs(b).sum() == 4
    assert leverage_of(family["coherent"][0]).max() > 0.2
    vandermonde, _ = polynomial(50, 5, np.random.default_rng(0), basis="monomial")
    np.testing.assert_allclose(vandermonde[:, 2] ** 2, vandermonde[:, 4])


def leverage_of(A):
    return np.einsum("ij,ji->i", A, np.linalg.pinv(A))


def test_real_designs_have_full_rank():
    for name, (A, b) in real_designs(seed=0).items():
        assert np.linalg.matrix_rank(A) == A.shape[1] > 20, name
        np.testing.assert_allclose([A.mean(), A.std(), b.mean()], [0, 1, 0], atol=0.05)


# --- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::tensorbench.decomposition.sketch.regression.RankWarning")
@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda A, b: sketch_and_solve(A, b, SRHT(300, 5)), "leaves 6 unknowns"),
        (lambda A, b: sketch_and_solve(A[:4], b[:4], SRHT(4, 4)), "fewer rows than unknowns"),
        (lambda A, b: sketch_and_solve(A, b[:-1], SRHT(300, 50)), r"must be \(300,\)"),
        (lambda A, b: sketch_and_solve(A * np.nan, b, SRHT(300, 50)), "NaN"),
        (lambda A, b: iterative_sketching(A, b, lambda t: SRHT(300, 50), 0), "at least 1"),
        (lambda A, b: iterative_sketching(A, b, lambda t: SRHT(300, 6), 3), "must exceed"),
        (lambda A, b: sketched_normal_inverse(A[:, [0, 0]], SRHT(300, 50)), "no inverse"),
        (lambda A, b: reference(A, A @ np.ones(6)), "range of A"),
        (lambda A, b: reference(A[:, [0, 0]], b), "rank-deficient"),
        (lambda A, b: required_rows(1.0, 1.5, lambda m, t: SRHT(300, m, t), A, b), "delta"),
        (lambda A, b: kron_regression(A, A, b), "must be"),
        (lambda A, b: instance("spiky", 10, 2, 0), "spikes"),
        (lambda A, b: instance("spikes", 6, 4, 0), "n >= 2 d"),
        (lambda A, b: counterexample(1), "d = 1"),
    ],
)
def test_bad_input_is_told(problem, call, text):
    with pytest.raises(ValueError, match=text):
        call(*problem)


def test_rank_deficient_designs_warn_and_get_the_least_norm(problem):
    A, _ = problem
    twice = np.column_stack([A, A[:, 0]])
    b = A @ np.array([2.0, 0, 0, 0, 0, 1.0])
    with pytest.warns(RankWarning, match="rank 6 < d = 7"):
        x = sketch_and_solve(twice, b, SRHT(300, 60, 0))
    np.testing.assert_allclose(x, [1, 0, 0, 0, 0, 1, 1], atol=1e-10)


def test_a_random_direction_is_about_what_the_yardstick_says():
    rng = np.random.default_rng(0)
    ratio = [np.abs(x).max() / np.linalg.norm(x) for x in rng.standard_normal((500, 64))]
    assert np.median(ratio) == pytest.approx(random_direction(64), rel=0.2)
