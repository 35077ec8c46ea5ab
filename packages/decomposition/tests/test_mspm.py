"""Multi-subspace power method: symmetry types, flattenings, theory, invariance, bad input."""

import numpy as np
import pytest
from scipy.linalg import subspace_angles

from tensorbench.decomposition.cp.extraction import deflate
from tensorbench.decomposition.cp.flattening import (
    all_flattenings,
    best_flattenings,
    flatten,
    flattening_rank,
    max_rank,
    parse_symmetries,
    select_rank,
    sides,
    splits,
    sv_dimension,
    thin_svd,
)
from tensorbench.decomposition.cp.mspm import (
    mspm,
    mspm_21,
    mspm_asym,
    orthonormal_slices,
    psvt_power,
    psvt_residual,
)
from tensorbench.decomposition.cp.spm import spm
from tensorbench.decomposition.cp.symmetric import lowrank_symmetric, symmetrize
from tensorbench.decomposition.datasets.symmetric import planted_cp
from tensorbench.decomposition.selection import factor_match_score

SYMMETRY_TYPES = [
    ((8, 7, 6), (1, 1, 1), 5),
    ((8, 5), (2, 1), 6),
    ((5, 3), (4, 1), 6),
    ((6, 5), (2, 2), 9),
    ((5, 4, 4), (2, 1, 1), 8),
    ((6,), (3,), 5),
    ((6,), (4,), 10),
    ((6, 5, 4, 3), (1, 1, 1, 1), 8),
]


def planted(dims, mult, rank, seed=0, noise=0.0):
    return planted_cp(seed=seed, dims=dims, mult=mult, rank=rank, noise=noise)


def error(result, tensor):
    return np.linalg.norm(result.full() - tensor) / np.linalg.norm(tensor)


@pytest.mark.parametrize(("dims", "mult", "rank"), SYMMETRY_TYPES)
def test_exact_recovery_with_the_rank_found(dims, mult, rank):
    data = planted(dims, mult, rank)
    result = mspm(data.tensor, symmetries=data.symvec, generator=1)
    assert result.rank == rank and result.symvec == data.symvec
    assert error(result, data.tensor) < 1e-12
    assert factor_match_score(data.factors, result.factors, data.weights, result.weights) > 1 - 1e-10


@pytest.mark.parametrize(("dims", "mult", "rank"), SYMMETRY_TYPES)
def test_weights_of_both_formulas_agree_without_noise(dims, mult, rank):
    data = planted(dims, mult, rank, seed=3)
    plain = mspm(data.tensor, symmetries=data.symvec, exact_weights=True)
    robust = mspm(data.tensor, symmetries=data.symvec)
    want = np.sort(np.abs(data.weights))
    np.testing.assert_allclose(np.sort(np.abs(plain.weights)), want, atol=1e-10)
    np.testing.assert_allclose(np.sort(np.abs(robust.weights)), want, atol=1e-10)


@pytest.mark.parametrize("order", [3, 4])
def test_symmetric_input_gives_the_components_of_spm(order):
    data = planted((6,), (order,), 6)
    with_symmetry = mspm(data.tensor, symmetries=[list(range(order))])
    without = mspm(data.tensor)
    reference = spm(data.tensor)
    assert factor_match_score([reference.factors], with_symmetry.factors) > 1 - 1e-10
    for factor in without.factors:
        assert factor_match_score([reference.factors], [factor]) > 1 - 1e-10
    np.testing.assert_allclose(np.sort(np.abs(without.weights)), np.sort(np.abs(reference.weights)), atol=1e-10)


def test_the_asymmetric_call_works_on_partially_symmetric_data():
    data = planted((7, 5), (2, 1), 6)
    result = mspm(data.tensor)
    assert error(result, data.tensor) < 1e-12
    assert factor_match_score([data.factors[0]] * 2 + [data.factors[1]], result.factors) > 1 - 1e-10


@pytest.mark.parametrize(("dims", "mult", "rank"), [((7, 5), (2, 1), 6), ((7, 6, 5), (1, 1, 1), 4)])
def test_fast_paths_equal_the_general_method(dims, mult, rank):
    data = planted(dims, mult, rank)
    general = mspm(data.tensor, symmetries=mult)
    fast = (mspm_21 if mult == (2, 1) else mspm_asym)(data.tensor)
    np.testing.assert_allclose(fast.weights, general.weights, atol=1e-10)
    for a, b in zip(fast.factors, general.factors, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-9)


