"""Held-out cells of measured tensors and of arrays of one's own: disjoint, known; what is no such array is told."""

from __future__ import annotations

import numpy as np
import pytest

from tensorbench.core import data
from tensorbench.decomposition.datasets.held_out import own_array, split


def test_the_three_sets_are_disjoint_known_and_leave_something_to_fit_in_every_slice():
    tensor = np.random.default_rng(0).standard_normal((12, 10, 8))
    tensor[np.random.default_rng(1).random(tensor.shape) < 0.3] = np.nan
    held = split(tensor, seed=3)
    together = held.train.astype(int) + held.valid + held.test
    np.testing.assert_array_equal(together, ~np.isnan(tensor))
    for mode in range(3):
        assert held.train.any(axis=tuple(k for k in range(3) if k != mode)).all()
    assert 0.06 < held.test.sum() / together.sum() < 0.14
    assert held.rmse(np.where(np.isnan(tensor), 0, tensor), held.test) == 0.0
    np.testing.assert_array_equal(split(tensor, seed=3).test, held.test)


@pytest.mark.parametrize("dtype", [float, np.int32, bool])
def test_an_array_of_ones_own(tmp_path, dtype):
    array = (np.random.default_rng(0).standard_normal((12, 10, 8)) > 0).astype(dtype)
    np.save(tmp_path / "mine.npy", array)
    np.savez(tmp_path / "two.npz", a=array, b=array)
    np.testing.assert_array_equal(own_array(seed=0, path=str(tmp_path / "mine.npy")).tensor, array.astype(float))
    assert own_array(seed=0, path=str(tmp_path / "two.npz"), name="b").tensor.shape == (12, 10, 8)
    with pytest.raises(ValueError, match="say which with `name:`"):
        own_array(seed=0, path=str(tmp_path / "two.npz"))


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (np.ones((5, 5, 5)), "no variation"),
        (np.arange(100.0), "two modes"),
        (np.full((6, 6, 6), np.inf), "infinite"),
        (np.array([["a", "b"]] * 60), "real numbers"),
        (np.ones((8, 8)) * 1j, "real numbers"),
    ],
)
def test_what_is_no_tensor_to_predict_is_told(tmp_path, array, says):
    np.save(tmp_path / "mine.npy", array)
    with pytest.raises(ValueError, match=says):
        own_array(seed=0, path=str(tmp_path / "mine.npy"))


def test_what_is_no_file_of_numpys_is_told(tmp_path):
    (tmp_path / "mine.csv").write_text("1,2,3\n")
    with pytest.raises(ValueError, match=r"is no \.npy"):
        own_array(seed=0, path=str(tmp_path / "mine.csv"))
    with pytest.raises(ValueError, match="no such file"):
        own_array(seed=0, path=str(tmp_path / "absent.npy"))


def test_an_unknown_tensor_gets_the_nearest_name():
    with pytest.raises(ValueError, match="did you mean 'kinetic'"):
        data.load("measured_tensor", seed=0, tensor="kinetik")
