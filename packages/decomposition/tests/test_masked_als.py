"""Exact masked ALS: monotone, exact on what is observed, and better than filling in."""

from __future__ import annotations

import numpy as np
import pytest

from tensorbench.decomposition.baselines.masked import tensorly_cp, tensorly_tucker
from tensorbench.decomposition.completion import masked_als
from tensorbench.decomposition.completion.masked_als import masked_cp, masked_tucker, row_systems
from tensorbench.decomposition.formats import CP, Tucker


def planted(kind: str, seed: int = 0, shape=(14, 13, 12), share: float = 0.3):
    rng = np.random.default_rng(seed)
    if kind == "cp":
        truth = CP(None, tuple(rng.normal(size=(n, 2)) for n in shape)).full().numpy()
    else:
        truth = Tucker(rng.normal(size=(2, 2, 2)), tuple(rng.normal(size=(n, 2)) for n in shape)).full().numpy()
    return truth, rng.random(shape) < share


FITS = {
    "cp": lambda X, mask, **o: masked_cp(X, mask, 2, **o),
    "tucker": lambda X, mask, **o: masked_tucker(X, mask, (2, 2, 2), **o),
}


@pytest.mark.parametrize("kind", FITS)
@pytest.mark.parametrize("ridge", (0.0, 0.1))
@pytest.mark.parametrize("seed", range(3))
def test_the_objective_never_rises_and_is_that_of_observed_cells(kind, ridge, seed):
    truth, mask = planted(kind, seed)
    noisy = truth + 0.2 * np.random.default_rng(seed).normal(size=truth.shape)
    fit = FITS[kind](np.where(mask, noisy, np.nan), mask, ridge=ridge, max_sweeps=60, tol=0)
    assert fit.largest_rise < 1e-12
    error = np.linalg.norm((fit.model.full().numpy() - noisy)[mask]) / np.linalg.norm(noisy[mask])
    assert fit.observed_error[-1] == pytest.approx(error, rel=1e-8)
    if ridge == 0:
        assert (np.diff(fit.observed_error) <= 1e-12).all()
    assert fit.sweeps == len(fit.objective) - 1


def test_without_a_tolerance_all_sweeps_are_used():
    rng = np.random.default_rng(0)
    for seed in range(5):  # rounding makes the objective rise somewhere
        X = rng.normal(size=(5, 4, 3))
        assert masked_cp(X, np.ones(X.shape, bool), 1, tol=0, max_sweeps=150, seed=seed).sweeps == 150


@pytest.mark.parametrize("kind", FITS)
def test_unseen_cells_of_a_low_rank_tensor_are_recovered_where_filling_in_is_not_done(kind):
    truth, mask = planted(kind, seed=1)
    fit = FITS[kind](truth, mask, max_sweeps=200, tol=1e-12)
    ours = np.linalg.norm(fit.model.full().numpy() - truth) / np.linalg.norm(truth)
    assert ours < 1e-5
    peer = tensorly_cp if kind == "cp" else tensorly_tucker
    filled, _ = peer(np.where(mask, truth, 0.0), mask, rank=2, iterations=200, seed=1)
    theirs = np.linalg.norm(filled - truth) / np.linalg.norm(truth)
    assert theirs > 10 * ours  # the same sweeps, the same rank: filling in has not forgotten the zeros


def test_rows_are_least_squares_solutions_on_their_observed_cells():
    rng = np.random.default_rng(2)
    design, values, mask = rng.normal(size=(30, 4)), rng.normal(size=(5, 30)), rng.random((5, 30)) < 0.6
    gram, right = row_systems(design, values * mask, mask)
    for i, seen in enumerate(mask):
        expected = np.linalg.lstsq(design[seen], values[i, seen], rcond=None)[0]
        np.testing.assert_allclose(np.linalg.solve(gram[i], right[i]), expected, atol=1e-10)


def test_fully_observed_is_ordinary_als():
    truth, _ = planted("cp", 3)
    fit = masked_cp(truth, np.ones(truth.shape, dtype=bool), 2, max_sweeps=300, tol=1e-14)
    assert fit.observed_error[-1] < 1e-5


def test_a_start_at_the_solution_stays_and_reports_exact():
    rng = np.random.default_rng(0)
    start = CP(rng.random(2) + 1, tuple(rng.normal(size=(n, 2)) for n in (6, 5, 4)))
    mask = rng.random((6, 5, 4)) < 0.8
    fit = masked_cp(start.full().numpy(), mask, 2, init=start)
    assert fit.converged and fit.reason == "exact" and fit.sweeps == 1
    np.testing.assert_allclose(fit.model.full(), start.full(), atol=1e-10)


def test_the_report_says_why_it_ended_and_what_is_underdetermined():
    truth, mask = planted("cp", 0)
    noisy = truth + 0.1 * np.random.default_rng(0).normal(size=truth.shape)
    short = masked_cp(noisy, mask, 2, max_sweeps=2, tol=0)
    assert not short.converged and short.reason == "max_sweeps" and "not converged" in str(short)
    assert masked_cp(noisy, mask, 2, max_sweeps=500, tol=1e-6).reason == "tolerance"
    thin = np.zeros(truth.shape, dtype=bool)
    for n in range(max(truth.shape)):  # one cell a slice: every row has more unknowns than data
        thin[n % 14, n % 13, n % 12] = True
    fit = masked_cp(noisy, thin, 3, max_sweeps=5)
    assert fit.underdetermined > 30 and np.isfinite(fit.model.full().numpy()).all() and fit.largest_rise < 1e-12


ONE, ALL = np.ones((3, 4, 5)), np.ones((3, 4, 5), dtype=bool)
BLIND = ALL.copy()
BLIND[:, 2] = False


@pytest.mark.parametrize(
    ("call", "message"),
    (
        (lambda: masked_cp(ONE, BLIND, 1), "slice 2 of mode 1"),
        (lambda: masked_cp(ONE, ALL[0], 1), "mask has shape"),
        (lambda: masked_cp(ONE * np.inf, ALL, 1), "not finite"),
        (lambda: masked_cp(ONE, ALL, 0), "rank 0"),
        (lambda: masked_cp(ONE, ALL, 1, ridge=-1), "ridge -1"),
        (lambda: masked_cp(ONE, ALL, 1, init=CP(None, (np.ones((3, 2)),) * 3)), "init has shape"),
        (lambda: masked_tucker(ONE, ALL, (2, 2)), "one value per mode"),
        (lambda: masked_tucker(ONE, ALL, (2, 9, 2)), "one value per mode"),
    ),
)
def test_bad_input_is_refused_with_the_reason(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("ridge", [0.0, 1e-3])
def test_a_core_improved_by_conjugate_gradients_ends_where_the_exact_one_does(monkeypatch, ridge):
    rng = np.random.default_rng(5)
    X = np.einsum("abc,ia,jb,kc->ijk", *(rng.standard_normal(s) for s in ((3, 3, 3), (12, 3), (11, 3), (10, 3))))
    X = X + 0.1 * rng.standard_normal(X.shape)
    mask = rng.random(X.shape) < 0.4
    exact = masked_tucker(X, mask, (3, 3, 3), ridge=ridge, max_sweeps=300, tol=1e-12)
    monkeypatch.setattr(masked_als, "DIRECT_CORE", 0)
    gradients = masked_tucker(X, mask, (3, 3, 3), ridge=ridge, max_sweeps=300, tol=1e-12)
    assert gradients.largest_rise < 1e-12
    assert gradients.objective[-1] == pytest.approx(exact.objective[-1], rel=1e-4)
