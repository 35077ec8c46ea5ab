"""Trained radiance fields as data: the teachers of distillations, made once and kept."""

from __future__ import annotations

from typing import Any

import numpy as np

from tensorbench.core.data import dataset


@dataset(
    title="A radiance field trained on an analytic scene",
    source="generated here: the scene is traced, the field is trained on its pictures",
    licence="Apache-2.0",
    generated=True,
    cache=True,
)
def trained_field(
    *,
    seed: int,
    kind: str = "vm",
    scene: str = "spheres",
    size: int = 64,
    views: int = 40,
    steps: int = 600,
    rays: int = 512,
    samples: int = 96,
    lr_grid: float = 0.02,
    lr_net: float = 1e-3,
    mask_at: int = 150,
    l1: float = 8e-5,
    paper_size: bool = False,
) -> dict[str, Any]:
    """The weights and the occupancy grid of a field of ``kind`` (:mod:`tensorbench.radiance_fields.distill.kinds`), by
    name; ``train_cpu_seconds`` says what its training took. The occupancy grid is built after ``mask_at`` steps and
    again at the end. ``l1`` weighs the density factors of a VM field.
    """
    import torch

    from tensorbench.core.data import load
    from tensorbench.radiance_fields.distill.kinds import make, to_arrays
    from tensorbench.radiance_fields.tensorf.alpha_mask import build_alpha_mask
    from tensorbench.radiance_fields.tensorf.schedule import Schedule
    from tensorbench.radiance_fields.training import settled, train

    data = load("analytic_scene", seed=seed, scene=scene, size=size, train=views)
    generator = torch.Generator().manual_seed(seed)
    device = torch.device("cuda" if paper_size and torch.cuda.is_available() else "cpu")
    field = make(kind, torch.from_numpy(data.box), generator, paper_size=paper_size).to(device)
    schedule = Schedule(
        mask=(mask_at, steps), shrink=False, mask_resolution=(48, 48, 48), lr_grid=lr_grid, lr_net=lr_net
    )
    trained = train(
        field, data, generator=generator, steps=steps, rays=rays, samples=samples, schedule=schedule,
        losses={"l1": l1} if kind == "vm" else None,
    )  # fmt: skip
    settled(trained.history)
    mask = trained.alpha_mask or build_alpha_mask(field, (48, 48, 48))
    return {**to_arrays(field, mask), "train_cpu_seconds": float(trained.cpu_seconds)}


@dataset(
    title="One scene in four architectures",
    source="generated here: a trained VM field, and a hash, a network and a voxel field distilled from it at points",
    licence="Apache-2.0",
    generated=True,
    cache=True,
)
def field_family(
    *,
    seed: int,
    scene: str = "spheres",
    size: int = 64,
    views: int = 40,
    teacher_steps: int = 600,
    steps: int = 250,
    points: int = 2048,
    rates: str = "vm 0.03 hash 0.02 mlp 0.1 voxel 0.2",
) -> dict[str, Any]:
    """The arrays of :func:`trained_field` with the prefix ``vm/``, and of the three others with theirs. All share the
    VM field's occupancy grid. ``rates`` are the largest learning rates.
    """
    import torch

    from tensorbench.core.data import load
    from tensorbench.radiance_fields.distill.kinds import from_arrays, make, to_arrays
    from tensorbench.radiance_fields.distill.pair import rates as groups_of
    from tensorbench.radiance_fields.distill.points import distill_points
    from tensorbench.radiance_fields.training import settled

    scenery = {"scene": scene, "size": size, "views": views}
    arrays = load("trained_field", seed=seed, kind="vm", steps=teacher_steps, mask_at=teacher_steps // 4, **scenery)
    data = load("analytic_scene", seed=seed, scene=scene, size=size, train=views)
    teacher = make("vm", torch.from_numpy(data.box))
    mask = from_arrays(teacher, arrays)
    words = rates.split()
    largest = {kind: float(rate) for kind, rate in zip(words[::2], words[1::2], strict=True)}
    family = {f"vm/{name}": value for name, value in arrays.items()}
    for kind in ("hash", "mlp", "voxel"):
        generator = torch.Generator().manual_seed(seed)
        student = make(kind, torch.from_numpy(data.box), generator)
        found = distill_points(
            teacher, student, steps=steps, points=points, occupied=mask, groups=groups_of(student, largest[kind]),
            generator=generator,
        )  # fmt: skip
        settled(found.history)
        family |= {f"{kind}/{name}": np.asarray(value) for name, value in to_arrays(student, mask).items()}
    return family
