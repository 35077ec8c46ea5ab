"""Multi-grid patches: the numbers of the reference, identities, independence of patches, processes."""

from __future__ import annotations

import math
import warnings

import pytest
import torch

from tensorbench.pde_operators.distributed import local_loss, parallel_gradients, share
from tensorbench.pde_operators.fno import TFNO
from tensorbench.pde_operators.losses import LpLoss, relative_l2
from tensorbench.pde_operators.patching import MultigridPatching2D, RandomPatch, patch_indices, stitch


def noise(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def test_patches_of_counted_points():
    x = torch.arange(64.0).reshape(1, 1, 8, 8)
    patches, _ = MultigridPatching2D(1).patch(x)
    assert patches.shape == (4, 2, 4, 4)
    assert patches[0, 0, :, 0].tolist() == [0, 8, 16, 24] and patches[0, 0, 0].tolist() == [0, 1, 2, 3]
    assert patches[0, 1].tolist() == [[54, 48, 50, 52], [6, 0, 2, 4], [22, 16, 18, 20], [38, 32, 34, 36]]
    assert patches[1, 0, 0].tolist() == [4, 5, 6, 7] and patches[2, 0, 0].tolist() == [32, 33, 34, 35]
    padded, _ = MultigridPatching2D(1, 0.125).patch(x)
    assert padded.shape == (4, 2, 6, 6)
    assert padded[0, 0, 0].tolist() == [63, 56, 57, 58, 59, 60]


@pytest.mark.parametrize(("levels", "size", "fraction"), [(1, 8, 0.0), (1, 16, 0.125), (2, 32, 0.0), (2, 64, 0.0625)])
def test_patches_are_those_of_neuraloperator(levels, size, fraction):
    module = pytest.importorskip("neuralop.training.patching")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peer = module.MultigridPatching2D(torch.nn.Identity(), levels, fraction, stitching=True)
    x, y = noise(2, 3, size, size), noise(2, 1, size, size)
    ours = MultigridPatching2D(levels, fraction)
    torch.testing.assert_close(ours.patch(x)[0], peer.patch(x, y)[0])


def test_context_where_the_reference_raises():
    x = noise(1, 1, 16, 16)  # two levels need 4^2 points an axis, not twice as many
    patches, _ = MultigridPatching2D(2).patch(x)
    assert patches.shape == (16, 3, 4, 4)
    rows = patch_indices(16, 2, 0, 2)
    torch.testing.assert_close(patches[5, 2], x[0, 0][rows[1]][:, rows[1]])


@pytest.mark.parametrize("level", [0, 1, 2])
def test_a_patch_lies_in_the_middle_of_its_views(level):
    for n, levels in ((64, 2), (128, 2), (64, 1)):
        if level > levels:
            continue
        size = n // 2**levels
        for p, seen in enumerate(patch_indices(n, levels, 0, level).tolist()):
            inside = [k for k, at in enumerate(seen) if p * size <= at < (p + 1) * size]
            assert len(inside) >= size // 2**level
            if 2**level < 2**levels or level == 0:  # the coarsest view sees the whole domain once
                middle = (inside[0] + inside[-1]) / 2
                assert abs(middle - (size - 1) / 2) <= 1


@pytest.mark.parametrize("levels", [0, 1, 2])
@pytest.mark.parametrize("fraction", [0.0, 0.0625, 0.1])
def test_patching_and_stitching_change_nothing(levels, fraction):
    x = noise(3, 2, 32, 16)
    patching = MultigridPatching2D(levels, fraction, stitching=False)
    patches, cut = patching.patch(x, x)
    torch.testing.assert_close(patching.unpatch(patches[:, :2], (32, 16)), x)
    torch.testing.assert_close(stitch(cut, 2**levels), x)
    torch.testing.assert_close(patching.outputs(patches[:, :2], (32, 16)), cut)
    assert patches.shape[1] == patching.channels(2)


def test_a_patch_needs_nothing_of_another():
    patching = MultigridPatching2D(1, 0.125)
    model = TFNO(2, 1, (4, 4), 4, 2, generator=0).double()
    x = noise(1, 1, 16, 16).requires_grad_()
    patches, _ = patching.patch(x)
    together = model(patches)
    alone = torch.cat([model(p[None]) for p in patches.detach()])
    torch.testing.assert_close(together, alone)
    (slope,) = torch.autograd.grad(patching.crop(together, (16, 16))[0].sum(), x)
    seen = torch.zeros(16, 16, dtype=torch.bool)
    halo, coarse = patch_indices(16, 1, 2, 0)[0], patch_indices(16, 1, 2, 1)[0]
    seen[halo[:, None], halo] = True
    seen[coarse[:, None], coarse] = True
    assert (slope[0, 0] != 0).equal(seen) and not seen.all()


def test_random_patches_are_patches_of_rolled_fields():
    x, y = noise(5, 2, 16, 32), noise(5, 1, 16, 32, seed=1)
    for patching in (MultigridPatching2D(1, 0.125), MultigridPatching2D(1, context=False)):
        a, b = RandomPatch(patching)(x, y, torch.Generator().manual_seed(3))
        shifts = torch.Generator().manual_seed(3)
        down, right = (torch.randint(n, (5,), generator=shifts).tolist() for n in (16, 32))
        for k in range(5):
            rolled = [torch.roll(f[k : k + 1], (-down[k], -right[k]), (2, 3)) for f in (x, y)]
            torch.testing.assert_close(a[k], patching.patch(rolled[0])[0][0])
            torch.testing.assert_close(b[k], rolled[1][0, :, :8, :16])


@pytest.mark.parametrize("stitching", [True, False])
def test_two_processes_give_the_gradients_of_one(stitching):
    patching = MultigridPatching2D(1, 0.0625, stitching=stitching)
    model = TFNO(2, 1, (4, 4), 4, 2, generator=0).double()
    x, y = noise(2, 1, 16, 16), noise(2, 1, 16, 16, seed=1)
    loss = LpLoss() if stitching else relative_l2
    value, gradients = parallel_gradients(model, x, y, patching, loss, processes=2)
    alone = local_loss(model, x, y, patching, loss)
    alone.backward()
    assert value == pytest.approx(alone.item(), rel=1e-12)
    assert set(gradients) == {name for name, _ in model.named_parameters()}
    for name, p in model.named_parameters():
        torch.testing.assert_close(gradients[name], p.grad, rtol=1e-9, atol=1e-12)
        assert p.grad.abs().max() > 0


@pytest.mark.parametrize("levels", [0, 1, 2])
@pytest.mark.parametrize("own", [slice(0, 1), slice(1, 3), slice(0, 3)])
def test_a_run_of_patches_is_that_of_all(levels, own):
    x, y = noise(3, 2, 32, 16), noise(3, 1, 32, 16, seed=1)
    for patching in (MultigridPatching2D(levels, 0.0625, stitching=False), MultigridPatching2D(levels, context=False)):
        for part, whole in zip(patching.patch(x, y, own=own), patching.patch(x, y), strict=True):
            torch.testing.assert_close(part, whole if patching.stitching and whole is y else whole[own], rtol=0, atol=0)


def test_a_process_cuts_its_own_patches_alone():
    """The second sample belongs to the second process: the first neither looks at it nor makes a patch of it."""
    patching = MultigridPatching2D(1, 0.0625, stitching=False)
    seen = []
    x, y = noise(2, 1, 16, 16), noise(2, 1, 16, 16, seed=1)
    x[1] = math.nan
    value = local_loss(lambda p: seen.append(p.shape) or p[:, :1], x, y, patching, relative_l2, rank=0, world=2)
    assert seen == [(4, 2, 10, 10)]
    assert torch.isfinite(value)
    with pytest.raises(ValueError, match="NaN"):
        local_loss(lambda p: p[:, :1], x, y, patching, relative_l2, rank=1, world=2)


def test_points_of_a_worker_fall_by_four_a_level():
    x = noise(1, 1, 64, 64)
    points = [math.prod(MultigridPatching2D(levels).patch(x)[0].shape[2:]) for levels in range(4)]
    assert points == [4096, 1024, 256, 64]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: MultigridPatching2D(-1), "at least 0"),
        (lambda: MultigridPatching2D(1, -0.1), "not be negative"),
        (lambda: MultigridPatching2D(1).patch(noise(1, 1, 9, 8)), "does not divide into 2 × 2"),
        (lambda: MultigridPatching2D(1).patch(noise(1, 1, 10, 8)), "multiple of 4, or use context=False"),
        (lambda: MultigridPatching2D(2, 0.3).patch(noise(1, 1, 16, 16)), "wider than the patch"),
        (lambda: MultigridPatching2D(1).patch(torch.full((1, 1, 8, 8), math.nan)), "NaN"),
        (lambda: MultigridPatching2D(1).patch(noise(1, 8, 8)), "real fields"),
        (lambda: MultigridPatching2D(1).patch(torch.zeros(1, 1, 8, 8, dtype=torch.complex64)), "real fields"),
        (
            lambda: MultigridPatching2D(1, stitching=False).patch(noise(1, 1, 8, 8), noise(1, 1, 7, 8)),
            "does not divide",
        ),
        (lambda: MultigridPatching2D(1).unpatch(noise(4, 1, 16, 16), (64, 64)), "are not 2 × 2 patches of a"),
        (lambda: MultigridPatching2D(1).unpatch(noise(4, 1, 17, 17), (32, 32)), "are not 2 × 2 patches of a"),
        (
            lambda: RandomPatch()(noise(1, 1, 8, 8), noise(1, 1, 16, 16), torch.Generator()),
            "share their samples and grid",
        ),
        (lambda: stitch(noise(3, 1, 4, 4), 2), "not a multiple"),
        (lambda: share(8, 0, 3), "do not divide among 3"),
        (lambda: MultigridPatching2D(1).patch(noise(1, 1, 8, 8), own=slice(4, 6)), "no run of the 4 patches"),
    ],
)
def test_errors_teach(call, message):
    with pytest.raises(ValueError, match=message):
        call()
