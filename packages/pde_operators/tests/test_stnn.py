"""Stacked tensorial networks: the published counts, the published predictions, linearity, priors, bad input."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from tensorbench.core import data
from tensorbench.pde_operators.datasets.kinetic import load_reference_model, read_solutions, scale_params
from tensorbench.pde_operators.stnn import BoundaryEinsum, StackedTNN, cosine_vector, count, predict

PAPER = {1: (10, 1, 87580), 2: (20, 1, 168530), 5: (20, 2, 195890)}


def published(K: int, W: int) -> StackedTNN:
    first = [16, 4] if W == 2 else [7, 2]
    ranks, in_modes = [1, first[0], 16, 16, 16, 16, 7, 1], [first[1], 2, 2, 2, 2, 2, 2]
    return StackedTNN(K, W, (256, 64, 32), [4] * 7, in_modes, ranks)


def small(**options) -> StackedTNN:
    settings = {"hidden": (6,), "generator": torch.Generator().manual_seed(0)} | options
    return StackedTNN(3, 1, (8, 8, 8), [4, 4, 4], [4, 2, 2], [1, 5, 4, 1], **settings)


def batch(n: int = 5, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(n, 3, generator=generator), torch.rand(n, 2, 8, 4, generator=generator)


@pytest.mark.parametrize("trial", PAPER)
def test_published_counts(trial):
    K, W, weights = PAPER[trial]
    assert count(published(K, W)) == weights


def test_forward_is_the_weighted_sum_of_the_branches():
    model, (params, inflow) = small().double(), (t.double() for t in batch())
    half = model.boundary.vectors.detach()
    vectors = torch.cat([half, half.flip(-1)], dim=-1)
    dense, weights = model.trains.to_dense(), model.expert_weights(params)
    expected = torch.zeros(5, 64, dtype=torch.float64)
    for k in range(3):
        features = torch.cat([inflow[:, side] @ vectors[k, 0, side] for side in (0, 1)], dim=1)
        expected += weights[:, k, None] * (features @ dense[k])
    assert torch.allclose(model(params, inflow).flatten(1), expected, atol=1e-12)
    assert torch.allclose(weights.sum(dim=1), torch.ones(5, dtype=torch.float64), atol=1e-12)
    assert weights.min() > 0


def test_linear_in_the_inflow_at_fixed_parameters():
    model, (params, a), (_, b) = small(), batch(seed=0), batch(seed=1)
    with torch.no_grad():
        assert torch.allclose(model(params, 2 * a - 3 * b), 2 * model(params, a) - 3 * model(params, b), atol=1e-6)


def test_predict_in_pieces():
    model, (params, inflow) = small(), batch(7)
    assert torch.allclose(predict(model, params, inflow, batch=3), model(params, inflow), atol=1e-6)


def test_mirror_prior():
    layer = BoundaryEinsum(2, 16, copies=3, generator=torch.Generator().manual_seed(0))
    free = BoundaryEinsum(2, 16, copies=3, symmetric=False)
    assert 2 * count(layer) == count(free) == 3 * 2 * 16
    inflow = torch.rand(4, 2, 5, 8)
    assert torch.allclose(layer(inflow), layer(inflow.flip(-1)), atol=1e-6)
    assert not torch.allclose(free(inflow), free(inflow.flip(-1)), atol=1e-3)
    assert layer(inflow).shape == (4, 3, 2 * 2 * 5)


def test_no_vectors_flattens():
    layer, inflow = BoundaryEinsum(0, 8, copies=2), torch.rand(4, 2, 5, 4)
    assert torch.equal(layer(inflow), inflow.flatten(1)[:, None].expand(-1, 2, -1))
    assert layer.outputs(5) == 40 and count(layer) == 0


def test_roughness_does_not_cross_from_wall_to_wall():
    layer = BoundaryEinsum(1, 16)
    with torch.no_grad():
        layer.vectors[0, 0, 0], layer.vectors[0, 0, 1] = 1.0, 5.0
    assert layer.roughness().item() == 0
    with torch.no_grad():
        layer.vectors[0, 0, 1, -1] = 7.0
    assert layer.roughness().item() == 2.0


def test_cosine_start():
    vector = cosine_vector(9, 1.0, torch.Generator().manual_seed(0))
    assert torch.allclose(vector, vector.flip(0), atol=1e-6)
    a, b = (torch.rand(2, generator=torch.Generator().manual_seed(0)) * torch.tensor([0.4, 0.1])).tolist()
    assert vector[0].item() == pytest.approx(-(a - 0.1) - (b - 0.05), abs=1e-6)


def test_training_reduces_the_error():
    teacher, model = small(generator=torch.Generator().manual_seed(5)), small()
    params, inflow = batch(64)
    with torch.no_grad():
        target = teacher(params, inflow)
    optimizer, losses = torch.optim.Adam(model.parameters(), 1e-2), []
    for _ in range(150):
        optimizer.zero_grad()
        loss = (model(params, inflow) - target).square().mean() + 1e-6 * model.roughness()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]


def test_scale_params():
    params = np.array([[2.0, 0.1, 0.3], [8.0, 10.0, 0.6], [5.0, 1.0, 0.0]])
    assert np.allclose(scale_params(params, (2, 8), (0.1, 10), log_ell=True)[:, :2], [[0, 0], [1, 1], [0.5, 0.5]])
    assert scale_params(params, (2, 8), (0.1, 10))[2, 1] == pytest.approx(0.9 / 9.9)


@pytest.mark.skipif(not data.available("kinetic_published")[0], reason="needs the published files")
def test_published_predictions():
    published = data.load("kinetic_published")
    samples, model = published.samples, published.model(1)
    params = scale_params(samples.params, (2, 20), (0.01, 100))
    rho = predict(model, torch.from_numpy(params), torch.from_numpy(samples.inflow)).numpy()
    assert count(model) == 87580
    assert rho.sum() == pytest.approx(130739.93, rel=1e-3)
    assert np.allclose(rho[0, 0, :3], [0.60224, 0.58444, 0.56893], atol=1e-4)
    error = np.linalg.norm((rho - samples.rho).reshape(10, -1), axis=1) / np.linalg.norm(
        samples.rho.reshape(10, -1), axis=1
    )
    assert error.mean() == pytest.approx(0.01243, abs=1e-4)
    with pytest.raises(ValueError, match="trial"):
        published.model(3)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: StackedTNN(2, 1, (8, 8, 8), [4, 4, 2], [4, 2, 2], [1, 2, 2, 1]), "multiply to 32.*need 64"),
        (lambda: StackedTNN(2, 2, (8, 8, 8), [4, 4, 4], [4, 2, 2], [1, 2, 2, 1]), "in_modes.*need 32"),
        (lambda: StackedTNN(2, 1, (8, 8, 8), [4, 4, 4], [4, 2, 2], [1, 2, 2, 2]), "start and end with 1"),
        (lambda: StackedTNN(2, 1, (8, 8, 7), [4, 4, 4], [4, 2, 2], [1, 2, 2, 1]), "n_w 7"),
        (lambda: small()(torch.rand(2, 3), torch.rand(2, 2, 8, 5)), "4 directions"),
        (lambda: small()(torch.rand(2, 3), torch.rand(3, 2, 8, 4)), "2 samples"),
        (lambda: small()(torch.rand(2, 3), torch.full((2, 2, 8, 4), torch.nan)), "inflow.*hold NaN"),
        (lambda: small()(torch.tensor([[0.1, torch.inf, 0.2]]), torch.rand(1, 2, 8, 4)), "params.*hold NaN"),
        (lambda: predict(small(), torch.rand(2, 3), torch.full((2, 2, 8, 4), torch.nan)), "inflow.*hold NaN"),
        (lambda: predict(small(), torch.full((2, 3), torch.inf), torch.rand(2, 2, 8, 4)), "params.*hold NaN"),
    ],
)
def test_bad_input(build, words):
    with pytest.raises(ValueError, match=words):
        build()


@pytest.mark.parametrize("training", [True, False])
def test_predicting_leaves_the_mode_as_it_was(training):
    model = small().train(training)
    predict(model, torch.rand(2, 3), torch.rand(2, 2, 8, 4))
    assert model.training is training


def test_parameters_outside_the_range_warn():
    model = small(ranges=((0, 1), (0, 1), (0, 1))).eval()
    params, inflow = batch(2)
    model(params, inflow)
    params[0, 1] = 1.5
    with pytest.warns(UserWarning, match="parameter 1 of 1 samples"):
        model(params, inflow)


def test_wrong_files(tmp_path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["ell"] = np.zeros(3)
    with pytest.raises(ValueError, match="lacks a1, a2, ibf, obf, rho"):
        read_solutions(tmp_path / "x.h5")
    (tmp_path / "config.json").write_text(json.dumps({"K": 2}))
    with pytest.raises(ValueError, match="lacks W, d, nx1"):
        load_reference_model(tmp_path / "x.h5", tmp_path / "config.json")


def test_generated_solutions():
    options = {"grid": [8, 8, 8], "geometries": [3, 1, 2], "shifted": 1, "inflows": 2}
    samples = data.load("kinetic_annulus", **options)
    parts = {name: samples.part(name) for name in samples.names.split()}
    assert [len(part) for part in parts.values()] == [6, 2, 4, 2, 2, 2, 2]
    train, wide = parts["train"], parts["wide"]
    assert ((train.params[:, 0] >= 2) & (train.params[:, 0] <= 8)).all() and (wide.params[:, 0] > 8).all()
    assert parts["long"].params[:, 1].min() > 10 and parts["short"].params[:, 1].max() < 0.1
    # Between the largest and smallest inflow, summed over eight directions; the split is by geometry.
    assert (train.rho.max(axis=(1, 2)) <= 8 * 1.01 * train.inflow.max(axis=(1, 2, 3)) + 1e-6).all()
    assert np.unique(train.params, axis=0).shape[0] == 3
    assert not set(map(tuple, train.params)) & set(map(tuple, parts["test"].params))
    with pytest.raises(ValueError, match="did you mean 'train'"):
        samples.part("trian")
    assert data.load("kinetic_inflows", grid=[8, 8, 8], samples=2).inflow.shape == (2, 2, 8, 4)
