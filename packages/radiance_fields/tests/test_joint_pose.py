"""Kernels, schedules, targets, the shift study and the planar task: brute force, closed forms, planted answers."""

import logging
import math

import pytest
import torch

from tensorbench.radiance_fields.datasets.joint_pose import planar_patches, random_signals
from tensorbench.radiance_fields.joint_pose import kernels, planar, schedules, shift_study, targets
from tensorbench.radiance_fields.joint_pose.images import BarfImage, CPImage


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def randn(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=generator(seed))


def close(a, b, tolerance=1e-9):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


# --- kernels ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sigma, total", [(0.4, 1.0850), (1.0, 1.0000), (3.0, 0.99997), (20.0, 0.468)])
def test_sums_of_the_sampled_gaussian(sigma, total):
    kernel = kernels.GaussianKernel(sigma, 25)
    assert kernel.values().sum().item() == pytest.approx(total, abs=6e-4 if sigma > 3 else 6e-5)
    assert kernels.GaussianKernel(sigma, 25, normalized=True).values().sum().item() == pytest.approx(1, abs=1e-6)


def test_no_width_is_the_identity():
    for kind in kernels.KINDS:
        x = randn(2, 7, 9)
        close(kernels.blur_plane(x, kernels.make_kernel(kind, 0.0, 5)), x)


@pytest.mark.parametrize("kind", sorted(kernels.KINDS))
@pytest.mark.parametrize("width, taps", [(0.7, 5), (1.6, 11), (2.0, 13)])
def test_blurred_factors_are_the_blurred_grid(kind, width, taps):
    """VM on a grid that is no cube: every axis has its own length."""
    nx, ny, nz, rank = 20, 28, 36, 3
    sizes = {"x": nx, "y": ny, "z": nz}
    axes = [("y", "x", "z"), ("z", "x", "y"), ("z", "y", "x")]
    planes = [randn(1, rank, sizes[b], sizes[a], seed=k) for k, (b, a, _) in enumerate(axes)]
    lines = [randn(1, rank, sizes[c], 1, seed=9 + k) for k, (_, _, c) in enumerate(axes)]

    def materialised(planes, lines):
        parts = [torch.einsum(f"r{b}{a},r{c}->xyz", plane[0], line[0, :, :, 0])
                 for plane, line, (b, a, c) in zip(planes, lines, axes, strict=True)]  # fmt: skip
        return torch.stack(parts).sum(0)

    kernel = kernels.make_kernel(kind, width, taps)
    want = kernels.blur_grid(materialised(planes, lines), kernel)
    close(materialised(*kernels.blur_vm(planes, lines, kernel)), want, 1e-10)
    named = {str(k): factor for k, factor in enumerate([*planes, *lines])}
    smooth = list(kernels.blur_factors(named, kernel).values())
    close(materialised(smooth[:3], smooth[3:]), want, 1e-10)
    _, cp = kernels.blur_vm([], lines, kernel)  # the lines alone are a CP field over (z, y, x)
    cp_grid = torch.einsum("rz,ry,rx->xyz", *(line[0, :, :, 0] for line in lines))
    close(torch.einsum("rz,ry,rx->xyz", *(line[0, :, :, 0] for line in cp)), kernels.blur_grid(cp_grid, kernel), 1e-10)


def test_both_ways_to_blur_an_axis_agree():
    x = randn(3, 8, 12)
    for taps in (1, 5, 31):  # also longer than the axis
        kernel = torch.softmax(randn(taps, seed=taps), 0)
        for dim in (0, 1, 2):
            close(kernels.blur_along(x, kernel, dim), kernels.blur_axis(x, kernel, dim), 1e-12)


def test_a_constant_stays_and_the_border_is_not_darkened():
    images = torch.full((1, 12, 17, 3), 0.6)
    close(kernels.blur_images(images, kernels.GaussianKernel(2.0, 13, normalized=True)), images, 1e-6)


def test_gaussians_add_their_variances():
    x = torch.zeros(1, 101, dtype=torch.float64)
    x[0, 50] = 1
    once = kernels.blur_axis(x, kernels.GaussianKernel(5.0, 61).values(x), 1)
    twice = x
    for sigma in (3.0, 4.0):
        twice = kernels.blur_axis(twice, kernels.GaussianKernel(sigma, 61).values(x), 1)
    close(once, twice, 1e-5)


