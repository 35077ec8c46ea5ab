"""Tubal gradient descent: oracles (autograd, matrix sensing, power method), equivariance, recovery, bad input."""

import numpy as np
import pytest
import torch

from tensorbench.decomposition.datasets.tubal import tubal_family, tubal_patch, tubal_sensing
from tensorbench.decomposition.tubal import theory
from tensorbench.decomposition.tubal.algebra import (
    is_orthogonal,
    principal_angle,
    spectral_norm,
    t_product,
    t_svd,
    t_transpose,
    tubal_nuclear_norm,
    tubal_rank,
)
from tensorbench.decomposition.tubal.gradient_descent import (
    DivergenceError,
    TubalGD,
    asymmetric_gd,
    gradient,
    power_iterates,
    spectral_subspace,
)
from tensorbench.decomposition.tubal.measurements import MeasurementOperator, SymmetricCoordinates, least_squares
from tensorbench.decomposition.tubal.tnn import tnn_complete, tnn_recover
from tensorbench.decomposition.tubal.trajectory import spectral_phase_end

KINDS = [("fft", 1), ("fft", 3), ("fft", 4), ("dct", 3)]


@pytest.fixture
def rng():
    return np.random.default_rng(11)


@pytest.fixture(scope="module")
def problem():
    return tubal_sensing(seed=0, n=6, k=3, r=1, m=50)


def relative(X, Y):
    return np.linalg.norm(X - Y) / np.linalg.norm(Y)


# --- measurements ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("storage", ["dense", "implicit"])
@pytest.mark.parametrize("symmetrise", [True, False])
@pytest.mark.parametrize(("kind", "k"), KINDS)
def test_adjoint(rng, kind, k, symmetrise, storage):
    operator = MeasurementOperator(5, k, 70, symmetrise, 3, storage=storage, transform=kind)
    X, z = rng.standard_normal((5, 5, k)), rng.standard_normal(70)
    assert operator.forward(X) @ z == pytest.approx(np.sum(X * operator.adjoint(z)), abs=1e-11)
    S = X + t_transpose(X, kind)
    x = operator.coordinates.of_tensor(S)
    np.testing.assert_allclose(operator.forward_symmetric(x), operator.forward(S), atol=1e-11)
    symmetric = (operator.adjoint(z) + t_transpose(operator.adjoint(z), kind)) / 2
    np.testing.assert_allclose(operator.coordinates.to_tensor(operator.adjoint_symmetric(z)), symmetric, atol=1e-12)


@pytest.mark.parametrize(("kind", "k"), KINDS)
def test_symmetric_coordinates_are_an_isometry(rng, kind, k):
    coordinates = SymmetricCoordinates(5, k, kind)
    X, Y = (rng.standard_normal((5, 5, k)) for _ in range(2))
    X, Y = X + t_transpose(X, kind), Y + t_transpose(Y, kind)
    x, y = coordinates.of_tensor(X), coordinates.of_tensor(Y)
    assert x @ y == pytest.approx(np.sum(X * Y))
    np.testing.assert_allclose(coordinates.to_tensor(x), X, atol=1e-13)
    assert coordinates.size == theory.symmetric_unknowns(5, k, kind)


def test_implicit_storage_is_the_same_operator(rng):
    dense, implicit = (MeasurementOperator(4, 3, 150, True, 5, storage=s) for s in ("dense", "implicit"))
    X = rng.standard_normal((4, 4, 3))
    np.testing.assert_allclose(dense.forward(X), implicit.forward(X), atol=1e-12)
    np.testing.assert_allclose(dense.symmetric_matrix(), implicit.symmetric_matrix(), atol=1e-12)
    assert MeasurementOperator(400, 40, 2000, generator=0).dense is False


def test_rip_constant_falls_with_measurements():
    few, many = (MeasurementOperator(6, 3, m, True, 1).rip_constant_estimate(1, 40, 2) for m in (50, 5000))
    assert many < 0.15 < few


# --- the iteration --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("symmetrise", [True, False])
@pytest.mark.parametrize("k", [1, 3, 4])
def test_gradient_is_that_of_autograd(rng, k, symmetrise):
    operator = MeasurementOperator(5, k, 40, symmetrise, 2)
    y, U = rng.standard_normal(40), rng.standard_normal((5, 7, k))
    A = np.stack([operator.adjoint(e) for e in np.eye(40)])
    V = torch.tensor(U, requires_grad=True)
    hat = torch.fft.rfft(V, dim=2)
    X = torch.fft.irfft(torch.einsum("irs,jrs->ijs", hat, hat.conj()), n=k, dim=2)
    (0.5 * ((torch.tensor(A) * X).sum((1, 2, 3)) - torch.tensor(y)).square().sum()).backward()
    assert relative(gradient(operator, y, U), V.grad.numpy()) < 1e-10


