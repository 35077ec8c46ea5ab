"""Compression of models there and back, decomposition after training, and the cost model against torch and by hand."""

import pytest
import torch
from torch import nn

from tensorbench.pde_operators import fno, pde_resnet, stnn
from tensorbench.pde_operators.baselines.unet import UNet
from tensorbench.pde_operators.compress import Spec, compress_model, decompress, matched_rank, posthoc_cp
from tensorbench.pde_operators.factored_convs import DepthwiseSeparableConv2d
from tensorbench.pde_operators.layer_costs import cost, count_macs, count_parameters, peak_bytes, saved_bytes
from tensorbench.pde_operators.oneway_conv import OneWayConv2d, OneWayConvTranspose2d


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def model(**options):
    return UNet(3, 1, width=4, generator=generator(), **options).double()


def images(channels=3, size=12):
    return torch.randn(2, channels, size, size, dtype=torch.float64, generator=generator(1))


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("share", ["per_output", "shared"])
@pytest.mark.parametrize("up", [None, nn.ConvTranspose2d])
def test_exact_compression_and_back(share, up):
    dense = model(up=up, padding_mode="circular" if up is None else "zeros")
    small = compress_model(dense, Spec(start="exact", options={"share": share}))
    assert not any(isinstance(m, nn.Conv2d) and m.kernel_size != (1, 1) for m in small.modules())
    close(small(images()), dense(images()))
    back = decompress(small)
    assert [type(m) for m in back.modules()] == [type(m) for m in dense.modules()]
    close(back(images()), dense(images()))


@pytest.mark.parametrize("kind", ["oneway", "two_way", "separable", "depthwise"])
def test_fresh_layers_keep_the_geometry_and_expand(kind):
    dense = model()
    small = compress_model(dense, Spec(kind, rank=1), generator(2))
    assert count_parameters(small) < count_parameters(dense)
    assert small(images()).shape == dense(images()).shape
    close(decompress(small)(images()), small(images()))
    again = compress_model(dense, Spec(kind, rank=1), generator(2))
    close(again(images()), small(images()))


def test_what_is_left_alone():
    net = nn.Sequential(nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3))
    small = compress_model(net, Spec(skip=("3",)))
    assert [type(m) for m in small] == [nn.Conv2d, nn.Conv2d, OneWayConv2d, nn.Conv2d]
    assert isinstance(compress_model(nn.ConvTranspose2d(2, 3, 4), Spec(rank=2)), OneWayConvTranspose2d)


@pytest.mark.parametrize("share", ["per_output", "shared"])
def test_posthoc_recovers_a_kernel_of_low_rank(share):
    planted = OneWayConv2d(5, 6, 3, 2, share=share, padding=1, generator=generator(3)).double()
    dense = decompress(planted)
    found = posthoc_cp(dense, 2, share=share, iterations=2000)
    error = (found.kernel() - planted.kernel()).norm() / planted.kernel().norm()
    assert error < 1e-3
    torch.testing.assert_close(found(images(5)), dense(images(5)), rtol=0, atol=1e-2)


def test_posthoc_improves_with_rank():
    dense = nn.Conv2d(6, 8, 3).double()
    with torch.no_grad():
        dense.weight.normal_(generator=generator(4))
    errors = [
        ((posthoc_cp(dense, rank).kernel() - dense.weight).norm() / dense.weight.norm()).item() for rank in (1, 4, 12)
    ]
    assert errors[0] > errors[1] > errors[2]
    assert errors[0] < 1


def test_matched_rank_spends_no_more():
    conv = nn.Conv2d(16, 32, 3)
    weights = 32 * 2 * (16 + 6)
    rank = matched_rank(conv, weights)
    assert rank * (16 + 32 + 6) <= weights < (rank + 1) * (16 + 32 + 6)


# --- costs ----------------------------------------------------------------------------------------------------------


def test_macs_by_hand():
    x = torch.zeros(1, 16, 10, 12)
    assert count_macs(nn.Conv2d(16, 32, 3, padding=1), x) == 32 * 16 * 9 * 120
    assert count_macs(OneWayConv2d(16, 32, 3, 2, padding=1), x) == 32 * 2 * (16 + 6) * 120
    assert count_macs(DepthwiseSeparableConv2d(16, 32, 3, padding=1), x) == 16 * (9 + 32) * 120
    # The channels are mixed before the stride, each axis is strided in its own stage.
    strided = OneWayConv2d(16, 32, 3, 1, padding=1, stride=2)
    assert count_macs(strided, x) == 32 * (16 * 120 + 3 * 60 + 3 * 30)


