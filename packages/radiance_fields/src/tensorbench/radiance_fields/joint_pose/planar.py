"""Patches of a picture and the homographies that took them, learnt together with the picture.

The planar task of BARF (Lin et al. 2021, arXiv 2104.06405), with which Cheng, Chiu and Liu 2024 (arXiv 2402.13252)
compare a low-rank picture under a coarse-to-fine blur: five patches see parts of one picture through unknown
homographies, the first of which is known to be the identity. Coordinates are the reference's: the longer side of the
picture is [−1, 1]. The reference blurs the field only; smoothed targets, random scales and the edge mask are the
paper's for radiance fields.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from tensorbench.core.training import fit
from tensorbench.radiance_fields.joint_pose.schedules import C2F, FIXED, NONE, RandomScale, falling_rates
from tensorbench.radiance_fields.joint_pose.targets import BlurredTargets, EdgeMask
from tensorbench.radiance_fields.poses import sl3_exp, warp_points


def pixel_grid(h: int, w: int, crop: int | None = None) -> Float[Tensor, "n 2"]:
    """Centres (x, y) of the pixels, or of a square in the middle, the longer side being [−1, 1]."""
    rows, columns = torch.arange(h), torch.arange(w)
    if crop is not None:
        rows = rows[h // 2 - crop // 2 :][:crop]
        columns = columns[w // 2 - crop // 2 :][:crop]
    y = ((rows + 0.5) / h * 2 - 1) * (h / max(h, w))
    x = ((columns + 0.5) / w * 2 - 1) * (w / max(h, w))
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), -1).reshape(-1, 2)


def corners(h: int, w: int, crop: int, warps: Float[Tensor, "b 8"]) -> Float[Tensor, "b 4 2"]:
    """Corners (column, row) in pixels of the middle square under homographies."""
    top, left = h // 2 - crop // 2, w // 2 - crop // 2
    four = [(left, top), (left, top + crop), (left + crop, top + crop), (left + crop, top)]
    at, size = torch.tensor(four, device=warps.device), torch.tensor([w, h], device=warps.device)
    normal = ((at + 0.5) / size * 2 - 1) * (size / max(h, w))
    moved = warp_points(sl3_exp(warps), normal.to(warps).expand(len(warps), 4, 2))
    return (moved / (size / max(h, w)).to(warps) + 1) / 2 * size - 0.5


def sample_image(image: Float[Tensor, "h w c"], points: Float[Tensor, "*batch 2"]) -> Float[Tensor, "*batch c"]:
    """Bilinear values of an image at points, the border's beyond it."""
    h, w, _ = image.shape
    scale = torch.tensor([max(h, w) / w, max(h, w) / h], dtype=points.dtype, device=points.device)
    grid = (points * scale).reshape(1, 1, -1, 2)
    values = F.grid_sample(image.permute(2, 0, 1)[None], grid, align_corners=False, padding_mode="border")
    return values[0, :, 0].mT.reshape(*points.shape[:-1], -1)


@dataclass(frozen=True)
class PlanarTask:
    """A picture, square patches of it (the first from the middle), and the homographies that took them."""

    image: Float[Tensor, "h w 3"]
    patches: Float[Tensor, "b p q 3"]
    warps: Float[Tensor, "b 8"]


def make_task(
    image: Float[Tensor, "h w 3"], crop: int, generator: torch.Generator, *, noise: float = 0.1, shift: float = 0.2
) -> PlanarTask:
    """Five patches: the middle one, and one towards each corner by ``shift``, each under a random homography.

    Raises:
        ValueError: patches that do not fit (a hundred draws in a row leave the picture).
    """
    h, w, _ = image.shape
    places = [(0.0, 0.0)] + [(x, y) for x in (-shift, shift) for y in (-shift, shift)]
    size = torch.tensor([w, h])
    warps = torch.zeros(len(places), 8)
    for k, place in enumerate(places[1:], 1):
        for _ in range(100):
            warp = noise * torch.randn(8, generator=generator)
            warp[:2] += torch.tensor(place)
            at = corners(h, w, crop, warp[None])
            if bool(((at >= 0) & (at < size)).all()):
                break
        else:
            raise ValueError(
                f"patches of {crop} pixels moved by {shift} leave the {h} × {w} picture; make them smaller"
            )
        warps[k] = warp
    points = warp_points(sl3_exp(warps), pixel_grid(h, w, crop).expand(len(places), -1, 2))
    return PlanarTask(image, sample_image(image, points).view(len(places), crop, crop, 3), warps)


def sl3_error(warps: Float[Tensor, "b 8"], truth: Float[Tensor, "b 8"]) -> float:
    """Mean over patches of the distance in sl(3) coordinates (the reference's warp error)."""
    return float((warps - truth).norm(dim=-1).mean())


@dataclass(frozen=True)
class Recipe:
    """What keeps the optimisation from getting stuck; the default is naive.

    ``c2f.schedule3d`` are deviations in shares of the field's longer side, ``c2f.schedule2d`` in shares of the mean
    side of the picture.
    """

    c2f: C2F = NONE
    scales: RandomScale = FIXED
    mask: EdgeMask | None = None
    kernel: str = "gaussian"


