"""Fourier neural operators: brute-force sums, neuraloperator and tensorly as oracles, invariances, bad input."""

from __future__ import annotations

import itertools
import math
import warnings

import numpy as np
import pytest
import torch

from tensorbench.pde_operators.factored import FORMATS, SpectralWeights, rank_from_ratio
from tensorbench.pde_operators.fno import FNO, TFNO, count_weights
from tensorbench.pde_operators.fno_layers import DomainPadding, Norm, resample
from tensorbench.pde_operators.spectral_conv import (
    JointSpectralWeights,
    LayerOfJoint,
    SpectralConv,
    from_low_modes,
    low_modes,
)


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def noise(*shape, seed=1, dtype=torch.float64):
    return torch.randn(*shape, generator=rng(seed), dtype=dtype)


def brute_force(x, table, modes):
    """The layer by its definition: sums of exponentials over all points and all kept modes."""
    grid = x.shape[2:]
    points = list(itertools.product(*(range(n) for n in grid)))
    ranges = [range(-(n // 2), n - n // 2) for n in modes[:-1]] + [range(modes[-1] // 2 + 1)]
    y = torch.zeros(x.shape[0], table.shape[1], *grid, dtype=torch.float64)
    for mode in itertools.product(*ranges):
        angles = [2 * math.pi * sum(k * p / n for k, p, n in zip(mode, point, grid, strict=True)) for point in points]
        wave = torch.exp(1j * torch.tensor(angles, dtype=torch.float64))
        coefficient = (x.flatten(2).to(wave.dtype) * wave.conj()).mean(-1)
        at = (*(k + n // 2 for k, n in zip(mode[:-1], modes[:-1], strict=True)), mode[-1])
        out = coefficient @ table[(slice(None), slice(None), *at)]
        twice = 1 if mode[-1] == 0 or 2 * mode[-1] == grid[-1] else 2  # the other half of the spectrum is its mirror
        y += twice * (out[..., None] * wave).real.reshape(*out.shape, *grid)
    return y


GRIDS = [((9,), (5,)), ((8,), (8,)), ((6, 8), (4, 4)), ((7, 5), (3, 5)), ((4, 4, 6), (2, 4, 4))]


@pytest.mark.parametrize(("grid", "modes"), GRIDS)
def test_dense_layer_equals_the_fourier_sum(grid, modes):
    layer = SpectralConv(2, 3, modes, bias=False, generator=rng()).double()
    x = noise(2, 2, *grid)
    expected = brute_force(x, layer.weights.full(), modes)
    torch.testing.assert_close(layer(x), expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(("grid", "modes"), [((12,), (6,)), ((10, 12), (6, 4)), ((6, 8, 6), (4, 4, 4))])
@pytest.mark.parametrize("fewer", [False, True])
def test_factored_layer_equals_the_reconstructed_one(form, grid, modes, fewer):
    options = {"factorization": form, "rank": 0.3}
    layers = [
        SpectralConv(3, 4, modes, implementation=how, generator=rng(), **options).double()
        for how in ("factorized", "reconstructed")
    ]
    for layer in layers:
        layer.n_modes = tuple(n - 2 for n in modes) if fewer else modes
    x = noise(2, 3, *grid)
    torch.testing.assert_close(layers[0](x), layers[1](x), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("form", [None, *FORMATS])
@pytest.mark.parametrize("modes", [(6,), (4, 6), (4, 2, 4)])
def test_joint_layers_come_from_rows_of_the_joint_tensor(form, modes):
    joint = JointSpectralWeights(3, 2, 4, modes, form, 0.4, generator=rng()).double()
    full, d = joint.weights.full(), len(modes)
    x = noise(2, 2, *(n + 3 for n in modes))
    for index in range(3):
        view = LayerOfJoint(joint, index)
        table = view.full()
        for corner in range(2 ** (d - 1)):
            sides = [(corner >> (d - 2 - k)) & 1 for k in range(d - 1)]
            block = tuple(slice(s * (n // 2), (s + 1) * (n // 2)) for s, n in zip(sides, modes, strict=False))
            torch.testing.assert_close(table[(slice(None), slice(None), *block)], full[index * 2 ** (d - 1) + corner])
        layer = SpectralConv(2, 4, modes, weights=view, bias=False).double()
        torch.testing.assert_close(layer(x), brute_force(x, table, modes), rtol=1e-8, atol=1e-9)
        assert count_weights(layer) == 0


@pytest.mark.parametrize("form", FORMATS)
def test_initial_variance_is_that_of_dense_weights(form):
    values = [SpectralWeights((16, 16, 8, 5), form, 0.2, std=0.5, generator=rng(k)).full() for k in range(20)]
    assert torch.stack(values).abs().square().mean().item() == pytest.approx(0.25, rel=0.15)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("shape", [(16, 16, 8, 5), (24, 24, 16, 9), (64, 64, 64, 33), (3, 5, 7), (8, 16, 16, 4, 5)])
@pytest.mark.parametrize("ratio", [0.01, 0.1, 0.35, 1.0])
def test_ranks_are_tensorlys(form, shape, ratio):
    import tensorly

    rule = {
        "cp": tensorly.cp_tensor.validate_cp_rank,
        "tucker": tensorly.tucker_tensor.validate_tucker_rank,
        "tt": tensorly.tt_tensor.validate_tt_rank,
    }[form]
    expected = rule(shape, ratio)
    ours = rank_from_ratio(shape, form, ratio)
    assert ours == (max(expected, 1) if form == "cp" else tuple(expected))
    if form == "tucker":
        assert rank_from_ratio(shape, form, 0.5, (0,)) == tuple(rule(shape, 0.5, fixed_modes=[0]))


@pytest.mark.parametrize(
    ("options", "weights"),
    [
        ({"n_modes": (8, 8), "hidden": 16}, 85_425),
        ({"n_modes": (8, 8), "hidden": 16, "factorization": "tucker"}, 12_073),
        ({"n_modes": (8, 8), "hidden": 16, "factorization": "cp"}, 11_969),
        ({"n_modes": (8, 8), "hidden": 16, "factorization": "tt"}, 11_945),
        ({"n_modes": (16, 16), "hidden": 24}, 671_113),
        ({"n_modes": (16, 16), "hidden": 24, "factorization": "tucker"}, 74_905),
        ({"n_modes": (64, 64), "hidden": 64, "projection_ratio": 4}, 69_265_345),
        ({"n_modes": (64, 64), "hidden": 64, "projection_ratio": 4, "factorization": "tucker"}, 7_211_353),
        ({"n_modes": (64, 64), "hidden": 64, "projection_ratio": 4, "factorization": "tucker", "rank": 0.01}, 732_689),
    ],
)
def test_numbers_of_weights(options, weights):
    assert count_weights(FNO(1, 1, generator=0, **options)) == weights


def with_weights_of(peer, ours):
    """Copy the peer's weights."""
    state = peer.state_dict()
    with torch.no_grad():
        for index, block in enumerate(ours.blocks):
            weight = peer.fno_blocks.convs[index].weight
            names = [n for n, _ in weight.named_parameters()]
            for part, name in zip(block.conv.weights.parts, names, strict=True):
                value = state[f"fno_blocks.convs.{index}.weight.{name}"]
                part.copy_(torch.view_as_real(value) if value.is_complex() else value)
            block.conv.bias.copy_(state[f"fno_blocks.convs.{index}.bias"])
            block.skip.weight.copy_(state[f"fno_blocks.fno_skips.{index}.conv.weight"])
            block.mlp_skip.weight.copy_(state[f"fno_blocks.channel_mlp_skips.{index}.weight"])
            copy_mlp(block.mlp, state, f"fno_blocks.channel_mlp.{index}")
        copy_mlp(ours.lifting, state, "lifting")
        copy_mlp(ours.projection, state, "projection")
    return ours


def copy_mlp(mlp, state, name):
    for number, layer in enumerate((mlp.first, mlp.second)):
        layer.weight.copy_(state[f"{name}.fcs.{number}.weight"])
        layer.bias.copy_(state[f"{name}.fcs.{number}.bias"])


@pytest.mark.parametrize("form", [None, *FORMATS])
@pytest.mark.parametrize("extra", [{}, {"preactivation": True, "stabilizer": "tanh"}, {"padding": 0.25}])
def test_same_function_as_neuraloperator(form, extra):
    models = pytest.importorskip("neuralop.models")
    theirs = {"domain_padding" if k == "padding" else k: v for k, v in extra.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        peer = models.FNO((6, 4), 2, 1, 5, n_layers=3, factorization=form, rank=0.3, **theirs)
        ours = with_weights_of(peer, FNO(2, 1, (6, 4), 5, 3, factorization=form, rank=0.3, **extra))
        x = noise(2, 2, 12, 8, dtype=torch.float32)
        expected = peer(x)
    torch.testing.assert_close(ours(x), expected, rtol=1e-4, atol=2e-5)
    assert count_weights(ours) == count_weights(peer)


@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize("norm", [None, "instance", "group"])
def test_translation_equivariance_without_coordinates(joint, norm):
    model = TFNO(1, 2, (6, 6), 6, 2, grid=False, joint=joint, norm=norm, rank=0.4, generator=0).double()
    x = noise(2, 1, 16, 12)
    moved = torch.roll(x, (3, -5), (2, 3))
    torch.testing.assert_close(model(moved), torch.roll(model(x), (3, -5), (2, 3)), rtol=1e-9, atol=1e-10)


def test_a_fourier_layer_gives_the_same_function_on_every_grid():
    coarse = resample(noise(1, 2, 7, 7), (32, 32))  # band-limited
    fine = resample(coarse, (64, 64))
    torch.testing.assert_close(fine[..., ::2, ::2], coarse, rtol=1e-10, atol=1e-10)
    layer = SpectralConv(2, 2, (12, 12), generator=rng(), factorization="cp", rank=0.3).double()
    torch.testing.assert_close(layer(fine)[..., ::2, ::2], layer(coarse), rtol=1e-9, atol=1e-10)
    doubled = SpectralConv(2, 2, (12, 12), generator=rng(), factorization="cp", rank=0.3, scaling=2).double()
    torch.testing.assert_close(doubled(coarse), layer(fine), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("grid", [(8, 8), (6, 7)])
def test_the_imaginary_parts_that_a_real_field_cannot_have_are_dropped(grid):
    kept = (grid[0], grid[1] // 2 + 1)
    z = torch.randn(2, 3, *kept, generator=rng(), dtype=torch.complex128)  # as from a layer: not Hermitian
    field = from_low_modes(z, grid)
    seen = low_modes(field, kept)
    columns = torch.fft.ifft(torch.fft.ifftshift(torch.stack([z, seen]), 3), dim=3, norm="forward")
    ends = [0, -1] if grid[1] % 2 == 0 else [0]
    torch.testing.assert_close(columns[1][..., ends].real, columns[0][..., ends].real)
    assert columns[0][..., ends].imag.abs().min() > 0 and columns[1][..., ends].imag.abs().max() < 1e-12
    torch.testing.assert_close(columns[1][..., 1:3], columns[0][..., 1:3])
    torch.testing.assert_close(from_low_modes(seen, grid), field)


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_any_number_of_axes_and_every_option_train(axes):
    grid, modes = (8,) * axes, (4,) * axes
    for options in (
        {"norm": "ada_in", "ada_in_features": 3},
        {"norm": "batch", "skip": "identity", "mlp_skip": "linear"},
        {"separable": True, "factorization": "tt", "channel_mlp": None},
        {"precision": "mixed", "factorization": "cp"},
        {"precision": "half", "scaling": [1.0, 2.0], "padding": 0.25, "stabilizer": "tanh", "joint": True},
    ):
        model = FNO(2, 1, modes, 4, 2, generator=0, **options)
        x = noise(3, 2, *grid, dtype=torch.float32)
        y = model(x, noise(3, 3, dtype=torch.float32) if "ada_in_features" in options else None)
        assert y.shape == (3, 1, *(n * (2 if "scaling" in options else 1) for n in grid))
        y.square().mean().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_half_precision_is_close_to_full():
    full, mixed = (TFNO(1, 1, (6, 6), 8, 2, precision=p, generator=0) for p in ("full", "mixed"))
    x = noise(2, 1, 16, 16, dtype=torch.float32)
    error = ((mixed(x) - full(x)).norm() / full(x).norm()).item()
    assert 0 < error < 5e-3


@pytest.mark.parametrize("joint", [False, True])
def test_half_precision_rounds_weights_however_they_are_contracted(joint):
    dense = {"joint": joint, "precision": "mixed", "generator": 0}
    one, other = (FNO(1, 1, (6, 6), 8, 2, implementation=how, **dense) for how in ("factorized", "reconstructed"))
    z = noise(2, 8, 6, 4, dtype=torch.complex64)
    a, b = (model.convs[0]._apply_weights(z) for model in (one, other))
    assert torch.allclose(a, b, atol=1e-6)
    full = FNO(1, 1, (6, 6), 8, 2, joint=joint, generator=0).convs[0]._apply_weights(z)
    assert (a - full).abs().max() > 1e-5


def test_adaptive_norm_conditions_each_sample():
    norm = Norm("ada_in", 4, features=2, generator=rng())
    x, e = noise(2, 4, 6, dtype=torch.float32), noise(2, 2, dtype=torch.float32)
    torch.testing.assert_close(norm(x, e)[1:], norm(x[1:], e[1]))
    assert not torch.allclose(norm(x, e), norm(x, e.flip(0)))


def test_modes_can_be_added_during_training():
    model = TFNO(1, 1, (4, 4), 6, 2, max_n_modes=(8, 8), generator=0)
    x = noise(1, 1, 12, 12, dtype=torch.float32)
    few = model(x)
    model.n_modes = (8, 8)
    assert not torch.allclose(model(x), few)
    model.n_modes = (4, 4)
    torch.testing.assert_close(model(x), few)


def test_padding_can_be_taken_off_again():
    padding, x = DomainPadding([0.25, 0.1]), noise(1, 2, 8, 10)
    assert padding(x).shape == (1, 2, 12, 12)
    torch.testing.assert_close(padding.remove(padding(x), (8, 10), (8, 10)), x)


def test_seeds_decide_the_weights():
    a, b, c = (TFNO(1, 1, (4, 4), 4, 2, joint=True, generator=g) for g in (0, rng(0), 1))
    x = noise(1, 1, 8, 8, dtype=torch.float32)
    torch.testing.assert_close(a(x), b(x), rtol=0, atol=0)
    assert not torch.allclose(a(x), c(x))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: FNO(1, 1, (4, 4), factorization="tuckr"), "did you mean 'tucker'"),
        (lambda: TFNO(1, 1, (4, 4), rank=1.5), "share of the full weights"),
        (lambda: TFNO(1, 1, (4, 4), rank=(2, 2)), "4 numbers"),
        (lambda: FNO(1, 1, (5, 4), joint=True), "even numbers"),
        (lambda: FNO(1, 1, (4, 4), norm="layer"), "unknown norm"),
        (lambda: FNO(1, 1, (4, 4), norm="ada_in"), "ada_in_features"),
        (lambda: FNO(1, 1, (4, 4), skip="gate"), "unknown skip"),
        (lambda: FNO(1, 1, (4, 4), stabilizer="relu"), "unknown stabilizer"),
        (lambda: SpectralConv(2, 3, (4,), separable=True), "2 in and 3 out"),
        (lambda: SpectralConv(2, 3, (4,), precision="bfloat"), "unknown precision"),
        (lambda: FNO(1, 1, (4, 4, 4, 4)), "1 to 3 axes"),
        (lambda: FNO(1, 1, (4, 4), padding=2.0), "from 0 to 1"),
        (lambda: FNO(1, 1, (8, 8))(torch.zeros(1, 1, 6, 16)), r"\(8, 8\) exceed the grid \(6, 16\)"),
        (lambda: FNO(1, 1, (4, 4))(torch.zeros(1, 1, 8, 8, dtype=torch.complex64)), "two channels"),
        (lambda: FNO(1, 1, (4, 4))(torch.full((1, 1, 8, 8), math.nan)), "NaN"),
        (lambda: FNO(1, 1, (4, 4))(torch.zeros(1, 2, 8, 8)), "a field of shape"),
        (lambda: FNO(1, 1, (4, 4), norm="batch")(torch.zeros(1, 1, 8, 8)), "single sample"),
        (lambda: setattr(FNO(1, 1, (4, 4)), "n_modes", (6, 4)), "must be between"),
    ],
)
def test_errors_teach(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_tensors_of_tensorly_torch_have_our_ranks():
    tltorch = pytest.importorskip("tltorch")
    for form in FORMATS:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            peer = tltorch.FactorizedTensor.new((16, 16, 8, 5), rank=0.1, factorization=form, dtype=torch.cfloat)
        mine = SpectralWeights((16, 16, 8, 5), form, 0.1)
        assert np.array_equal(np.atleast_1d(peer.rank), np.atleast_1d(mine.rank))
