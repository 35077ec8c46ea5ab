"""TnALE and the searches it is measured against; the objective's counting, seeding and processes."""

from __future__ import annotations

import logging
from itertools import pairwise

import numpy as np
import pytest

from tensorbench.decomposition.network import TensorNetwork
from tensorbench.decomposition.structure import landscape, topology
from tensorbench.decomposition.structure.greedy_rank import Greedy
from tensorbench.decomposition.structure.objective import FunctionObjective, StructureObjective, WithinParameters
from tensorbench.decomposition.structure.random_search import BruteForce, RandomSearch
from tensorbench.decomposition.structure.space import PermutationSpace, RankSpace, Structure, TopologySpace
from tensorbench.decomposition.structure.tnale import TnALE, interpolate_errors
from tensorbench.decomposition.structure.tnga import TNGA
from tensorbench.decomposition.structure.tnls import TNLS

SEARCHES = {
    "tnale": TnALE(),
    "tnale restarts": TnALE(restarts=2, radius=2),
    "tnls": TNLS(samples=12, max_gen=5),
    "tnga": TNGA(population=12, survivors=8, max_gen=4),
    "greedy": Greedy(),
    "random": RandomSearch(samples=60),
}


def planted(ranks, permutation, seed=0, size=3):
    generator = np.random.default_rng(seed)
    structure = Structure((size,) * len(ranks), topology.ring(len(ranks)), tuple(ranks), tuple(permutation))
    cores = [generator.standard_normal(tuple(row)) for row in structure.adjacency]
    return structure, TensorNetwork(cores).full()


def bowl(space, seed=0, beta=2.0):
    quadratic = landscape.quadratic_landscape(space.variables, space.max_rank, np.random.default_rng(seed), beta=beta)
    return quadratic, quadratic.objective()


RANKS = RankSpace((2,) * 5, topology.ring(5), 7)


# ---- the objective


def test_true_structure_scores_its_compression():
    structure, target = planted((3, 2, 2, 4, 3, 2), (0, 3, 2, 1, 4, 5))
    objective = StructureObjective(target)
    assert objective(structure) == pytest.approx(0.172840, abs=1e-6)
    assert objective.errors([structure])[0] < 1e-8 and objective.evaluations == 1


def test_value_is_compression_plus_lambda_times_the_error():
    structure, target = planted((2, 2, 2), (0, 1, 2))
    small = structure.with_rank(0, 1)
    objective = StructureObjective(target, lam=5.0)
    error = np.sum((objective.fit(small).network.full() - target) ** 2) / np.sum(target**2)
    assert objective(small) == pytest.approx(small.compression + 5.0 * error, rel=1e-9)


def test_value_does_not_depend_on_when_it_is_asked():
    structure, target = planted((2, 3, 2, 2), (0, 2, 1, 3))
    others = structure.neighbours(1, 3)
    one, two = StructureObjective(target, max_iter=5), StructureObjective(target, max_iter=5)
    forwards, backwards = one.errors(others), two.errors(others[::-1])[::-1]
    assert forwards == backwards
    assert StructureObjective(target, max_iter=5, seed=1).errors(others) != forwards


def test_without_a_cache_every_call_counts():
    structure, target = planted((2, 2, 2), (0, 1, 2))
    objective = StructureObjective(target, cache=False, max_iter=3)
    assert objective(structure) == objective(structure)
    assert objective.evaluations == 2


def test_transfer_starts_from_the_neighbours_cores():
    structure, target = planted((3, 3, 3, 3), (0, 1, 2, 3), size=4)
    neighbour = structure.with_rank(0, 2)
    cold, warm = (StructureObjective(target, repeats=1, max_iter=8, transfer=t) for t in (False, True))
    errors = []
    for objective in (cold, warm):
        objective.errors([neighbour])
        errors.append(objective.errors([structure], start=neighbour)[0])
    assert errors[1] != errors[0]
    assert errors[1] < warm.errors([neighbour])[0]