def test_complex_products_count_fourfold():
    class Product(nn.Module):
        def forward(self, a, b):
            return torch.einsum("bik,bkj->bij", a, b)

    a, b = torch.zeros(2, 3, 4), torch.zeros(2, 4, 5)
    assert count_macs(Product(), a, b) == 2 * 3 * 4 * 5
    assert count_macs(Product(), a.cfloat(), b.cfloat()) == 4 * 2 * 3 * 4 * 5


def test_memory_by_hand():
    x = torch.zeros(1, 8, 16, 16)
    one = 16 * 16 * 4  # bytes of a map
    layer = OneWayConv2d(8, 8, 3, 2, padding=1)
    # Two of three stages' results are needed again (the input is the caller's), the third is summed away.
    assert saved_bytes(layer, x) == 2 * 16 * one
    assert saved_bytes(OneWayConv2d(8, 8, 3, 2, padding=1, save_memory=True), x) == 0
    assert saved_bytes(nn.Conv2d(8, 8, 3, padding=1), x) == 0
    with torch.no_grad():
        assert peak_bytes(lambda: nn.functional.relu(x + 1)) == 2 * 8 * one


def test_freed_memory_is_free():
    def work():
        for _ in range(10):
            torch.zeros(1000)

    assert peak_bytes(work) <= 2 * 4000


def test_cost_leaves_the_model_as_it_was():
    net = model()
    net(images()).sum().backward()
    before = [p.grad.clone() for p in net.parameters()]
    found = cost(net, images())
    assert all(torch.equal(p.grad, g) for p, g in zip(net.parameters(), before, strict=True))
    assert found.parameters == sum(p.numel() for p in net.parameters())
    assert found.checkpoint_bytes > 8 * found.parameters
    assert found.training_bytes > found.saved_bytes > 0
    assert found.training_bytes > found.forward_bytes > 0


def test_weights_are_counted_in_one_way():
    assert fno.count_weights is pde_resnet.count_weights is stnn.count is count_parameters
    frozen = nn.Linear(3, 2).requires_grad_(False)
    whole = nn.ParameterList([nn.Parameter(torch.zeros(4, dtype=torch.complex64)), *frozen.parameters()])
    assert count_parameters(whole) == 8


def test_cost_leaves_statistics_of_batches_as_they_were():
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    cost(net, torch.randn(2, 1, 5, 5, generator=torch.Generator().manual_seed(0)))
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (Spec("oneways"), "did you mean 'oneway'"),
        (Spec(start="cold"), "unknown start"),
        (Spec(skip=("hed",)), "did you mean 'head'"),
        (Spec("separable", start="cp"), "fresh"),
        (Spec(rank=0), "rank 0"),
        (Spec(rank=0, start="cp"), "rank 0"),
    ],
)
def test_bad_specs(spec, message):
    with pytest.raises(ValueError, match=message):
        compress_model(model(), spec)


@pytest.mark.parametrize("kind", ["two_way", "separable", "depthwise"])
def test_oblong_kernels_are_not_made_square(kind):
    with pytest.raises(ValueError, match="same kernel size"):
        compress_model(nn.Conv2d(2, 3, (3, 5)), Spec(kind))
    with pytest.raises(ValueError, match="padding in numbers"):
        compress_model(nn.Conv2d(2, 3, 3, padding="same"), Spec(kind))


def test_nothing_to_compress_and_broken_kernels():
    with pytest.raises(ValueError, match="no dense convolution"):
        compress_model(nn.Linear(3, 3), Spec())
    with pytest.raises(ValueError, match="got Linear"):
        posthoc_cp(nn.Linear(3, 3), 1)
    broken = nn.Conv2d(2, 2, 3)
    with torch.no_grad():
        broken.weight[0, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="not finite"):
        posthoc_cp(broken, 1)
    with pytest.raises(ValueError, match="groups"):
        posthoc_cp(nn.Conv2d(4, 4, 3, groups=2), 1)
