"""The radiance field of functional tensors: the two evaluations agree, gradients reach every network, it renders."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from tensorbench.radiance_fields.implicit.field import FunctionalField, build
from tensorbench.radiance_fields.implicit.nets import Axis
from tensorbench.radiance_fields.rendering import render_rays

BOX = torch.tensor([[-1.5, -1.5, -1.5], [1.5, 1.5, 1.5]])


def field(format="cp", nodes=9, **keywords):
    generator = torch.Generator().manual_seed(0)
    axis = Axis("siren", features=(16, 16))
    return FunctionalField(BOX, axis, format=format, rank_sigma=3, rank_color=4, features=5, width=8, nodes=nodes,
                           generator=generator, **keywords)  # fmt: skip


def at(count=200, seed=1):
    generator = torch.Generator().manual_seed(seed)
    points = 3 * torch.rand(count, 3, generator=generator) - 1.5
    directions = torch.nn.functional.normalize(torch.randn(count, 3, generator=generator), dim=-1)
    return points, directions


@pytest.mark.parametrize("format", ["cp", "tt", "tucker", "ring"])
def test_density_is_positive_and_exact_at_nodes_either_way(format):
    f = field(format)
    nodes = torch.linspace(-1, 1, 9)
    grid = torch.stack(torch.meshgrid(nodes, nodes, nodes, indexing="ij"), dim=-1).reshape(-1, 3)
    many = f.density(1.5 * grid)  # by the grid
    few = torch.cat([f.density(1.5 * part) for part in grid.split(50)])  # by the factors
    exact = torch.nn.functional.softplus(f.sigma.forward_points(grid)[:, 0] + f.density_shift)
    torch.testing.assert_close(many, exact, atol=1e-5, rtol=1e-3)
    torch.testing.assert_close(few, exact, atol=1e-5, rtol=1e-3)
    assert float(many.detach().min()) >= 0


def test_colours_are_colours_and_gradients_reach_every_weight():
    f = field("tt")
    points, directions = at()
    sigma, rgb = f(points, directions)
    assert sigma.shape == (200,) and rgb.shape == (200, 3)
    assert float(rgb.detach().min()) >= 0 and float(rgb.detach().max()) <= 1
    (sigma.sum() + rgb[:, 0].sum() + f.regularizers()["l1"]).backward()
    assert all(p.grad is not None and float(p.grad.abs().sum()) > 0 for p in f.parameters())


def test_groups_hold_every_weight_once():
    f = field(axis_rate=0.5)
    groups = f.parameter_groups(lr_grid=0.02, lr_net=1e-3)
    held = [id(p) for group in groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in f.parameters())
    assert groups[0]["lr"] == 5e-4 and groups[1]["lr"] == 1e-3


def test_it_is_built_from_data_and_renders():
    data = SimpleNamespace(box=BOX)
    f = build(data, generator=torch.Generator().manual_seed(0), backend="relu", embedding="positional", layers=(8,),
              options={"frequencies": 3}, rank_sigma=2, rank_color=2, nodes=5)  # fmt: skip
    origins = torch.tensor([[0.0, 0.0, 4.0]]).expand(6, 3)
    _, directions = at(6)
    directions = torch.nn.functional.normalize(directions - 3 * origins / 4, dim=-1)
    seen = render_rays(f, origins, directions, 2.0, 6.0, 12, torch.ones(3))
    assert seen.rgb.shape == (6, 3) and bool(torch.isfinite(seen.rgb).all())


def test_bad_nodes_are_told():
    with pytest.raises(ValueError, match="at least 2"):
        field(nodes=1)
