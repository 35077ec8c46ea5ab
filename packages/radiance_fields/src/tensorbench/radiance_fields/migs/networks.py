"""What moves and colours the Gaussians of all people alike: skinning weights, non-rigid deformation, colour.

MIGS (Chatziagapi, Chrysos, Samaras 2024, arXiv 2407.07284) takes these three from 3DGS-Avatar (Qian, Wang,
Mihajlovic, Geiger, Tang 2024, arXiv 2312.09228): a network that gives the skinning weights of a rest point by a
softmax along the skeleton, one that moves, scales and turns a Gaussian depending on the pose (hash grid, pose encoder,
residual), and one that makes a colour of features and of the direction of view as the resting body sees it.
"""

from __future__ import annotations

import itertools
import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tensorbench.radiance_fields.encodings import HashGrid, spherical_harmonics
from tensorbench.radiance_fields.gaussians.skeleton import COUNT, PARENTS, ancestors, children

REACH = 1.1  # metres: rest points lie in [-REACH, REACH]³
SH_DEGREE = 3


_FORKS = {joint: kids for joint in range(COUNT) if len(kids := children(joint)) > 1}


def _routes() -> Float[Tensor, "parts 24"]:
    """Which logarithms make the weight of a joint: of the gates passed on the way to it, of the shares at forks on the
    way, and of what its own gate keeps back. A gate has the place of the only child; those of the two forks the places
    of the pelvis and the 25th.
    """
    gates = {
        j: kids[0] if len(kids := children(j)) == 1 else (0 if j == 0 else COUNT) for j in range(COUNT) if children(j)
    }
    passed, kept = torch.zeros(COUNT + 1, COUNT), torch.zeros(COUNT + 1, COUNT)
    shares = {joint: torch.zeros(len(kids), COUNT) for joint, kids in _FORKS.items()}
    for joint in range(COUNT):
        if joint in gates:
            kept[gates[joint], joint] = 1
        below = joint
        while (above := PARENTS[below]) >= 0:
            passed[gates[above], joint] = 1
            if above in shares:
                shares[above][_FORKS[above].index(below), joint] = 1
            below = above
    return torch.cat([passed, kept, *shares.values()])


_ROUTES = _routes()


class MLP(nn.Module):
    """Linear layers with ReLU between; the last starts ``last`` times as large as torch's default."""

    def __init__(
        self, sizes: list[int], generator: torch.Generator | None = None, *, last: float = 1.0, condition: int = 0
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.utils.skip_init(nn.Linear, a, b) for a, b in itertools.pairwise(sizes))
        # The condition is the same for all points of a picture, so that its product is taken once for each.
        self.condition = nn.utils.skip_init(nn.Linear, condition, sizes[1], bias=False) if condition else None
        for layer in [*self.layers, *([self.condition] if self.condition is not None else [])]:
            assert isinstance(layer, nn.Linear)
            bound = 1 / math.sqrt(layer.in_features)
            with torch.no_grad():
                for weight in layer.parameters():
                    weight.copy_((2 * torch.rand(weight.shape, generator=generator) - 1) * bound)
        with torch.no_grad():
            for weight in self.layers[-1].parameters():
                weight.mul_(last)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        for k, layer in enumerate(self.layers):
            x = layer(x)
            if k == 0 and self.condition is not None and condition is not None:
                x = x + self.condition(condition)[:, None]
            if k + 1 < len(self.layers):
                x = x.relu()
        return x


def hierarchical_softmax(x: Float[Tensor, "*points 25"]) -> Float[Tensor, "*points 24"]:
    """Skinning weights along the skeleton: at each joint a logistic share goes on to its children, by their own logits
    where there is one child, by those of a softmax where there are three. The pelvis's share is the logit of its
    place, the upper spine's the 25th.

    >>> hierarchical_softmax(torch.zeros(25)).sum()
    tensor(1.)
    """
    if x.shape[-1] != COUNT + 1:
        raise ValueError(f"{COUNT + 1} logits a point are expected (the joints and a second gate), got {x.shape[-1]}")
    # log w is linear in the logarithms of what gates let through and keep back, and of the shares at forks
    parts = [nn.functional.logsigmoid(x), nn.functional.logsigmoid(-x)]
    parts += [torch.log_softmax(x[..., kids], dim=-1) for kids in _FORKS.values()]
    return (torch.cat(parts, dim=-1) @ _ROUTES.to(x)).exp()