@pytest.mark.parametrize("name", ["tnale", "tnls", "greedy", "random"])
def test_a_budget_of_parameters_is_kept_without_fitting_what_exceeds_it(name):
    _, target = planted((2, 3, 2, 2), (0, 1, 2, 3))
    space = RankSpace((3,) * 4, topology.ring(4), 4)
    start = space.structure([1] * 4)
    inner = StructureObjective(target, max_iter=10)
    run = SEARCHES[name](WithinParameters(inner, 60), space, None, np.random.default_rng(0), start=start)
    assert all(s.params <= 60 for s in run.visited) and run.evaluations == inner.evaluations
    best = min(inner.errors([s])[0] for s in space.all() if s.params <= 60)
    assert run.value == run.error >= best
    with pytest.raises(ValueError, match="within the budget of parameters"):
        SEARCHES[name](WithinParameters(inner, 5), space, None, np.random.default_rng(0))


def test_a_compressed_target_counts_the_parameters_of_the_tensor_proper():
    structure, target = planted((2, 1, 2), (0, 1, 2))
    generator = np.random.default_rng(0)
    bases = [np.linalg.qr(generator.standard_normal((n, 3)))[0] for n in (8, 9, 10)]
    whole = np.einsum("abc,ia,jb,kc->ijk", target, *bases)
    large = Structure((8, 9, 10), topology.ring(3), structure.ranks)
    small = StructureObjective(target, dims=whole.shape)
    assert small(large) == pytest.approx(StructureObjective(whole)(large), abs=1e-6)
    assert small(large) == pytest.approx((2 * 8 * 2 + 2 * 9 + 10 * 2) / 720, abs=1e-6)
    with pytest.raises(ValueError, match="cannot be those"):
        StructureObjective(target, dims=(8, 2, 10))


def test_adam_back_end_fits_a_small_ring():
    structure, target = planted((2, 2, 2), (0, 1, 2))
    objective = StructureObjective(target, solver="adam", lr=3e-2, max_iter=600, tol=1e-4)
    assert objective.errors([structure])[0] < 1e-4


# ---- properties of every search


@pytest.mark.parametrize("name", SEARCHES)
def test_counter_is_the_number_of_distinct_structures_and_history_falls(name):
    _, target = planted((2, 3, 2, 2), (0, 2, 1, 3))
    space = PermutationSpace((3,) * 4, topology.ring(4), 3)
    objective = StructureObjective(target, max_iter=4, repeats=1)
    run = SEARCHES[name](objective, space, None, np.random.default_rng(1))
    assert run.evaluations == objective.evaluations == len(objective.cache) == len({s.key for s in run.visited})
    assert np.array_equal(run.history[:, 0], np.arange(1, run.evaluations + 1))
    assert (np.diff(run.history[:, 1]) <= 0).all() and run.history[-1, 1] == run.value
    assert run.value == objective(run.best)  # the best is a structure that was evaluated, not an interpolated one
    assert run.evaluations_to(run.value) == run.evaluations_to_best
    assert run.evaluations_to(-1.0) == np.inf


@pytest.mark.parametrize("name", SEARCHES)
def test_budget_is_kept(name):
    quadratic, objective = bowl(RANKS)
    run = SEARCHES[name](objective, RANKS, 17, np.random.default_rng(0))
    assert objective.evaluations == run.evaluations == 17 and run.stopped == "budget"
    assert run.value == min(quadratic(s.ranks) for s in run.visited)


@pytest.mark.parametrize("name", ["tnale", "tnls", "tnga"])
def test_same_seed_same_trajectory_whatever_the_workers(name):
    _, target = planted((2, 2, 2), (0, 1, 2))
    space = PermutationSpace((3,) * 3, topology.ring(3), 3)
    paths = []
    for workers in (1, 2) if name == "tnale" else (1, 1):
        with StructureObjective(target, max_iter=4, workers=workers) as objective:
            paths.append(SEARCHES[name](objective, space, 20, np.random.default_rng(5)))
    assert [s.key for s in paths[0].visited] == [s.key for s in paths[1].visited]
    np.testing.assert_array_equal(paths[0].history, paths[1].history)


