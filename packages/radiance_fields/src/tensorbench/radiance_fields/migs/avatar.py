"""An avatar model: an attribute tensor of people, and the networks that pose and colour its Gaussians.

MIGS (Chatziagapi, Chrysos, Samaras 2024, arXiv 2407.07284): attributes of a person at rest → non-rigid change →
linear blend skinning with learnt weights → projection and blending. The rotation of a posed Gaussian is the linear
part of the skinning transform, so Σ' = A Σ Aᵀ.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from tensorbench.radiance_fields.cameras import Camera
from tensorbench.radiance_fields.gaussians.covariance import covariance, quaternion_product
from tensorbench.radiance_fields.gaussians.skeleton import blend
from tensorbench.radiance_fields.gaussians.splatter import render
from tensorbench.radiance_fields.migs.networks import ColorMLP, NonRigid, SkinningNet
from tensorbench.radiance_fields.migs.tensors import Attributes, AttributeTensor

LARGEST = 0.15  # metres: standard deviations are cut there


@dataclass(frozen=True)
class Posed:
    """Pictures, and the Gaussians at rest and in the pose (centres in metres, covariances in metres²)."""

    image: Float[Tensor, "b h w 3"]
    alpha: Float[Tensor, "b h w"]
    rest: Float[Tensor, "b n 3"]
    rest_covariance: Float[Tensor, "b n 3 3"]
    moved: Float[Tensor, "b n 3"]
    moved_covariance: Float[Tensor, "b n 3 3"]


class Avatar(nn.Module):
    """People as Gaussians that can be posed.

    >>> avatar = Avatar(GaussianTensorCP(4, 800, rank=40, generator=g), background=1.0, generator=g)
    >>> avatar(torch.tensor([2]), rotations, transforms, joints, camera, c2w).image  # (1, h, w, 3)
    """

    def __init__(
        self,
        attributes: AttributeTensor,
        *,
        background: float = 1.0,
        generator: torch.Generator | None = None,
        skinning: tuple[int, int] = (128, 4),
        deformation: tuple[int, int] = (128, 3),
        color: tuple[int, int] = (64, 2),
        features: int = 16,
        levels: int = 16,
        log2_table: int = 16,
        finest: int = 2048,
    ) -> None:
        """Pairs are width and number of hidden layers; the defaults are those of 3DGS-Avatar."""
        super().__init__()
        self.attributes = attributes
        self.background = background
        self.skinning = SkinningNet(*skinning, generator)
        self.deformation = NonRigid(
            width=deformation[0], depth=deformation[1], features=features, levels=levels, log2_table=log2_table,
            finest=finest, generator=generator,
        )  # fmt: skip
        self.color = ColorMLP(attributes.blocks["appearance"], features, *color, generator=generator)
        self.flexible = True  # whether the non-rigid change takes part

    def forward(
        self,
        people: Int[Tensor, "b"],
        rotations: Float[Tensor, "b 24 3 3"],
        transforms: Float[Tensor, "b 24 4 4"],
        joints: Float[Tensor, "b 24 3"],
        camera: Camera,
        c2w: Float[Tensor, "b 4 4"],
        *,
        turn_view: Float[Tensor, "3 3"] | None = None,
    ) -> Posed:
        """Pictures of people in poses. ``turn_view`` rotates what the colour network takes for the direction of view,
        the noise that keeps it from learning the few views of a video by heart."""
        of = Attributes.of(self.attributes(people))
        position, log_scale, turn = of.position, of.log_scale, of.rotation
        features = position.new_zeros(*position.shape[:-1], self.deformation.features)
        rest_covariance = covariance(turn, log_scale.exp().clamp(max=LARGEST))
        change = rest_covariance
        if self.flexible:
            shift, scale, extra, features = self.deformation(position, rotations, joints)
            position = position + shift
            change = covariance(quaternion_product(extra, turn), (log_scale + scale).exp().clamp(max=LARGEST))
        linear, move = blend(self.skinning(of.position), transforms)
        moved = (linear @ position[..., None])[..., 0] + move
        moved_covariance = linear @ change @ linear.mT
        view = moved - c2w[:, None, :3, 3]
        view = (linear.mT @ view[..., None])[..., 0]
        if turn_view is not None:
            view = view @ turn_view.mT
        colors = self.color(of.appearance, features, nn.functional.normalize(view, dim=-1))
        splat = render(
            moved, moved_covariance, colors, of.opacity[..., 0].sigmoid(), camera, c2w,
            background=colors.new_full((3,), self.background),
        )  # fmt: skip
        return Posed(splat.image, splat.alpha, of.position, rest_covariance, moved, moved_covariance)

    def count(self) -> dict[str, int]:
        """Weights of the tensor, and of the networks."""
        tensor = self.attributes.count()
        return {"tensor": tensor, "networks": sum(p.numel() for p in self.parameters()) - tensor}