def test_the_box_has_the_mean_of_its_cells():
    x = torch.arange(9.0).square().double()[None]
    close(kernels.blur_axis(x, kernels.BoxKernel(1.0, 5).values(x), 1)[0, 3], (x[0, 2] + x[0, 3] + x[0, 4]) / 3)
    between = kernels.BoxKernel(1.25, 7).values()
    close(between, 0.75 * kernels.BoxKernel(1.0, 7).values() + 0.25 * kernels.BoxKernel(2.0, 7).values(), 1e-6)


def test_bad_kernels(caplog):
    with pytest.raises(ValueError, match="at least 0"):
        kernels.GaussianKernel(-1.0, 5)
    with pytest.raises(ValueError, match="use 25"):
        kernels.GaussianKernel(1.0, 24)
    with pytest.raises(ValueError, match="did you mean 'gaussian'"):
        kernels.make_kernel("gausian", 1.0)
    with caplog.at_level(logging.WARNING):
        kernels.GaussianKernel(3.0, 5)
    assert "do not reach three deviations" in caplog.text
    assert kernels.taps_for(2.0) == 13 and kernels.taps_for(2.0, most=9) == 9


# --- schedules and targets -------------------------------------------------------------------------------------------


def test_schedules_are_lines_through_their_values():
    c2f = schedules.C2F((0.3, 0.1, 0.0), (0.02, 0.0))
    assert [round(c2f.field(p), 6) for p in (0, 0.25, 0.5, 0.75, 1)] == [0.3, 0.2, 0.1, 0.05, 0]
    assert c2f.images(0.5) == pytest.approx(0.01)
    paper = schedules.C2F()
    assert (
        paper.field(0.1) == pytest.approx(0.15)
        and paper.field(0.3) == 0
        and paper.images(1 / 9) == pytest.approx(0.0125)
    )
    with pytest.raises(ValueError, match="share of the steps"):
        c2f.field(1.2)
    with pytest.raises(ValueError, match="schedule3d"):
        schedules.C2F((-0.1,))


def test_barf_turns_frequencies_on_one_by_one():
    schedule = schedules.BarfSchedule(0.1, 0.5)
    assert schedule.weights(0.1, 8).sum() == 0 and torch.equal(schedule.weights(0.5, 8), torch.ones(8))
    half = schedule.weights(0.325, 8)  # alpha = 4.5
    close(half, torch.tensor([1, 1, 1, 1, 0.5, 0, 0, 0]), 1e-6)


def test_shares_are_drawn_from_the_pools_independently():
    draw, g = schedules.RandomScale(), generator()
    drawn = [draw.draw(g) for _ in range(3000)]
    counts = {pair: drawn.count(pair) for pair in set(drawn)}
    assert len(counts) == 30 and max(counts.values()) < 160 and min(counts.values()) > 55  # 100 each expected


def test_units():
    box = torch.tensor([[-1.5] * 3, [1.5] * 3])
    assert schedules.voxel_sigma(0.3, (64, 64, 64), box) == pytest.approx(6.4)
    assert schedules.pixel_sigma(0.025, 100, 140) == pytest.approx(3.0)


def test_sobel_is_the_librarys():
    from skimage.filters import sobel_h, sobel_v

    image = torch.rand(1, 20, 24, 1, generator=generator()).double()
    grey = image[0, :, :, 0].numpy()
    want = torch.from_numpy((16 * (sobel_h(grey) ** 2 + sobel_v(grey) ** 2)) ** 0.5)  # scikit-image divides by four
    close(targets.sobel(image)[0, 1:-1, 1:-1], want[1:-1, 1:-1])


def test_edges_weigh_more_on_even_early_steps():
    image = torch.zeros(1, 16, 16, 3)
    image[:, :, 8:] = 1
    mask = targets.EdgeMask(until=0.2)
    weights = mask.weights(image)
    assert (weights[0, :, 7:9] == 1.5).all() and (weights[0, :, :7] == 0.5).all() and (weights[0, :, 9:] == 0.5).all()
    assert [step for step in range(20) if mask.active(step, 50)] == [0, 2, 4, 6, 8]


