"""The scattered datasets: shapes, splits, truth, and refusal of bad parameters."""

from __future__ import annotations

import numpy as np
import pytest

from tensorbench.core import data

GENERATED = ("smooth_surface", "functional_tucker", "surface_states")
DOWNLOADED = {
    "simulation_r1": (675, 675, 2),
    "us_temperature": (44755, 11189, 3),
    "beijing_pm25": (9563, 2391, 3),
}


def load(name, seed=0, **params):
    there, reason = data.available(name)
    if not there:
        pytest.skip(f"{name}: {reason}")
    try:
        return data.load(name, seed=seed, **params)
    except data.DataError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("name", (*GENERATED, *DOWNLOADED))
def test_entries_are_finite_and_within_the_extent(name):
    scattered = load(name)
    for idx, y in ((scattered.train_idx, scattered.train_y), (scattered.test_idx, scattered.test_y)):
        assert idx.dtype == y.dtype == np.float64 and idx.shape == (len(y), len(scattered.extent))
        assert np.isfinite(idx).all() and np.isfinite(y).all()
        assert np.all(idx >= scattered.extent[:, 0]) and np.all(idx <= scattered.extent[:, 1])


@pytest.mark.parametrize(("name", "sizes"), DOWNLOADED.items())
def test_downloaded_sets_have_the_published_sizes_and_the_seed_picks_the_fold(name, sizes):
    scattered = load(name)
    assert (*map(len, (scattered.train_y, scattered.test_y)), len(scattered.extent)) == sizes
    if name == "simulation_r1":
        np.testing.assert_array_equal(load(name, seed=3).train_y, scattered.train_y)
        return
    np.testing.assert_array_equal(load(name, seed=5).train_y, scattered.train_y)
    np.testing.assert_array_equal(load(name, seed=3, fold=0).train_y, scattered.train_y)
    assert not np.array_equal(load(name, seed=1).train_y, scattered.train_y)
    with pytest.raises(ValueError, match="fold 5"):
        data.load(name, seed=0, fold=5)


@pytest.mark.parametrize("name", ("simulation_r1", "smooth_surface"))
def test_the_true_functions_make_the_data(name):
    scattered = load(name) if name == "simulation_r1" else load(name, noise=0.0)
    product = np.prod([f(scattered.train_idx[:, k]) for k, f in enumerate(scattered.functions)], axis=0)
    np.testing.assert_allclose(product, scattered.train_y, atol=1e-5)  # the file rounds coordinates to six digits


@pytest.mark.parametrize("name", GENERATED)
def test_generated_sets_repeat_with_the_seed_and_differ_between_seeds(name):
    one, same, other = load(name, seed=1), load(name, seed=1), load(name, seed=2)
    np.testing.assert_array_equal(one.train_y, same.train_y)
    assert not np.array_equal(one.train_y, other.train_y)


def test_every_state_has_the_same_number_of_entries():
    scattered = load("surface_states", states=30, entries_per_state=4)
    for k in range(2):
        counts = np.unique(scattered.train_idx[:, k], return_counts=True)[1]
        assert len(counts) == 30 and np.all(counts == 4)


def test_functional_tucker_has_unit_signal_and_the_stated_noise():
    noisy, clean = load("functional_tucker", noise=0.1), load("functional_tucker", noise=0.0)
    assert np.std(np.concatenate([clean.train_y, clean.test_y])) == pytest.approx(1.0)
    assert np.std(noisy.train_y - clean.train_y) == pytest.approx(0.1, rel=0.1)


def test_the_validation_split_is_made_of_training_entries_alone():
    scattered = load("smooth_surface", points=100)
    split = scattered.validation(seed=3, share=0.2)
    assert len(split.test_y) == 20 and len(split.train_y) == 80
    np.testing.assert_array_equal(np.sort(np.concatenate([split.train_y, split.test_y])), np.sort(scattered.train_y))


@pytest.mark.parametrize(
    ("name", "params", "message"),
    (
        ("smooth_surface", {"points": 1}, "must be at least 2"),
        ("smooth_surface", {"noise": -0.1}, "noise -0.1"),
        ("functional_tucker", {"rank": 0}, "rank 0"),
        ("surface_states", {"states": 1}, "must be at least 2"),
        ("smooth_surface", {"point": 9}, "did you mean 'points'"),
    ),
)
def test_bad_parameters_are_refused_with_the_reason(name, params, message):
    with pytest.raises(ValueError, match=message):
        data.load(name, seed=0, **params)
