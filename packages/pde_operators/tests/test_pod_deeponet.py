"""POD + ridge recovers what is linear; DeepONet agrees with deepxde's and fits."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch

from tensorbench.pde_operators.baselines.deeponet import DeepONet, grid_coordinates, mlp
from tensorbench.pde_operators.baselines.pod import PODRidge, monomials, pod_basis


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_basis_is_the_best_projection(rng):
    samples = rng.normal(size=(30, 12)) @ rng.normal(size=(12, 40))
    basis = pod_basis(samples, 5)
    assert np.allclose(basis.vectors.T @ basis.vectors, np.eye(5), atol=1e-12)
    error = np.linalg.norm(samples - basis.project(samples))
    assert error == pytest.approx(np.sqrt((basis.singular_values[5:] ** 2).sum()), rel=1e-10)
    other = np.linalg.qr(rng.normal(size=(40, 5)))[0]
    centred = samples - basis.mean
    assert error < np.linalg.norm(centred - centred @ other @ other.T)


def test_linear_map_is_recovered(rng):
    A, x = rng.normal(size=(20, 50)), rng.normal(size=(60, 20))
    model = PODRidge(20, 20, alpha=1e-10).fit(x, x @ A + 3.0)
    new = rng.normal(size=(5, 20))
    assert np.allclose(model.predict(new), new @ A + 3.0, atol=1e-6)
    assert model.num_parameters == (20 * 20 + 20) + (50 * 20 + 50) + (20 * 20 + 20)


def test_map_with_polynomial_parameters_is_recovered_and_linear_in_the_input(rng):
    A, B = rng.normal(size=(2, 6, 15))
    x, p = rng.normal(size=(200, 6)), rng.normal(size=(200, 1))
    model = PODRidge(12, alpha=1e-10, degree=1, center=False).fit(x, x @ A + p * (x @ B), p)
    new, q = rng.normal(size=(4, 6)), rng.normal(size=(4, 1))
    assert np.allclose(model.predict(new, q), new @ A + q * (new @ B), atol=1e-6)
    assert np.allclose(model.predict(3 * new, q), 3 * model.predict(new, q), atol=1e-9)


def test_monomials():
    assert monomials(np.array([[2.0, 3.0]]), 2).tolist() == [[1, 2, 3, 4, 6, 9]]


def test_grid_coordinates():
    places = grid_coordinates((2, 4), (False, True))
    assert places.shape == (8, 3)
    assert torch.allclose(places[:4, 0], torch.full((4,), 0.25))
    assert torch.allclose(places[:, 1:].square().sum(dim=1), torch.ones(8))


def test_deeponet_is_that_of_deepxde():
    os.environ.setdefault("DDE_BACKEND", "pytorch")
    dde = pytest.importorskip("deepxde")
    if dde.backend.backend_name != "pytorch":
        pytest.skip("deepxde was imported with another backend")
    places = grid_coordinates((3, 4))
    net = DeepONet(10, places, (3, 4), width=8, depth=2, basis=6, activation="relu")
    peer = dde.nn.DeepONetCartesianProd([10, 8, 8, 6], [2, 8, 8, 6], "relu", "Glorot normal")
    u = torch.randn(5, 10, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        for ours, theirs in ((net.branch, peer.branch), (net.trunk, peer.trunk)):
            for layer, other in zip([m for m in ours if hasattr(m, "weight")], theirs.linears, strict=True):
                other.weight.copy_(layer.weight)
                other.bias.copy_(layer.bias)
        # deepxde ends the trunk with an activation, and our sum is divided by sqrt(basis).
        net.trunk.append(torch.nn.ReLU())
        assert torch.allclose(net(u).flatten(1) * 6**0.5, peer((u, places)), atol=1e-5)


def test_deeponet_shapes_and_seeds():
    places = grid_coordinates((4, 4))
    nets = [DeepONet(16, places, (4, 4), out_channels=2, generator=torch.Generator().manual_seed(3)) for _ in range(2)]
    u = torch.randn(3, 1, 4, 4)
    assert nets[0](u).shape == (3, 2, 4, 4)
    assert torch.equal(nets[0](u), nets[1](u))


def test_deeponet_fits_a_few_samples():
    generator = torch.Generator().manual_seed(0)
    u = torch.randn(8, 6, generator=generator)
    target = torch.sin(u.sum(dim=1))[:, None] * torch.linspace(0, 1, 10)
    net = DeepONet(6, grid_coordinates((10,)), (10,), width=32, basis=8, generator=generator)
    optimizer = torch.optim.Adam(net.parameters(), 5e-3)
    first = (net(u) - target).square().mean().item()
    for _ in range(300):
        optimizer.zero_grad()
        loss = (net(u) - target).square().mean()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.02 * first


def test_bad_input():
    with pytest.raises(ValueError, match="flatten"):
        pod_basis(np.zeros((3, 4, 5)), 2)
    with pytest.raises(ValueError, match="NaN"):
        pod_basis(np.full((3, 4), np.nan), 2)
    with pytest.raises(ValueError, match="fitted"):
        PODRidge(3).predict(np.zeros((1, 2)))
    with pytest.raises(ValueError, match="same number"):
        PODRidge(3).fit(np.zeros((3, 2)), np.zeros((4, 2)))
    with pytest.raises(ValueError, match="16 places"):
        DeepONet(4, torch.zeros(15, 2), (4, 4))
    with pytest.raises(ValueError, match="takes 4"):
        DeepONet(4, torch.zeros(16, 2), (4, 4))(torch.zeros(1, 5))
    with pytest.raises(ValueError, match="did you mean 'relu'"):
        mlp([3, 4], "rellu")