def test_one_frontal_slice_is_matrix_sensing(rng):
    data = tubal_sensing(seed=1, n=8, k=1, r=2, m=80)
    gd = TubalGD(R=12, alpha=1e-2, step=2e-5, iters=300, generator=4)
    A = np.stack([data.operator.adjoint(e)[:, :, 0] for e in np.eye(80)])
    U = gd.initial(8, 1)[:, :, 0]
    for _ in range(300):
        residual = np.tensordot(A, U @ U.T) - data.y
        U = U - 2e-5 * np.tensordot(residual, A + A.swapaxes(1, 2), 1) @ U
    assert relative(gd.fit(data.operator, data.y).factor[:, :, 0], U) < 1e-10


@pytest.mark.parametrize("optimizer", ["gd", "momentum"])
@pytest.mark.parametrize("kind", ["fft", "dct"])
def test_compression_changes_nothing(optimizer, kind):
    W = t_svd(np.random.default_rng(0).standard_normal((5, 1, 4)), transform=kind).U
    X = t_product(W, t_transpose(W, kind), kind)
    operator = MeasurementOperator(5, 4, 60, generator=1, transform=kind)
    fits = [
        TubalGD(23, 1e-3, 2e-5, 200, optimizer=optimizer, compress=compress, generator=2).fit(
            operator, operator.forward(X), X, 1
        )
        for compress in (True, False)
    ]
    assert relative(fits[0].factor, fits[1].factor) < 1e-10
    for name, column in fits[0].history.items():
        np.testing.assert_allclose(column, fits[1].history[name], rtol=1e-6, atol=1e-9, err_msg=name)


def test_early_iterates_are_power_iterates():
    data = tubal_sensing(seed=0, r=3)
    gd = TubalGD(R=30, alpha=1e-7, iters=300, generator=3)
    result = gd.fit(data.operator, data.y, data.target, 3)
    power = power_iterates(data.operator, data.y, gd.initial(10, 4), 1e-5, 300)
    assert relative(result.factor, power) < 1e-3
    assert result.history["power_distance"][-1] == pytest.approx(relative(result.factor, power), abs=1e-9)
    assert np.linalg.norm(result.factor) > 30 * np.linalg.norm(gd.initial(10, 4))  # it has been a power method


def test_rotating_everything_changes_nothing(problem):
    """Q on the left of factor, target and measurements: the same errors, the factor rotated."""
    Q = t_svd(np.random.default_rng(5).standard_normal((6, 6, 3))).U
    operator, target = problem.operator, t_product(t_product(Q, problem.target), t_transpose(Q))

    def turned_back(X):
        return t_product(t_product(t_transpose(Q), X), Q)

    rotated = MeasurementOperator(6, 3, 50)
    rotated._matrix = np.stack([turned_back_row(Q, row) for row in operator._matrix])
    np.testing.assert_allclose(rotated.forward(target), operator.forward(turned_back(target)), atol=1e-10)
    gd = TubalGD(R=4, alpha=1e-3, step=5e-5, iters=400, generator=1)
    U0 = gd.initial(6, 3)
    plain = gd.fit(operator, problem.y, problem.target, 1, start=U0)
    turned = gd.fit(rotated, problem.y, target, 1, start=t_product(Q, U0))
    assert plain.history["test_error"][-1] < 0.9  # it has moved
    for name in ("test_error", "train_error", "sigma", "angle_target"):
        np.testing.assert_allclose(turned.history[name], plain.history[name], rtol=1e-6, atol=1e-9)
    assert relative(turned.factor, t_product(Q, plain.factor)) < 1e-8


def turned_back_row(Q, row):
    """<A_i, Q^T X Q> = <Q A_i Q^T, X>."""
    A = row.reshape(6, 6, 3)
    return t_product(t_product(Q, A), t_transpose(Q)).reshape(-1)


def test_recovers_with_fewer_measurements_than_symmetric_unknowns():
    data = tubal_sensing(seed=0, r=1, m=150)
    result = TubalGD(R=40, step=1.9e-5, iters=4000, stop=1e-5, record_every=50, generator=0).fit(
        data.operator, data.y, data.target, 1
    )
    assert relative(result.tensor(), data.target) < 1e-4
    assert result.iterations < 4000  # stopped by `stop`
    assert tubal_rank(result.tensor(), 1e-2) == 1
    assert 0 < spectral_phase_end(result.history) < result.iterations
    assert result.history["sigma_next"][-1] < 1e-2
    assert relative(least_squares(data.operator, data.y), data.target) > 0.1


