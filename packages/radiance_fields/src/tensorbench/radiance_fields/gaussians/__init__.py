"""Gaussians and bodies: covariances, projection, a differentiable splatter, blend skinning, a capsule humanoid."""

from tensorbench.radiance_fields.gaussians.covariance import covariance, quaternion_product, rotation_matrix
from tensorbench.radiance_fields.gaussians.projection import Projected, project
from tensorbench.radiance_fields.gaussians.splatter import Splat, rasterize, render

__all__ = [
    "Projected",
    "Splat",
    "covariance",
    "project",
    "quaternion_product",
    "rasterize",
    "render",
    "rotation_matrix",
]
