"""Progressive volume distillation: from one architecture of radiance field to another, without a photograph."""

from tensorbench.radiance_fields.distill.distiller import distill
from tensorbench.radiance_fields.distill.losses import Weights, log_sigma_clip
from tensorbench.radiance_fields.distill.pair import Distillation
from tensorbench.radiance_fields.distill.points import distill_points
from tensorbench.radiance_fields.distill.rays import RandomRays, View
from tensorbench.radiance_fields.distill.stages import MODES, Stages, mode

__all__ = [
    "MODES", "Distillation", "RandomRays", "Stages", "View", "Weights", "distill", "distill_points", "log_sigma_clip",
    "mode",
]  # fmt: skip
