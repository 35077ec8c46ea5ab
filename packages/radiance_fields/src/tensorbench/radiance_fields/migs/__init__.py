"""MIGS: avatars of many people as one low-rank tensor of Gaussians.

Of the paper (arXiv 2407.07284) the abstract and summaries were at hand, not the full text nor its code; details of the
networks and losses follow 3DGS-Avatar (arXiv 2312.09228), on which it builds, and its code.
"""

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
