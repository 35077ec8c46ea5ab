"""MIGS: avatars of many people as one low-rank tensor of Gaussians."""

from tensorbench.radiance_fields.migs.avatar import Avatar
from tensorbench.radiance_fields.migs.tensors import (
    FullTensor,
    GaussianTensorCP,
    GaussianTensorTrain,
    GaussianTensorTucker,
    starting_table,
)  # fmt: skip
from tensorbench.radiance_fields.migs.training import Recipe, personalize, pictures, score, subjects, train

__all__ = [
    "Avatar", "FullTensor", "GaussianTensorCP", "GaussianTensorTrain", "GaussianTensorTucker", "Recipe", "personalize",
    "pictures", "score", "starting_table", "subjects", "train",
]  # fmt: skip
