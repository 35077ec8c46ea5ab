"""Rigid motions, homographies and similarities as exponentials of small vectors, and errors of estimated cameras.

SE(3) from a twist ξ = (w, v): the rotation is Rodrigues' formula with A = sin θ / θ and B = (1 − cos θ) / θ², the
translation V v with V = I + B [w]× + C [w]×², C = (θ − sin θ) / θ³; near θ = 0 the three are Taylor series, so that
values and gradients stay exact there. SL(3) is the matrix exponential of a trace-free 3 × 3 matrix in eight
coordinates. A similarity between two sets of points is the least-squares one (Umeyama 1991).

Cameras are camera-to-world matrices (…, 4, 4). A refinement acts on the left, in world axes, T = exp(ξ) T₀: as in
BARF (Lin et al. 2021, arXiv 2104.06405) and Joint-TensoRF (Cheng, Chiu and Liu 2024, arXiv 2402.13252), whose code
moves the world before the camera sees it. The reference codes of both were read for their conventions.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

log = logging.getLogger(__name__)
_SMALL = 1e-2  # θ² below which the series are used; the first term left out is then below 1e-13


def _coefficients(square: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A = sin θ / θ, B = (1 − cos θ) / θ² and C = (θ − sin θ) / θ³ of θ²; smooth at 0."""
    small = square < _SMALL
    s = torch.where(small, square, torch.zeros_like(square))
    series = [1 - s / 6 * (1 - s / 20 * (1 - s / 42 * (1 - s / 72))),
              (1 - s / 12 * (1 - s / 30 * (1 - s / 56 * (1 - s / 90)))) / 2,
              (1 - s / 20 * (1 - s / 42 * (1 - s / 72 * (1 - s / 110)))) / 6]  # fmt: skip
    angle = torch.where(small, torch.ones_like(square), square).sqrt()
    closed = [angle.sin() / angle, (1 - angle.cos()) / angle**2, (angle - angle.sin()) / angle**3]
    a, b, c = (torch.where(small, near, far) for near, far in zip(series, closed, strict=True))
    return a, b, c


def skew(w: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3 3"]:
    """[w]×, with [w]× x = w × x."""
    x, y, z = w.unbind(-1)
    zero = torch.zeros_like(x)
    return torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).unflatten(-1, (3, 3))


