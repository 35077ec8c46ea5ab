"""Networks of classical formats, growth of a bond, splits into internal vertices, and the layer."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pytest
import tensorly as tl
import torch
from matplotlib.figure import Figure
from tensorly.random import random_cp, random_tr, random_tt, random_tucker

from tensorbench.decomposition.formats import CP, TR, TT, Tucker
from tensorbench.decomposition.network import (
    TensorNetwork,
    append_slices,
    increase_rank,
    random_network,
    split_internal,
    structure_matrix,
)
from tensorbench.decomposition.network.convert import (
    from_cp,
    from_ring,
    from_tucker,
    kind,
    to_cp,
    to_ring,
    to_train,
    to_tucker,
)
from tensorbench.decomposition.network.drawing import draw
from tensorbench.decomposition.network.layer import TNLinear

SHAPE = (3, 4, 2, 5)
COMPLETE = structure_matrix(SHAPE, [[2, 3, 1], [2, 1], [2]])


@pytest.fixture
def generator():
    return np.random.default_rng(5)


def close(network, dense):
    np.testing.assert_allclose(np.asarray(network.full()).reshape(dense.shape), dense, atol=1e-12)


def test_networks_of_tensorly_formats_are_the_same_tensors():
    cp = random_cp(SHAPE, 3, random_state=0, normalise_factors=True)
    tucker = random_tucker(SHAPE, [2, 3, 2, 3], random_state=0)
    train, ring = random_tt(SHAPE, [1, 2, 3, 2, 1], random_state=0), random_tr(SHAPE, [2, 3, 2, 4, 2], random_state=0)
    close(from_cp(CP.from_tensorly(cp)), tl.cp_to_tensor(cp))
    close(from_tucker(Tucker.from_tensorly(tucker)), tl.tucker_to_tensor(tucker))
    close(from_ring(TT.from_tensorly(train)), tl.tt_to_tensor(train))
    close(from_ring(TR.from_tensorly(ring)), tl.tr_to_tensor(ring))
    assert from_ring(TR.from_tensorly(ring)).num_params() == sum(core.size for core in ring)


def test_formats_come_back_from_shuffled_networks():
    order = [2, 0, 3, 1]
    tucker = from_tucker(Tucker.from_tensorly(random_tucker(SHAPE, [2, 3, 2, 3], random_state=0)))
    hub_first = tucker.permute([4, 2, 0, 3, 1])
    back = tl.tucker_to_tensor(to_tucker(hub_first).to_tensorly())
    np.testing.assert_allclose(back, np.asarray(tucker.full())[..., 0].transpose(order), atol=1e-12)

    cp = random_cp(SHAPE, 3, random_state=0)
    np.testing.assert_allclose(to_cp(from_cp(CP.from_tensorly(cp))).full(), tl.cp_to_tensor(cp), atol=1e-12)

    train = from_ring(TT.from_tensorly(random_tt(SHAPE, [1, 2, 3, 2, 1], random_state=0))).permute(order)
    found, line = to_train(train)
    np.testing.assert_allclose(tl.tt_to_tensor(found.to_tensorly()), train.full().transpose(line), atol=1e-12)

    ring = from_ring(TR.from_tensorly(random_tr(SHAPE, [2, 3, 2, 4, 2], random_state=0))).permute(order)
    found, line = to_ring(ring)
    np.testing.assert_allclose(tl.tr_to_tensor(found.to_tensorly()), ring.full().transpose(line), atol=1e-12)
    assert [kind(n) for n in (train, ring, hub_first)] == ["train", "ring", "tucker"]
    with pytest.raises(ValueError, match="closed ring"):
        to_train(ring)


def test_what_is_no_such_format_is_refused(generator):
    graph = random_network(structure_matrix(SHAPE, 2), generator)
    assert kind(graph) == "graph"
    for convert in (to_train, to_ring):
        with pytest.raises(ValueError, match="3 bonds"):
            convert(graph)
    with pytest.raises(ValueError, match="one internal vertex"):
        to_tucker(graph)
    with pytest.raises(ValueError, match="joins two modes"):
        to_tucker(random_network(structure_matrix((3, 2, 1), 2), generator))
    with pytest.raises(ValueError, match="not superdiagonal"):
        to_cp(from_tucker(Tucker.from_tensorly(random_tucker(SHAPE, 2, random_state=0))))


def test_two_modes_are_a_matrix_in_every_sense(generator):
    network = random_network(structure_matrix((4, 5), 2), generator)
    train, _ = to_train(network)
    np.testing.assert_allclose(from_ring(train).full(), network.full(), atol=1e-14)
    assert kind(network) == "train"


def test_structure_matrix_takes_a_number_a_matrix_or_a_triangle():
    triangle = structure_matrix((3, 4, 2), [[2, 5], [1]])
    assert triangle.tolist() == [[3, 2, 5], [2, 4, 1], [5, 1, 2]]
    assert np.array_equal(structure_matrix((3, 4, 2), triangle), triangle)
    assert structure_matrix((3, 4), 7).tolist() == [[3, 7], [7, 4]]
    with pytest.raises(ValueError, match=r"lengths \[2, 1\]"):
        structure_matrix((3, 4, 2), [[2, 5], [1, 1]])


def test_a_grown_bond_without_noise_leaves_the_tensor(generator):
    network = random_network(COMPLETE, generator)
    grown = increase_rank(network, 0, 3, generator, inc=2, noise=0.0)
    assert grown.adjacency()[0, 3] == 3
    np.testing.assert_allclose(grown.full(), network.full(), atol=1e-14)


def test_appended_slices_add_their_own_tensor(generator):
    network = random_network(COMPLETE, generator)
    shapes = [list(network.cores[0].shape), list(network.cores[2].shape)]
    shapes[0][2] = shapes[1][0] = 2
    slices = [generator.standard_normal(shape) for shape in shapes]
    alone = TensorNetwork([slices[0], network.cores[1], slices[1], network.cores[3]])
    both = append_slices(network, 0, 2, *slices)
    np.testing.assert_allclose(both.full(), network.full() + alone.full(), atol=1e-13)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda n, g: increase_rank(n, 1, 1, g), "joins a vertex with itself"),
        (lambda n, g: increase_rank(n, 0, 4, g), "vertex 4 is not one of"),
        (lambda n, g: increase_rank(n, 0, 1, g, inc=0), "inc must be >= 1"),
        (lambda n, g: increase_rank(n, 0, 1, g, noise=-1.0), "noise must be >= 0"),
        (lambda n, g: append_slices(n, 2, 2, n.cores[0], n.cores[0]), "joins a vertex with itself"),
        (lambda n, g: split_internal(n, 0.0), "eps must be > 0"),
    ],
)
def test_growth_refuses(change, message, generator):
    with pytest.raises(ValueError, match=message):
        change(random_network(COMPLETE, generator), generator)


# ---- splits


def merged_tucker(generator):
    """A Tucker tensor whose core has been multiplied into the factor of mode 0: no internal vertex left."""
    core, factors = random_tucker((6, 6, 6, 6), [2, 3, 3, 2], random_state=3)
    hub = np.tensordot(factors[0], core, axes=(1, 0))
    cores = [hub]
    for k in range(1, 4):
        shape = [1] * 4
        shape[0], shape[k] = factors[k].shape[1], 6
        cores.append(factors[k].T.reshape(shape))
    return TensorNetwork(cores), core.size + sum(f.size for f in factors)


def test_a_hidden_core_becomes_an_internal_vertex(generator):
    network, params = merged_tucker(generator)
    split = split_internal(network, 1e-8)
    assert split.shape == (6, 6, 6, 6, 1) and split.num_params() == params < network.num_params()
    assert kind(split) == "tucker"
    np.testing.assert_allclose(split.full()[..., 0], network.full(), atol=1e-10)


def test_a_bond_that_is_too_wide_becomes_narrower(generator):
    network = random_network(COMPLETE, generator)
    wide = increase_rank(network, 0, 1, generator, inc=2, noise=0.0)
    split = split_internal(wide, 1e-9)
    assert split.num_params() <= network.num_params()
    np.testing.assert_allclose(np.asarray(split.full()).reshape(SHAPE), network.full(), atol=1e-8)


@pytest.mark.parametrize("eps", [1e-6, 0.05, 0.4])
def test_splits_never_cost_parameters_and_keep_to_eps(eps, generator):
    for _ in range(5):
        network = random_network(structure_matrix((4, 4, 4, 4), 3), generator)
        split = split_internal(network, eps)
        assert split.num_params() <= network.num_params()
        error = np.linalg.norm(np.asarray(split.full()).reshape(4, 4, 4, 4) - network.full())
        assert error <= eps * np.linalg.norm(network.full()) * (1 + 1e-9)


def test_drawing_shows_every_bond(generator):
    ax = Figure().subplots()
    network, _ = merged_tucker(generator)
    structure = split_internal(network, 1e-8).adjacency()
    draw(structure, ax, title="found")
    numbers = sorted(text.get_text() for text in ax.texts)
    assert numbers == sorted(["0", "1", "2", "3", "2", "2", "3", "3"])
    assert nx.number_of_edges(split_internal(network, 1e-8).graph()) == 4


# ---- the layer


@pytest.mark.parametrize("layout", ["mps", "mpo"])
def test_layer_is_the_product_with_its_weight(layout):
    layer = TNLinear((2, 3, 2), (3, 2, 2), layout, ranks=2, generator=1, dtype=torch.float64)
    with torch.no_grad():
        layer.bias.copy_(torch.arange(12.0))
    x = torch.randn(4, 5, 12, dtype=torch.float64)
    torch.testing.assert_close(layer(x), x @ layer.weight().T + layer.bias)
    small = torch.randn(2, 12, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, (small,))
    parameters = tuple(layer.cores)
    assert torch.autograd.gradcheck(lambda *cores: layer(small.detach()), parameters)


def test_weight_of_pairs_is_a_kronecker_product():
    layer = TNLinear((2, 3), (4, 2), "mpo", dtype=torch.float64)
    first, second = (core.detach().reshape(o, i) for core, o, i in zip(layer.cores, (4, 2), (2, 3), strict=True))
    torch.testing.assert_close(layer.weight(), torch.kron(first, second))


def test_only_the_new_slices_learn():
    layer = TNLinear((2, 2), (2, 2), generator=2, dtype=torch.float64)
    model = torch.nn.Sequential(layer, torch.nn.Linear(4, 3, dtype=torch.float64))
    x = torch.randn(6, 4, dtype=torch.float64)
    before = layer(x).detach()
    layer.increase_rank(1, 2, 0, inc=1, noise=0.0)
    torch.testing.assert_close(layer(x), before)
    with torch.no_grad():
        layer.cores[1].narrow(2, 1, 1).fill_(0.5)
    old = [core.detach().clone() for core in layer.cores]
    with layer.only_new(model, 1, 2) as parameters:
        optimiser = torch.optim.Adam(parameters, lr=0.1)
        model(x).square().sum().backward()
        assert model[1].weight.grad is None
        optimiser.step()
    torch.testing.assert_close(layer.cores[2].narrow(1, 0, 1), old[2].narrow(1, 0, 1))
    assert not torch.equal(layer.cores[2].narrow(1, 1, 1), old[2].narrow(1, 1, 1))
    assert torch.equal(layer.cores[0], old[0]) and all(p.requires_grad for p in model.parameters())


def test_layer_refuses():
    with pytest.raises(ValueError, match="did you mean"):
        TNLinear((2, 2), (2, 2), "mpos")
    with pytest.raises(ValueError, match="pairs output and input"):
        TNLinear((2, 2), (2, 2, 2), "mpo")
    with pytest.raises(ValueError, match="joins a vertex with itself"):
        TNLinear((2, 2), (2, 2)).increase_rank(1, 1, 0)
