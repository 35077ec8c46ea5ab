"""Networks of sines as factors, and what the estimator does with them."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch

from tensorbench.decomposition.functional import inr
from tensorbench.decomposition.functional.imtd import IMTD, denoise, inpaint
from tensorbench.decomposition.functional.inr import INRCP, INRMultiple, INRTucker
from tensorbench.decomposition.functional.multiple import MultipleTensor

DOMAIN3 = [(0.0, 5.0), (0.0, 6.0), (-1.0, 2.0)]
MODELS = {
    "multiple": lambda: INRMultiple(DOMAIN3, (2, 3, 2), width=16, seed=1),
    "tucker": lambda: INRTucker(DOMAIN3, (2, 3, 2), width=16, seed=1),
    "cp": lambda: INRCP(DOMAIN3, 4, width=16, seed=1),
    "order4": lambda: INRMultiple([*DOMAIN3, (0.0, 1.0)], (2, 1, 3, 2), width=8, omega0=[5, 5, 5, 2]),
}


def axes(model, sizes=(5, 4, 3, 2)):
    return [
        torch.linspace(float(a), float(a + s), n) for a, s, n in zip(model.low, model.span, sizes, strict=False)
    ][: model.order]  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("single", (False, True))
def test_the_grid_is_the_function_on_the_mesh(name, single):
    model = MODELS[name]().float() if single else MODELS[name]().double()
    coords = [x.to(torch.float32 if single else torch.float64) for x in axes(model)]
    mesh = torch.cartesian_prod(*coords)
    expected = model(mesh).reshape([len(x) for x in coords])
    torch.testing.assert_close(model.grid(coords), expected, atol=1e-5 if single else 1e-12, rtol=0)


def test_the_multiple_network_on_a_grid_is_the_multiple_tensor_of_its_factors():
    model = MODELS["multiple"]()
    coords = [x.double() for x in axes(model)]
    factors = tuple(f.movedim(0, n) for n, f in enumerate(model.factors(coords)))
    torch.testing.assert_close(MultipleTensor(factors).full(), model.grid(coords))


@pytest.mark.parametrize("name", MODELS)
def test_values_do_not_depend_on_order_of_points_and_are_continuous(name, monkeypatch):
    model = MODELS[name]().double()
    rng = np.random.default_rng(0)
    low, span = model.low.numpy(), model.span.numpy()
    x = torch.tensor(low + span * rng.random((40, model.order)))
    values = model(x)
    order = torch.tensor(rng.permutation(40))
    torch.testing.assert_close(model(x[order]), values[order])
    monkeypatch.setattr(inr, "TABLE_BYTES", 1000)  # a few points at a time
    torch.testing.assert_close(model(x), values)
    gradient = model.gradient(x)
    h = 1e-6
    for m in range(model.order):
        shift = torch.zeros(model.order, dtype=torch.float64)
        shift[m] = h
        slope = (model(x + shift, extrapolate=True) - model(x - shift, extrapolate=True)) / (2 * h)
        torch.testing.assert_close(slope, gradient[:, m], atol=1e-5, rtol=1e-5)
    nearby = model(x + 1e-4 / np.sqrt(model.order), extrapolate=True)
    steepest = max(
        float(model.gradient(x + t * 1e-4).detach().norm(dim=1).max()) for t in (0.0, 0.5, 1.0)
    )  # of the short way between the two
    assert float((nearby - values).detach().abs().max()) <= 1.01 * steepest * 1e-4


def test_networks_start_with_entries_of_about_unit_variance():
    spread = [
        float(INRMultiple([(0, 30)] * 3, (4, 3, 2), width=64, seed=s).grid([torch.arange(31.0)] * 3).std().detach())
        for s in range(6)
    ]
    assert 0.3 < np.mean(spread) < 3


def smooth(shape=(16, 15, 4)):
    x, y, z = (np.linspace(0, 1, n) for n in shape)
    return np.sin(3 * x)[:, None, None] * np.cos(2 * y)[None, :, None] * (1 + z) + 0.5 * y[None, :, None] * z


SMALL = {"width": 32, "omega0": 4.0, "steps": 300, "lr": 5e-3, "weight_decay": 0.01}


@pytest.mark.parametrize(("kind", "ranks"), (("multiple", (2, 2, 2)), ("tucker", (3, 3, 2)), ("cp", 3)))
def test_inpainting_a_smooth_tensor(kind, ranks):
    X = smooth()
    mask = np.random.default_rng(0).random(X.shape) < 0.3
    model = IMTD(ranks, model=kind, **SMALL).fit(np.where(mask, X, np.nan), mask)
    found = model.full()
    assert np.linalg.norm(found - X) < 0.1 * np.linalg.norm(X)
    assert found.shape == X.shape and model.num_params() == sum(p.numel() for p in model.model.parameters())
    again = IMTD(ranks, model=kind, **SMALL).fit(np.where(mask, X, np.nan), mask)
    np.testing.assert_array_equal(again.full(), found)  # the same seed, the same result
    fine = model.upsample((2, 2, 1))
    assert fine.shape == (31, 29, 4)
    np.testing.assert_allclose(fine[::2, ::2], found, atol=1e-5)
    cells = np.array([[3.0, 4.0, 1.0], [15.0, 0.0, 3.0]])
    np.testing.assert_allclose(model.predict(cells), [found[3, 4, 1], found[15, 0, 3]], atol=1e-5)


def test_early_stopping_keeps_the_best_step_on_held_out_cells():
    X = smooth() + 0.3 * np.random.default_rng(1).normal(size=(16, 15, 4))
    held = np.random.default_rng(2).random(X.shape) < 0.2
    model = IMTD((3, 3, 2), **SMALL | {"omega0": 20.0, "evaluate_every": 10}).fit(X, held=held)
    error = np.sqrt(np.mean((model.full() - X)[held] ** 2))
    assert error == pytest.approx(min(model.monitor.held), rel=1e-4) == pytest.approx(model.held_error, rel=1e-6)
    assert min(model.monitor.held) < model.monitor.held[-1]  # it overfits, so stopping mattered


def test_denoising_and_the_sparse_part():
    rng, X = np.random.default_rng(0), smooth((24, 24, 4))
    noisy = X + 0.05 * rng.normal(size=X.shape)
    outliers = rng.random(X.shape) < 0.1
    spoiled = noisy + outliers * rng.choice([-3.0, 3.0], size=X.shape)
    plain, robust = denoise(spoiled, (2, 2, 2), **SMALL), denoise(spoiled, (2, 2, 2), sparse=0.1, **SMALL)
    norm = np.linalg.norm(X)
    assert np.linalg.norm(denoise(noisy, (2, 2, 2), **SMALL) - X) < 0.6 * np.linalg.norm(noisy - X)
    assert np.linalg.norm(robust - X) < 0.6 * np.linalg.norm(plain - X) < 0.6 * norm


def test_scattered_points_in_batches():
    rng = np.random.default_rng(0)
    x = rng.random((900, 3)) * [2, 1, 1]
    y = np.sin(2 * x[:, 0]) * x[:, 1] + x[:, 2]
    model = IMTD((2, 2, 2), batch=256, **SMALL).fit_points(x[:700], y[:700], domain=[(0, 2), (0, 1), (0, 1)])
    assert np.sqrt(np.mean((model.predict(x[700:]) - y[700:]) ** 2)) < 0.1 * y.std()
    with pytest.raises(ValueError, match=r"leave the domain \[0, 2\]"):
        model.predict(np.array([[2.5, 0.5, 0.5]]))
    assert np.isfinite(model.predict(np.array([[2.5, 0.5, 0.5]]), extrapolate=True)).all()
    with pytest.raises(ValueError, match="upsample needs"):
        model.upsample(2)


@pytest.mark.parametrize(("kind", "ranks"), (("multiple", (2, 2, 2)), ("tucker", (3, 3, 2))))
def test_pals_on_networks_descends_and_keeps_the_bound(kind, ranks):
    X = smooth((8, 9, 4))
    options = SMALL | {"optimizer": "pals", "steps": 300, "lr": 2e-3, "holdout": 0.0, "weight_decay": 0.0}
    model = IMTD(ranks, model=kind, rho=1e-3, dtype=torch.float64, **options).fit(X)
    monitor = model.monitor
    assert (np.diff(monitor.objective) <= 0).all() and monitor.objective[-1] < 0.2 * monitor.objective[0]
    assert 0 < monitor.bound_used(1e-3) <= 1
    assert len(monitor.stationarity) == len(monitor.moved) == len(monitor.objective) - 1
    stiff = IMTD(ranks, model=kind, rho=1e9, dtype=torch.float64, **options | {"steps": 60}).fit(X)
    assert sum(stiff.monitor.moved) < 1e-6  # rho to infinity freezes the networks


def test_pals_off_the_grid():
    rng = np.random.default_rng(0)
    x = rng.random((300, 3)) * [2, 1, 1]
    y = np.sin(2 * x[:, 0]) * x[:, 1] + x[:, 2]
    options = SMALL | {"optimizer": "pals", "steps": 600, "weight_decay": None, "dtype": torch.float64}
    model = IMTD((2, 2, 2), **options).fit_points(x[:250], y[:250], domain=[(0, 2), (0, 1), (0, 1)])
    assert (np.diff(model.monitor.objective) <= 0).all() and 0 < model.monitor.bound_used(1e-3) <= 1
    assert np.sqrt(np.mean((model.predict(x[250:]) - y[250:]) ** 2)) < 0.2 * y.std()


def test_a_sphere_from_its_points_and_normals():
    rng = np.random.default_rng(0)
    normals = rng.normal(size=(400, 3))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    model = IMTD((3, 3, 3), width=32, omega0=3.0, steps=250, lr=5e-3).fit_surface(normals, normals)
    inside, outside = model.predict(np.array([[0.0, 0.0, 0.0]])), model.predict(1.15 * normals[:50])
    assert inside[0] < -0.3 and outside.mean() > 0.05
    assert np.abs(model.predict(normals)).mean() < 0.05


def test_a_slice_without_cells_is_interpolated_with_a_warning(caplog):
    X, mask = smooth(), np.ones((16, 15, 4), dtype=bool)
    mask[7] = False
    with caplog.at_level(logging.WARNING):
        found = inpaint(X, mask, (2, 2, 2), **SMALL)
    assert "mode 0: 1 slices" in caplog.text
    assert np.linalg.norm(found[7] - X[7]) < 0.3 * np.linalg.norm(X[7])


def test_held_cells_may_be_zeros_and_ones():
    held = np.zeros((16, 15, 4), dtype=bool)
    held[::3, ::2] = True
    options = SMALL | {"steps": 3, "evaluate_every": 1}
    one, other = (IMTD((2, 2, 2), **options).fit(smooth(), held=h).held_error for h in (held, held.astype(int)))
    assert one == other


def test_a_fit_to_points_or_a_surface_forgets_the_shape_of_a_tensor():
    options = SMALL | {"steps": 2}
    model = IMTD((1, 1, 1), **options).fit(CUBE).fit_points(POINTS, np.ones(20))
    with pytest.raises(ValueError, match="fitted to a tensor"):
        model.full()
    with pytest.raises(ValueError, match="fitted to a tensor"):
        model.fit(CUBE).fit_surface(POINTS).full()


def test_a_surface_fit_that_diverges_warns(caplog):
    with caplog.at_level(logging.WARNING):
        IMTD((2, 2, 2), width=8, steps=20, lr=1e30).fit_surface(POINTS)
    assert "training diverged" in caplog.text


CUBE = np.arange(60.0).reshape(3, 4, 5)
SEEN = np.zeros((3, 4, 5), dtype=bool)
SEEN[0, 0] = True
POINTS = np.random.default_rng(0).random((20, 3))


@pytest.mark.parametrize(
    ("call", "message"),
    (
        (lambda: IMTD((1, 1)).fit(CUBE), "one short size per mode"),
        (lambda: IMTD((1, 0, 1)).fit(CUBE), "at least 1"),
        (lambda: IMTD((1, 1), model="cp").fit(CUBE), "one rank"),
        (lambda: IMTD((1, 1, 1), model="multipel"), "did you mean|unknown model"),
        (lambda: IMTD((1, 1, 1), optimizer="sgd"), "optimizer"),
        (lambda: IMTD((1, 1, 1), optimizer="pals", weight_decay=0.1), "weight_decay 0.1 are Adam's"),
        (lambda: IMTD((1, 1, 1), optimizer="pals", batch=8), "batch 8"),
        (lambda: IMTD((1, 1, 1), optimizer="pals").fit_surface(POINTS), "no descent can be checked"),
        (lambda: IMTD((1, 1, 1), steps=0), "steps 0"),
        (lambda: IMTD((1, 1, 1), sparse=0.0), "sparse 0.0"),
        (lambda: IMTD((1, 1, 1)).fit(CUBE * np.nan), "NaN"),
        (lambda: IMTD((1, 1, 1)).fit(CUBE, SEEN), "too few"),
        (lambda: IMTD((1, 1, 1)).fit(CUBE, SEEN[0]), "mask"),
        (lambda: IMTD((1, 1, 1)).fit(CUBE, held=SEEN[0]), "held has shape"),
        (lambda: IMTD((1, 1, 1)).fit(CUBE, ~SEEN, held=SEEN), "observed cells"),
        (lambda: IMTD((1, 1, 1)).fit(CUBE, held=np.ones_like(SEEN)), "left to fit"),
        (lambda: IMTD((1, 1, 1)).fit_points(POINTS[:5], np.ones(5)), "too few"),
        (lambda: IMTD((1, 1, 1)).fit_points(POINTS * np.nan, np.ones(20)), "NaN"),
        (lambda: IMTD((1, 1, 1)).fit_points(POINTS, np.ones(19)), "do not match"),
        (lambda: IMTD((1, 1, 1)).fit_points(POINTS, np.ones(20), domain=[(0, 0.5)] * 3), "leave the domain"),
        (lambda: IMTD((1, 1, 1)).fit_surface(POINTS[:3]), "at least 10"),
        (lambda: IMTD((1, 1, 1)).fit_surface(POINTS, POINTS[:1]), "normals of shape"),
        (lambda: IMTD((1, 1, 1)).fit_surface(POINTS, POINTS * np.nan), "must be finite"),
        (lambda: IMTD((1, 1, 1)).predict(POINTS), "call fit"),
        (lambda: INRMultiple([(0, 0)] * 3, (1, 1, 1)), "low < high"),
        (lambda: INRMultiple([(0, 1)] * 3, (1, 1, 1), omega0=[1, 2]), "omega0 has 2 values"),
        (lambda: MODELS["cp"]()(torch.zeros(2, 2)), "expected"),
        (lambda: MODELS["cp"]()(torch.full((2, 3), torch.nan)), "NaN"),
    ),
)
def test_bad_input_is_refused_with_the_reason(call, message):
    with pytest.raises(ValueError, match=message):
        call()
