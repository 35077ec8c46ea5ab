"""Edited fields converted to a hash grid: two small copies of a scene side by side, and a scene with a half erased.

Copies are the trained VM field seen through scaled and translated space; the half is erased in the nodes of a voxel
field, to which the VM field is converted first (:mod:`tensorbench.radiance_fields.distill.editing`).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from tensorbench.core import plotting
from tensorbench.core import records as rec
from tensorbench.core.data import load
from tensorbench.core.run import Run
from tensorbench.radiance_fields import metrics
from tensorbench.radiance_fields.distill import RandomRays, Stages, View, distill, distill_points
from tensorbench.radiance_fields.distill.editing import Composed, Moved, erase
from tensorbench.radiance_fields.distill.kinds import make
from tensorbench.radiance_fields.distill.pair import inherit, rates
from tensorbench.radiance_fields.distill.rays import random_poses
from tensorbench.radiance_fields.experiments.convert import scenery, teacher_of
from tensorbench.radiance_fields.fields.base import Field
from tensorbench.radiance_fields.fields.voxel import PlenoxelField
from tensorbench.radiance_fields.rendering import render_image
from tensorbench.radiance_fields.tensorf.alpha_mask import AlphaMask, build_alpha_mask
from tensorbench.radiance_fields.training import settled

METHODS = {"twins": None, "halved": None}
POSES = 3
VOXEL_RATE, VOXEL_POINTS = 0.2, 2048


def run(run: Run) -> None:
    """Edit, convert, compare at new poses."""
    options = dict(run.method.params)
    data = load("analytic_scene", seed=0, **scenery(run))
    teacher, mask = teacher_of(run, data)
    view, samples, generator = View.of(data), options["samples"], run.generator
    edited = _edit(options["edit"], teacher, mask, options["steps"], generator)
    occupied = build_alpha_mask(edited, (64, 64, 64))
    large = run.dataset.params.get("paper_size", False)
    student = make(options["student"], torch.from_numpy(data.box), generator, paper_size=large).to(run.device)
    inherit(teacher, student)  # the network of colours: edits move features about and leave it as it is
    with run.time("fit"):
        found = distill(
            edited, student, view, steps=options["steps"], rays=options["rays"], samples=samples, occupied=occupied,
            stages=Stages.of(options["steps"]), groups=rates(student, options["lr"], options["lr_net"]),
            source=RandomRays(view.camera, generator=generator), generator=generator,
        )  # fmt: skip
        settled(found.history)
    poses = random_poses(POSES, generator=torch.Generator().manual_seed(1000 + run.seed)).to(run.device)

    def show(field: Field, where: AlphaMask, pose: torch.Tensor) -> torch.Tensor:
        picture = render_image(
            field, view.camera, pose, view.near, view.far, samples, view.background, alpha_mask=where
        )
        return picture.rgb.cpu()

    pairs = [(show(student, occupied, pose), show(edited, occupied, pose)) for pose in poses]
    run.log(psnr_to_edit_db=float(np.mean([metrics.psnr(*pair) for pair in pairs])))
    before, student_view, edited_view = (
        (x * 255).round().byte().numpy() for x in (show(teacher, mask, poses[0]), *pairs[0])
    )
    np.savez_compressed(run.artifact("edit.npz"), before=before, edited=edited_view, student=student_view)
    if options["frames"]:
        _orbit(run, student, view, samples, occupied, options["frames"])


def _edit(name: str, teacher: Field, mask: AlphaMask, steps: int, generator: torch.Generator) -> Field:
    if name == "twins":
        copies = [Moved(teacher, scale=0.5, offset=(x, 0.0, 0.0)) for x in (-0.7, 0.7)]
        return Composed(copies).to(teacher.box.device)
    voxels = make("voxel", teacher.box.cpu(), generator).to(teacher.box.device)
    assert isinstance(voxels, PlenoxelField)
    found = distill_points(
        teacher, voxels, steps=steps, points=VOXEL_POINTS, occupied=mask, groups=rates(voxels, VOXEL_RATE),
        generator=generator,
    )  # fmt: skip
    settled(found.history)
    # Where nothing was learnt there is nothing.
    nodes = _nodes(voxels)
    with torch.no_grad():
        voxels.log_density[~mask(nodes.reshape(-1, 3)).reshape(voxels.resolution)] = -20.0
    low, high = teacher.box
    erase(voxels, torch.stack((low, torch.stack(((low[0] + high[0]) / 2, high[1], high[2])))))
    return voxels


def _nodes(field: PlenoxelField) -> torch.Tensor:
    axes = [torch.linspace(float(field.box[0, k]), float(field.box[1, k]), n) for k, n in enumerate(field.resolution)]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).to(field.box)


def _orbit(run: Run, field: Field, view: View, samples: int, mask: AlphaMask, frames: int) -> None:
    """An animation of the student, all around the scene."""
    import imageio.v3 as iio

    from tensorbench.radiance_fields.cameras import orbit

    pictures = [
        render_image(field, view.camera, pose, view.near, view.far, samples, view.background, alpha_mask=mask).rgb
        for pose in orbit(frames).to(field.box)
    ]
    stack = (torch.stack(pictures) * 255).round().byte().cpu().numpy()
    iio.imwrite(run.artifact("orbit.gif"), stack, duration=80, loop=0)


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Before, edited, student, difference: a row for each edit."""
    files = rec.artifacts(records, "edit.npz")
    found = {method: dict(np.load(path)) for method, path in zip(files["method"], files["path"], strict=True)}
    if not found:
        fig, ax = plotting.figure()
        plotting.empty(ax)
        yield "edits", fig
        return
    fig, axes = plotting.figure(columns=2, rows=len(found), cols=4, height=3.9 * len(found) + 0.6, squeeze=False)
    for row, (name, pictures) in enumerate(found.items()):
        line = axes[row]
        difference = np.abs(pictures["student"] / 255 - pictures["edited"] / 255)
        psnr = -10 * np.log10(max(float((difference**2).mean()), 1e-10))
        columns = (
            ("as trained", pictures["before"]),
            ("edited", pictures["edited"]),
            ("hash student", pictures["student"]),
        )
        for ax, (title, picture) in zip(line, columns, strict=False):
            ax.imshow(picture, interpolation="nearest")
            if row == 0:
                ax.set_title(title)
        image = line[3].imshow(difference.mean(-1), interpolation="nearest", cmap="magma", vmin=0, vmax=0.3)
        if row == 0:
            line[3].set_title("|difference|")
        line[0].set_ylabel(plotting.label(name))
        line[2].set_xlabel(f"{psnr:.1f} dB", fontsize=8)
        fig.colorbar(image, ax=line[3], fraction=0.046, pad=0.03)
        for ax in line:
            plotting.bare(ax)
    yield "edits", fig
