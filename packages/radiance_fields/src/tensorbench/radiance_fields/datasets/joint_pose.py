"""Random periodic signals, and a picture seen through patches under homographies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tensorbench.core.data import dataset
from tensorbench.core.errors import unknown

if TYPE_CHECKING:
    import torch

    from tensorbench.radiance_fields.joint_pose.planar import PlanarTask
    from tensorbench.radiance_fields.views import SceneData

PICTURES = ("chelsea", "coffee", "astronaut")


@dataset(title="Random periodic signals", source="generated here", licence="Apache-2.0", generated=True)
def random_signals(
    *, seed: int, count: int = 20, points: int = 256, frequencies: int = 40, decay: float = 0.5
) -> torch.Tensor:
    """Sums of cosines k = 1 to ``frequencies`` of random phase and normal amplitudes times k^−decay, of variance 1."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    k = torch.arange(1, frequencies + 1, dtype=torch.float64)
    amplitude = torch.randn(count, frequencies, generator=generator, dtype=torch.float64) * k**-decay
    phase = 2 * torch.pi * torch.rand(count, frequencies, generator=generator, dtype=torch.float64)
    x = torch.arange(points, dtype=torch.float64) / points
    signals = torch.einsum("sk,skx->sx", amplitude, torch.cos(2 * torch.pi * k[:, None] * x + phase[..., None]))
    return (signals / signals.std(-1, keepdim=True)).float()


@dataset(title="A picture through patches", source="scikit-image's pictures, cropped, reduced and warped here",
         licence="public domain or CC0 (scikit-image)", library="scikit-image")  # fmt: skip
def planar_patches(
    *, seed: int, picture: str = "chelsea", h: int = 120, w: int = 160, patch: int = 60, noise: float = 0.1,
    shift: float = 0.2,
) -> PlanarTask:  # fmt: skip
    """Five square patches of the middle of a picture (cropped to h : w, then reduced), the first of them unmoved; the
    others shifted towards the corners and under random homographies drawn with the seed."""
    import torch
    from skimage import data
    from skimage.transform import resize

    from tensorbench.radiance_fields.joint_pose.planar import make_task

    if picture not in PICTURES:
        raise ValueError(unknown("picture", picture, PICTURES))
    raw = getattr(data, picture)()
    rows, columns = raw.shape[:2]
    high, wide = min(rows, columns * h // w), min(columns, rows * w // h)
    top, left = (rows - high) // 2, (columns - wide) // 2
    image = resize(raw[top : top + high, left : left + wide], (h, w), anti_aliasing=True)
    generator = torch.Generator().manual_seed(seed)
    return make_task(torch.from_numpy(image).float(), patch, generator, noise=noise, shift=shift)


@dataset(title="A scene whose cameras are noisy", source="generated here: analytic scenes by sphere tracing",
         licence="Apache-2.0", generated=True)  # fmt: skip
def noisy_views(
    *, seed: int, scene: str = "spheres", size: int = 48, train: int = 30, test: int = 4, noise: float = 0.15
) -> SceneData:
    """The scene with its true cameras; ``noise`` (deviation of the six numbers of a twist, rad and scene units) is for
    the experiment to add, so that every method and seed can draw it anew."""
    from tensorbench.radiance_fields.datasets.scenes import analytic_scene

    if noise < 0:
        raise ValueError(f"noise {noise} must be at least 0")
    return analytic_scene(seed=seed, scene=scene, size=size, train=train, valid=1, test=test)


@dataclass(frozen=True)
class RigWork:
    """Cameras on a sphere around a box, and the directions of a camera's pixels in its own axes."""

    box: torch.Tensor
    c2w: torch.Tensor
    local: torch.Tensor


@dataset(title="Cameras around an empty box", source="generated here", licence="Apache-2.0", generated=True)
def camera_rig(*, seed: int, views: int = 30, size: int = 48) -> RigWork:
    """Random cameras on the sphere that look at the middle of [−1.5, 1.5]³: input for what is only timed."""
    import torch

    from tensorbench.radiance_fields.cameras import Camera, sphere_poses
    from tensorbench.radiance_fields.joint_pose.trainer import pixel_directions

    generator = torch.Generator().manual_seed(seed)
    c2w = sphere_poses(views, generator=generator)
    camera = Camera(size, size, size / 0.72)
    return RigWork(torch.tensor([[-1.5] * 3, [1.5] * 3]), torch.as_tensor(c2w).float(), pixel_directions(camera))