def test_targets_are_smoothed_by_each_share_and_refreshed():
    images = torch.rand(2, 12, 12, 3, generator=generator())
    kept = targets.BlurredTargets(images, (0.0, 0.5, 1.0), every=10, mask=targets.EdgeMask())
    kept.refresh(0, 0.2)
    assert torch.equal(kept.at(0.0), images)
    close(kept.at(0.5), kernels.blur_images(images, kernels.make_kernel("gaussian", 1.2)), 1e-6)
    assert kept.at(1.0).std() < kept.at(0.5).std() < images.std()
    assert kept.weights.shape == (2, 12, 12)
    before = kept.at(1.0)
    kept.refresh(9, 0.0)
    assert kept.at(1.0) is before
    kept.refresh(10, 0.0)
    assert torch.equal(kept.at(1.0), images)
    with pytest.raises(ValueError, match="not in the pool"):
        kept.at(0.3)


# --- the shift study -------------------------------------------------------------------------------------------------


def test_gradient_of_sums_of_sines_against_differences_in_space():
    n = 512
    x = torch.arange(n).double() / n

    def f(at):
        return (
            1.0 * torch.sin(2 * math.pi * at)
            + 0.5 * torch.cos(2 * math.pi * 5 * at + 1)
            - 0.3 * torch.sin(2 * math.pi * 9 * at)
        )

    u = torch.linspace(-0.45, 0.45, 31).double()
    p = shift_study.power(f(x))
    loss = torch.stack([(f(x) - f(x + s)).square().mean() for s in u])
    close(shift_study.shift_loss(p, u), loss, 1e-9)
    h = 1e-5
    difference = torch.stack(
        [((f(x) - f(x + s + h)).square().mean() - (f(x) - f(x + s - h)).square().mean()) / (2 * h) for s in u]
    )
    close(shift_study.shift_gradient(p, u), difference, 1e-6)


def test_the_basin_of_two_tones_is_known_and_grows_with_the_filter():
    x = torch.arange(64).double() / 64
    one = torch.cos(2 * math.pi * 3 * x)  # sin(6πu) > 0 until u = 1/6
    assert shift_study.basin(shift_study.power(one)).item() == pytest.approx(1 / 6, abs=1e-3)
    two = torch.cos(2 * math.pi * x) + 0.5 * torch.cos(2 * math.pi * 8 * x)
    found = [shift_study.basin(shift_study.filtered_power(two, "gaussian", s)).item() for s in (0.0, 0.02, 0.05, 0.1)]
    assert found == sorted(found) and found[0] < 0.1 and found[-1] == 0.5


def test_filtering_multiplies_the_power():
    signal = randn(4, 65)
    for kind in ("gaussian", "box", "unfiltered"):
        want = shift_study.power(shift_study.filter_signals(signal, kind, 0.03))
        close(shift_study.filtered_power(signal, kind, 0.03), want, 1e-10)
    with pytest.raises(ValueError, match="unknown filter"):
        shift_study.transfer("hat", 0.1, torch.arange(3.0))


def test_smooth_signals_find_their_shifts():
    x = torch.arange(128) / 128
    signals = torch.stack([torch.cos(2 * math.pi * (x + s)) for s in (0.0, 0.3)])
    windows = shift_study.open_windows(signals, generator(), most=0.1)
    shifts, errors = shift_study.align_windows(windows, "gaussian", (0.05, 0.0), steps=300, lr=0.1, lr_shift=5e-3)
    assert (shifts - windows.shifts).abs().max() < 0.01 and errors[-1][1] < 0.2 * errors[0][1]


def test_random_signals_have_unit_variance_and_a_seed():
    signals = random_signals(seed=1, count=3)
    close(signals.std(-1), torch.ones(3), 1e-5)
    assert torch.equal(signals, random_signals(seed=1, count=3)) and not torch.equal(
        signals, random_signals(seed=2, count=3)
    )
    assert shift_study.power(signals.double())[:, 41:].max() < 1e-10


