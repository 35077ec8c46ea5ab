"""Greedy growth: the scan of the bonds, the search, completion, and growth by gradients."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch

from tensorbench.decomposition.baselines.incremental import incremental, truncated, truncated_ranks
from tensorbench.decomposition.datasets.growth import planted_networks, planted_ranks
from tensorbench.decomposition.network import als, append_slices, random_network, structure_matrix
from tensorbench.decomposition.network.layer import TNLinear
from tensorbench.decomposition.structure.edge_scan import PairEnvironments, scan_edges
from tensorbench.decomposition.structure.greedy_sgd import best_edge, greedy_loss
from tensorbench.decomposition.structure.greedy_tn import complete, greedy_tn, random_walk, split_observed
from tensorbench.decomposition.structure.growth import Limits

SHAPE = (3, 4, 2, 3, 2)
RANKS = structure_matrix(SHAPE, [[2, 1, 3, 1], [2, 2, 1], [1, 2], [2]])
EDGES = list(combinations(range(5), 2))
SEARCHES = {"rank_one": greedy_tn, "full": lambda x, **o: greedy_tn(x, heuristic="full", **o), "random": random_walk}


@pytest.fixture
def generator():
    return np.random.default_rng(8)


def planted(ranks, generator):
    tensor = np.asarray(random_network(np.asarray(ranks), generator).full())
    return tensor / np.linalg.norm(tensor)


# ---- the scan


@pytest.mark.parametrize("pair", EDGES)
def test_environment_of_a_pair_gives_the_network_back(pair, generator):
    network = random_network(RANKS, generator)
    i, j = pair
    W = PairEnvironments(network)(i, j)
    rank = RANKS[i, j]
    v_i = np.moveaxis(np.asarray(network.cores[i]), (j, i), (-2, -1)).reshape(W.shape[-2], rank, SHAPE[i])
    v_j = np.moveaxis(np.asarray(network.cores[j]), (i, j), (-2, -1)).reshape(W.shape[-1], rank, SHAPE[j])
    full = np.einsum("...ab,asx,bsy->...xy", W, v_i, v_j)
    np.testing.assert_allclose(full, np.moveaxis(network.full(), (i, j), (-2, -1)), atol=1e-12)


@pytest.mark.parametrize("inc", [1, 2])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("cheap", [False, True])
def test_reported_loss_is_that_of_the_grown_network(inc, masked, cheap, generator, monkeypatch):
    network, tensor = random_network(RANKS, generator), generator.standard_normal(SHAPE)
    mask = generator.random(SHAPE) < 0.7 if masked else None
    sweeps = 30 if cheap else 1  # decides which normal equations are formed
    found = scan_edges(
        tensor - network.full(), network, EDGES, generator,
        sweeps=sweeps, inc=inc, mask=mask, valid=None if mask is None else ~mask,
    )  # fmt: skip
    for candidate in found:
        error = (tensor - append_slices(network, *candidate.edge, *candidate.slices).full()) ** 2
        assert candidate.loss == pytest.approx(error.sum() if mask is None else error[mask].sum(), rel=1e-9)
        if mask is not None:
            assert candidate.valid_loss == pytest.approx(error[~mask].sum(), rel=1e-9)


def test_scan_agrees_with_the_engine_and_with_a_full_mask(generator):
    """The same updates by general least squares on the two vertices: the residual as target."""
    network, tensor = random_network(RANKS, generator), generator.standard_normal(SHAPE)
    residual = tensor - network.full()
    settings = {"sweeps": 40, "ridge": 1e-12}
    plain = scan_edges(residual, network, EDGES, np.random.default_rng(0), **settings)
    full = scan_edges(residual, network, EDGES, np.random.default_rng(0), mask=np.ones(SHAPE, bool), **settings)
    for one, same in zip(plain, full, strict=True):
        assert one.loss == pytest.approx(same.loss, rel=1e-9)
    for candidate in plain[:4]:
        i, j = candidate.edge
        cores = list(network.cores)
        cores[i], cores[j] = candidate.slices
        start = type(network)(cores)
        again = als(residual, start=start, vertices=[i, j], max_sweeps=40)
        reached = candidate.loss / np.sum(residual**2)
        assert again.rse <= reached * (1 + 1e-9)
        assert again.rse == pytest.approx(reached, rel=2e-2)  # 40 sweeps have converged to a stationary point


# ---- the search


@pytest.mark.parametrize("name", SEARCHES)
def test_rank_one_is_done_before_it_starts(name, generator):
    tensor = planted(structure_matrix((4, 3, 5)), generator)
    found = SEARCHES[name](tensor, generator=0)
    assert found.stopped == "loss" and len(found.steps) == 1 and found.steps[0].params == 12


@pytest.mark.parametrize("name", SEARCHES)
def test_parameters_and_ranks_grow_and_losses_fall(name, generator):
    tensor = generator.standard_normal((4, 3, 4, 3))
    limits = Limits(max_params=150, max_arity=2)
    found = SEARCHES[name](tensor, generator=1, limits=limits, max_sweeps=30)
    assert found.stopped == "params" and found.steps[-1].params <= 150
    assert all(a.params < b.params for a, b in zip(found.steps, found.steps[1:], strict=False))
    for before, after in zip(found.steps, found.steps[1:], strict=False):
        difference = after.adjacency - before.adjacency
        i, j = after.edge
        assert difference[i, j] == 1 and difference.sum() == 2
        assert ((after.adjacency > 1).sum(1) - 1 <= 2).all()
        assert after.loss <= before.loss * (1 + (1e-9 if name != "random" else 2e-2))  # random slices disturb at first
        error = np.linalg.norm(tensor - after.network.full()) / np.linalg.norm(tensor)
        assert after.loss == pytest.approx(error, rel=1e-8)


@pytest.mark.parametrize("name", ["rank_one", "full"])
@pytest.mark.parametrize("edge", [(0, 2), (1, 3)])
def test_the_only_planted_bond_is_found_first(name, edge, generator):
    ranks = structure_matrix((5, 4, 5, 4))
    ranks[edge] = ranks[edge[::-1]] = 3
    found = SEARCHES[name](planted(ranks, generator), generator=0)
    assert [step.edge for step in found.steps[1:]] == [edge, edge]
    assert np.array_equal(found.network.adjacency(), ranks) and found.stopped == "loss"


def test_the_triangle_of_the_paper_is_identified():
    target = planted_networks(seed=50, kinds=["triangle"])["triangle"]
    found = greedy_tn(target.tensor, generator=0)
    assert np.array_equal(found.network.adjacency(), planted_ranks("triangle"))
    assert found.steps[-1].params == target.params == 378
    np.testing.assert_allclose(found.network.full(), target.tensor, atol=1e-6)


def test_permuting_the_modes_permutes_the_structure(generator):
    ranks = structure_matrix((5, 4, 6, 4), [[3, 1, 1], [1, 2], [1]])
    tensor, order = planted(ranks, generator), [2, 0, 3, 1]
    plain, turned = greedy_tn(tensor, generator=0), greedy_tn(tensor.transpose(order), generator=0)
    assert np.array_equal(turned.network.adjacency(), plain.network.adjacency()[np.ix_(order, order)])
    assert abs(turned.steps[-1].loss - plain.steps[-1].loss) < 1e-6


def test_the_scale_of_the_target_does_not_matter(generator):
    tensor = generator.standard_normal((4, 3, 4))
    limits = Limits(steps=4)
    small, large = (greedy_tn(s * tensor, generator=0, limits=limits) for s in (1.0, 1e6))
    assert [step.edge for step in small.steps] == [step.edge for step in large.steps]
    np.testing.assert_allclose(large.network.full(), 1e6 * small.network.full(), rtol=1e-6, atol=1e-3)


def test_internal_vertices_find_tucker():
    ranks = structure_matrix((6, 6, 6, 6, 1))
    ranks[4, :4] = ranks[:4, 4] = [2, 3, 3, 2]
    tensor = planted(ranks, np.random.default_rng(0))[..., 0]
    found = greedy_tn(tensor, generator=0, internal_nodes=True)
    plain = greedy_tn(tensor, generator=0)
    assert np.array_equal(found.network.adjacency(), ranks)
    assert found.steps[-1].loss <= 1e-6 and found.steps[-1].params == 96 < plain.steps[-1].params


def test_reading_a_path(generator):
    found = greedy_tn(generator.standard_normal((4, 3, 4)), generator=0, limits=Limits(steps=5))
    assert found.within(10**6).loss == min(step.loss for step in found.steps)
    assert found.within(found.steps[2].params).params <= found.steps[2].params
    assert found.seconds_to(found.steps[3].loss) == found.steps[3].seconds
    assert found.seconds_to(0.0) == float("inf")
    with pytest.raises(ValueError, match="rank one has 11"):
        found.within(10)


# ---- completion


def test_missing_entries_are_completed(generator):
    ranks = structure_matrix((8, 8, 8, 8), [[2, 1, 1], [2, 1], [2]])
    tensor = planted(ranks, generator)
    mask = generator.random(tensor.shape) < 0.4
    found = complete(np.where(mask, tensor, np.nan), mask, generator=0, max_sweeps=100)
    filled = found.network.full()
    assert np.linalg.norm((filled - tensor)[~mask]) < 1e-3 * np.linalg.norm(tensor[~mask])


def test_completion_sees_the_observed_entries_only(generator):
    tensor, mask = generator.standard_normal((5, 6, 5)), generator.random((5, 6, 5)) < 0.6
    limits = Limits(steps=3)
    one, two = (
        complete(np.where(mask, tensor, other), mask, generator=0, limits=limits).network.full() for other in (0.0, 1e9)
    )
    np.testing.assert_array_equal(one, two)


def test_entries_kept_aside_are_observed_and_leave_no_slice_bare(generator):
    mask = generator.random((6, 5, 7)) < 0.3
    train, valid = split_observed(mask, 0.5, generator)
    assert not (train & valid).any() and np.array_equal(train | valid, mask)
    for mode in range(3):
        others = tuple(k for k in range(3) if k != mode)
        assert train.any(axis=others)[mask.any(axis=others)].all()


# ---- gradients


def test_any_loss_grows_the_same_bond(generator):
    ranks = structure_matrix((4, 3, 4), [[1, 2], [1]])
    wanted = torch.tensor(planted(ranks, generator))
    found = greedy_loss(
        lambda full: (full - wanted).square().sum(), (4, 3, 4), generator=1, steps=300, candidate_steps=40,
        limits=Limits(steps=1, stop_loss=1e-4),
    )  # fmt: skip
    assert found.steps[1].edge == (0, 2) and found.steps[-1].loss < 1e-4 < found.steps[0].loss


def test_a_loss_of_ones_own_keeps_no_entries_aside_for_patience():
    with pytest.raises(ValueError, match="patience needs entries kept aside"):
        greedy_loss(lambda full: full.square().sum(), (2, 2), generator=0, steps=1, limits=Limits(patience=2))


def test_a_layer_grows_where_the_teacher_has_its_bond():
    torch.manual_seed(0)
    ranks = structure_matrix((3, 3, 3, 3))
    ranks[1, 2] = ranks[2, 1] = 2
    teacher = TNLinear((3, 3), (3, 3), ranks=ranks, generator=3, bias=False)
    x = torch.randn(200, 9)
    y = teacher(x).detach()

    def loss(model):
        return (model(x) - y).square().mean()

    def train(model, parameters, steps=150):
        optimiser = torch.optim.Adam(parameters, lr=0.02)
        for _ in range(steps):
            optimiser.zero_grad()
            loss(model).backward()
            optimiser.step()

    student = torch.nn.Sequential(TNLinear((3, 3), (3, 3), generator=4, bias=False))
    train(student, list(student.parameters()))
    edge, grown = best_edge(student, "0", train, lambda m: -loss(m).item(), np.random.default_rng(0), noise=1e-2)
    assert edge == (1, 2) and loss(grown) < 0.5 * loss(student)
    assert student[0].adjacency()[1, 2] == 1
    with pytest.raises(ValueError, match="growth needs a TNLinear"):
        best_edge(torch.nn.Sequential(torch.nn.Linear(2, 2)), "0", train, loss, np.random.default_rng(0))


# ---- baselines and bad input


def test_incremental_formats_stay_within_and_match_theory(generator):
    tensor = planted(structure_matrix((5, 5, 5), [[2, 1], [2]]), generator)
    noise = generator.standard_normal((5, 5, 5))
    train = incremental(tensor, "tt", 80)
    assert [a.rank for a in train] == [1, 2, 3] and max(a.params for a in train) <= 80
    assert train[1].loss < 1e-10 < train[0].loss
    assert [a.rank for a in incremental(noise, "cp", 150, growth=1.5)] == [1, 2, 3, 4, 6, 9, 10]
    assert [a.rank for a in incremental(noise, "cp", 150, growth=2, at=75)] == [1, 2, 4, 5, 10]
    assert incremental(tensor, "cp", 150)[-1].loss < 1e-4  # more columns than the tensor has components
    tucker = incremental(tensor, "tucker", 10**6)
    assert tucker[-1].rank == 5 and tucker[-1].loss < 1e-10
    with pytest.raises(ValueError, match="did you mean"):
        incremental(tensor, "tuker", 100)
    with pytest.raises(ValueError, match="below the 15 parameters"):
        incremental(tensor, "cp", 14)


@pytest.mark.parametrize(
    ("kind", "target", "ranks"), [("tt", "tt", (2, 3, 6, 5)), ("tucker", "tucker", (2, 3, 4, 3, 2))]
)
def test_truncated_unfoldings_find_the_planted_ranks(kind, target, ranks):
    planted = planted_networks(seed=0, kinds=[target])[target]
    fits = truncated(planted.tensor, kind, 1000)
    assert truncated_ranks(planted.tensor, kind, 1000)[-1] == ranks
    assert fits[-1].params == planted.params and fits[-1].loss < 1e-10 < fits[-2].loss
    assert fits[0].rank == 1 and (np.diff([a.params for a in fits]) > 0).all()
    assert max(a.params for a in truncated(planted.tensor, kind, 200)) <= 200
    with pytest.raises(ValueError, match="below the"):
        truncated(planted.tensor, kind, 10)
    with pytest.raises(ValueError, match="unknown format"):
        truncated(planted.tensor, "cp", 100)


BAD = {
    "order": (lambda t: (t[:, 0, 0], {}), "at least 2 modes"),
    "empty": (lambda t: (t[:0], {}), "target is zero"),
    "nan": (lambda t: (np.where(t > 1, np.nan, t), {}), "not finite at index"),
    "bare slice": (lambda t: (t, {"mask": np.arange(4)[:, None, None] * np.ones(t.shape) > 0}), "slice 0 of mode 0"),
    "params": (lambda t: (t, {"limits": Limits(max_params=10)}), "below the 11 parameters"),
    "noise": (lambda t: (t, {"noise": -1.0}), "noise >= 0"),
    "fraction": (lambda t: (t, {"val_fraction": 0.6}), r"must lie in \[0, 0.5\]"),
    "no fraction": (lambda t: (t, {"limits": Limits(patience=2)}), "patience needs entries"),
    "heuristic": (lambda t: (t, {"heuristic": "rank_two"}), "did you mean"),
}


@pytest.mark.parametrize("name", BAD)
def test_greedy_refuses(name, generator):
    target, options = BAD[name][0](generator.standard_normal((4, 3, 4)))
    with pytest.raises(ValueError, match=BAD[name][1]):
        greedy_tn(target, generator=0, **options)


def test_limits_refuse():
    for options, message in [({"steps": -1}, "steps >= 0"), ({"rank_inc": 0}, "rank_inc >= 1"),
                             ({"max_arity": 0}, "max_arity"), ({"patience": 0}, "patience")]:  # fmt: skip
        with pytest.raises(ValueError, match=message):
            Limits(**options)