def test_a_cache_filled_by_another_search_does_not_change_the_count():
    _, objective = bowl(RANKS)
    first = TnALE()(objective, RANKS, None, np.random.default_rng(0))
    again = TnALE()(objective, RANKS, None, np.random.default_rng(0))
    assert again.evaluations == first.evaluations == objective.evaluations


@pytest.mark.parametrize("name", ["tnale restarts", "tnls", "random"])
def test_permuting_the_modes_of_the_target_permutes_the_structure_found(name):
    """On a landscape that sees only the bond matrix: relabel the modes and the start, get the relabelled result."""
    order = (2, 0, 3, 1)
    space = PermutationSpace((3,) * 4, topology.ring(4), 3)
    wanted = np.random.default_rng(2).integers(1, 4, (4, 4))
    wanted = wanted + wanted.T

    def objective(labels):
        def error(structure):
            return float(((structure.adjacency[np.ix_(labels, labels)] - wanted) ** 2).sum())

        return FunctionObjective(error)

    start = space.structure([1, 2, 3, 1], [0, 1, 2, 3])
    moved = start.with_permutation([order[m] for m in start.permutation])
    plain = SEARCHES[name](objective(range(4)), space, 50, np.random.default_rng(0), start=start)
    turned = SEARCHES[name](objective(order), space, 50, np.random.default_rng(0), start=moved)
    if name == "random":
        assert plain.history[0, 1] == turned.history[0, 1]
    else:
        assert np.array_equal(turned.best.adjacency[np.ix_(order, order)], plain.best.adjacency)
        np.testing.assert_array_equal(plain.history, turned.history)


# ---- TnALE


def test_finds_the_global_optimum_of_small_spaces():
    """Order 4, ranks 1..3: TnALE with radius 2 and 5 restarts against brute force, in at least 9 of 10 instances."""
    hits = 0
    for instance in range(10):
        generator = np.random.default_rng(instance)
        _, target = planted(generator.integers(1, 4, 4), generator.permutation(4), seed=instance)
        objective = StructureObjective(target, max_iter=15)
        space = RankSpace((3,) * 4, topology.ring(4), 3)
        truth = BruteForce()(objective, space)
        found = TnALE(radius=2, restarts=5)(objective, space, None, generator)
        assert truth.evaluations == 3**4
        hits += found.value <= truth.value + 1e-12
    assert hits >= 9


def test_coordinate_minimum_at_the_end():
    """A converged search stands where no window and no transposition is better."""
    _, target = planted((2, 3, 2, 2), (0, 2, 1, 3))
    space = PermutationSpace((3,) * 4, topology.ring(4), 4)
    objective = StructureObjective(target, max_iter=6)
    run = TnALE()(objective, space, None, np.random.default_rng(0))
    assert run.stopped == "converged"
    around = [s for e in range(4) for s in space.window(run.best, e, 1)] + space.transpositions(run.best)
    assert min(objective(s) for s in around) >= run.value


def test_interpolation_fits_three_structures_per_window():
    _, objective = bowl(RANKS)
    seen = []
    errors = objective.errors
    objective.errors = lambda batch, start=None: (seen.append(len(batch)), errors(batch))[1]
    TnALE(warmup=1)(objective, RANKS, None, np.random.default_rng(0))
    exact = FunctionObjective(objective.function)
    TnALE(warmup=1, interpolate=False)(exact, RANKS, None, np.random.default_rng(0))
    assert max(seen[: 2 * RANKS.variables]) <= 3
    assert objective.evaluations == len(objective.cache) == sum(seen)  # nothing is fitted for an interpolated value
    assert objective.evaluations < exact.evaluations


