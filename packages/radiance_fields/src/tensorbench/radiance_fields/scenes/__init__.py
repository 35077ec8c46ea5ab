"""Analytic scenes: solids by signed distance, textures, a light with hard shadows, soft density, exact views."""

from tensorbench.radiance_fields.scenes.library import SCENES, scene
from tensorbench.radiance_fields.scenes.materials import Light, Material
from tensorbench.radiance_fields.scenes.smoke import Blobs
from tensorbench.radiance_fields.scenes.trace import Hits, Scene, Solid, intersect, occupancy, render, shade, trace

__all__ = [
    "SCENES", "Blobs", "Hits", "Light", "Material", "Scene", "Solid", "intersect", "occupancy", "render", "scene",
    "shade", "trace",
]  # fmt: skip
