"""The methods of the shared comparison: shapes on any grid, seeds, counts, and what linear models can do exactly."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tensorbench.pde_operators.datasets.operators import OperatorData
from tensorbench.pde_operators.experiments.operator_methods import METHODS, build, count, predict
from tensorbench.pde_operators.grids import grf

SMALL = {
    "fno": {"n_modes": 4, "hidden": 4, "layers": 2},
    "library_tfno": {"n_modes": 4, "hidden": 4},
    "uno": {"n_modes": 4, "hidden": 4},
    "unet": {"width": 4},
    "deeponet": {"width": 8, "basis": 4},
    "tt_matrix": {"rank": 2},
    "pod_ridge": {"out_rank": 4},
}


def pairs(dims: int, periodic: bool, n: int = 16, count: int = 12) -> OperatorData:
    x = grf((n,) * dims, 2 * count, 2.0, 3.0, generator=1).astype(np.float32)[:, None]
    y = 2 * x - 0.5
    return OperatorData(
        x[:count], y[:count], x[count:-4], y[count:-4], {n: (x[-4:], y[-4:])}, periodic=periodic
    )  # fmt: skip


@pytest.mark.parametrize("name", list(METHODS))
@pytest.mark.parametrize(("dims", "periodic"), [(1, True), (2, False)])
def test_every_method_takes_finer_grids_and_draws_by_seed(name, dims, periodic):
    if name in ("library_tfno", "uno"):
        pytest.importorskip("neuralop")
    data = pairs(dims, periodic)
    before = torch.random.get_rng_state()
    model = build(name, data, 0, **SMALL[name])
    assert torch.equal(torch.random.get_rng_state(), before)
    cpu = torch.device("cpu")
    found = predict(model, data.test[16][0], cpu)
    assert found.shape == data.test[16][1].shape and torch.isfinite(found).all()
    fine = torch.zeros(2, 1, *(32,) * dims).numpy()
    assert predict(model, fine, cpu).shape == fine.shape
    assert torch.equal(predict(build(name, data, 0, **SMALL[name]), data.test[16][0], cpu), found)
    if name != "pod_ridge":  # it draws nothing
        assert not torch.equal(predict(build(name, data, 1, **SMALL[name]), data.test[16][0], cpu), found)


def test_pod_finds_a_linear_map_within_its_basis():
    data = pairs(1, True, count=60)
    model = build("pod_ridge", data, 0, out_rank=16, alpha=1e-8)
    found = predict(model, data.test[16][0], torch.device("cpu")).numpy()
    assert np.linalg.norm(found - data.test[16][1]) < 1e-3 * np.linalg.norm(data.test[16][1])
    recorded = torch.as_tensor(data.test[16][0]).requires_grad_()  # which NumPy takes as little as one on a GPU
    np.testing.assert_allclose(model(recorded).detach().numpy(), found, rtol=1e-5)


def test_counts():
    data = pairs(2, False)
    assert count(build("fno", data, 0, n_modes=8, hidden=16)) == 85425
    assert count(build("fno", data, 0, n_modes=8, hidden=16, factorization="tucker", rank=0.1)) == 12073
    deeponet = build("deeponet", data, 0, width=8, depth=1, basis=4)
    assert count(deeponet) == (256 * 8 + 8) + (8 * 4 + 4) + (2 * 8 + 8) + (8 * 4 + 4) + 1
    pod = build("pod_ridge", data, 0, out_rank=3)
    assert count(pod) == 256 * 3 + 256 + 256 * 3 + 3


def test_unknown_methods_are_refused():
    with pytest.raises(ValueError, match="did you mean 'unet'"):
        build("unett", pairs(1, True), 0)