@pytest.mark.parametrize("shape", [(5, 6, 9), (9, 5, 6), (6, 9, 5)])
def test_the_order_of_modes_does_not_matter(shape):
    data = planted(shape, (1, 1, 1), 5)
    assert error(mspm_asym(data.tensor), data.tensor) < 1e-12


def test_two_flattenings_given_by_hand():
    data = planted((6, 5, 4, 3), (1, 1, 1, 1), 8)
    result = mspm(data.tensor, flattenings=[(1, 1, 0, 0), (1, 0, 1, 0)])
    assert result.rank == 8 and error(result, data.tensor) < 1e-12


BREAKING = [u for u in all_flattenings((2, 1, 1)) if splits((2, 1, 1), u)]


@pytest.mark.parametrize("left", [u for u in BREAKING if flattening_rank((5, 4, 4), (2, 1, 1), u) >= 4])
def test_every_symmetry_breaking_flattening_works(left):
    data = planted((5, 4, 4), (2, 1, 1), 4)
    assert error(mspm(data.tensor, symmetries=(2, 1, 1), flattenings=[left]), data.tensor) < 1e-11


@pytest.mark.parametrize(("dims", "mult", "rank"), SYMMETRY_TYPES[:4])
def test_objective_rises_and_ends_in_a_singular_vector_tuple(dims, mult, rank):
    data = planted(dims, mult, rank)
    groups = parse_symmetries(data.symvec, len(data.symvec))
    left = best_flattenings(dims, mult)[0]
    side, _ = sides(dims, mult, left)
    U = thin_svd(flatten(data.tensor, groups, left))[0][:, :rank]
    for seed in range(3):
        out = psvt_power(U, side.dims, side.copies, generator=seed)
        assert np.diff(np.concatenate(out.history)).min() > -1e-13
        assert out.converged.all()
        assert psvt_residual(U, side.dims, side.copies, out.vectors)[0] < 1e-12


@pytest.mark.parametrize(("dims", "mult", "rank"), SYMMETRY_TYPES[:5])
def test_components_are_singular_vector_tuples_with_value_one(dims, mult, rank):
    data = planted(dims, mult, rank)
    groups = parse_symmetries(data.symvec, len(data.symvec))
    left = best_flattenings(dims, mult)[0]
    side, _ = sides(dims, mult, left)
    U = thin_svd(flatten(data.tensor, groups, left))[0][:, :rank]
    xs = [data.factors[g] for g in side.groups]
    np.testing.assert_allclose(np.linalg.norm(U.T @ side.rank_one(xs), axis=0), 1, atol=1e-12)
    assert psvt_residual(U, side.dims, side.copies, xs).max() < 1e-12


@pytest.mark.parametrize(("mult", "left"), [((2, 1), (1, 1)), ((1, 1, 1), (0, 1, 1))])
def test_slices_are_orthonormal(mult, left):
    dims = (6, 5) if len(mult) == 2 else (6, 5, 4)
    data = planted(dims, mult, 4)
    S = orthonormal_slices(data.tensor, data.symvec, left, 4)
    gram = np.einsum("abi,abj->ij", S, S)
    np.testing.assert_allclose(gram, np.eye(4), atol=1e-12)


def test_dimensions_and_ranks():
    assert sv_dimension([3], [2]) == 6 and sv_dimension([3, 2], [2, 1]) == 12
    assert max_rank([100, 50], [2, 1]) == min(100 * 50 - 150, 100) == 100
    assert best_flattenings([100, 50], [2, 1]) == [(1, 1)]
    assert max_rank([10], [4]) == 45 and best_flattenings([10], [4]) == [(2,)]
    assert len(best_flattenings([6, 5, 4], [1, 1, 1])) == 2 == len(best_flattenings([8, 5], [2, 1], k=2))


