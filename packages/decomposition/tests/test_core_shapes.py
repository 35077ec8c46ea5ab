"""Core shapes under a budget: the solvers against each other, the surrogate against fitted decompositions."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from tensorbench.decomposition.linalg import COO
from tensorbench.decomposition.structure.bounds import bounds, optimality_gap
from tensorbench.decomposition.structure.core_shapes import (
    SOLVERS,
    bang_for_buck,
    brute_force,
    double_budget_ip,
    exact,
    get_solver,
    greedy,
    hosv,
    num_params,
    packing_ip,
    packing_value,
    pareto,
    relative_error,
    rotate,
    rre_greedy,
    select_core_shape,
    surrogate_loss,
)

ALL = list(SOLVERS)


def spectra(rng: np.random.Generator, sizes: tuple[int, ...]) -> list[np.ndarray]:
    """Random descending spectra, each summing to one, from flat to steep."""
    out = []
    for size in sizes:
        a = np.sort(rng.random(size) ** rng.choice([1, 3, 8]))[::-1] + 1e-9
        out.append(a / a.sum())
    return out


def hilbert(*sizes: int) -> np.ndarray:
    return 1.0 / sum(np.ogrid[tuple(slice(1, size + 1) for size in sizes)])


def low_rank(shape: tuple[int, ...], ranks: tuple[int, ...], seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    X = rng.standard_normal(ranks)
    for mode, (size, rank) in enumerate(zip(shape, ranks, strict=True)):
        X = np.moveaxis(np.tensordot(rng.standard_normal((size, rank)), X, axes=(1, mode)), 0, mode)
    return X


# --- solvers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(200))
def test_exact_equals_brute_force(seed):
    rng = np.random.default_rng(seed)
    s = spectra(rng, tuple(rng.integers(1, 13, 3)))
    budget = int(rng.integers(1 + sum(map(len, s)), num_params([len(a) for a in s], [len(a) for a in s]) + 2))
    best = brute_force(s, budget)
    found = exact(s, budget)
    assert found.value == pytest.approx(best.value, rel=1e-12)
    assert found.params <= budget and best.params <= budget


@pytest.mark.parametrize("seed", range(40))
def test_inner_integer_program_equals_brute_force(seed):
    rng = np.random.default_rng(seed)
    s = spectra(rng, tuple(rng.integers(1, 13, 3)))
    sizes = [len(a) for a in s]
    b_prod = float(rng.uniform(1, np.prod(sizes)))
    b_sum = float(rng.uniform(sum(sizes), sum(size**2 for size in sizes) + 1))
    allowed = [
        shape
        for shape in product(*(range(1, size + 1) for size in sizes))
        if np.prod(shape) <= b_prod and np.dot(sizes, shape) <= b_sum
    ]
    found = double_budget_ip(s, np.log(b_prod), b_sum)
    assert found.shape in allowed
    assert found.value == pytest.approx(max(packing_value(s, shape) for shape in allowed), rel=1e-7)


@pytest.mark.parametrize("order", [2, 4, 5])
def test_exact_equals_brute_force_in_other_orders(order):
    for seed in range(10):
        rng = np.random.default_rng(seed)
        s = spectra(rng, tuple(rng.integers(2, 7, order)))
        budget = int(rng.integers(1 + sum(map(len, s)), 200))
        assert exact(s, budget).value == pytest.approx(brute_force(s, budget).value, rel=1e-12)


@pytest.mark.parametrize("eps", [0.1, 0.5, 1.0])
def test_approximation_scheme_keeps_its_promise(eps):
    for seed in range(15):
        rng = np.random.default_rng(seed)
        s = spectra(rng, tuple(rng.integers(2, 13, 3)))
        budget = int(rng.integers(1 + sum(map(len, s)), 400))
        best = exact(s, budget).value
        for fill in (False, True):
            found = packing_ip(s, budget, eps=eps, fill=fill)
            assert found.params <= budget
            assert (1 - eps) * best - 1e-12 <= found.value <= best * (1 + 1e-12)
            assert found.certificate == 1 - eps
        assert found.value >= packing_ip(s, budget, eps=eps).value - 1e-12


def test_pruned_programs_do_not_change_the_result():
    """Step 2 of the scheme, every split solved, without any bound."""
    for seed in range(4):
        rng = np.random.default_rng(seed)
        s = spectra(rng, (8, 9, 10))
        budget, eps = 150, 0.5
        best = max(
            packing_value(s, shape) for shape in product((1, 2), repeat=3) if num_params((8, 9, 10), shape) <= budget
        )
        for k in range(int(np.log(budget) / np.log(1 + eps)) + 1):
            part = (1 + eps) ** k
            for b_prod, b_sum in ((part, budget - part), (budget - part, part)):
                if b_prod >= 1 and b_sum >= 27:
                    best = max(best, double_budget_ip(s, np.log(b_prod), b_sum).value)
        assert packing_ip(s, budget, eps).value == pytest.approx(best, rel=1e-9)


def test_many_modes_take_the_programs_for_small_shapes():
    rng = np.random.default_rng(0)
    s = spectra(rng, (3,) * 13)
    found = packing_ip(s, 300)
    assert found.params <= 300
    assert found.value >= max(greedy(s, 300).value, bang_for_buck(s, 300).value) * 0.97
    doubled = [shape for shape in product((1, 2), repeat=13) if num_params((3,) * 13, shape) <= 300]
    assert found.value >= max(packing_value(s, shape) for shape in doubled) - 1e-9


def by_hand(s: list[np.ndarray], budget: int, per_parameter: bool) -> tuple[int, ...]:
    """The greedy rules written out: parameters are counted anew, before and after, at every step."""
    sizes, core = [len(a) for a in s], [1] * len(s)
    while True:
        options = []
        for mode in range(len(s)):
            up = [rank + (n == mode) for n, rank in enumerate(core)]
            if up[mode] <= sizes[mode] and num_params(sizes, up) <= budget:
                extra = num_params(sizes, up) - num_params(sizes, core)
                options.append((s[mode][core[mode]] / (extra if per_parameter else 1), -mode, up))
        if not options:
            return tuple(core)
        core = max(options)[2]


@pytest.mark.parametrize("seed", range(20))
def test_the_greedies_follow_their_rules(seed):
    rng = np.random.default_rng(seed)
    s = spectra(rng, tuple(rng.integers(2, 20, 3)))
    budget = int(rng.integers(100, 600))
    assert greedy(s, budget).shape == by_hand(s, budget, per_parameter=False)
    assert bang_for_buck(s, budget).shape == by_hand(s, budget, per_parameter=True)


def test_the_greedies_differ():
    """A value of 4 that costs 21 parameters, against 3 and 2.9 that cost 5 each."""
    s = [np.array([10.0, 3.0, 2.9, 0.1]), np.array([10.0, 4.0, 1.0] + [0.1] * 17)]
    assert greedy(s, 47).shape == (1, 2)
    assert bang_for_buck(s, 47).shape == (4, 1)


@pytest.mark.parametrize("solver", ALL)
def test_results_fit_the_budget_and_report_themselves(solver):
    X = np.random.default_rng(0).random((6, 7, 8))
    s = hosv(X)
    for budget in (22, 23, 40, 77.5, 150, 10_000):
        found = SOLVERS[solver](s, budget)
        assert found.params == num_params(X.shape, found.shape) <= budget
        assert found.value == pytest.approx(packing_value(s, found.shape))
        assert found.surrogate_loss == pytest.approx(3 * np.sum(X**2) - found.value, abs=1e-9)
        assert found.seconds >= 0 and found.evaluations >= 0


@pytest.mark.parametrize("solver", ["exact", "brute_force"])
def test_larger_budgets_never_lower_the_optimum(solver):
    s = hosv(np.random.default_rng(1).random((6, 7, 8)))
    values = [SOLVERS[solver](s, budget).value for budget in range(22, 200, 7)]
    assert np.all(np.diff(values) >= 0)


@pytest.mark.parametrize("solver", ALL)
def test_values_on_a_pareto_curve_never_fall(solver):
    X = np.random.default_rng(2).random((6, 7, 8))
    budgets = [150, 22, 60, 40, 100]
    curve = pareto(X, budgets, solver)
    assert all(result.params <= budget for result, budget in zip(curve, budgets, strict=True))
    assert np.all(np.diff([curve[i].value for i in np.argsort(budgets)]) >= 0)


@pytest.mark.parametrize("solver", ["greedy", "bang_for_buck", "exact", "packing_ip"])
def test_a_large_budget_gives_the_numerical_ranks(solver):
    X = low_rank((6, 7, 8), (2, 3, 4))
    options = {"fill": True} if solver == "packing_ip" else {}
    assert get_solver(solver, **options)(X, 10**6).shape == (2, 3, 4)
    X = np.random.default_rng(3).random((5, 6, 7))
    assert get_solver(solver, **options)(X, 10**6).shape == (5, 6, 7)


def test_hilbert_like_tensor_at_a_thousand():
    found = exact(hilbert(20, 30, 40), 1000)
    assert found.shape == (7, 7, 7)
    assert found.params == 973


@pytest.mark.parametrize("solver", ["greedy", "bang_for_buck", "exact", "brute_force"])
def test_the_planted_rank_is_found_within_its_own_budget(solver):
    X = low_rank((9, 10, 11), (2, 3, 4), seed=5)
    s = hosv(X)
    found = SOLVERS[solver](s, num_params(X.shape, (2, 3, 4)))
    if solver in ("exact", "brute_force"):
        assert found.shape == (2, 3, 4)
        assert found.surrogate_loss <= 1e-12 * s.norm2
    assert found.value <= s.norm2 * 3 * (1 + 1e-12)


# --- equivariance --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", ALL)
def test_orthogonal_maps_of_the_modes_leave_the_shape(solver):
    rng = np.random.default_rng(4)
    X = rng.random((6, 7, 8))
    Q = [np.linalg.qr(rng.standard_normal((size, size)))[0] for size in X.shape]
    Y = np.einsum("abc,ia,jb,kc->ijk", X, *Q)
    for budget in (40, 90, 160):
        assert SOLVERS[solver](X, budget).shape == SOLVERS[solver](Y, budget).shape


@pytest.mark.parametrize("solver", ALL)
def test_permuting_modes_permutes_the_shape(solver):
    X = np.random.default_rng(5).random((6, 7, 8))
    order = [2, 0, 1]
    for budget in (40, 90, 160):
        shape = SOLVERS[solver](X, budget).shape
        assert SOLVERS[solver](X.transpose(order), budget).shape == tuple(shape[mode] for mode in order)


@pytest.mark.parametrize("factor", [1e-6, 1e6])
def test_scaling_the_tensor_leaves_the_shape(factor):
    X = np.random.default_rng(6).random((6, 7, 8))
    for solver in ALL:
        assert SOLVERS[solver](X, 90).shape == SOLVERS[solver](factor * X, 90).shape


# --- the surrogate and the truth -----------------------------------------------------------------------------------


def test_singular_values_sum_to_the_squared_norm():
    X = np.random.default_rng(7).standard_normal((5, 6, 7))
    s = hosv(X)
    for a in s.values:
        assert a.sum() == pytest.approx(s.norm2, rel=1e-10)
    assert s.shape == X.shape


@pytest.mark.parametrize("core", [(1, 1, 1), (2, 3, 4), (5, 2, 7), (8, 8, 3), (8, 9, 10)])
def test_surrogate_bounds_the_true_loss_on_both_sides(core):
    X = np.random.default_rng(8).standard_normal((8, 9, 10))
    norm2 = np.sum(X**2)
    loss = min(relative_error(X, core, n_iter=50, seed=seed) for seed in range(5))
    found = bounds(X, core)
    assert found.lower / norm2 - 1e-12 <= loss <= found.upper / norm2 + 1e-12
    assert surrogate_loss(X, core) / norm2 <= 3 * loss + 1e-12
    assert 1 <= found.factor <= 3 + 1e-12


def test_no_shape_within_the_budget_beats_the_gap():
    X = low_rank((5, 6, 7), (3, 3, 3)) + 0.1 * np.random.default_rng(9).standard_normal((5, 6, 7))
    gap = optimality_gap(X, 60)
    shapes = [r for r in product(range(1, 6), range(1, 7), range(1, 8)) if num_params(X.shape, r) <= 60]
    errors = [relative_error(X, shape, init="svd") * np.sum(X**2) for shape in shapes]
    assert gap.lower <= min(errors) <= gap.upper


@pytest.mark.parametrize("core", [(3, 4, 2), (6, 7, 8), (1, 1, 1)])
def test_errors_agree_between_random_svd_and_rotated_starts(core):
    X = low_rank((6, 7, 8), (4, 4, 4)) + 0.05 * np.random.default_rng(10).standard_normal((6, 7, 8))
    reference = relative_error(X, core, n_iter=100, init="svd")
    assert relative_error(X, core, n_iter=100, seed=3) == pytest.approx(reference, rel=1e-6, abs=1e-14)
    assert relative_error(rotate(X), core, n_iter=100) == pytest.approx(reference, rel=1e-6, abs=1e-14)


def test_dropping_energy_moves_the_error_by_no_more_than_that():
    X = hilbert(12, 13, 14)
    small = rotate(X, 1e-6)
    assert small.core.size < X.size / 4
    assert small.dropped <= 1e-6
    for core in [(2, 2, 2), (3, 2, 4), (12, 13, 14)]:
        exactly = relative_error(X, core, init="svd")
        assert exactly - 1e-12 <= relative_error(small, core) <= exactly + small.dropped + 1e-12


def test_error_of_an_exact_fit_is_zero_and_that_of_nothing_too():
    X = low_rank((6, 7, 8), (2, 3, 4))
    assert relative_error(X, (2, 3, 4)) <= 1e-20
    assert relative_error(rotate(X), (2, 3, 4)) <= 1e-13
    assert relative_error(np.zeros((3, 4, 5)), (1, 1, 1)) == 0.0


def test_sparse_errors_equal_dense_ones():
    rng = np.random.default_rng(11)
    cells = rng.choice(6 * 5 * 4 * 3, 80, replace=False)
    X = COO(np.stack(np.unravel_index(cells, (6, 5, 4, 3))), rng.standard_normal(80), (6, 5, 4, 3))
    core = (3, 3, 2, 2)
    assert relative_error(X, core, n_iter=30) == pytest.approx(
        relative_error(X.full(), core, n_iter=30, init="svd"), rel=1e-3
    )
    assert relative_error(X, core, n_iter=30) <= relative_error(X, core, n_iter=0) + 1e-12
    assert relative_error(X, core, n_iter=0) * X.norm2 <= surrogate_loss(X, core)
    assert relative_error(X, X.shape, n_iter=0) <= 1e-12
    assert exact(X, 60).shape == exact(X.full(), 60).shape


def test_randomised_values_still_give_an_upper_bound():
    X = low_rank((30, 31, 32), (3, 3, 3)) + 0.01 * np.random.default_rng(12).standard_normal((30, 31, 32))
    s = hosv(X, method="rsvd", rank=5)
    assert surrogate_loss(s, (3, 3, 3)) == pytest.approx(surrogate_loss(X, (3, 3, 3)), rel=1e-2)
    assert exact(s, 310).shape == exact(X, 310).shape == (3, 3, 3)


# --- the slow peer and the convenience -----------------------------------------------------------------------------


def test_rre_greedy_follows_the_steepest_fit_and_shares_its_memo():
    X = low_rank((6, 7, 8), (3, 2, 4)) + 0.05 * np.random.default_rng(13).standard_normal((6, 7, 8))
    memo: dict = {}
    small = rre_greedy(X, 60, lambda shape: relative_error(X, shape, init="svd"), memo)
    seen = len(memo)
    large = rre_greedy(X, 100, lambda shape: relative_error(X, shape, init="svd"), memo)
    assert small.params <= 60 and large.params <= 100
    assert memo[large.shape][0] <= memo[small.shape][0]
    assert large.evaluations > len(memo) - seen  # the steps both budgets share were fitted once
    assert large.seconds == pytest.approx(
        sum(cost for _, cost in memo.values()) - sum(c for s, (_, c) in memo.items() if num_params(X.shape, s) > 100)
    )
    # one step by hand: from 1 x 1 x 1 the next shape is the best of its three neighbours
    ups = [(2, 1, 1), (1, 2, 1), (1, 1, 2)]
    budget = max(num_params(X.shape, up) for up in ups)
    best = min(ups, key=lambda up: relative_error(X, up, init="svd"))
    assert rre_greedy(X, budget, lambda shape: relative_error(X, shape, init="svd")).shape == best


def test_rre_greedy_stops_when_nothing_helps():
    X = low_rank((6, 7, 8), (1, 1, 1))
    assert rre_greedy(X, 1000).shape == (1, 1, 1)


def test_selection_returns_a_fitted_decomposition():
    X = low_rank((9, 10, 11), (3, 3, 3)) + 0.02 * np.random.default_rng(14).standard_normal((9, 10, 11))
    chosen = select_core_shape(X, 200)
    assert chosen.result.params <= 200
    assert chosen.tucker.core.shape == chosen.shape
    difference = np.sum((X - chosen.tucker.to_tensor()) ** 2) / np.sum(X**2)
    assert chosen.relative_error == pytest.approx(difference, rel=1e-8)
    assert select_core_shape(X, compression=200 / X.size).shape == chosen.shape


@pytest.mark.parametrize("target", [0.3, 0.01, 1e-3])
def test_selection_meets_the_target_error_with_few_parameters(target):
    X = low_rank((9, 10, 11), (3, 3, 3)) + 0.02 * np.random.default_rng(15).standard_normal((9, 10, 11))
    chosen = select_core_shape(X, target_error=target)
    assert chosen.relative_error <= target
    assert chosen.result.surrogate_loss <= target * np.sum(X**2)
    fewer = exact(X, chosen.result.params - 1)
    assert fewer.surrogate_loss > target * np.sum(X**2)


# --- bad input -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", ALL)
def test_budgets_that_fit_nothing_name_the_smallest(solver):
    with pytest.raises(ValueError, match=r"budget 21 is too small .* the smallest Tucker has 22"):
        SOLVERS[solver](np.ones((6, 7, 8)), 21)
    with pytest.raises(ValueError, match="budget nan"):
        SOLVERS[solver](np.ones((6, 7, 8)), float("nan"))


@pytest.mark.parametrize("solver", ALL)
def test_entries_that_are_not_finite_are_refused(solver):
    X = np.ones((3, 4, 5))
    X[0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="1 of 60 entries are not finite"):
        SOLVERS[solver](X, 50)


@pytest.mark.parametrize("eps", [0.0, -0.1, 1.5, float("nan")])
def test_eps_outside_the_unit_interval_is_refused(eps):
    with pytest.raises(ValueError, match="eps"):
        packing_ip(np.ones((3, 4)), 20, eps=eps)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: exact([np.ones(2)] * 13, 100), "at most 12 modes, not 13"),
        (lambda: exact(np.ones(4), 100), "two non-empty modes"),
        (lambda: exact([np.ones(4)], 100), "two modes or more"),
        (lambda: exact([np.ones(4), np.array([1.0, 2.0])], 100), "mode 1 must be >= 0 and in descending order"),
        (lambda: exact([np.ones(4), np.array([1.0, -2.0])], 100), "mode 1 must be >= 0"),
        (lambda: exact([np.ones(4), np.array([1.0, np.inf])], 100), "mode 1 are not finite"),
        (lambda: brute_force([np.ones(300)] * 3, 10**9), "27000000 core shapes are too many"),
        (lambda: get_solver("exat"), "did you mean 'exact'"),
        (lambda: hosv(np.eye(3), method="grams"), "unknown method 'grams'"),
        (lambda: packing_value(np.eye(3), (1, 4)), "rank 4 does not fit mode 1"),
        (lambda: surrogate_loss(np.eye(3), (1, 1, 1)), "has 3 modes"),
        (lambda: relative_error(np.eye(3), (0, 1)), "rank 0 does not fit mode 0"),
        (lambda: relative_error(np.eye(3), (1, 1), init="hosvd"), "unknown init 'hosvd'"),
        (lambda: relative_error(np.eye(3), (1, 1), n_iter=0), "n_iter 0"),
        (lambda: rotate(np.eye(3), 1.0), "tolerance"),
        (lambda: double_budget_ip(np.eye(3), np.log(4), 5), "admit no shape; use at least 0 and 6"),
        (lambda: double_budget_ip(np.eye(3), -1.0, 50), "admit no shape"),
        (lambda: select_core_shape(np.eye(3)), "exactly one of budget, compression and target_error"),
        (lambda: select_core_shape(np.eye(3), 10, compression=0.5), "exactly one"),
        (lambda: select_core_shape(np.eye(3), compression=1.5), "compression"),
        (lambda: select_core_shape(np.eye(3), target_error=-0.1), "target_error"),
        (lambda: select_core_shape(np.eye(3), 100, solver="ptas"), "unknown solver 'ptas'"),
        (lambda: rre_greedy(np.eye(3), 3), "smallest Tucker has 7"),
    ],
)
def test_bad_input_says_what_is_wrong(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_an_integer_program_that_stops_early_is_an_error(monkeypatch):
    from tensorbench.decomposition.structure import packing

    class Stopped:
        status, x, message = 1, np.zeros(6), "time limit reached"

    monkeypatch.setattr(packing, "milp", lambda *args, **kwargs: Stopped())
    with pytest.raises(RuntimeError, match="time limit reached"):
        double_budget_ip(np.eye(3), np.log(4), 50)
