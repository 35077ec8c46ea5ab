"""Masked scenes and the baselines that complete them."""

from __future__ import annotations

import numpy as np
import pytest

from tensorbench.core import data
from tensorbench.decomposition.baselines import masked as baselines
from tensorbench.decomposition.datasets.masked import mask_tensor, masked_scenes, scene, tensor_to_compress

CASES = [{"picture": "astronaut", "size": 16, "observed": 0.3}, {"picture": "chelsea", "size": 12, "observed": 1.0}]


def test_cases_are_masked_as_said_and_the_seed_decides():
    first, second = masked_scenes(seed=0, cases=CASES)
    assert first.truth.shape == (16, 16, 3) and second.truth.shape == (12, 12, 3)
    assert first.percent == 30 and second.mask.all()
    assert (first.tensor[~first.mask] == 0).all()
    np.testing.assert_array_equal(first.tensor[first.mask], first.truth[first.mask])
    assert not (first.held & ~first.mask).any() and not (first.train & first.held).any()
    assert first.held.sum() == pytest.approx(0.05 * first.mask.sum(), abs=2)
    again, other = masked_scenes(seed=0, cases=CASES)[0], masked_scenes(seed=1, cases=CASES)[0]
    np.testing.assert_array_equal(again.mask, first.mask)
    assert (other.mask != first.mask).any()
    assert data.load("masked_scenes", seed=0, cases=CASES)[0].percent == 30


def test_every_slice_keeps_a_cell_to_learn_from():
    found = mask_tensor("x", np.random.default_rng(0).random((20, 20, 3)), 0.01, 0.0, np.random.default_rng(0))
    for mode in range(3):
        assert found.train.any(axis=tuple(m for m in range(3) if m != mode)).all()


def test_noise_has_the_deviation_said():
    truth = np.full((40, 40, 3), 0.5)
    found = mask_tensor("x", truth, 0.5, 0.1, np.random.default_rng(0))
    assert (found.tensor - truth)[found.mask].std() == pytest.approx(0.1, rel=0.1)


def test_scenes_are_in_the_unit_interval():
    pines = scene("indian_pines", 20, 7)
    assert pines.shape == (20, 20, 7) and pines.min() == 0 and pines.max() == 1
    assert tensor_to_compress(seed=0, source="kinetic").shape == (16, 12, 10, 30)
    assert tensor_to_compress(seed=0, source="chelsea", size=20).shape == (20, 20, 3)


def test_the_setting_with_the_lowest_held_out_error_is_chosen():
    rng = np.random.default_rng(0)
    truth, mask, held = rng.random((6, 6, 6)), rng.random((6, 6, 6)) < 0.8, rng.random((6, 6, 6)) < 0.2
    seen = []

    def fit(tensor, observed, shift):
        seen.append((tensor[held & mask] == 0).all() and not observed[held].any())  # held-out cells are not shown
        if shift is None:
            raise np.linalg.LinAlgError("singular")
        return truth + shift, 1

    settings = [{"shift": 0.3}, {"shift": None}, {"shift": -0.1}, {"shift": np.nan}]
    assert baselines.best_setting(fit, settings, truth * mask, mask, held & mask) == {"shift": -0.1}
    assert len(seen) == 4 and all(seen)
    with pytest.raises(ValueError, match="none of the 1 settings"):
        baselines.best_setting(fit, [{"shift": np.nan}], truth, mask, held)
    with pytest.raises(ValueError, match="at least one setting"):
        baselines.best_setting(fit, [], truth, mask, held)


def test_every_baseline_completes_a_smooth_picture():
    x = np.linspace(0, 1, 14)
    truth = np.multiply.outer(np.outer(1 + x, 1 + x**2), [1.0, 0.8, 0.5])
    mask = np.random.default_rng(0).random(truth.shape) < 0.6
    seen = np.where(mask, truth, 0.0)
    fits = {
        "cp": baselines.tensorly_cp(seen, mask, rank=1, iterations=200, seed=0),
        "tucker": baselines.tensorly_tucker(seen, mask, rank=1, iterations=200, seed=0),
        "ring": baselines.tensor_ring(seen, mask, rank=1, ridge=1e-9, iterations=60, seed=0),
        "biharmonic": baselines.biharmonic(seen, mask),
    }
    for name, (predicted, parameters) in fits.items():
        assert predicted.shape == truth.shape, name
        assert np.linalg.norm(predicted - truth) < 0.05 * np.linalg.norm(truth), name
        assert parameters == {"cp": 31, "tucker": 32, "ring": 31, "biharmonic": 0}[name]


@pytest.mark.parametrize(
    ("call", "message"),
    (
        (lambda: masked_scenes(seed=0, cases=[{"size": 8}]), "case 0"),
        (lambda: masked_scenes(seed=0, cases=[{"picture": "astronaut", "share": 0.1}]), "it takes picture"),
        (lambda: scene("astronout", 16), "astronaut"),
        (lambda: scene("astronaut", 2), "size 2"),
        (lambda: scene("indian_pines", 500), "at most 145"),
        (lambda: mask_tensor("x", np.ones((5, 5)), 0.0, 0.0, np.random.default_rng(0)), "observed 0.0"),
        (lambda: mask_tensor("x", np.ones((5, 5)), 0.5, -1.0, np.random.default_rng(0)), "noise -1.0"),
    ),
)
def test_bad_input_is_refused_with_the_reason(call, message):
    with pytest.raises(ValueError, match=message):
        call()