@pytest.mark.parametrize(("dims", "mult"), [((4, 3), (2, 1)), ((3,), (4,)), ((3, 2), (2, 2)), ((4, 3, 2), (1, 1, 1))])
def test_flattenings_keep_the_spectrum(dims, mult):
    data = planted(dims, mult, 3)
    groups = parse_symmetries(data.symvec, len(data.symvec))
    for left in all_flattenings(mult):
        small = np.linalg.svd(flatten(data.tensor, groups, left), compute_uv=False)
        modes = [m for g, u in zip(groups, left, strict=True) for m in g[:u]]
        rest = [m for m in range(data.tensor.ndim) if m not in modes]
        rows = int(np.prod([data.tensor.shape[m] for m in modes]))
        full = np.linalg.svd(data.tensor.transpose(modes + rest).reshape(rows, -1), compute_uv=False)
        np.testing.assert_allclose(small, full[: len(small)], atol=1e-12)


@pytest.mark.parametrize(
    ("spelling", "order", "groups"),
    [
        (None, 3, ((0,), (1,), (2,))),
        ([[0, 1], [2]], 3, ((0, 1), (2,))),
        ([[2, 0], [1]], 3, ((2, 0), (1,))),
        ([0, 0, 1], 3, ((0, 1), (2,))),
        ([0, 1, 0], 3, ((0, 2), (1,))),
        ((2, 1), 3, ((0, 1), (2,))),
        ((4, 1), 5, ((0, 1, 2, 3), (4,))),
        ((1, 1, 1), 3, ((0,), (1,), (2,))),
    ],
)
def test_symmetries_have_three_spellings(spelling, order, groups):
    assert parse_symmetries(spelling, order) == groups


def test_symmetric_modes_need_not_be_neighbours():
    data = planted((6, 5), (2, 1), 5)
    moved = data.tensor.transpose(0, 2, 1)
    result = mspm(moved, symmetries=[0, 1, 0])
    assert error(result, moved) < 1e-12


@pytest.mark.parametrize(("dims", "mult"), [((7, 5), (2, 1)), ((4, 3), (4, 1))])
def test_deflation_is_the_residual(dims, mult):
    data = planted(dims, mult, 5)
    groups = parse_symmetries(data.symvec, len(data.symvec))
    left = best_flattenings(dims, mult)[0]
    U, s, V = thin_svd(flatten(data.tensor, groups, left))
    U, V = U[:, :5], V[:, :5]
    one = [f[:, [1]] for f in data.factors]
    lhs, rhs = (side.rank_one([one[g] for g in side.groups])[:, 0] for side in sides(dims, mult, left))
    U2, V2, _ = deflate(U, V, np.diag(1 / s[:5]), U.T @ lhs, V.T @ rhs)
    residual = flatten(data.tensor, groups, left) - data.weights[1] * np.outer(lhs, rhs)
    X, _, Y = thin_svd(residual)
    assert subspace_angles(U2, X[:, :4]).max() < 1e-10 and subspace_angles(V2, Y[:, :4]).max() < 1e-10


def test_invertible_maps_of_the_modes_carry_the_factors_along():
    data = planted((6, 5, 5), (1, 1, 1), 4)
    rng = np.random.default_rng(5)
    maps = [np.eye(d) + 0.3 * rng.standard_normal((d, d)) for d in data.tensor.shape]
    moved = np.einsum("abc,ia,jb,kc->ijk", data.tensor, *maps, optimize=True)
    result = mspm(moved)
    moved_factors = [g @ f for g, f in zip(maps, data.factors, strict=True)]
    assert factor_match_score(moved_factors, result.factors) > 1 - 1e-9


def test_noise_of_a_percent_is_fitted_to_a_percent():
    data = planted((12, 9), (2, 1), 6, noise=0.01)
    result = mspm(data.tensor, 6, symmetries=(2, 1))
    assert error(result, data.tensor) < 0.011
    assert factor_match_score(data.factors, result.factors) > 0.999


def test_signs_sit_in_weights_of_odd_modes():
    data = planted((6, 5), (2, 1), 4)
    result = mspm(-data.tensor, symmetries=(2, 1))
    for factor in result.factors:
        assert (np.take_along_axis(factor, np.abs(factor).argmax(0)[None], 0) > 0).all()
    assert error(result, -data.tensor) < 1e-12


@pytest.mark.parametrize(("rule", "want"), [(1e-4, 2), (0.9, 1), (lambda s: 3, 3), (1e-12, 3)])
def test_rank_rules(rule, want):
    assert select_rank(np.array([2.0, 1.0, 1e-6, 0.0]), rule) == want


