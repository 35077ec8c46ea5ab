"""Structures, their canonical form, and the spaces of the search."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from tensorbench.core import data
from tensorbench.decomposition.baselines import networks as fixed
from tensorbench.decomposition.network import random_network
from tensorbench.decomposition.structure import topology
from tensorbench.decomposition.structure.objective import StructureObjective
from tensorbench.decomposition.structure.space import PermutationSpace, RankSpace, Structure, TopologySpace

DIMS = (3, 4, 2, 5)
RING = topology.ring(4)


@pytest.fixture
def generator():
    return np.random.default_rng(7)


def turned(structure, shift, mirror):
    """The same ring written from another vertex, possibly in the other direction."""
    order = len(structure.dims)
    vertices = [(shift + (-k if mirror else k)) % order for k in range(order)]
    permutation = [structure.permutation[v] for v in vertices]
    edges = {frozenset(e): r for e, r in zip(structure.topology.edges, structure.ranks, strict=True)}
    ranks = [edges[frozenset((vertices[k], vertices[(k + 1) % order]))] for k in range(order)]
    return Structure(structure.dims, structure.topology, tuple(ranks), tuple(permutation))


def test_all_turns_and_mirrors_of_a_ring_are_one_structure(generator):
    base = Structure((3,) * 6, topology.ring(6), (2, 3, 4, 5, 6, 7), tuple(generator.permutation(6)))
    copies = [turned(base, shift, mirror) for shift in range(6) for mirror in (False, True)]
    assert len({(c.ranks, c.permutation) for c in copies}) == 12
    assert len({c.key for c in copies}) == 1
    objective = StructureObjective(generator.standard_normal((3,) * 6), max_iter=2)
    values = [objective(c) for c in copies]
    assert len(set(values)) == 1 and objective.evaluations == 1


def test_different_rings_are_different_structures():
    space = PermutationSpace((2, 2, 2, 2), RING, 2)
    keys = {}
    for structure in space.all():
        keys.setdefault(structure.key, structure)
    # oracle: distinct bond matrices between modes
    matrices = {tuple(s.adjacency.ravel()) for s in space.all()}
    assert len(keys) == len(matrices)
    assert len(keys) < space.size / 8 + 24  # at least the 2N turns are merged


@pytest.mark.parametrize(
    "template", [RING, topology.train(4), topology.star(4), topology.lattice(2, 2), topology.complete(4)], ids=str
)
def test_params_are_those_of_the_network(template, generator):
    ranks = generator.integers(1, 4, len(template.edges))
    structure = Structure(DIMS, template, tuple(ranks))
    network = random_network(structure.adjacency, generator)
    assert structure.params == network.num_params()
    assert structure.compression == structure.params / math.prod(DIMS)


def test_ring_params_formula():
    structure = Structure(DIMS, RING, (2, 3, 4, 5), (2, 0, 3, 1))
    ranks, sizes = (5, 2, 3, 4), [DIMS[m] for m in (2, 0, 3, 1)]  # bond before vertex k, then after it
    assert structure.params == sum(ranks[k] * sizes[k] * (2, 3, 4, 5)[k] for k in range(4))


def test_demo_ring_has_the_papers_compression():
    structure = Structure((3,) * 6, topology.ring(6), (3, 2, 2, 4, 3, 2))
    assert structure.params == 126
    assert structure.compression == pytest.approx(0.172840, abs=1e-6)


def test_internal_vertices_are_interchangeable():
    edges = ((0, 4), (1, 4), (4, 5), (2, 5), (3, 5))
    template = topology.tree(4, edges)
    one = Structure((3,) * 4, template, (2, 3, 4, 2, 3))
    other = Structure(
        (3,) * 4, template, (2, 3, 4, 2, 3), (2, 3, 0, 1)
    )  # leaves swapped: internal vertices trade places
    assert one.key == other.key and not np.array_equal(one.adjacency, other.adjacency)


def test_a_2x2_lattice_is_a_ring():
    """Grid corners 0 1 / 2 3: round the ring they come as 0, 1, 3, 2."""
    grid = Structure(DIMS, topology.lattice(2, 2), (2, 3, 4, 5))  # edges (0,1), (0,2), (1,3), (2,3)
    ring = Structure(DIMS, RING, (2, 4, 5, 3), (0, 1, 3, 2))
    assert grid.key == ring.key


def test_adjacency_round_trip(generator):
    matrix = Structure(DIMS, RING, (2, 3, 4, 5), (3, 1, 0, 2)).adjacency
    assert np.array_equal(Structure.from_adjacency(matrix).adjacency, matrix)


def test_neighbours_differ_in_one_rank_by_at_most_the_radius():
    structure = Structure(DIMS, RING, (1, 3, 2, 4))
    found = structure.neighbours(radius=2, max_rank=4)
    for other in found:
        steps = np.abs(np.subtract(other.ranks, structure.ranks))
        assert (steps > 0).sum() == 1 and steps.max() <= 2
    assert len(found) == 2 + 3 + 3 + 2


def test_windows_are_shifted_into_the_space():
    space = RankSpace(DIMS, RING, 7)
    for rank, expected in {1: [1, 2, 3, 4, 5], 2: [1, 2, 3, 4, 5], 4: [2, 3, 4, 5, 6], 7: [3, 4, 5, 6, 7]}.items():
        centre = space.structure([3, rank, 3, 3])
        assert [s.ranks[1] for s in space.window(centre, 1, 2)] == expected
    assert len(RankSpace(DIMS, RING, 3).window(RankSpace(DIMS, RING, 3).structure([1] * 4), 0, 5)) == 3


def test_transpositions_are_identity_and_all_swaps():
    space = PermutationSpace(DIMS, RING, 3)
    found = space.transpositions(space.structure([1, 2, 3, 1], [2, 0, 1, 3]))
    assert found[0].permutation == (2, 0, 1, 3) and len({s.permutation for s in found}) == 1 + 6
    assert all(sum(a != b for a, b in zip(s.permutation, (2, 0, 1, 3), strict=True)) == 2 for s in found[1:])


def test_random_structures_cover_the_space(generator):
    space = PermutationSpace((2, 2, 2), topology.ring(3), 2)
    seen = {(s.ranks, s.permutation) for s in (space.random(generator) for _ in range(1500))}
    assert len(seen) == space.size == len(list(space.all()))


def test_topology_space_is_the_upper_triangle():
    space = TopologySpace(DIMS, 3)
    assert space.variables == 6 and space.size == 3**6
    assert space.structure([1] * 6).params == sum(DIMS)


BAD = {
    "rank 0": (lambda: Structure(DIMS, RING, (1, 0, 1, 1)), "ranks must be >= 1"),
    "few ranks": (lambda: Structure(DIMS, RING, (1, 2)), "4 edges, got 2"),
    "no bijection": (lambda: Structure(DIMS, RING, (1,) * 4, (0, 0, 1, 2)), "not a bijection"),
    "order": (lambda: Structure((3, 3), RING, (1,) * 4), "has 4 modes"),
    "bound": (lambda: RankSpace(DIMS, RING, 0), "max_rank must be >= 1"),
    "huge": (lambda: RankSpace((2**9,) * 4, RING, 2), "over 2\\^31"),
    "dims": (lambda: RankSpace((3, 3, 0, 3), RING, 2), "do not fit"),
    "window radius": (
        lambda: (s := RankSpace(DIMS, RING, 3)).window(s.structure([1] * 4), 0, 0),
        "radius must be >= 1",
    ),
    "neighbour radius": (lambda: Structure(DIMS, RING, (1,) * 4).neighbours(0), "radius must be >= 1"),
    "no edge": (lambda: topology.train(2) and topology.Topology("none", 3, ()), "search space is empty"),
    "loop": (lambda: topology.Topology("loop", 3, ((1, 1),)), "is not between two"),
    "twice": (lambda: topology.Topology("twice", 3, ((0, 1), (1, 0))), "lists an edge twice"),
    "cycle": (lambda: topology.tree(3, [(0, 1), (1, 2), (0, 2)]), "not a tree"),
    "small ring": (lambda: topology.ring(2), "at least 3 modes"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_structures_and_spaces_are_refused(name):
    make, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        make()


def test_tree_and_ring_templates():
    assert topology.star(3).edges == ((0, 3), (1, 3), (2, 3))
    assert set(topology.lattice(2, 3).edges) == {(0, 1), (1, 2), (3, 4), (4, 5), (0, 3), (1, 4), (2, 5)}
    assert set(topology.complete(4).edges) == set(itertools.combinations(range(4), 2))


# ---- the problems and the fixed formats of the experiments


@pytest.mark.parametrize("name", ["ring_target", "lattice_target", "tucker_target"])
def test_planted_problems_hold_the_structure_they_name(name):
    problem = data.load(name, seed=0, instance=3)
    template = topology.by_name(problem.topology, len(problem.dims))
    structure = Structure(problem.dims, template, problem.ranks, problem.permutation)
    assert problem.tensor.shape == problem.dims
    # every cut of the modes has at most the rank that the bonds across it allow
    matrix, modes = structure.adjacency, len(problem.dims)
    for size in range(1, modes):
        for part in itertools.combinations(range(modes), size):
            rest = [v for v in range(len(matrix)) if v not in part]
            bonds = matrix[np.ix_(list(part), rest)].prod()
            order = [*part, *(m for m in range(modes) if m not in part)]
            unfolded = problem.tensor.transpose(order).reshape(math.prod(problem.dims[m] for m in part), -1)
            assert np.linalg.matrix_rank(unfolded, tol=1e-9 * np.linalg.norm(unfolded)) <= bonds
    assert np.array_equal(data.load(name, seed=5, instance=3).tensor, problem.tensor)  # the seed belongs to the search
    assert not np.array_equal(data.load(name, seed=0, instance=4).tensor, problem.tensor)


def test_pictures_are_reshaped_row_major():
    problem = data.load("picture_ring", seed=0, pixels=16)
    assert problem.dims == (4,) * 4 and 0 <= problem.tensor.min() <= problem.tensor.max() <= 1
    coarse = data.load("picture_ring", seed=0, pixels=8).tensor.reshape(8, 8)
    blocks = problem.tensor.reshape(8, 2, 8, 2).mean((1, 3))
    np.testing.assert_allclose(blocks, coarse, atol=1e-12)


BAD_PROBLEMS = {
    "ranks": ("ring_target", {"ranks": [1, 2]}, "must be 6 numbers"),
    "bounds": ("tucker_target", {"low": 3, "high": 2}, "1 <= low <= high"),
    "pixels": ("picture_ring", {"pixels": 100}, "divisor of its side"),
}


@pytest.mark.parametrize("name", BAD_PROBLEMS)
def test_bad_problems_are_refused(name):
    dataset, params, message = BAD_PROBLEMS[name]
    with pytest.raises(ValueError, match=message):
        data.load(dataset, seed=0, **params)


def test_unknown_topologies_are_refused():
    with pytest.raises(ValueError, match="did you mean 'ring'"):
        topology.by_name("rings", 4)
    with pytest.raises(ValueError, match="6 vertices"):
        topology.by_name("lattice 2x3", 4)


@pytest.mark.parametrize("kind", ["cp", "uniform_tucker", "uniform_train", "uniform_ring"])
def test_fixed_formats_use_the_largest_rank_within_the_budget(kind, generator):
    tensor = generator.standard_normal((5, 6, 7))
    fit = getattr(fixed, kind)
    approximation, params = fit(tensor, tensor.shape, 100, seed=0, iterations=5)
    assert approximation.shape == tensor.shape and params <= 100
    again, more = fit(tensor, tensor.shape, 300, seed=0, iterations=5)
    assert params < more <= 300
    assert np.linalg.norm(tensor - again) < np.linalg.norm(tensor - approximation) < np.linalg.norm(tensor)
    with pytest.raises(ValueError, match="below the"):
        fit(tensor, tensor.shape, 5, seed=0, iterations=5)