def test_least_squares_knows_a_symmetric_tensor_from_enough_measurements():
    data = tubal_sensing(seed=0)  # 285 measurements, 210 unknowns
    assert data.operator.m == 285
    assert data.operator.coordinates.size == 210
    assert relative(least_squares(data.operator, data.y), data.target) < 1e-10


def test_adam_descends_but_keeps_a_tail():
    data = tubal_sensing(seed=2)
    fits = {
        name: TubalGD(20, step=step, iters=2500, optimizer=name, record_every=2500, generator=0).fit(
            data.operator, data.y, data.target, 3
        )
        for name, step in (("gd", 1e-5), ("adam", 1e-3))
    }
    errors = {name: fit.history["test_error"][-1] for name, fit in fits.items()}
    assert errors["gd"] < errors["adam"] < 0.1


def test_asymmetric_factorisation_recovers(rng):
    U, V = (t_svd(rng.standard_normal((6, 1, 3))).U for _ in range(2))
    X = t_product(U, t_transpose(V))
    operator = MeasurementOperator(6, 3, 90, symmetrise=False, generator=2)
    result = asymmetric_gd(operator, operator.forward(X), 6, alpha=1e-5, step=2e-3, iters=1000, target=X, generator=1)
    assert result.test_error[-1] < 1e-2
    assert relative(t_product(result.U, t_transpose(result.V)), X) == pytest.approx(result.test_error[-1])
    with pytest.raises(ValueError, match="symmetrise=False"):
        asymmetric_gd(MeasurementOperator(6, 3, 9), np.ones(9), 6)


def test_spectral_subspace_is_the_target_space_for_many_measurements():
    data = tubal_sensing(seed=3, n=6, k=3, r=2, m=20000)
    W = t_svd(data.target).U[:, :2]
    assert principal_angle(spectral_subspace(data.operator, data.y, 2), W) < 0.05


# --- convex baseline ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("psd", [True, False])
def test_nuclear_norm_recovers_and_is_minimal(psd):
    data = tubal_sensing(seed=0, n=8, k=3, r=1, m=80)
    result = tnn_recover(data.operator, data.y, psd=psd)
    assert relative(result.tensor, data.target) < 1e-5
    other = least_squares(data.operator, data.y)
    assert tubal_nuclear_norm(result.tensor) < tubal_nuclear_norm(other) * (1 - 1e-3)


def test_completion_of_a_low_tubal_rank_tensor(rng):
    X = t_product(rng.standard_normal((15, 2, 4)), rng.standard_normal((2, 15, 4)))
    mask = rng.random(X.shape) < 0.7
    seen = np.where(mask, X, np.nan)
    result = tnn_complete(seen, mask)
    assert relative(result.tensor, X) < 1e-3
    np.testing.assert_array_equal(result.tensor[mask], X[mask])
    with pytest.raises(ValueError, match="mask"):
        tnn_complete(X, np.zeros(X.shape, dtype=bool))


# --- datasets and theory --------------------------------------------------------------------------------------------


def test_datasets_are_normalised_and_repeat():
    family = tubal_family(seed=1, cases={"patch": {"patch": True, "size": 8, "r": 2, "m": 20}, "plain": {"r": 2}})
    again = tubal_patch(seed=1, size=8, r=2, m=20)
    np.testing.assert_array_equal(family["patch"].target, again.target)
    np.testing.assert_array_equal(family["patch"].y, again.y)
    for data in family.values():
        assert tubal_rank(data.target) == data.rank == 2
        assert spectral_norm(data.target) == pytest.approx(1.0)
        np.testing.assert_allclose(t_product(data.target, data.target), data.target, atol=1e-12)  # a projection


def test_counts_of_unknowns():
    """The dimension of { X * X^T } is the rank of the differential dX -> dX * X^T + X * dX^T."""
    rng = np.random.default_rng(0)
    for n, r, k in ((4, 2, 3), (5, 2, 4), (4, 3, 1)):
        X, coordinates = rng.standard_normal((n, r, k)), SymmetricCoordinates(n, k)
        rows = [coordinates.of_tensor(2 * t_product(d.reshape(n, r, k), t_transpose(X))) for d in np.eye(n * r * k)]
        assert np.linalg.matrix_rank(np.array(rows)) == theory.lowrank_unknowns(n, r, k)
    assert theory.figure_measurements(10, 2, 4, 1.2) == 254
    assert theory.figure_measurements(10, 3, 4, 0.9) == 285


