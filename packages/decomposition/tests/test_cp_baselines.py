"""CP baselines: every solver recovers an easy planted tensor, and refuses what it cannot do."""

import numpy as np
import pytest

from tensorbench.decomposition.baselines import cp as baselines
from tensorbench.decomposition.datasets.symmetric import mixture_moment, planted_cp
from tensorbench.decomposition.selection import factor_match_score

EASY = planted_cp(seed=0, dims=[7, 6, 5], rank=3)


@pytest.mark.parametrize(
    ("solver", "options", "tolerance"),
    [
        (baselines.tensorly_als, {"init": "svd", "tol": 1e-14}, 1e-4),
        (baselines.tensorly_als, {"init": "random", "tol": 1e-14}, 1e-4),
        (baselines.pyttb_als, {"tol": 1e-12}, 1e-4),
        (baselines.pyttb_gcp, {}, 1e-2),
        (baselines.jennrich, {}, 1e-11),
        (baselines.nonlinear_least_squares, {}, 1e-8),
    ],
)
def test_easy_tensor_is_recovered(solver, options, tolerance):
    if "pyttb" in solver.__name__:
        pytest.importorskip("pyttb")
    model = solver(EASY.tensor, 3, seed=1, **options)
    assert np.linalg.norm(model.full().numpy() - EASY.tensor) < tolerance * np.linalg.norm(EASY.tensor)
    assert factor_match_score(EASY.factors, [f.numpy() for f in model.factors]) > 1 - 2 * tolerance


@pytest.mark.parametrize("shape", [(5, 7, 6), (6, 5, 7)])
def test_jennrich_up_to_the_second_mode(shape):
    data = planted_cp(seed=3, dims=shape, rank=6)
    model = baselines.jennrich(data.tensor, 6)
    np.testing.assert_allclose(model.full().numpy(), data.tensor, atol=1e-9)


def test_symmetric_power_iteration_on_an_orthogonal_tensor_leaves_the_global_stream_alone():
    data = planted_cp(seed=0, dims=[6], mult=[3], rank=3, columns="orthogonal")
    np.random.seed(5)
    before = np.random.get_state()[1].copy()
    model = baselines.tensorly_symmetric_power(data.tensor, 3, seed=1)
    assert (np.random.get_state()[1] == before).all()
    np.testing.assert_allclose(model.full().numpy(), data.tensor, atol=1e-6)


@pytest.mark.parametrize("symvec", [(0, 0, 1), (0, 0, 0)])
def test_least_squares_with_symmetry(symvec):
    mult = [2, 1] if symvec[-1] else [3]
    data = planted_cp(seed=2, dims=[5, 4][: len(mult)], mult=mult, rank=2)
    model = baselines.nonlinear_least_squares(data.tensor, 2, seed=0, symvec=symvec)
    np.testing.assert_allclose(model.full().numpy(), data.tensor, atol=1e-7)
    np.testing.assert_array_equal(model.factors[0].numpy(), model.factors[1].numpy())


def test_least_squares_jacobian_reaches_second_order_convergence():
    """From a start next to the solution a wrong Jacobian would stall far from rounding level."""
    start = [f + 1e-3 for f in EASY.factors]
    model = baselines.nonlinear_least_squares(EASY.tensor, 3, start=start, evaluations=30)
    np.testing.assert_allclose(model.full().numpy(), EASY.tensor, atol=1e-11)


def test_symmetric_average_of_an_asymmetric_fit():
    data = planted_cp(seed=4, dims=[6], mult=[3], rank=3)
    fit = baselines.jennrich(data.tensor, 3)
    model = baselines.symmetric_average(fit, (0, 0, 0))
    np.testing.assert_allclose(model.full().numpy(), data.tensor, atol=1e-9)
    np.testing.assert_array_equal(model.factors[0].numpy(), model.factors[2].numpy())


def test_mixture_moment_approaches_its_low_rank_part():
    errors = []
    for samples in (500, 50_000):
        runs = [mixture_moment(seed=seed, dim=5, components=3, samples=samples) for seed in range(8)]
        errors.append(np.mean([np.linalg.norm(d.tensor - d.clean) / np.linalg.norm(d.clean) for d in runs]))
    assert errors[1] < 0.3 * errors[0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: baselines.jennrich(np.ones((2, 2, 2, 2)), 1), "order-3"),
        (lambda: baselines.jennrich(np.ones((2, 5, 3)), 4), "use rank <= 3"),
        (lambda: mixture_moment(seed=0, dim=3, components=4), "use 1 to 3"),
    ],
)
def test_bad_input_teaches(call, message):
    with pytest.raises(ValueError, match=message):
        call()
