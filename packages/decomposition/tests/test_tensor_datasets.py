"""The tensors that experiments decompose: shapes, values, what depends on the seed, bad parameters."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest

from tensorbench.core import data
from tensorbench.decomposition.datasets import tensors
from tensorbench.decomposition.linalg import COO
from tensorbench.decomposition.structure.hosv import hosv

BUNDLED = {
    "indian_pines": (145, 145, 200),
    "kinetic": (63, 12, 10, 60),
    "il2_response": (13, 4, 12, 8),
    "astronaut": (512, 512, 3),
    "camera": (512, 512),
    "chelsea": (300, 451, 3),
    "retina": (1411, 1411, 3),
}
PHOTOGRAPHS = ("astronaut", "camera", "chelsea", "retina")
MUSHROOM = data.get("mushroom").files[0]


@pytest.mark.parametrize("name", BUNDLED)
def test_bundled_tensors_are_there_and_the_same_for_every_seed(name):
    X = data.load(name, seed=0)
    assert X.shape == BUNDLED[name] and X.dtype == np.float64
    np.testing.assert_array_equal(X, data.load(name, seed=1))
    missing = np.isnan(X).mean()
    assert missing == (pytest.approx(0.038, abs=1e-3) if name == "il2_response" else 0.0)


def test_indian_pines_is_the_scene_the_papers_use():
    X = data.load("indian_pines")
    assert (X.min(), X.max()) == (955.0, 9604.0)


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_photographs_lie_in_the_unit_interval_and_shrink_by_averaging(name):
    X, small = data.load(name), data.load(name, shrink=4)
    assert 0 <= X.min() < X.max() <= 1
    assert small.shape[:2] == tuple(size // 4 for size in X.shape[:2])
    np.testing.assert_allclose(small[3, 5], X[12:16, 20:24].mean(axis=(0, 1)), rtol=1e-12)


@pytest.mark.parametrize("name", ["astronaut", "chelsea"])
def test_grey_photographs_are_matrices_between_the_colours(name):
    X, grey = data.load(name, shrink=5), data.load(name, shrink=5, gray=True)
    assert grey.shape == X.shape[:2]
    assert np.all(grey <= X.max(axis=2) + 1e-12) and np.all(grey >= X.min(axis=2) - 1e-12)


def test_hilbert_tensor_counts_from_one():
    X = data.load("hilbert_tensor", sizes=[3, 4, 5])
    assert X.shape == (3, 4, 5)
    assert X[0, 0, 0] == pytest.approx(1 / 3) and X[2, 3, 4] == pytest.approx(1 / 12)


def test_planted_tucker_has_its_ranks_and_its_noise():
    clean = data.load("planted_tucker", seed=3, sizes=[12, 13, 14], ranks=[2, 3, 4])
    assert hosv(clean).ranks == (2, 3, 4)
    noisy = data.load("planted_tucker", seed=3, sizes=[12, 13, 14], ranks=[2, 3, 4], noise=0.1)
    assert np.linalg.norm(noisy - clean) == pytest.approx(0.1 * np.linalg.norm(clean))
    assert data.load("planted_tucker").shape == (100, 100, 100)


@pytest.mark.parametrize("name", ["planted_tucker", "uniform_tensor"])
def test_random_tensors_follow_the_seed(name):
    sizes = {"sizes": [5, 6, 7]} | ({"ranks": [2, 2, 2]} if name == "planted_tucker" else {})
    first = data.load(name, seed=0, **sizes)
    np.testing.assert_array_equal(first, data.load(name, seed=0, **sizes))
    assert not np.array_equal(first, data.load(name, seed=1, **sizes))


def mushroom_file(folder: Path, rows: list[str]) -> Path:
    path = folder / "mushroom.csv"
    path.write_text("\n".join(rows) + "\n")
    return path


def test_mushroom_rows_become_entries(tmp_path):
    rows = ["1," + ",".join(["1"] * 22), "2," + ",".join(["2"] * 21 + ["7"])]
    X = tensors.mushroom([mushroom_file(tmp_path, rows)], seed=0)
    assert isinstance(X, COO) and X.shape == (2,) * 21 + (7,)
    np.testing.assert_array_equal(X.values, [-1.0, 1.0])
    np.testing.assert_array_equal(X.coords[:, 1], [1] * 21 + [6])


@pytest.mark.parametrize("rows", [["1,2,3", "1,2,3"], ["0" + ",1" * 22, "1" + ",1" * 22]])
def test_other_tables_are_refused(tmp_path, rows):
    with pytest.raises(ValueError, match="23 columns of codes counted from 1"):
        tensors.mushroom([mushroom_file(tmp_path, rows)], seed=0)


@pytest.mark.skipif("TENSORBENCH_DATA" not in os.environ, reason="TENSORBENCH_DATA names no folder with the file")
def test_the_real_mushrooms():
    found = data.fetch(MUSHROOM)
    assert hashlib.sha256(Path(found).read_bytes()).hexdigest() == MUSHROOM.sha256
    X = data.load("mushroom")
    assert X.shape == (6, 4, 10, 2, 9, 2, 2, 2, 12, 2, 5, 4, 4, 9, 9, 1, 4, 3, 5, 9, 6, 7)
    assert X.values.size == 8124 and set(X.values) == {-1.0, 1.0}
    assert X.norm2 == 8124.0


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("astronaut", {"shrink": 0}, "shrink 0 is not a whole number of pixels from 1 to 512"),
        ("astronaut", {"shrink": 2.5}, "shrink 2.5"),
        ("camera", {"shrink": 513}, "shrink 513"),
        ("camera", {"gray": True}, "gray"),
        ("hilbert_tensor", {"sizes": [3]}, "at least two positive whole numbers"),
        ("hilbert_tensor", {"sizes": [3, 0]}, "at least two positive whole numbers"),
        ("uniform_tensor", {"sizes": [3, 2.5]}, "at least two positive whole numbers"),
        ("planted_tucker", {"ranks": [2, 2]}, "one value per mode"),
        ("planted_tucker", {"sizes": [4, 4, 4], "ranks": [5, 2, 2]}, "none above its size"),
        ("planted_tucker", {"noise": -1.0}, "noise -1.0"),
        ("planted_tucker", {"noise": float("nan")}, "noise nan"),
    ],
)
def test_bad_parameters_are_refused(name, params, message):
    with pytest.raises(ValueError, match=message):
        data.load(name, **params)


def test_missing_cells_of_kinetic_are_no_zeros():
    holes = tensors.kinetic(seed=0, missing="nan")
    whole = tensors.kinetic(seed=0)
    assert holes.shape == (64, 12, 10, 60) and np.isnan(holes).sum() == 1754 and np.isnan(holes[27]).sum() == 1561
    rest = np.delete(holes, 27, axis=0)
    known = ~np.isnan(rest)
    assert np.array_equal(whole[known], rest[known]) and (~known).sum() == 193
    # Filled cells lie between what was measured before and after (or are the nearest at an end).
    for cell in np.argwhere(~known):
        fibre, at = rest[tuple(cell[:3])], cell[3]
        times = np.flatnonzero(~np.isnan(fibre))
        around = [*times[times < at][-1:], *times[times > at][:1]]
        assert min(fibre[around]) <= whole[tuple(cell)] <= max(fibre[around])
    with pytest.raises(ValueError, match="did you mean 'fill'"):
        tensors.kinetic(seed=0, missing="fil")
