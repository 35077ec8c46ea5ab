"""The block and the network: counts, projections, fusion, the start, bad input."""

import pytest
import torch
from torch.nn import functional as F

from tensorbench.pde_operators.pde_resnet import (
    ConvBN,
    FilterBank,
    HardBall,
    PDEBlock,
    PDEResNet,
    SoftBall,
    count_weights,
    fuse,
    restore_batch_norm,
)


def images(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def shaken(seed: int = 0, **options) -> PDEResNet:
    """A network in float64 whose batch norms are anything but the start's."""
    model = PDEResNet(**({"layers": (2, 2), "width": 4, "seed": seed} | options)).double()
    generator = torch.Generator().manual_seed(seed + 100)
    with torch.no_grad():
        for part in model.modules():
            if isinstance(part, torch.nn.BatchNorm2d):
                for values in (part.weight, part.bias, part.running_mean):
                    values.copy_(torch.randn(values.shape, generator=generator, dtype=values.dtype))
                part.running_var.uniform_(0.5, 2, generator=generator)
    return model.eval()


@pytest.mark.parametrize(
    ("channels", "down", "weights"),
    [(64, False, 72_320), (64, True, 113_664), (128, False, 275_712), (128, True, 440_320), (256, False, 538_112)],
)
def test_weights_of_a_block(channels, down, weights):
    assert count_weights(PDEBlock(channels, 2 if down else 1, down)) == weights


def test_block_is_the_formula_written_out():
    block = fuse(shaken(layers=(2,)).blocks()[0])
    x = images(2, 4, 5, 6)
    y = torch.einsum("oi,nihw->nohw", block.conv1.conv.weight[:, :, 0, 0], x) + block.conv1.conv.bias[:, None, None]
    product = F.pad(y[:, :16] * y[:, 16:], (1, 1, 1, 1))
    out = x + block.conv3.conv.bias[:, None, None]
    for channel in range(32):
        kernel = block.conv2.conv.weight[channel, 0]
        z = sum(kernel[b, a] * product[:, channel % 16, b : b + 5, a : a + 6] for b in range(3) for a in range(3))
        mix = block.conv3.conv.weight[:, channel, 0, 0]
        out = out + mix[:, None, None] * (z + block.conv2.conv.bias[channel])[:, None]
    torch.testing.assert_close(block(x), out, rtol=0, atol=1e-10)


def test_filter_bank_is_a_grouped_convolution():
    for padding in ("zeros", "reflect", "circular"):
        bank = FilterBank(5, 2, padding).double()
        grouped = torch.nn.Conv2d(5, 10, 3, 2, 1, groups=5, bias=False, padding_mode=padding).double()
        pairs = torch.stack([torch.arange(5), torch.arange(5, 10)], dim=1).flatten()
        grouped.weight.data = bank.weight.data[pairs]
        x = images(3, 5, 7, 8)
        torch.testing.assert_close(bank(x)[:, pairs], grouped(x))


def test_relu_variant_has_as_many_weights():
    assert count_weights(PDEResNet(activation="relu")) == count_weights(PDEResNet())


@pytest.mark.parametrize("ball", [HardBall, SoftBall])
def test_balls(ball):
    x, y = 3 * images(50, 7, 3, 2), 3 * images(50, 7, 3, 2, seed=1)
    x[0] = 0
    project = ball(7)
    assert (project(x).square().sum(1) <= 7 * (1 + 1e-12)).all()
    apart = (project(x) - project(y)).square().sum(1)
    assert (apart <= (x - y).square().sum(1) * (1 + 1e-12)).all()
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(project(x).sum(), x)
    assert gradient.isfinite().all()
    torch.testing.assert_close(gradient[0], torch.ones_like(gradient[0]))  # the identity at 0


def test_hard_ball_is_the_identity_inside_and_ends_on_the_sphere_outside():
    x = images(20, 9, 2, 2)
    inside = x / x.norm(dim=1, keepdim=True) * 2.99
    torch.testing.assert_close(HardBall(9)(inside), inside)
    outside = HardBall(9)(10 * inside).norm(dim=1)
    torch.testing.assert_close(outside, torch.full_like(outside, 3.0))


def test_gradients_by_finite_differences():
    block = shaken(layers=(1, 1), width=2).stages[1][0]
    x = images(1, 2, 4, 4).requires_grad_()
    assert torch.autograd.gradcheck(block, (x,), eps=1e-6, atol=1e-7)


@pytest.mark.parametrize("options", [{}, {"radius": "soft"}, {"coord_mix": True}, {"activation": "relu"},
                                     {"stem": "imagenet", "layers": (1, 1)}])  # fmt: skip
def test_fused_and_restored_networks_are_the_same_function(options):
    model = shaken(**options)
    x = images(40, 1, 12, 12)
    fused = fuse(model)
    assert not any(isinstance(part, torch.nn.BatchNorm2d) for part in fused.modules())
    torch.testing.assert_close(fused(x), model(x), rtol=1e-10, atol=1e-10)
    restored = restore_batch_norm(fused, x)
    torch.testing.assert_close(restored(x), model(x), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(restored.train()(x), model(x), rtol=1e-8, atol=1e-8)  # the batch has these statistics


def test_network_starts_as_its_skips():
    model, x = PDEResNet((2, 2), 4).double().eval(), images(3, 1, 8, 8)
    z = model.stem(x)
    for block in model.blocks():
        z = block.ball(block.skip(z))
    torch.testing.assert_close(model(x), model.head(z.mean(dim=(2, 3))))


def test_variable_coefficients_start_at_one_and_then_matter():
    x = images(3, 1, 8, 8)
    plain, mixed = shaken(), shaken(coord_mix=True)
    mixed.load_state_dict(plain.state_dict(), strict=False)
    torch.testing.assert_close(plain(x), mixed(x))
    torch.nn.init.ones_(mixed.blocks()[0].mix.weight)
    assert (plain(x) - mixed(x)).abs().max() > 1e-3


def test_same_seed_same_network():
    a, b, c = (PDEResNet(seed=seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not torch.equal(a["stem.conv.weight"], c["stem.conv.weight"])


def test_circular_padding_commutes_with_shifts():
    model = shaken(layers=(2,), padding="circular")
    x = images(2, 4, 6, 6)
    shift = {"shifts": (2, 3), "dims": (2, 3)}
    torch.testing.assert_close(model.stages[0](x).roll(**shift), model.stages[0](x.roll(**shift)))


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: PDEResNet()(torch.zeros(1, 1, 8, 8, dtype=torch.uint8)), TypeError, "float"),
        (lambda: PDEResNet()(torch.zeros(1, 1, 3, 8)), ValueError, "smaller than the product of the strides, 4"),
        (lambda: PDEResNet()(torch.zeros(1, 3, 8, 8)), ValueError, "need (batch, 1, height, width)"),
        (lambda: PDEResNet(layers=(1, 0)), ValueError, "stages"),
        (lambda: PDEResNet(stem="big"), ValueError, "unknown stem"),
        (lambda: PDEResNet(radius="had"), ValueError, "did you mean 'hard'"),
        (lambda: PDEResNet(activation="swish"), ValueError, "unknown activation"),
        (lambda: PDEBlock(4, stride=2), ValueError, "downsample=True"),
        (lambda: PDEBlock(0), ValueError, "at least 1"),
        (lambda: fuse(PDEResNet()), RuntimeError, "eval"),
        (lambda: ConvBN(torch.nn.Conv2d(1, 1, 1, bias=False)).fuse(), RuntimeError, "eval"),
    ],
)
def test_bad_input(call, error, text):
    with pytest.raises(error) as raised:
        call()
    assert text in str(raised.value)
