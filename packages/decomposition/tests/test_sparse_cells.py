"""Sparse cells and their datasets: checks, splits, files, duplicates."""

from __future__ import annotations

import numpy as np
import pytest

from tensorbench.core import data
from tensorbench.decomposition.completion.sparse import (
    SparseTensorData,
    load_npz,
    load_tensor,
    mae,
    rmse,
    save_npz,
    save_tensor,
    split_cells,
)


def cells(n=50, dims=(8, 7, 6), seed=0):
    rng = np.random.default_rng(seed)
    return SparseTensorData(np.stack([rng.integers(0, d, n) for d in dims], axis=1), rng.standard_normal(n), dims)


def test_dims_are_inferred_or_given():
    assert SparseTensorData([[0, 4], [2, 1]], [1.0, 2.0]).dims == (3, 5)
    assert SparseTensorData(np.array([[0.0, 4.0]]), [1.0], (9, 9)).dims == (9, 9)
    assert len(SparseTensorData(np.zeros((0, 2), int), [], (3, 3))) == 0


BAD = {
    "negative": (([[0, -1]], [1.0]), "negative index -1"),
    "beyond": (([[0, 3]], [1.0], (3, 3)), "mode 1 has index 3 but only 3"),
    "fractional": (([[0, 0.5]], [1.0]), r"idx\[0, 1\] = 0.5 is not a whole number"),
    "nan index": (([[0, np.nan]], [1.0]), "not a whole number"),
    "text": (([["a", "b"]], [1.0]), "whole numbers are expected"),
    "one mode": (([[0], [1]], [1.0, 2.0]), "K >= 2"),
    "nan value": (([[0, 1]], [np.nan]), "NaN or infinite"),
    "lengths": (([[0, 1]], [1.0, 2.0]), "val has shape"),
    "modes": (([[0, 1]], [1.0], (3, 3, 3)), "3 modes; idx has 2"),
    "nothing": ((np.zeros((0, 2), int), []), "cannot be inferred"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_cells_are_refused_with_the_reason(case):
    arguments, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        SparseTensorData(*arguments)


def test_the_split_is_a_partition_and_the_seed_decides_it():
    whole = cells(200)
    split = split_cells(whole, seed=3)
    assert [len(part) for part in (split.train, split.valid, split.test)] == [144, 36, 20]
    together = split.train.join(split.valid).join(split.test)
    np.testing.assert_array_equal(np.sort(together.val), np.sort(whole.val))
    np.testing.assert_array_equal(split_cells(whole, seed=3).test.val, split.test.val)
    assert not np.array_equal(split_cells(whole, seed=4).test.val, split.test.val)


def test_an_empty_part_is_refused():
    with pytest.raises(ValueError, match="empty part"):
        split_cells(cells(4), seed=0)
    with pytest.raises(ValueError, match="between 0 and 1"):
        split_cells(cells(40), seed=0, test_share=0.0)


def test_standardising_uses_the_training_cells_and_carries_the_truth():
    split = split_cells(cells(200), 0, truth=lambda idx: idx[:, 0] * 1.0)
    ready = split.standardised()
    assert ready.train.val.mean() == pytest.approx(0) and ready.train.val.std() == pytest.approx(1)
    mean, std = split.train.val.mean(), split.train.val.std()
    np.testing.assert_allclose(ready.test.val * std + mean, split.test.val)
    np.testing.assert_allclose(ready.truth(split.test.idx) * std + mean, split.test.idx[:, 0])


@pytest.mark.parametrize(("policy", "want"), (("keep", [1, 3, 5]), ("mean", [2, 5]), ("first", [1, 5])))
def test_duplicates_follow_the_policy(policy, want):
    twice = SparseTensorData([[0, 1], [0, 1], [2, 0]], [1.0, 3.0, 5.0])
    np.testing.assert_allclose(twice.merged(policy).val, want)
    assert twice.merged(policy).dims == twice.dims


def test_duplicates_can_be_refused_and_the_policy_must_exist():
    with pytest.raises(ValueError, match="1 cells repeat"):
        SparseTensorData([[0, 1], [0, 1]], [1.0, 3.0]).merged("error")
    with pytest.raises(ValueError, match="did you mean 'mean'"):
        cells().merged("means")
    with pytest.raises(ValueError, match="cannot be joined"):
        cells().join(cells(dims=(8, 7, 9)))


def test_files_give_back_the_same_cells(tmp_path):
    whole = cells()
    save_tensor(whole, tmp_path / "a.tensor")
    save_npz(whole, tmp_path / "a.npz")
    for again in (load_tensor(tmp_path / "a.tensor", whole.dims), load_npz(tmp_path / "a.npz")):
        np.testing.assert_array_equal(again.idx, whole.idx)
        np.testing.assert_array_equal(again.val, whole.val)
        assert again.dims == whole.dims


def test_unusable_files_are_refused(tmp_path):
    np.savez(tmp_path / "b.npz", idx=np.zeros((1, 2), int))
    with pytest.raises(ValueError, match="no array 'val'"):
        load_npz(tmp_path / "b.npz")
    (tmp_path / "b.tensor").write_text("1\t2\n")
    with pytest.raises(ValueError, match="2 columns"):
        load_tensor(tmp_path / "b.tensor")
    (tmp_path / "c.tensor").write_text("1\t2\t0.5\n")
    assert load_tensor(tmp_path / "c.tensor", first_index=1).dims == (1, 2)


def test_statistics_and_errors_count_what_they_say():
    found = SparseTensorData([[0, 1], [0, 1], [2, 0]], [1.0, 3.0, 5.0], (4, 2)).statistics()
    want = {"cells": 3, "distinct": 2, "density": 0.25, "mean": 3, "entities": 6, "seen": 4, "cells_per_entity": 1.5}
    assert {name: found[name] for name in want} == pytest.approx(want)
    a, b = np.array([0.0, 0.0]), np.array([3.0, -1.0])
    assert rmse(a, b) == pytest.approx(np.sqrt(5)) and mae(a, b) == 2.0


REAL = {
    "synthetic_10k": ((1000, 1000, 1000), 10_000),
    "beijing_cells": ((428, 501, 1461), 11_954),
    "us_temperature_cells": ((15, 95, 267), 6_000),
    "low_rank_cells": ((20, 20, 50), 2_000),
    "random_cells": ((1000, 1000, 1000), 10_000),
}


@pytest.mark.parametrize("name", REAL)
def test_datasets_have_the_stated_sizes_and_distinct_cells(name):
    if not (found := data.available(name))[0]:
        pytest.skip(found[1])
    try:
        split = data.load(name, seed=1)
    except data.DataError as error:
        pytest.skip(str(error))
    whole = split.train.join(split.valid).join(split.test)
    assert (whole.dims, len(whole)) == REAL[name]
    assert name == "random_cells" or len(whole.merged("mean")) == len(whole)
    assert split.train.val.std() == pytest.approx(1)


def test_the_generated_tensor_has_the_stated_noise_rank_and_skew():
    split = data.load("low_rank_cells", seed=0, noise=0.0, cells=2000)
    np.testing.assert_allclose(split.truth(split.test.idx), split.test.val, atol=1e-12)
    noisy = data.load("low_rank_cells", seed=0, noise=0.3, cells=4000)
    assert np.std(noisy.train.val - noisy.truth(noisy.train.idx)) == pytest.approx(0.3 / np.hypot(1, 0.3), rel=0.1)
    count = noisy.train.counts()[0]
    assert count[:5].min() > count[-5:].max()
    with pytest.raises(ValueError, match="not sparse"):
        data.load("low_rank_cells", seed=0, dims=(5, 5), cells=20)
    with pytest.raises(ValueError, match="skew 40 is too strong"):
        data.load("low_rank_cells", seed=0, dims=(10, 10), cells=20, skew=40)
