"""The U-Net: shapes on any grid, counts by hand, seeds, and what it says of bad input."""

import math

import pytest
import torch
from torch import nn

from tensorbench.pde_operators.baselines.unet import UNet, initialise


def net(**options):
    return UNet(3, 1, **{"width": 4, "generator": torch.Generator().manual_seed(0)} | options)


@pytest.mark.parametrize("grid", [(16,), (16, 16), (17, 13), (8, 8, 8)])
@pytest.mark.parametrize("norm", ["none", "group"])
def test_keeps_the_grid(grid, norm):
    x = torch.randn(2, 3, *grid)
    assert net(dims=len(grid), norm=norm)(x).shape == (2, 1, *grid)


@pytest.mark.parametrize("dims", [1, 2])
def test_transposed_convolutions_lead_up(dims):
    up = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d}[dims]
    x = torch.randn(2, 3, *(15,) * dims)
    model = net(dims=dims, up=up)
    assert model(x).shape == (2, 1, *(15,) * dims)
    assert sum(isinstance(m, up) for m in model.modules()) == 2


def test_parameters_by_hand():
    layers = [(3, 4), (4, 4), (4, 8), (8, 8), (8 + 4, 4), (4, 4)]
    assert sum(p.numel() for p in net(depth=1).parameters()) == sum(9 * i * o + o for i, o in layers) + 5


def test_factory_makes_every_spatial_convolution():
    made = []

    def conv(cin, cout, k, **options):
        made.append((cin, cout, k))
        return nn.Conv2d(cin, cout, k, **options)

    net(conv=conv)
    assert len(made) == 10 and all(k == 3 for *_, k in made)


def test_translation_of_a_periodic_domain():
    model = net(padding_mode="circular").double()
    x = torch.randn(1, 3, 16, 16, dtype=torch.float64)
    shift = (4, 8)  # whole cells of the coarsest grid
    moved = model(torch.roll(x, shift, dims=(2, 3)))
    torch.testing.assert_close(moved, torch.roll(model(x), shift, dims=(2, 3)), rtol=1e-10, atol=1e-10)


def test_same_seed_same_weights_and_variance():
    a, b = net(), net()
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
    wide = nn.Sequential(nn.Conv2d(64, 128, 3), nn.ConvTranspose2d(128, 128, 2, stride=2), nn.Conv2d(128, 1, 1))
    initialise(wide, torch.Generator().manual_seed(1))
    for layer, variance in zip(wide, (2 / (64 * 9), 2 / 128, 1 / 128), strict=True):
        assert math.isclose(layer.weight.var().item(), variance, rel_tol=0.3)
        assert not layer.bias.any()


def test_output_depends_on_whole_neighbourhood_and_gradients_reach_all():
    model = net()
    x = torch.randn(1, 3, 16, 16, requires_grad=True)
    model(x)[0, 0, 8, 8].backward()
    assert (x.grad[0].abs().sum(0) > 0).sum() > 100
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kernel_size": 4}, "even"),
        ({"activation": "gelo"}, "did you mean 'gelu'"),
        ({"norm": "batch"}, "unknown norm"),
        ({"dims": 4}, "1, 2 or 3"),
        ({"width": 0}, "at least 1"),
        ({"depth": -1}, "depth"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        net(**options)


def test_wrong_fields():
    with pytest.raises(ValueError, match=r"expected fields \(batch, 3, n, n\)"):
        net()(torch.zeros(2, 2, 16, 16))
