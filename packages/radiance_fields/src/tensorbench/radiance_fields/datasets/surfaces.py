"""Deforming sheets seen by one camera, and surfaces whose geometry is known."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tensorbench.core.data import dataset
from tensorbench.core.errors import unknown

if TYPE_CHECKING:
    from tensorbench.radiance_fields.surfaces.isometries import Shape
    from tensorbench.radiance_fields.surfaces.sequences import SurfaceSequence

# What a case is: the shape of the bend, noise in pixels, share of outliers.
CASES = {
    "cylinder": ("cylinder", 1.0, 0.0),
    "curve": ("curve", 1.0, 0.0),
    "cone": ("cone", 1.0, 0.0),
    "noise_0": ("cylinder", 0.0, 0.0),
    "noise_3": ("cylinder", 3.0, 0.0),
    "outliers_10": ("cylinder", 1.0, 0.1),
    "outliers_30": ("cylinder", 1.0, 0.3),
}
SHAPES = ("cylinder", "sphere", "torus", "catenoid", "saddle")


@dataset(
    title="A sheet that bends without stretching, tracked points before one camera",
    source="generated here: exact isometries",
    licence="Apache-2.0",
    generated=True,
)
def isometric_bends(
    *,
    seed: int,
    cases: Sequence[str] = tuple(CASES),
    frames: int = 12,
    first: int | None = None,
    curvature: float = 2.5,
    points: int = 200,
) -> dict[str, SurfaceSequence]:
    """Sequences by case: a unit sheet bent to ``curvature`` in ``frames`` steps, focal length 500, depth 2.5.

    ``first`` keeps the first so many frames. Cases of the same shape have the same motion and points.
    """
    from dataclasses import replace

    from tensorbench.radiance_fields.surfaces.sequences import Corruption, developable_sequence

    found = {}
    for case in cases:
        if case not in CASES:
            raise ValueError(unknown("case", case, CASES))
        shape, noise, outliers = CASES[case]
        sequence = developable_sequence(
            shape, seed=seed, frames=frames, curvature=curvature, points=points, corruption=Corruption(noise, outliers)
        )
        if first is not None and sequence.truth is not None:
            sequence = replace(
                sequence, observations=sequence.observations[:first], truth=sequence.truth[:first],
                exact=sequence.exact[:first],
            )  # fmt: skip
        found[case] = sequence
    return found


@dataset(
    title="A sequence of DeSurT, TSO or TDS of your own",
    source="a folder in the layout of the paper's code",
    licence="yours",
    generated=True,
    reads=["path"],
)
def tracked_folder(
    *, seed: int, path: str, matches: str = "cropped_cotrack_matches", frames: int | None = None,
    size: Sequence[int] = (640, 480),
) -> dict[str, SurfaceSequence]:  # fmt: skip
    """The sequence in a folder (see ``surfaces.folders``), with the folder's name."""
    from tensorbench.radiance_fields.surfaces.folders import read_folder

    return {Path(path).name: read_folder(path, matches, frames, (int(size[0]), int(size[1])))}


@dataset(
    title="A flag in the wind, seen as silhouettes",
    source="generated here: exact isometries",
    licence="Apache-2.0",
    generated=True,
)
def waving_flag(*, seed: int, frames: int = 8, curvature: float = 2.0, views: int = 1) -> tuple[SurfaceSequence, tuple]:
    """The sequence and its cameras, 640 × 480: the sequence's own, and with ``views: 2`` one from 50° to the side."""
    import math

    import numpy as np
    from scipy.spatial.transform import Rotation

    from tensorbench.radiance_fields.surfaces.pinhole import Pinhole
    from tensorbench.radiance_fields.surfaces.sequences import flag_sequence

    if views not in (1, 2):
        raise ValueError(f"views {views}: one or two cameras")
    focal, depth, size = 500.0, 2.5, (640, 480)
    sequence = flag_sequence(seed=seed, frames=frames, curvature=curvature, focal=focal, depth=depth, size=size)
    turn = Rotation.from_rotvec([0, math.radians(50), 0]).as_matrix()
    centre = np.array([0.0, 0.0, depth])
    aside = Pinhole(focal, focal, size[0] / 2, size[1] / 2, *size, turn, centre - turn @ centre)
    return sequence, (sequence.camera, aside)[:views]


@dataset(
    title="Surfaces with known curvature",
    source="closed forms",
    licence="Apache-2.0",
    generated=True,
)
def known_surfaces(*, seed: int, shapes: Sequence[str] = SHAPES) -> dict[str, Shape]:
    """Rolled sheet (cylinder), patch of a sphere, torus, catenoid and hyperbolic paraboloid."""
    from tensorbench.radiance_fields.surfaces.isometries import shape

    return {name: shape(name) for name in shapes}