def so3_exp(w: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3 3"]:
    """The rotation by |w| radians about w."""
    a, b, _ = _coefficients(w.square().sum(-1)[..., None, None])
    cross = skew(w)
    return torch.eye(3, dtype=w.dtype, device=w.device) + a * cross + b * cross @ cross


def so3_log(rotation: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 3"]:
    """The vector w, |w| ≤ π, of a rotation; by the quaternion's largest component, so that half turns are safe."""
    m = rotation
    trace = m[..., 0, 0] + m[..., 1, 1] + m[..., 2, 2]
    xx, yy, zz = (1 + 2 * m[..., i, i] - trace for i in range(3))
    xw, yw, zw = m[..., 2, 1] - m[..., 1, 2], m[..., 0, 2] - m[..., 2, 0], m[..., 1, 0] - m[..., 0, 1]
    xy, xz, yz = (m[..., i, j] + m[..., j, i] for i, j in ((0, 1), (0, 2), (1, 2)))
    # Each row is the quaternion (x, y, z, w) times four times one of its components.
    rows = torch.stack([torch.stack(row, -1) for row in (
        (xx, xy, xz, xw), (xy, yy, yz, yw), (xz, yz, zz, zw), (xw, yw, zw, 1 + trace))], -2)  # fmt: skip
    largest = torch.stack([xx, yy, zz, 1 + trace], -1).argmax(-1)
    q = torch.gather(rows, -2, largest[..., None, None].expand(*largest.shape, 1, 4)).squeeze(-2)
    q = q / q.norm(dim=-1, keepdim=True)
    q = torch.where(q[..., 3:] < 0, -q, q)
    vector, scalar = q[..., :3], q[..., 3:]
    square = vector.square().sum(-1, keepdim=True)
    small = square < 1e-8
    length = torch.where(small, torch.ones_like(square), square).sqrt()
    near = 2 / scalar.clamp_min(0.5) * (1 - square / (3 * scalar.clamp_min(0.5) ** 2))
    return vector * torch.where(small, near, 2 * torch.atan2(length, scalar) / length)


def se3_exp(w: Float[Tensor, "*batch 3"], v: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 4 4"]:
    """The rigid motion of the twist (w, v): w in radians, v in the units of the scene."""
    a, b, c = _coefficients(w.square().sum(-1)[..., None, None])
    cross = skew(w)
    square = cross @ cross
    eye = torch.eye(3, dtype=w.dtype, device=w.device)
    rotation = eye + a * cross + b * square
    translation = (eye + b * cross + c * square) @ v[..., None]
    last = torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=w.dtype, device=w.device).expand(*w.shape[:-1], 1, 4)
    return torch.cat([torch.cat([rotation, translation], -1), last], -2)


def se3_log(motion: Float[Tensor, "*batch 4 4"]) -> tuple[Float[Tensor, "*batch 3"], Float[Tensor, "*batch 3"]]:
    """The twist (w, v) of a rigid motion, |w| ≤ π."""
    w = so3_log(motion[..., :3, :3])
    square = w.square().sum(-1)[..., None, None]
    a, b, _ = _coefficients(square)
    cross = skew(w)
    # V⁻¹ = I − [w]× / 2 + (1 − A / (2 B)) / θ² [w]×²
    small = square < _SMALL
    safe = torch.where(small, torch.ones_like(square), square)
    series = 1 / 12 + square / 720 + square**2 / 30240
    factor = torch.where(small, series, (1 - a / (2 * b)) / safe)
    inverse = torch.eye(3, dtype=w.dtype, device=w.device) - cross / 2 + factor * cross @ cross
    return w, (inverse @ motion[..., :3, 3:]).squeeze(-1)


def compose(*motions: Float[Tensor, "*batch 4 4"]) -> Float[Tensor, "*batch 4 4"]:
    """The product, the last of them applied to points first: ``compose(a, b)`` maps x to a(b(x))."""
    if not motions:
        raise ValueError("compose needs one motion or more")
    out = motions[0]
    for motion in motions[1:]:
        out = out @ motion
    return out


def invert(motion: Float[Tensor, "*batch 4 4"]) -> Float[Tensor, "*batch 4 4"]:
    """The inverse of a rigid motion, without a linear solve."""
    rotation = motion[..., :3, :3].mT
    translation = -rotation @ motion[..., :3, 3:]
    return torch.cat([torch.cat([rotation, translation], -1), motion[..., 3:, :]], -2)


def sl3_exp(h: Float[Tensor, "*batch 8"]) -> Float[Tensor, "*batch 3 3"]:
    """The homography exp([[h₅, h₃, h₁], [h₄, −h₅ − h₆, h₂], [h₇, h₈, h₆]]), of determinant 1.

    The coordinates are those of BARF's planar task: h₁ and h₂ shift, h₃ to h₆ are linear, h₇ and h₈ projective.
    """
    h1, h2, h3, h4, h5, h6, h7, h8 = h.unbind(-1)
    return torch.linalg.matrix_exp(torch.stack([h5, h3, h1, h4, -h5 - h6, h2, h7, h8, h6], -1).unflatten(-1, (3, 3)))


def warp_points(
    homography: Float[Tensor, "*batch 3 3"], points: Float[Tensor, "*batch n 2"]
) -> Float[Tensor, "*batch n 2"]:
    """The points of the plane under a homography."""
    ones = torch.ones_like(points[..., :1])
    mapped = torch.cat([points, ones], -1) @ homography.mT
    return mapped[..., :2] / mapped[..., 2:]


@dataclass(frozen=True)
class Sim3:
    """x ↦ scale · rotation x + translation."""

    scale: Float[Tensor, ""]
    rotation: Float[Tensor, "3 3"]
    translation: Float[Tensor, "3"]

    def points(self, x: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3"]:
        """Points moved."""
        return self.scale * x @ self.rotation.mT + self.translation

    def cameras(self, c2w: Float[Tensor, "*batch 4 4"]) -> Float[Tensor, "*batch 4 4"]:
        """Cameras moved: their axes turn, their centres move as points; the images they would see scale along."""
        rotation = self.rotation @ c2w[..., :3, :3]
        centre = self.points(c2w[..., :3, 3])[..., None]
        return torch.cat([torch.cat([rotation, centre], -1), c2w[..., 3:, :]], -2)

    def inverse(self) -> Sim3:
        """The similarity that undoes this one."""
        rotation = self.rotation.mT
        return Sim3(1 / self.scale, rotation, -(rotation @ self.translation) / self.scale)


def sim3_exp(w: Float[Tensor, "3"], v: Float[Tensor, "3"], scale_log: Float[Tensor, ""]) -> Sim3:
    """A similarity in seven coordinates: exp(scale_log) times the rotation of w, and the shift v itself."""
    return Sim3(scale_log.exp(), so3_exp(w), v)


def procrustes(source: Float[Tensor, "n 3"], target: Float[Tensor, "n 3"]) -> Sim3:
    """The similarity that takes the source nearest to the target in least squares (Umeyama 1991); never a reflection.

    Raises:
        ValueError: fewer than three points, points all on one line (the turn about it is then free), or not finite.
    """
    if len(source) < 3:
        raise ValueError(f"{len(source)} points do not fix a similarity; give three or more")
    if not bool(torch.isfinite(source).all() and torch.isfinite(target).all()):
        raise ValueError("a point is not finite: the poses have diverged; lower their learning rate")
    x, y = source.double(), target.double()
    mean_x, mean_y = x.mean(0), y.mean(0)
    x, y = x - mean_x, y - mean_y
    for name, points in (("source", x), ("target", y)):
        values = torch.linalg.svdvals(points)
        if float(values[1]) <= 1e-6 * float(values[0]) or float(values[0]) == 0:
            raise ValueError(f"the {name} points lie on one line (or in one point), so the turn about it is free; "
                             "use cameras whose centres span a plane")  # fmt: skip
    u, s, vt = torch.linalg.svd(y.mT @ x)
    sign = torch.ones(3, dtype=x.dtype, device=x.device)
    sign[2] = torch.sign(torch.linalg.det(u) * torch.linalg.det(vt))
    rotation = (u * sign) @ vt
    scale = (s * sign).sum() / x.square().sum()
    translation = mean_y - scale * rotation @ mean_x
    return Sim3(*(value.to(source.dtype) for value in (scale, rotation, translation)))


def rotation_angle(a: Float[Tensor, "*batch 3 3"], b: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch"]:
    """The angle between two rotations in degrees; exact for tiny angles, where an arc cosine is not."""
    return torch.rad2deg(so3_log(a @ b.mT).norm(dim=-1))


@dataclass(frozen=True)
class PoseErrors:
    """Errors of cameras after the best similarity: degrees, scene units, and the cameras so moved."""

    rotation: Float[Tensor, "n"]
    translation: Float[Tensor, "n"]
    aligned: Float[Tensor, "n 4 4"]
    alignment: Sim3


def pose_errors(c2w: Float[Tensor, "n 4 4"], truth: Float[Tensor, "m 4 4"], *, align: bool = True) -> PoseErrors:
    """Angles (degrees) and distances (scene units) between cameras and the true ones, after aligning the centres.

    A joint reconstruction is only known up to a similarity, so the centres are aligned first, as BARF does.
    """
    if c2w.shape != truth.shape:
        raise ValueError(f"{len(c2w)} cameras against {len(truth)} true ones; give the same number of each")
    one = Sim3(c2w.new_ones(()), torch.eye(3, dtype=c2w.dtype, device=c2w.device), c2w.new_zeros(3))
    alignment = procrustes(c2w[:, :3, 3], truth[:, :3, 3]) if align else one
    moved = alignment.cameras(c2w)
    return PoseErrors(rotation_angle(moved[:, :3, :3], truth[:, :3, :3]),
                      (moved[:, :3, 3] - truth[:, :3, 3]).norm(dim=-1), moved, alignment)  # fmt: skip


def perturbed(c2w: Float[Tensor, "n 4 4"], noise: float, generator: torch.Generator) -> Float[Tensor, "n 4 4"]:
    """Cameras moved by exp(ξ) on the left, the six numbers of ξ normal with deviation ``noise`` (rad; scene units)."""
    if noise < 0:
        raise ValueError(f"noise {noise} must be at least 0")
    twist = noise * torch.randn(len(c2w), 6, generator=generator, dtype=torch.float64)
    twist = twist.to(device=c2w.device, dtype=c2w.dtype)
    return se3_exp(twist[:, :3], twist[:, 3:]) @ c2w


class PoseEmbedding(nn.Module):
    """A twist for each of n cameras, zero at first; ``refine(c2w)`` moves the cameras by them, all at once."""

    def __init__(self, n: int) -> None:
        super().__init__()
        if n < 1:
            raise ValueError(f"n {n} must be at least 1 camera")
        self.twist = nn.Parameter(torch.zeros(n, 6))

    def refine(self, c2w: Float[Tensor, "n 4 4"]) -> Float[Tensor, "n 4 4"]:
        """exp(ξᵢ) Tᵢ for every camera.

        Raises:
            ValueError: another number of cameras than twists.
            RuntimeError: a twist that is not finite.
        """
        if len(c2w) != len(self.twist):
            raise ValueError(f"{len(c2w)} cameras for {len(self.twist)} twists; make PoseEmbedding({len(c2w)})")
        if not bool(torch.isfinite(self.twist).all()):
            raise RuntimeError("a pose is NaN or infinite: lower the learning rate of the poses")
        return se3_exp(self.twist[:, :3], self.twist[:, 3:]) @ c2w


def warn_far(c2w: Float[Tensor, "n 4 4"], twist: Float[Tensor, "n 6"], box: Float[Tensor, "2 3"]) -> None:
    """Log a warning where a refinement has moved a camera by more than the scene's box is long."""
    size = float((box[1] - box[0]).norm())
    moved = (se3_exp(twist[:, :3], twist[:, 3:]) @ c2w - c2w)[:, :3, 3].norm(dim=-1)
    far = torch.nonzero(moved > size).flatten().tolist()
    if far:
        log.warning(
            "cameras %s have moved by more than the box's diagonal (%.3g); the poses may have diverged", far, size
        )
