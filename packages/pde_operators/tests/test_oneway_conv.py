"""One-way convolutions equal dense ones with their kernel; counts, variances, planted kernels, bad input."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tensorbench.pde_operators.factored_convs import DepthwiseSeparableConv2d, SeparableConv2d, TwoWayOneWayConv2d
from tensorbench.pde_operators.oneway_conv import (
    OneWayConv1d,
    OneWayConv2d,
    OneWayConv3d,
    OneWayConvTranspose1d,
    OneWayConvTranspose2d,
    OneWayConvTranspose3d,
)

CONVS = {1: (OneWayConv1d, F.conv1d), 2: (OneWayConv2d, F.conv2d), 3: (OneWayConv3d, F.conv3d)}
TRANSPOSED = {
    1: (OneWayConvTranspose1d, F.conv_transpose1d),
    2: (OneWayConvTranspose2d, F.conv_transpose2d),
    3: (OneWayConvTranspose3d, F.conv_transpose3d),
}
FACTORED = {"two_way": TwoWayOneWayConv2d, "separable": SeparableConv2d, "depthwise": DepthwiseSeparableConv2d}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def with_bias(layer):
    layer = layer.double()
    with torch.no_grad():
        layer.bias.normal_(generator=generator(9))
    return layer


@pytest.mark.parametrize("rank", [1, 3])
@pytest.mark.parametrize("share", ["per_output", "shared"])
@pytest.mark.parametrize("options", [{"stride": s, "dilation": d, "padding": p} for s in (1, 2) for d in (1, 2)
                                     for p in (0, 1)] + [{"stride": (2, 1), "padding": (1, 2)}])  # fmt: skip
def test_equals_the_dense_kernel(rank, share, options):
    layer = with_bias(OneWayConv2d(4, 5, 3, rank, share=share, generator=generator(), **options))
    x = torch.randn(2, 4, 11, 9, dtype=torch.float64, generator=generator(1))
    close(layer(x), F.conv2d(x, layer.kernel(), layer.bias, **options))


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("share", ["per_output", "shared"])
def test_every_dimension_and_the_transpose(dims, share):
    x = torch.randn(2, 3, *(6, 7, 5)[:dims], dtype=torch.float64, generator=generator(1))
    sizes = (3, 2, 5)[:dims]
    for (kind, dense), extra in ((CONVS[dims], {}), (TRANSPOSED[dims], {"output_padding": 1})):
        options = {"stride": 2, "padding": (1, 0, 2)[:dims], **extra}
        layer = with_bias(kind(3, 4, sizes, 2, share=share, generator=generator(), **options))
        close(layer(x), dense(x, layer.kernel(), layer.bias, **options))
        layer.compute = "kernel"
        close(layer(x), dense(x, layer.kernel(), layer.bias, **options))


@pytest.mark.parametrize("order", ["chw", "cwh", "hcw", "whc", "hwc", "wch"])
@pytest.mark.parametrize("share", ["per_output", "shared"])
def test_stages_in_any_order(order, share):
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64, generator=generator(1))
    for kind, dense in (CONVS[2], TRANSPOSED[2]):
        layer = with_bias(kind(3, 2, 3, 2, order=order, stride=2, padding=1, share=share, generator=generator()))
        close(layer(x), dense(x, layer.kernel(), layer.bias, stride=2, padding=1))


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
@pytest.mark.parametrize("kind", [OneWayConv2d, *FACTORED.values()])
def test_padding_modes_like_torch(mode, kind):
    layer = with_bias(kind(3, 4, 3, padding=1, stride=2, padding_mode=mode, generator=generator()))
    dense = nn.Conv2d(3, 4, 3, padding=1, stride=2, padding_mode=mode).double()
    dense.load_state_dict({"weight": layer.kernel(), "bias": layer.bias})
    x = torch.randn(2, 3, 9, 9, dtype=torch.float64, generator=generator(1))
    close(layer(x), dense(x))
    layer.compute = "kernel"
    close(layer(x), dense(x))


@pytest.mark.parametrize("kind", FACTORED.values(), ids=FACTORED)
@pytest.mark.parametrize("options", [{}, {"stride": 2, "padding": 1}, {"dilation": 2, "padding": 2}])
def test_other_factored_kernels(kind, options):
    x = torch.randn(2, 3, 9, 8, dtype=torch.float64, generator=generator(1))
    extra = {"rank": 2} if kind is TwoWayOneWayConv2d else {}
    layer = with_bias(kind(3, 4, 3, generator=generator(), **options, **extra))
    close(layer(x), F.conv2d(x, layer.kernel(), layer.bias, **options))


def test_saving_memory_changes_no_gradient():
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64, generator=generator(1))
    gradients = []
    for save_memory in (False, True):
        layer = OneWayConv2d(3, 4, 3, 2, padding=1, save_memory=save_memory, generator=generator()).double()
        layer(x).square().sum().backward()
        gradients.append([p.grad for p in layer.parameters()])
    for a, b in zip(*gradients, strict=True):
        close(a, b)


def test_same_padding():
    x = torch.randn(1, 3, 8, 8, dtype=torch.float64)
    layer = OneWayConv2d(3, 4, 5, padding="same", dilation=2, generator=generator()).double()
    close(layer(x), F.conv2d(x, layer.kernel(), layer.bias, padding="same", dilation=2))


def count(layer):
    return sum(p.numel() for p in layer.parameters())


def test_counts_by_hand():
    assert count(nn.Conv2d(32, 32, 3)) == 9248
    assert count(OneWayConv2d(32, 32, 3)) == 1248
    assert count(OneWayConv2d(32, 32, 3, 4)) == 4 * 32 * 38 + 32
    assert count(DepthwiseSeparableConv2d(32, 32, 3)) == 1344
    assert count(TwoWayOneWayConv2d(32, 32, 3)) == 6 * 32 * 32 + 32
    assert count(SeparableConv2d(32, 32, 3)) == 6 * 32 * 32 + 32
    assert count(OneWayConv2d(32, 32, 3, 7, share="shared")) == 7 * (32 + 32 + 6) + 32
    assert count(OneWayConv3d(4, 8, 3, 2)) == 2 * 8 * (4 + 9) + 8


def variance(make):
    """Of the outputs that see no edge, for white input, averaged over draws of the weights."""
    x = torch.randn(8, 32, 10, 10, generator=generator(2))
    with torch.no_grad():
        return torch.stack([make(generator(seed))(x)[..., 1:-1, 1:-1].var() for seed in range(20)]).mean().item()


@pytest.mark.parametrize("rank", [1, 2, 4, 8])
@pytest.mark.parametrize("share", ["per_output", "shared"])
def test_initial_variance_is_that_of_he(rank, share):
    rank = rank if share == "per_output" else 16 * rank
    found = variance(lambda g: OneWayConv2d(32, 64, 3, rank, share=share, padding=1, generator=g))
    assert math.isclose(found, 2.0, rel_tol=0.2)  # 20 draws of 64 outputs; white input of variance 1


@pytest.mark.parametrize("kind", FACTORED.values(), ids=FACTORED)
def test_initial_variance_of_the_others(kind):
    assert math.isclose(variance(lambda g: kind(32, 64, 3, padding=1, generator=g)), 2.0, rel_tol=0.2)


def test_initial_variance_of_the_transpose():
    found = variance(lambda g: OneWayConvTranspose2d(32, 64, 4, 2, stride=2, padding=1, generator=g))
    assert math.isclose(found, 2.0, rel_tol=0.2)


def fit(target, rank, steps=400):
    """The relative error to which training on random images brings a layer to a target kernel."""
    layer = OneWayConv2d(target.shape[1], target.shape[0], 3, rank, bias=False, generator=generator(3)).double()
    x = torch.randn(16, target.shape[1], 8, 8, dtype=torch.float64, generator=generator(4))
    y = F.conv2d(x, target)
    optimizer = torch.optim.LBFGS(layer.parameters(), max_iter=steps, tolerance_grad=0, tolerance_change=1e-18,
                                  history_size=30, line_search_fn="strong_wolfe")  # fmt: skip

    def closure():
        optimizer.zero_grad()
        loss = (layer(x) - y).square().mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    return ((layer.kernel() - target).norm() / target.norm()).item()


def test_training_recovers_a_planted_kernel():
    target = OneWayConv2d(3, 2, 3, 1, generator=generator(5)).double().kernel().detach()
    assert fit(target, 1) < 1e-6


def test_a_full_kernel_of_one_channel_needs_rank_three():
    target = torch.randn(1, 1, 3, 3, dtype=torch.float64, generator=generator(6))
    singular = torch.linalg.svdvals(target[0, 0])
    best = (singular[2] / singular.norm()).item()  # Eckart and Young: what rank 2 must leave
    assert fit(target, 3) < 1e-6
    assert best <= fit(target, 2) < 1.05 * best  # training minimises over random images, not over kernels


def test_activation_between_is_an_ablation():
    layer = OneWayConv2d(3, 4, 3, activation_between=torch.tanh, generator=generator())
    plain = OneWayConv2d(3, 4, 3, generator=generator())
    x = torch.randn(1, 3, 8, 8)
    assert not torch.allclose(layer(x), plain(x))
    with pytest.raises(ValueError, match="no equivalent dense kernel"):
        layer.kernel()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 0}, "rank 0 must be at least 1"),
        ({"kernel_size": 4, "padding": "same"}, "odd kernels"),
        ({"padding": "some"}, "did you mean 'same'"),
        ({"groups": 2}, "groups 2"),
        ({"order": "ch"}, "must name each of chw once"),
        ({"share": "share"}, "did you mean 'shared'"),
        ({"stride": 0}, "stride"),
        ({"kernel_size": (3, 3, 3)}, "2, one an axis"),
        ({"padding_mode": "zero"}, "did you mean 'zeros'"),
        ({"compute": "kernel", "activation_between": torch.tanh}, "no kernel to compute with"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        OneWayConv2d(3, 4, **options)


@pytest.mark.parametrize("kind", [OneWayConv2d, *FACTORED.values()])
def test_mismatched_channels(kind):
    with pytest.raises(ValueError, match="expected 3 channels"):
        kind(3, 4)(torch.zeros(1, 4, 8, 8))
    with pytest.raises(ValueError, match="at least 1"):
        kind(0, 4)
