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
    from tensorbench.radiance_fields.training import train

    data = load("analytic_scene", seed=seed, scene=scene, size=size, train=views)
    generator = torch.Generator().manual_seed(seed)
    field = make(kind, data.box, generator)
    schedule = Schedule(
        mask=(mask_at, steps), shrink=False, mask_resolution=(48, 48, 48), lr_grid=lr_grid, lr_net=lr_net
    )
    trained = train(
        field, data, generator=generator, steps=steps, rays=rays, samples=samples, schedule=schedule,
        losses={"l1": l1} if kind == "vm" else None,
    )  # fmt: skip
    mask = trained.alpha_mask or build_alpha_mask(field, (48, 48, 48))
    return {**to_arrays(field, mask), "train_cpu_seconds": np.float64(trained.cpu_seconds)}
