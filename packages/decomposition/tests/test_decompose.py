"""One call for every format: exact on its own kind of tensor, whole or with missing cells, and clear about misuse."""

from __future__ import annotations

import numpy as np
import pytest
import tensorly as tl

from tensorbench.decomposition.decompose import FORMATS, choose_rank, decompose, hold_out, params_of
from tensorbench.decomposition.formats import CP, TR, TT, Tucker
from tensorbench.decomposition.functional.multiple import MultipleTensor

SHAPE = (9, 8, 7, 6)
PLANTED = {"cp": 2, "tucker": (2, 3, 2, 2), "tt": (2, 3, 2), "ring": (2, 2, 2, 2), "multiple": (2, 1, 2, 1)}


def planted(kind: str, shape: tuple[int, ...] = SHAPE, rank=None, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    rank = PLANTED[kind] if rank is None else rank
    if kind == "cp":
        model = CP(np.ones(rank), [rng.standard_normal((n, rank)) for n in shape])
    elif kind == "tucker":
        model = Tucker(
            rng.standard_normal(rank), [rng.standard_normal((n, r)) for n, r in zip(shape, rank, strict=True)]
        )
    elif kind == "multiple":
        model = MultipleTensor.random(shape, rank, seed=seed)
    else:
        closed = (1, *rank, 1) if kind == "tt" else (*rank, rank[0])
        cores = [rng.standard_normal((closed[k], n, closed[k + 1])) for k, n in enumerate(shape)]
        model = (TT if kind == "tt" else TR)(cores)
    full = model.full().numpy()
    return full / np.abs(full).max()


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("kind", FORMATS)
def test_a_planted_tensor_is_recovered_in_its_own_format(kind, masked):
    X = planted(kind)
    mask = np.random.default_rng(1).random(X.shape) < 0.6 if masked else None
    given = X if mask is None else np.where(mask, X, np.nan)
    fits = [decompose(given, kind, PLANTED[kind], mask=mask, max_sweeps=300, tol=1e-9, seed=s) for s in range(4)]
    fit = min(fits, key=lambda f: f.relative_error)  # swamps are the solver's; one start of four must get there
    assert np.linalg.norm(fit.full() - X) / np.linalg.norm(X) < (5e-2 if kind == "multiple" else 1e-4)
    assert fit.num_params() == params_of(X.shape, kind, PLANTED[kind])
    assert fit.shape == X.shape


@pytest.mark.parametrize("kind", FORMATS)
def test_the_way_to_tensorly_keeps_the_tensor(kind):
    fit = decompose(planted(kind), kind, 2, max_sweeps=5)
    full = {"cp": tl.cp_to_tensor, "tt": tl.tt_to_tensor, "ring": tl.tr_to_tensor}.get(kind, tl.tucker_to_tensor)
    np.testing.assert_allclose(np.asarray(full(fit.to_tensorly())), fit.full(), atol=1e-10)


def test_two_modes_are_a_matrix_with_a_truncated_svd_for_the_best_fit():
    X = np.random.default_rng(0).standard_normal((20, 15))
    s = np.linalg.svd(X, compute_uv=False)
    best = np.sqrt((s[3:] ** 2).sum() / (s**2).sum())
    for kind in ("cp", "tucker", "tt"):
        assert decompose(X, kind, 3, max_sweeps=500, tol=1e-10).relative_error == pytest.approx(best, rel=1e-3)


@pytest.mark.parametrize("kind", ["cp", "tucker", "tt"])
def test_the_planted_rank_is_chosen_and_unseen_cells_are_predicted(kind):
    rng = np.random.default_rng(3)
    X = planted(kind, (16, 14, 12), {"cp": 3, "tucker": (3, 3, 3), "tt": (3, 3)}[kind])
    noisy = X + 0.02 * X.std() * rng.standard_normal(X.shape)
    mask = rng.random(X.shape) < 0.5
    heard = []
    choice = choose_rank(noisy, kind, mask=mask, seed=0, on_rung=lambda rung, fit: heard.append(rung))
    assert max(choice.best.rank) == 3 and heard == choice.path
    unseen = (choice.decomposition.full() - X)[~mask]
    assert np.linalg.norm(unseen) < 0.05 * np.linalg.norm(X[~mask])


@pytest.mark.parametrize(
    ("kind", "shape", "asked", "used"),
    [
        ("tucker", (3, 4, 5), 9, (3, 4, 5)),
        ("tt", (3, 4, 5), 9, (3, 5)),
        ("ring", (3, 4, 5), (1, 50, 1), (1, 3, 1)),
        ("multiple", (10, 2, 10), (1, 10, 2), (1, 10, 2)),  # short index 2 joins modes 1 and 3
        ("cp", (3, 4), 30, (30,)),
    ],
)
def test_ranks_are_lowered_only_where_they_are_of_no_use(kind, shape, asked, used):
    X = np.random.default_rng(0).standard_normal(shape)
    fit = decompose(X, kind, asked, max_sweeps=200, tol=1e-12)
    assert fit.rank == used and fit.num_params() == params_of(shape, kind, asked)
    if kind in ("tucker", "tt", "multiple"):
        assert fit.relative_error < 1e-6  # as much rank as these shapes can use


def test_ranks_of_equal_size_are_all_tried():
    rng = np.random.default_rng(1)
    X = planted("tucker", (8, 8, 8), (1, 3, 3))
    choice = choose_rank(X + 1e-6 * rng.standard_normal(X.shape), "tucker", ranks=[(3, 3, 1), (3, 1, 3), (1, 3, 3)])
    assert choice.best.rank == (1, 3, 3) and choice.best.held_error < 1e-4


def test_held_out_cells_leave_something_in_every_slice():
    mask = np.zeros((6, 5, 4), dtype=bool)
    mask[np.arange(6), np.arange(6) % 5, np.arange(6) % 4] = True
    held = hold_out(mask, 0.95, np.random.default_rng(0))
    assert not (held & ~mask).any()
    for axes in ((1, 2), (0, 2), (0, 1)):
        assert (mask & ~held).any(axis=axes).all()
    dense = np.ones((30, 30, 30), dtype=bool)
    assert hold_out(dense, 0.1, np.random.default_rng(0)).mean() == pytest.approx(0.1, abs=0.01)


def test_nan_means_not_observed():
    X = planted("cp")
    holes = np.where(np.random.default_rng(0).random(X.shape) < 0.3, np.nan, X)
    fit = decompose(holes, "cp", 2, max_sweeps=300, tol=1e-10)
    assert np.linalg.norm(fit.full() - X) < 1e-3 * np.linalg.norm(X)


@pytest.mark.parametrize(
    ("kind", "rank", "says"),
    [
        ("tuker", 2, "did you mean 'tucker'"),
        ("tt", (2, 2), "expected 3: one rank per bond of the train"),
        ("tucker", (2, 2, 2), "expected 4: one rank per mode"),
        ("cp", (2, 2), "expected 1"),
        ("cp", 0, "at least 1"),
        ("ring", 1.5, "at least 1"),
    ],
)
def test_misuse_is_told(kind, rank, says):
    with pytest.raises(ValueError, match=says):
        decompose(planted("cp"), kind, rank)


def test_bad_data_is_told():
    X = planted("cp")
    with pytest.raises(ValueError, match="not finite"):
        decompose(np.where(X > 0, np.inf, X), "cp", 2)
    with pytest.raises(ValueError, match="slice 2 of mode 0"):
        decompose(np.where(np.arange(9)[:, None, None, None] == 2, np.nan, X), "tt", 2)
    with pytest.raises(ValueError, match="ring needs 3 modes"):
        decompose(np.ones((3, 4)), "ring", 2)
    with pytest.raises(ValueError, match="raise max_share"):
        choose_rank(np.ones((3, 3)), "cp", max_share=0.1)
    with pytest.raises(ValueError, match="and no others"):
        choose_rank(X, "cp", mask=X > 0, held=X < 0)
    with pytest.raises(ValueError, match="did you mean 'tucker'"):
        params_of((3, 3), "tuker", 2)