def test_singular_values_can_be_asked_for():
    data = planted((6, 5), (2, 1), 4)
    values = mspm(data.tensor, symmetries=(2, 1), ranksel="return_sv")
    assert values.shape == (6,) and np.sum(values > 1e-10) == 4


GOOD = planted((6, 5), (2, 1), 4).tensor


@pytest.mark.parametrize(
    ("tensor", "options", "message"),
    [
        (np.ones((3, 3)), {}, "order 2"),
        (np.ones((3, 1, 3)), {}, "mode 1 has size 1"),
        (1j * np.ones((3, 3, 3)), {}, "complex"),
        (np.full((3, 3, 3), np.inf), {}, "27 NaN or infinite"),
        (np.zeros((3, 4, 5)), {}, "rank 0"),
        (GOOD, {"symmetries": [0, 1, 1]}, "declared symmetric but have sizes"),
        (
            np.random.default_rng(0).standard_normal((4, 4, 3)),
            {"symmetries": (2, 1)},
            "declared symmetry.*symmetrize_input",
        ),
        (GOOD, {"symmetries": (2, 2)}, "do not name every mode"),
        (GOOD, {"symmetries": [[0], [1]]}, "do not name every mode"),
        (GOOD, {"symmetries": (2, 1), "rank": 7}, r"rank 7 is outside 1\.\.6"),
        (GOOD, {"symmetries": (2, 1), "flattenings": [(2, 0)]}, "neither break a symmetry"),
        (GOOD, {"symmetries": (2, 1), "flattenings": [(2, 0), (0, 1)]}, "neither break a symmetry"),
        (GOOD, {"symmetries": (2, 1), "flattenings": [(2, 1)]}, "not a choice of left copies"),
        (GOOD, {"symmetries": (2, 1), "ranksel": "auto"}, "return_sv"),
        (np.random.default_rng(0).standard_normal((3, 4, 5)), {}, "exceeds the max_rank"),
    ],
)
def test_bad_input_teaches(tensor, options, message):
    with pytest.raises(ValueError, match=message):
        mspm(tensor, **options)


def test_asymmetry_can_be_averaged_with_a_warning():
    skew = np.random.default_rng(0).standard_normal(GOOD.shape)
    noisy = GOOD + 0.01 * (skew - symmetrize(skew, [[0, 1], [2]]))
    with pytest.warns(UserWarning, match="averaging"):
        result = mspm(noisy, symmetries=(2, 1), symmetrize_input=True)
    assert error(result, GOOD) < 1e-11


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"dims": [4, 4], "mult": [1]}, "one multiplicity"),
        ({"rank": 0}, "rank 0"),
        ({"noise": -1}, "noise"),
        ({"columns": "gausian"}, "did you mean 'gaussian'"),
        ({"weights": "none"}, "unknown weights"),
        ({"columns": "orthogonal", "rank": 9}, "smallest dimension"),
    ],
)
def test_planted_refuses_bad_parameters(params, message):
    with pytest.raises(ValueError, match=message):
        planted_cp(**{"seed": 0, "dims": [4, 5, 6], "rank": 3, **params})


def test_planted_is_what_it_says():
    data = planted_cp(seed=1, dims=[4, 3], mult=[2, 1], rank=3, noise=0.1)
    want = np.einsum("r,ir,jr,kr->ijk", data.weights, data.factors[0], data.factors[0], data.factors[1])
    np.testing.assert_allclose(data.clean, want, atol=1e-14)
    assert np.linalg.norm(data.tensor - data.clean) == pytest.approx(0.1 * np.linalg.norm(data.clean))
    np.testing.assert_allclose(data.tensor, data.tensor.transpose(1, 0, 2), atol=1e-14)
    same = planted_cp(seed=1, dims=[4, 3], mult=[2, 1], rank=3, noise=0.1)
    assert (same.tensor == data.tensor).all()
    raw = planted_cp(seed=2, dims=[5], mult=[4], rank=3, weights="ones", unit_columns=False)
    np.testing.assert_allclose(raw.clean, lowrank_symmetric(raw.factors[0], raw.weights, 4), atol=1e-14)