def test_interpolation_is_an_upper_bound_inside_a_convex_window():
    positions = np.arange(1, 8)
    for lowest in range(1, 8):
        values = 0.3 * (positions - lowest) ** 2.0
        estimate = interpolate_errors(positions, {k: values[k] for k in (0, 3, 6)})
        assert (estimate >= values - 1e-12).all()
        np.testing.assert_allclose(estimate[[0, 3, 6]], values[[0, 3, 6]])


def test_interpolated_errors_are_not_negative():
    assert (interpolate_errors(np.arange(5), {0: -1e-3, 4: 1.0}) >= 0).all()


def test_recovers_a_planted_ring():
    structure, target = planted((3, 2, 2, 4, 3, 2), (0, 3, 2, 1, 4, 5))
    space = PermutationSpace((3,) * 6, topology.ring(6), 7)
    start = structure.with_rank(0, 5).with_rank(3, 2)
    run = TnALE(warmup=0)(StructureObjective(target), space, 300, np.random.default_rng(0), start=start)
    assert run.best.params <= structure.params and run.value == pytest.approx(structure.compression, abs=1e-5)


# ---- the others


def test_greedy_stops_at_once_on_a_rank_one_tensor():
    structure, target = planted((1, 1, 1, 1), (0, 1, 2, 3))
    run = Greedy(patience=0)(StructureObjective(target), TopologySpace((3,) * 4, 3), None, np.random.default_rng(0))
    assert run.best.key == structure.key and run.evaluations == 1 + 6


def test_greedy_finds_a_single_planted_edge():
    _, target = planted((1, 3, 1, 1), (2, 0, 3, 1))
    run = Greedy()(
        StructureObjective(target, transfer=True), TopologySpace((3,) * 4, 3), None, np.random.default_rng(0)
    )
    bonds = {(i, j) for i, j in zip(*np.where(np.triu(run.best.adjacency, 1) > 1), strict=True)}
    assert bonds == {(0, 3)} and run.error < 1e-8


def test_brute_force_is_the_minimum_of_the_space():
    space = RankSpace((2,) * 3, topology.ring(3), 4)
    quadratic, objective = bowl(space)
    run = BruteForce()(objective, space)
    assert run.value == 0.0 and run.best.ranks == tuple(quadratic.minimiser) and run.evaluations == space.size


def test_tnls_never_leaves_the_space_and_uses_the_schedule():
    space = PermutationSpace((2,) * 4, topology.ring(4), 3)
    _, objective = bowl(space)
    run = TNLS(samples=30, c1=0.5, c2=0.01, max_gen=8)(objective, space, None, np.random.default_rng(0))
    assert all(min(s.ranks) >= 1 and max(s.ranks) <= 3 for s in run.visited)
    assert run.stopped == "generations" and len(run.sweep_evaluations) == 8
    # once both widths have decayed the samples are the centre itself: nothing new is evaluated
    assert run.sweep_evaluations[-1] == run.sweep_evaluations[-2]


# ---- theory


@pytest.mark.parametrize("radius", [1, 2])
def test_sweep_counts_are_within_the_formula(radius):
    for order in (4, 6, 8):
        space = PermutationSpace((2,) * order, topology.ring(order), 7)
        _, objective = bowl(space, seed=order)
        run = TnALE(warmup=0, radius=radius)(objective, space, None, np.random.default_rng(order))
        bound = landscape.evals_tnale(order, radius, modes=order)
        assert run.sweep_evaluations[0] <= bound < landscape.evals_tnls(order, radius) * order**2
    assert landscape.evals_tnale(6, 1) == 25 and landscape.evals_tnls(6, 2) == 5**6


def test_alternating_enumeration_descends_geometrically():
    space = RankSpace((2,) * 6, topology.ring(6), 40)
    quadratic, _ = bowl(space, seed=4, beta=3.0)
    values = landscape.local_enumeration_rate(quadratic, space, np.random.default_rng(4), radius=40)
    assert quadratic.alpha == pytest.approx(1.0) and quadratic.beta == pytest.approx(3.0)
    floor = 0.5 * quadratic.beta * 6  # every coordinate within a half of its conditional minimum
    for before, after in pairwise(values):
        assert after <= max((1 - quadratic.alpha / quadratic.beta) * before, floor)
    assert values[-1] <= floor