@dataclass
class Alignment:
    """Learnt homographies, and (step, sl3 error, patch PSNR without any blur) over the steps with the warps then."""

    warps: Float[Tensor, "b 8"]
    psnr: float
    error: float
    curve: list[tuple[int, float, float]] = field(default_factory=list)
    path: list[Tensor] = field(default_factory=list)
    pictures: list[Tensor] = field(default_factory=list)  # the whole picture as learnt at these steps, where kept


ImageModel = Callable[..., Tensor]  # model(points (n, 2), width=share of a side, kind=kernel, progress=share of steps)


class _Joint(nn.Module):
    def __init__(self, image: nn.Module, free: int) -> None:
        super().__init__()
        self.image = image
        self.free = nn.Parameter(torch.zeros(free, 8))

    def warps(self) -> Tensor:
        return torch.cat([torch.zeros_like(self.free[:1]), self.free])


def align(
    task: PlanarTask, image: nn.Module, *, steps: int, generator: torch.Generator, recipe: Recipe | None = None,
    lr: float = 1e-2, lr_warp: float = 2e-3, decay: float = 0.1, warmup: float = 0.0, pixels: int | None = None,
    tv: float = 1e-2, every: int = 50, refresh: int = 50, keep_pictures: bool = False,
) -> Alignment:  # fmt: skip
    """Learn the picture and the homographies of all patches but the first by Adam on squared errors of pixels.

    Args:
        image: a module ``image(points, width=…, kind=…, progress=…)`` with, where it has one, a method ``tv()``.
        pixels: how many pixels a step draws, all of them if None.
        decay: both learning rates fall exponentially to this share.
        warmup: share of the steps over which the homographies' rate rises from zero, while the picture takes shape.
        every, refresh: steps between two points of the curve, and between two smoothings of the targets.
        keep_pictures: keep the whole picture at every point of the curve (the last one is always kept).

    Raises:
        RuntimeError: the loss diverged.
    """
    recipe = recipe or Recipe()
    count, crop = task.patches.shape[:2]
    h, w, _ = task.image.shape
    model = _Joint(image, count - 1).to(task.image.device)
    grid = pixel_grid(h, w, crop).to(task.image)
    flat_patches = task.patches.reshape(count * crop * crop, 3)
    targets = BlurredTargets(task.patches, recipe.scales.pool2d, kind=recipe.kernel, every=refresh, mask=recipe.mask)
    # Widths of the targets are shares of the picture's mean side, not of the patch's.
    to_patch = (h + w) / 2 / crop

    def batches() -> Iterator[tuple[int, Tensor]]:
        for step in range(steps):
            if pixels is None:
                yield step, torch.arange(len(flat_patches), device=grid.device)
            else:
                yield step, torch.randint(len(flat_patches), (pixels,), generator=generator).to(grid.device)

    def rendered(index: Tensor, warps: Tensor, **options: float | str) -> Tensor:
        matrix = sl3_exp(warps)
        patch = index // (crop * crop)
        points = warp_points(matrix[patch], grid[index % (crop * crop)][:, None])[:, 0]
        return model.image(points, **options)

    def loss(_: nn.Module, batch: tuple[int, Tensor]) -> Tensor:
        step, index = batch
        progress = step / steps
        targets.refresh(step, recipe.c2f.images(progress) * to_patch)
        share3d, share2d = recipe.scales.draw(generator)
        width = recipe.c2f.field(progress) * share3d
        out = rendered(index, model.warps(), width=width, kind=recipe.kernel, progress=progress)
        squared = (out - targets.at(share2d).reshape(-1, 3)[index]).square().mean(-1)
        if recipe.mask is not None and targets.weights is not None and recipe.mask.active(step, steps):
            squared = squared * targets.weights.flatten()[index]
        value = squared.mean()
        return value + tv * image.tv() if tv and hasattr(image, "tv") else value  # type: ignore[operator]

    result = Alignment(model.warps().detach(), 0.0, 0.0)

    def look(step: int, _: float = 0.0) -> None:
        if step % every and step != steps:
            return
        with torch.no_grad():
            warps = model.warps()
            index = torch.arange(len(flat_patches), device=grid.device)
            out = rendered(index, warps, width=0.0, kind=recipe.kernel, progress=1.0)
            psnr = -10 * float(torch.log10((out.clamp(0, 1) - flat_patches).square().mean().clamp_min(1e-20)))
            result.curve.append((step, sl3_error(warps, task.warps), psnr))
            result.path.append(warps.clone())
            if keep_pictures or step == steps:
                whole = model.image(pixel_grid(h, w).to(grid), width=0.0, kind=recipe.kernel, progress=1.0)
                result.pictures.append(whole.view(h, w, 3))

    look(0)
    optimizer = torch.optim.Adam([{"params": list(image.parameters()), "lr": lr},
                                  {"params": [model.free], "lr": lr_warp}])  # fmt: skip
    rates = falling_rates(optimizer, steps, decay, warmup, last=True)
    history = fit(model, batches(), loss, optimizer, steps=steps, schedule=rates, callback=look)
    if history.diverged:
        raise RuntimeError(f"aligning diverged after {history.steps} steps; lower lr or lr_warp")
    result.warps, result.psnr, result.error = result.path[-1], result.curve[-1][2], result.curve[-1][1]
    return result