def test_predicted_length_of_the_spectral_phase(problem):
    alpha = 1e-7
    length = theory.spectral_iterations(problem.operator, problem.y, 1, alpha, 1e-5)
    result = TubalGD(30, alpha, 1e-5, 3 * int(length), record_every=10, generator=0).fit(
        problem.operator, problem.y, problem.target, 1
    )
    arrived = result.history["iteration"][np.argmax(result.history["sigma"] > 0.5)]
    assert 0.5 * length < arrived < 1.5 * length


def test_theorem_quantities_scale_as_stated(rng):
    X = t_svd(rng.standard_normal((6, 2, 3))).U
    assert is_orthogonal(X)
    assert theory.admissible_step(X) == pytest.approx(1.0)
    assert theory.admissible_step(2 * X) == pytest.approx(0.25)
    assert theory.error_bound(X, 10, 1e-4) / theory.error_bound(X, 10, 1e-8) == pytest.approx(10**5.25)
    gap = theory.iteration_bound(X, 10, 1e-8, 1e-3) - theory.iteration_bound(X, 10, 1e-4, 1e-3)
    assert gap == pytest.approx(1e3 * np.log(1e4))
    assert theory.admissible_alpha(X, 6) > theory.admissible_alpha(X, 3)
    with pytest.raises(ValueError, match="over-parametrisation"):
        theory.admissible_alpha(X, 2)


# --- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: MeasurementOperator(4, 3, 0), "m=0"),
        (lambda p: MeasurementOperator(4, 3, 5, storage="disk"), "storage"),
        (lambda p: TubalGD(R=0), "R=0"),
        (lambda p: TubalGD(R=3, alpha=0.0), "alpha=0.0"),
        (lambda p: TubalGD(R=3, step=-1.0), "step=-1.0"),
        (lambda p: TubalGD(R=3, optimizer="sgd"), "gd, momentum, adam"),
        (lambda p: TubalGD(R=3).fit(p.operator, p.y[:-1]), "50 finite real"),
        (lambda p: TubalGD(R=3).fit(p.operator, p.y * np.nan), "finite"),
        (lambda p: TubalGD(R=3).fit(p.operator, p.y * 1j), "real"),
        (lambda p: TubalGD(R=3).fit(p.operator, p.y, rank=7), "rank=7"),
        (lambda p: TubalGD(R=3).fit(p.operator, p.y, target=np.ones((6, 6))), "third-order"),
        (lambda p: TubalGD(R=3).fit(p.operator, p.y, start=np.ones((6, 2, 3))), "start"),
        (lambda p: p.operator.forward(np.ones((5, 5, 3))), "measures"),
        (lambda p: tubal_sensing(seed=0, n=4, r=5), "outside 1..4"),
        (lambda p: tubal_patch(seed=0, size=4, r=5), "r=5"),
        (lambda p: spectral_phase_end({}, tolerance=0.0), "tolerance"),
        (lambda p: tnn_recover(p.operator, p.y, iters=0), "iters"),
    ],
)
def test_bad_input(problem, call, message):
    with pytest.raises(ValueError, match=message):
        call(problem)


def test_divergence_names_the_step(problem):
    with pytest.raises(DivergenceError, match=r"step=0\.1 is too large"):
        TubalGD(R=5, step=0.1).fit(problem.operator, problem.y)


def test_warns_when_under_parametrised():
    data = tubal_sensing(seed=0, n=5, k=2, r=2, m=30)
    with pytest.warns(UserWarning, match="under-parametrised"):
        TubalGD(R=1, iters=5).fit(data.operator, data.y, data.target, data.rank)


# --- the experiment's claims ----------------------------------------------------------------------------------------


def test_claim_functions_read_the_sweep():
    import pandas as pd

    from tensorbench.decomposition.experiments import implicit_bias

    def records(points):
        row = {"dataset": "d", "method": "m", "seed": 0, "_history": {"final_error": points}}
        return pd.DataFrame([row])

    starts = np.array([1e-8, 1e-6, 1e-4, 1e-2, 1e-1])
    power = records((list(starts), list(3 * starts**0.75)))
    assert implicit_bias.start_slope(power) == pytest.approx([0.75])
    assert implicit_bias.start_ratio(power) == pytest.approx([1e-3])
    assert implicit_bias.width_spread(records(([10, 50, 100, 200], [2.0, 6.0, 99.0, 3.0]))) == pytest.approx([3.0])
