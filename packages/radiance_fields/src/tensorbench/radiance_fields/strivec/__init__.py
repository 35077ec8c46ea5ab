"""Strivec: radiance fields from clouds of local tri-vector tensors (Gao et al. 2023, arXiv 2307.13226)."""

from tensorbench.radiance_fields.strivec.build import DESK_SCALES, build, matched, surface_points
from tensorbench.radiance_fields.strivec.cloud import PAPER_GROWTH, PAPER_SCALES, Scale, TensorCloud, blend_weights
from tensorbench.radiance_fields.strivec.field import Strivec
from tensorbench.radiance_fields.strivec.local_tensors import LocalTriVector, LocalVM
from tensorbench.radiance_fields.strivec.masked_adam import MaskedAdam
from tensorbench.radiance_fields.strivec.neighbours import CellIndex
from tensorbench.radiance_fields.strivec.placement import CoarseReconstruction, occupied_points, voxel_centers

__all__ = [
    "DESK_SCALES", "PAPER_GROWTH", "PAPER_SCALES", "CellIndex", "CoarseReconstruction", "LocalTriVector", "LocalVM",
    "MaskedAdam", "Scale", "Strivec", "TensorCloud", "blend_weights", "build", "matched", "occupied_points",
    "surface_points", "voxel_centers",
]  # fmt: skip