# --- the planar task -------------------------------------------------------------------------------------------------


WIDTHS = (0.064, 0.032, 0.016, 0.008, *[0.0] * 7)


def picture(h=48, w=64):
    y, x = torch.meshgrid(torch.linspace(0, 1, h), torch.linspace(0, 1, w), indexing="ij")
    waves = [torch.sin(7 * x + 3 * y), torch.cos(5 * x * y + 2), torch.sin(9 * y - 4 * x)]
    return torch.stack(waves, -1) / 2 + 0.5


def test_an_unmoved_patch_is_the_middle_of_the_picture():
    image = picture()
    task = planar.make_task(image, 24, generator(), noise=0.05, shift=0.15)
    close(task.patches[0], image[12:36, 20:44], 1e-5)
    assert task.warps[0].abs().sum() == 0 and task.warps[1:].abs().min() > 0
    at = planar.corners(48, 64, 24, torch.zeros(1, 8))[0]
    close(at, torch.tensor([(20.0, 12), (20, 36), (44, 36), (44, 12)]), 1e-4)
    again = planar.make_task(image, 24, generator(), noise=0.05, shift=0.15)
    assert torch.equal(task.patches, again.patches)


def test_patches_are_the_picture_at_warped_points():
    image = picture()
    task = planar.make_task(image, 24, generator(1), noise=0.05, shift=0.15)
    matrix = planar.sl3_exp(task.warps)[2]
    row, column = 5, 17
    point = torch.tensor([((20 + column + 0.5) / 64 * 2 - 1), ((12 + row + 0.5) / 48 * 2 - 1) * 0.75, 1.0])
    moved = matrix @ point
    x, y = moved[0] / moved[2], moved[1] / moved[2]
    px, py = float((x + 1) / 2 * 64 - 0.5), float((y / 0.75 + 1) / 2 * 48 - 0.5)
    from scipy.ndimage import map_coordinates

    want = [map_coordinates(image[..., c].numpy(), [[py], [px]], order=1)[0] for c in range(3)]
    close(task.patches[2, row, column], torch.tensor(want), 1e-4)


def test_a_low_rank_picture_blurs_as_its_product_does():
    model = CPImage(32, 4, generator())
    kernel = kernels.make_kernel("gaussian", 0.1 * 32)
    want = kernels.blur_plane(model.picture().detach(), kernel)
    close(model.picture(0.1).detach(), want, 1e-5)
    assert model.picture(0.5).isfinite().all()
    points = torch.tensor([[-1 + 1 / 32, -1 + 1 / 32], [1 - 1 / 32, -1 + 1 / 32]])
    close(model(points).detach(), model.picture()[:, 0, [0, 31]].mT.detach(), 1e-5)


def test_barf_ignores_frequencies_that_are_off():
    model = BarfImage(generator(), width=16, depth=2, levels=4, schedule=schedules.BarfSchedule(0.0, 0.5))
    points = torch.rand(5, 2, generator=generator(1))
    early, late = model(points, progress=0.0), model(points, progress=1.0)
    with torch.no_grad():
        model.layers[0].weight[:, 2:] = 0
    close(model(points, progress=0.0), early, 1e-6)
    assert (model(points, progress=1.0) - late).abs().max() > 1e-3


def test_small_warps_of_a_picture_are_found_and_the_first_stays():
    task, drawn = planar_patches(seed=100, picture="coffee"), generator(100)
    recipe = planar.Recipe(schedules.C2F(WIDTHS, WIDTHS))
    found = planar.align(task, CPImage(128, 48, drawn), steps=1500, generator=drawn, recipe=recipe, lr=1e-2,
                         lr_warp=2e-3, pixels=4096, every=500)  # fmt: skip
    assert found.error < 0.3 * found.curve[0][1] and found.psnr > 30 and found.warps[0].abs().sum() == 0
    assert [step for step, _, _ in found.curve] == [0, 500, 1000, 1500]


def test_patches_that_do_not_fit():
    with pytest.raises(ValueError, match="leave the"):
        planar.make_task(picture(), 48, generator(), shift=0.5)