class SkinningNet(nn.Module):
    """Skinning weights (they sum to 1) of rest points."""

    def __init__(self, width: int = 128, depth: int = 4, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.net = MLP([3, *[width] * depth, COUNT + 1], generator)

    def forward(self, points: Float[Tensor, "*batch n 3"]) -> Float[Tensor, "*batch n 24"]:
        return hierarchical_softmax(self.net(points / REACH))


class PoseEncoder(nn.Module):
    """Features of a pose, six a joint: each from its rotation, its place at rest and its parent's features.

    The root's rotation is left out: a body deforms alike wherever it faces.
    """

    def __init__(self, features: int = 6, hidden: int = 16, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.features = features
        incoming = 9 + 3 + features
        self.first = nn.Parameter(torch.randn(COUNT, incoming, hidden, generator=generator) / math.sqrt(incoming))
        self.second = nn.Parameter(torch.randn(COUNT, hidden, features, generator=generator) / math.sqrt(hidden))
        self.levels = _levels()

    @property
    def width(self) -> int:
        return COUNT * self.features

    def forward(
        self, rotations: Float[Tensor, "b 24 3 3"], joints: Float[Tensor, "b 24 3"]
    ) -> Float[Tensor, "b width"]:
        if rotations.shape[1] != COUNT:
            raise ValueError(f"a pose has {COUNT} joints, got {rotations.shape[1]}")
        own = rotations.flatten(-2) - torch.eye(3).to(rotations).flatten()
        own = torch.cat([torch.zeros_like(own[:, :1]), own[:, 1:]], dim=1)
        given = torch.cat([own, joints], dim=-1)
        done: dict[int, Tensor] = {}
        zero = given.new_zeros(len(given), self.features)
        for level in self.levels:
            parents = torch.stack([done.get(PARENTS[j], zero) for j in level], dim=1)
            x = torch.cat([given[:, level], parents], dim=-1)
            hidden = torch.einsum("bji,jih->bjh", x, self.first[level]).relu()
            out = torch.einsum("bjh,jho->bjo", hidden, self.second[level])
            done |= {j: out[:, k] for k, j in enumerate(level)}
        return torch.cat([done[j] for j in range(COUNT)], dim=-1)


class NonRigid(nn.Module):
    """Pose-dependent changes of resting Gaussians: of position, of log-scale, a quaternion to turn by, and features."""

    def __init__(
        self,
        *,
        width: int = 128,
        depth: int = 3,
        features: int = 16,
        levels: int = 16,
        log2_table: int = 16,
        finest: int = 2048,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.features = features
        self.pose = PoseEncoder(generator=generator)
        self.grid = HashGrid(3, levels, 2, 16 if finest > 16 else 4, finest, log2_table, generator)
        sizes = [self.grid.width + 3, *[width] * depth, 10 + features]
        self.net = MLP(sizes, generator, last=0.1, condition=self.pose.width)

    def forward(
        self, points: Float[Tensor, "b n 3"], rotations: Float[Tensor, "b 24 3 3"], joints: Float[Tensor, "b 24 3"]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Shift (m), change of log-scale, quaternion (w, x, y, z) for every Gaussian, features."""
        inside = points / REACH
        x = torch.cat([self.grid(inside / 2 + 0.5), inside], dim=-1)
        out = self.net(x, self.pose(rotations, joints))
        shift, scale, turn, features = torch.split(out, [3, 3, 4, self.features], dim=-1)
        # 1 + q, which starts near the identity; for all Gaussians (the released code sets the first one's alone).
        turn = torch.cat([1 + 0.1 * turn[..., :1], 0.1 * turn[..., 1:]], dim=-1)
        return 0.1 * shift, 0.1 * scale, turn, features


class ColorMLP(nn.Module):
    """Colour of appearance features, non-rigid features, and the direction of view in the frame of the resting body
    (spherical harmonics of degree 3 without the constant)."""

    def __init__(
        self, appearance: int = 32, features: int = 16, width: int = 64, depth: int = 2,
        generator: torch.Generator | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        directions = (SH_DEGREE + 1) ** 2 - 1
        self.net = MLP([appearance + features + directions, *[width] * depth, 3], generator)

    def forward(
        self, appearance: Float[Tensor, "b n f"], features: Float[Tensor, "b n k"], view: Float[Tensor, "b n 3"]
    ) -> Float[Tensor, "b n 3"]:
        harmonics = spherical_harmonics(view, SH_DEGREE)[..., 1:]
        return self.net(torch.cat([appearance, features, harmonics], dim=-1)).sigmoid()


def _levels() -> list[list[int]]:
    """Joints by their distance from the root."""
    depth = ancestors().sum(1).int().tolist()
    return [[j for j in range(COUNT) if depth[j] == d] for d in sorted(set(depth))]