def test_quadratic_neighbourhood_has_low_train_rank():
    quadratic = landscape.quadratic_landscape(4, 9, np.random.default_rng(0))
    box = landscape.neighbourhood(quadratic, (5, 5, 5, 5), 2, 9)
    assert box.shape == (5,) * 4 and box[2, 2, 2, 2] == quadratic((5, 5, 5, 5))
    assert max(landscape.train_ranks(box)) <= 4  # ≤ 2 + (variables on the smaller side of the cut)
    noise = np.random.default_rng(0).standard_normal(box.shape)
    assert landscape.train_ranks(noise) == (5, 25, 5)
    assert landscape.train_ranks(np.multiply.outer(np.arange(1, 4.0), np.ones((3, 3)))) == (1, 1)


# ---- bad input

GOOD = np.random.default_rng(0).standard_normal((3, 3, 3))
BAD = {
    "lam": (lambda: StructureObjective(GOOD, lam=0.0), "lam must be > 0"),
    "zero": (lambda: StructureObjective(0 * GOOD), "target is zero"),
    "nan": (
        lambda: StructureObjective(np.where(GOOD[1, 2, 0] == GOOD, np.nan, GOOD)),
        r"finite at index \(1, 2, 0\)",
    ),
    "vector": (lambda: StructureObjective(GOOD.ravel()), "at least 2 modes"),
    "solver": (lambda: StructureObjective(GOOD, solver="alz"), "did you mean 'als'"),
    "repeats": (lambda: StructureObjective(GOOD, repeats=0), "repeats and workers"),
    "radius": (lambda: TnALE(radius=0), "radii must be >= 1"),
    "radius_init": (lambda: TnALE(radius_init=0), "radii must be >= 1"),
    "warmup": (lambda: TnALE(warmup=-1), "warmup"),
    "samples": (lambda: TNLS(samples=0), "samples and max_gen"),
    "decay": (lambda: TNLS(c1=1.5), "c1 and c2"),
    "population": (lambda: TNGA(population=1, survivors=1), "population >= 2"),
    "mutation": (lambda: TNGA(mutation=2.0), "mutation in"),
    "patience": (lambda: Greedy(patience=-1), "patience"),
    "variables": (lambda: landscape.evals_tnls(0), "variables and radius"),
    "convexity": (lambda: landscape.quadratic_landscape(2, 3, np.random.default_rng(0), alpha=0.0), "0 < alpha"),
    "box": (lambda: landscape.neighbourhood(sum, (9,) * 8, 4, 20), "over 10\\^6"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_settings_are_refused(name):
    make, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("name", SEARCHES)
def test_searches_refuse_a_foreign_space_and_an_empty_budget(name):
    objective = StructureObjective(GOOD)
    with pytest.raises(ValueError, match="the space is for modes"):
        SEARCHES[name](objective, RANKS, 10, np.random.default_rng(0))
    with pytest.raises(ValueError, match="budget must be >= 1"):
        SEARCHES[name](objective, RankSpace((3,) * 3, topology.ring(3), 2), 0, np.random.default_rng(0))
    with pytest.raises(ValueError, match="the target has shape"):
        objective(RANKS.structure([1] * 5))


def test_brute_force_refuses_a_large_space():
    with pytest.raises(ValueError, match="over the limit"):
        BruteForce(limit=100)(bowl(RANKS)[1], RANKS)


def test_a_budget_below_one_sweep_warns_and_returns_the_best(caplog):
    quadratic, objective = bowl(RANKS)
    with caplog.at_level(logging.WARNING):
        run = TnALE()(objective, RANKS, 5, np.random.default_rng(0))
    assert "before the first sweep" in caplog.text
    assert run.evaluations == 5 and run.value == min(quadratic(s.ranks) for s in run.visited)
