"""The completion baselines: one interface, sensible limits, agreement with the libraries they wrap."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from tensorbench.decomposition.baselines.completion import (
    GradientBoosting,
    Grid,
    LastIndexMean,
    MaskedCP,
    MaskedTucker,
    SparseGP,
)

MODELS = {
    "last_index_mean": lambda: LastIndexMean(),
    "cp": lambda: MaskedCP(2, 8, iterations=30),
    "tucker": lambda: MaskedTucker(2, 8, iterations=30),
    "gbm": lambda: GradientBoosting(trees=20),
    "gp": lambda: SparseGP(inducing=40, steps=80, batch=128, lr=0.1),
}


def low_rank(n: int, seed: int = 0, dims=(8, 7, 6)):
    """Entries of a positive rank-one tensor at bin centres of the unit cube."""
    rng = np.random.default_rng(seed)
    cells = np.stack([rng.integers(0, d, n) for d in dims], axis=1)
    factors = [1.5 + np.sin(2 * np.pi * (np.arange(d) / d + rng.random())) for d in dims]
    y = np.prod([f[c] for f, c in zip(factors, cells.T, strict=True)], axis=0)
    return (cells + 0.5) / dims, y, factors


@pytest.mark.parametrize("name", MODELS)
def test_every_baseline_fits_predicts_and_counts(name):
    if name == "gp":
        pytest.importorskip("gpytorch")
    idx, y, _ = low_rank(300)
    model = MODELS[name]().fit(idx, y)
    mean, std = model.predict(idx[:7] + 0.01, return_std=True)
    assert mean.shape == std.shape == (7,) and np.all(np.isfinite(mean)) and np.all(std > 0)
    assert model.parameters > 0
    again = MODELS[name]().fit(idx, y)
    np.testing.assert_allclose(again.predict(idx), model.predict(idx), rtol=1e-6)
    far = model.predict(np.array([[5.0, -3.0, 9.0]]))  # beyond the training range: some finite answer
    assert np.all(np.isfinite(far))


@pytest.mark.parametrize("name", ("cp", "tucker", "gbm", "gp"))
def test_a_baseline_that_sees_all_indices_beats_the_mean(name):
    if name == "gp":
        pytest.importorskip("gpytorch")
    idx, y, _ = low_rank(800)
    model = MODELS[name]().fit(idx[:600], y[:600])
    error = np.sqrt(np.mean((model.predict(idx[600:]) - y[600:]) ** 2))
    assert error < 0.6 * y.std()


def test_last_index_mean_is_the_group_mean_and_the_nearest_one_elsewhere():
    idx = np.array([[0.0, 0.0], [9.0, 0.0], [1.0, 1.0], [2.0, 3.0]])
    model = LastIndexMean().fit(idx, np.array([1.0, 3.0, 5.0, 7.0]))
    np.testing.assert_allclose(
        model.predict(np.array([[4.0, 0.0], [4.0, 1.4], [4.0, 2.9], [4.0, -8.0], [4.0, 80.0]])), [2, 5, 7, 2, 7]
    )


def test_grid_means_average_the_entries_of_a_cell():
    grid = Grid([0.0, 0.0], [1.0, 1.0], (2, 2))
    tensor, mask = grid.means(np.array([[0.1, 0.1], [0.4, 0.2], [1.0, 0.9]]), np.array([1.0, 3.0, 5.0]))
    np.testing.assert_allclose(tensor, [[2, 0], [0, 5]])
    np.testing.assert_array_equal(mask, [[True, False], [False, True]])
    np.testing.assert_array_equal(grid.cells(np.array([[-1.0, 2.0]])), [[0, 1]])


@pytest.mark.parametrize("form", (MaskedCP, MaskedTucker))
def test_a_fully_observed_rank_one_tensor_is_reproduced(form):
    dims = (4, 5, 3)
    rng = np.random.default_rng(1)
    cells = np.stack(np.meshgrid(*map(np.arange, dims), indexing="ij"), axis=-1).reshape(-1, 3)
    y = np.prod([(rng.random(d) + 0.5)[c] for d, c in zip(dims, cells.T, strict=True)], axis=0)
    idx = (cells + 0.5) / dims
    model = form(1, 10, shape=dims, extent=[(0, 1)] * 3, center=False).fit(idx, y)
    np.testing.assert_allclose(model.predict(idx), y, rtol=1e-6)
    assert model.grid.shape == dims


def test_the_last_mode_has_bins_of_its_own():
    idx, y, _ = low_rank(100)
    assert MaskedCP(1, 4, 20, iterations=1).fit(idx, y).grid.shape == (4, 4, 20)
    assert MaskedCP(1, 4, 20, iterations=1, shape=(3, 9, 6)).fit(idx, y).grid.shape == (3, 4, 6)


def test_without_gpytorch_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "gpytorch", None)
    with pytest.raises(ImportError, match=r"tensorbench-decomposition\[bench\]"):
        SparseGP().fit(*low_rank(50)[:2])


GOOD = low_rank(50)[:2]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    ("idx", "y", "message"),
    (
        (GOOD[0][:, 0], GOOD[1], "idx has shape"),
        (GOOD[0] * np.nan, GOOD[1], "NaN"),
        (GOOD[0], GOOD[1][:-1], "y has shape"),
        (GOOD[0], GOOD[1] * np.inf, "y has NaN or infinite"),
    ),
)
def test_bad_data_are_refused_with_the_reason(name, idx, y, message):
    with pytest.raises(ValueError, match=message):
        MODELS[name]().fit(idx, y)


@pytest.mark.parametrize(
    ("call", "message"),
    (
        (lambda: MaskedCP(0), "rank 0"),
        (lambda: MaskedTucker(1, 0), "bins 0"),
        (lambda: MaskedCP(1, 1000).fit(*GOOD), "more than 20000000 cells"),
        (lambda: Grid([0.0], [0.0], (3,)), "low < high"),
        (lambda: GradientBoosting().predict(GOOD[0]), "call fit"),
        (lambda: LastIndexMean().fit(*GOOD).predict(GOOD[0][:, :2]), "fitted on 3"),
    ),
)
def test_bad_settings_are_refused_with_the_reason(call, message):
    with pytest.raises(ValueError, match=message):
        call()
