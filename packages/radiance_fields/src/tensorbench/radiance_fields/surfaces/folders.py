"""Reading the tracking data sets DeSurT, TSO and TDS in the one layout into which the paper's code puts them all.

``<folder>/model/`` has ``cam_intrinsic.tsv`` (3 × 3), ``cam_extrinsic.tsv`` (3 × 4, optional), ``mesh_vertices.tsv``,
``mesh_faces.tsv`` (triangles or quadrilaterals) and ``mesh_params.tsv`` (parameters in [0, 1]²; without it the vertices
must be in the order of a grid). ``<folder>/ground_truth/<k>.tsv`` are the vertices of frame k (from 1).
``<folder>/<matches>/<k>.tsv`` has rows of three vertex numbers, three weights, two pixels and at times more, the last
a confidence that must exceed 0.5. (The code's page says that the truth is in .png files; the code, like this, reads
.tsv.) Matches of a cropped picture (``cropped`` in their name) go with ``cropped_cam_intrinsic.tsv``.

Paper: Barbany, Colomé, Torras (arXiv 2212.11596), released code.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from tensorbench.radiance_fields.surfaces.meshes import Template
from tensorbench.radiance_fields.surfaces.pinhole import Pinhole
from tensorbench.radiance_fields.surfaces.sequences import Observation, SurfaceSequence

CONFIDENT = 0.5


def read_folder(
    path: str | Path,
    matches: str = "cropped_cotrack_matches",
    frames: int | None = None,
    size: tuple[int, int] = (640, 480),
) -> SurfaceSequence:
    """A sequence from a folder; ``size`` is the picture's, which the files do not say.

    Raises:
        ValueError: a file is missing or has the wrong shape; the message names it.
    """
    folder = Path(path).expanduser()
    model = folder / "model"
    cropped = "cropped_" if "cropped" in matches else ""
    k = _table(model / f"{cropped}cam_intrinsic.tsv", columns=3)
    vertices = _table(model / "mesh_vertices.tsv", columns=3)
    faces = triangles(_table(model / "mesh_faces.tsv").astype(int))
    parameters = model / "mesh_params.tsv"
    uv = _table(parameters, columns=2) if parameters.is_file() else grid_parameters(vertices)
    pose = model / "cam_extrinsic.tsv"
    extrinsic = _table(pose, columns=4)[:3] if pose.is_file() else np.eye(3, 4)
    camera = Pinhole(
        float(k[0, 0]), float(k[1, 1]), float(k[0, 2]), float(k[1, 2]), *size, extrinsic[:, :3], extrinsic[:, 3]
    )
    template = Template(uv, vertices, faces)
    numbers = sorted(int(file.stem) for file in (folder / matches).glob("*.tsv") if file.stem.isdigit())[:frames]
    if not numbers:
        raise ValueError(f"{folder / matches}: no matches (files 1.tsv, 2.tsv, …)")
    observations = tuple(_matches(folder / matches / f"{n}.tsv", uv) for n in numbers)
    truths = [folder / "ground_truth" / f"{n}.tsv" for n in numbers]
    truth = np.stack([_table(file, columns=3) for file in truths]) if all(f.is_file() for f in truths) else None
    return SurfaceSequence(folder.name, camera, template, observations, truth)


def triangles(faces: Int[np.ndarray, "faces corners"]) -> Int[np.ndarray, "triangles 3"]:
    """Faces of three or four corners as triangles."""
    if faces.ndim != 2 or faces.shape[1] not in (3, 4):
        raise ValueError(f"faces have shape {faces.shape}; three or four corners each are read")
    return faces if faces.shape[1] == 3 else np.concatenate([faces[:, [0, 1, 2]], faces[:, [0, 2, 3]]])


def grid_parameters(vertices: Float[np.ndarray, "vertices 3"]) -> Float[np.ndarray, "vertices 2"]:
    """Equally spaced parameters in [0, 1]² for vertices in the order of a grid: a line ends where the step jumps.

    Raises:
        ValueError: the vertices are no full grid in this order.
    """
    steps = np.linalg.norm(np.diff(vertices, axis=0), axis=1)
    jumps = np.flatnonzero(steps > 1.7 * np.median(steps))
    columns = int(jumps[0]) + 1 if len(jumps) else len(vertices)
    rows = len(vertices) // columns
    if rows < 2 or rows * columns != len(vertices):
        raise ValueError(f"{len(vertices)} vertices are no grid in this order; give model/mesh_params.tsv")
    u, v = np.meshgrid(np.linspace(0, 1, rows), np.linspace(0, 1, columns), indexing="ij")
    return np.stack([u, v], -1).reshape(-1, 2)


def _matches(file: Path, uv: np.ndarray) -> Observation:
    rows = _table(file)
    if rows.shape[1] < 8:
        raise ValueError(f"{file}: rows of {rows.shape[1]} numbers; 3 vertices, 3 weights and 2 pixels are expected")
    if rows.shape[1] > 8:
        rows = rows[rows[:, -1] > CONFIDENT]
    corners, weights = rows[:, :3].astype(int), rows[:, 3:6]
    if (weights < -1e-9).any() or not np.allclose(weights.sum(1), 1, atol=1e-4):
        raise ValueError(f"{file}: barycentric weights must be >= 0 and add up to 1")
    known = corners < len(uv)  # a number past the last vertex fills up a row of fewer than three
    weights = np.where(known, weights, 0)
    return Observation(np.einsum("nk,nkd->nd", weights, uv[np.where(known, corners, 0)]), rows[:, 6:8])


def _table(file: Path, columns: int | None = None) -> np.ndarray:
    if not file.is_file():
        raise ValueError(f"{file}: no such file; the layout is that of the docstring of {__name__}")
    try:
        found = np.loadtxt(file, delimiter="\t", ndmin=2)
    except ValueError as error:
        raise ValueError(f"{file}: not a table of numbers separated by tabs ({error})") from None
    if columns is not None and found.shape[1] != columns:
        raise ValueError(f"{file}: {found.shape[1]} columns, {columns} are expected")
    return found
