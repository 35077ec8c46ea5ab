"""Volume rendering of any field: samples on rays, compositing, empty-space skipping, depth and the distortion loss.

With densities σ_i on segments of length δ_i (Kajiya & Von Herzen 1984; Mildenhall et al. 2020, arXiv 2003.08934; the
conventions are those of TensoRF, Chen et al. 2022, arXiv 2203.09517):

    α_i = 1 − exp(−σ_i δ_i s),   T_i = Π_{j<i} (1 − α_j) = exp(−Σ_{j<i} σ_j δ_j s),   w_i = T_i α_i,
    colour = Σ w_i c_i + (1 − Σ w_i) · background,

with the distance scale s = 25. Samples lie where a ray is inside the box (between ``near`` and ``far``); points that an
alpha mask calls empty are never evaluated, colours are evaluated only where ``w_i`` exceeds a threshold, and without
gradients a ray stops once next to nothing is left of its light.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from tensorbench.radiance_fields.fields.base import Field

if TYPE_CHECKING:
    from tensorbench.radiance_fields.cameras import Camera


Occupied = Callable[[Tensor], Tensor]  # of points (m, 3): which of them may hold something
DISTANCE_SCALE = 25.0


@dataclass(frozen=True)
class Samples:
    """Where rays are sampled.

    ``t`` are distances from the origin, in the units of the scene; ``delta`` the lengths of the segments that the
    samples stand for; ``inside`` whether a sample lies in the box (a ray that misses it has none that does).
    """

    t: Float[Tensor, "n s"]
    delta: Float[Tensor, "n s"]
    inside: Bool[Tensor, "n s"]


@dataclass(frozen=True)
class Rendered:
    """What rays see. ``depth`` is the expected distance, the light that passes through counted at the end of the ray.

    Images have ``(h, w)`` in place of the ray axis, and no weights. ``weights`` are those of ``samples``.
    """

    rgb: Float[Tensor, "*n 3"]
    opacity: Float[Tensor, "*n"]
    depth: Float[Tensor, "*n"]
    weights: Float[Tensor, "n s"] | None = None
    samples: Samples | None = None
    density_points: int = 0  # evaluations of the density
    color_points: int = 0


def box_interval(
    origins: Float[Tensor, "n 3"], directions: Float[Tensor, "n 3"], box: Float[Tensor, "2 3"]
) -> tuple[Float[Tensor, "n"], Float[Tensor, "n"]]:
    """Distances at which rays enter and leave a box; the exit is before the entry where a ray misses it."""
    safe = torch.where(directions.abs() < 1e-9, torch.full_like(directions, 1e-9), directions)
    first, second = (box[0] - origins) / safe, (box[1] - origins) / safe
    return torch.minimum(first, second).amax(-1), torch.maximum(first, second).amin(-1)


def sample_rays(
    origins: Float[Tensor, "n 3"],
    directions: Float[Tensor, "n 3"],
    near: float,
    far: float,
    n: int,
    box: Float[Tensor, "2 3"],
    generator: torch.Generator | None = None,
) -> Samples:
    """``n`` samples on the part of each ray that lies in the box, in the middle of equal segments.

    With a generator all samples of a ray are moved by one random share of a segment, so that training sees every
    distance (TensoRF's jitter; it keeps the segments equal).

    Raises:
        ValueError: fewer than one sample, or ``near`` not in [0, far).
    """
    if n < 1:
        raise ValueError(f"{n} samples: a ray needs at least one")
    if not 0 <= near < far:
        raise ValueError(f"near {near} must be at least 0 and below far {far}")
    enter, leave = box_interval(origins, directions, box)
    enter, leave = enter.clamp(near, far), leave.clamp(near, far)
    hit = leave > enter
    step = torch.where(hit, leave - enter, torch.zeros_like(enter)) / n
    shift: Tensor | float = 0.5
    if generator is not None:
        shift = _uniform((len(origins), 1), generator, origins)
    places = torch.arange(n, device=origins.device, dtype=origins.dtype) + shift
    t = enter[:, None] + step[:, None] * places
    return Samples(t, step[:, None].expand(t.shape), hit[:, None].expand(t.shape))


def _uniform(shape: tuple[int, ...], generator: torch.Generator, like: Tensor) -> Tensor:
    """Uniform numbers from a generator of any device, the same wherever ``like`` lives."""
    return torch.rand(shape, generator=generator, device=generator.device, dtype=like.dtype).to(like.device)


def render_weights(
    sigma: Float[Tensor, "n s"], delta: Float[Tensor, "n s"], distance_scale: float = DISTANCE_SCALE
) -> tuple[Float[Tensor, "n s"], Float[Tensor, "n"]]:
    """Weights w_i of the samples, and the light that passes through all of them, T_{s+1}."""
    thickness = sigma * (delta * distance_scale)
    through = torch.exp(-thickness.cumsum(-1))
    before = torch.cat([torch.ones_like(through[:, :1]), through[:, :-1]], -1)
    return before - through, through[:, -1]


def composite(
    sigma: Float[Tensor, "n s"],
    rgb: Float[Tensor, "n s 3"],
    delta: Float[Tensor, "n s"],
    background: Float[Tensor, "*b 3"],
    distance_scale: float = DISTANCE_SCALE,
    t: Float[Tensor, "n s"] | None = None,
) -> Rendered:
    """Colours of rays from densities and colours of all their samples.

    ``background`` is one colour or one a ray. Without ``t`` depths are counted from the first segment's beginning.
    """
    weights, through = render_weights(sigma, delta, distance_scale)
    if t is None:
        t = delta.cumsum(-1) - 0.5 * delta
    color = torch.einsum("ns,nsc->nc", weights, rgb) + through[:, None] * background
    depth = (weights * t).sum(-1) + through * (t[:, -1] + 0.5 * delta[:, -1])
    return Rendered(color, 1 - through, depth, weights)


def render_rays(
    field: Field,
    origins: Float[Tensor, "n 3"],
    directions: Float[Tensor, "n 3"],
    near: float,
    far: float,
    samples: int,
    background: Float[Tensor, "*b 3"],
    *,
    alpha_mask: Occupied | None = None,
    weight_threshold: float = 1e-4,
    distance_scale: float = DISTANCE_SCALE,
    terminate: float = 1e-4,
    generator: torch.Generator | None = None,
) -> Rendered:
    """What rays see of a field.

    Args:
        directions: unit vectors.
        background: one colour, or one for each ray.
        alpha_mask: says which points may hold something; the density of the others is taken as zero.
        weight_threshold: colours of samples with less weight are not evaluated and count as black.
        terminate: without gradients, a ray is followed only while more than this share of its light is left.
        generator: jitters the samples (training).
    """
    places = sample_rays(origins, directions, near, far, samples, field.box, generator)
    s = samples
    marching = not torch.is_grad_enabled() and terminate > 0 and s > _BLOCK
    sigma, evaluated = (_march if marching else _all_at_once)(
        field, origins, directions, places, alpha_mask, distance_scale, terminate
    )
    weights, through = render_weights(sigma, places.delta, distance_scale)
    seen = (weights.detach() > weight_threshold).reshape(-1).nonzero()[:, 0]
    ray = seen // s
    color = through[:, None] * background
    if len(seen):
        points = _along(origins[ray], directions[ray], places.t.reshape(-1)[seen])
        rgb = field.color(points, directions[ray])
        color = color.index_add(0, ray, weights.reshape(-1)[seen, None] * rgb)
    end = places.t[:, -1] + 0.5 * places.delta[:, -1]
    depth = (weights * places.t).sum(-1) + through * end
    return Rendered(color, 1 - through, depth, weights, places, evaluated, len(seen))


_BLOCK = 16  # samples that a ray is followed for before it is looked at again


def _along(origins: Tensor, directions: Tensor, t: Tensor) -> Tensor:
    return torch.addcmul(origins, directions, t[:, None])


def _sigma_at(
    field: Field, origins: Tensor, directions: Tensor, t: Tensor, keep: Tensor, alpha_mask: Occupied | None
) -> tuple[Tensor, int]:
    """Densities of the samples ``t`` of rays, zero where not kept or empty, and how many were evaluated."""
    width = t.shape[1]
    index = keep.reshape(-1).nonzero()[:, 0]
    flat = t.new_zeros(t.numel())
    if len(index):
        ray = index // width
        points = _along(origins[ray], directions[ray], t.reshape(-1)[index])
        if alpha_mask is not None:
            occupied = alpha_mask(points.detach()).nonzero()[:, 0]
            index, points = index[occupied], points[occupied]
    if len(index):
        sigma = field.density(points)
        flat = flat.to(sigma.dtype).index_copy(0, index, sigma)
    return flat.reshape(t.shape), len(index)


def _all_at_once(
    field: Field, origins: Tensor, directions: Tensor, places: Samples, alpha_mask: Occupied | None, *_: float
) -> tuple[Tensor, int]:
    return _sigma_at(field, origins, directions, places.t, places.inside, alpha_mask)


def _march(
    field: Field, origins: Tensor, directions: Tensor, places: Samples, alpha_mask: Occupied | None,
    distance_scale: float, terminate: float,
) -> tuple[Tensor, int]:  # fmt: skip
    """The same from front to back, without the samples that lie behind what nothing passes through."""
    thickness = places.t.new_zeros(len(places.t))
    limit = -torch.log(torch.tensor(terminate))
    blocks, evaluated = [], 0
    for start in range(0, places.t.shape[1], _BLOCK):
        part = slice(start, start + _BLOCK)
        keep = places.inside[:, part] & (thickness < limit.to(thickness))[:, None]
        sigma, count = _sigma_at(field, origins, directions, places.t[:, part], keep, alpha_mask)
        thickness = thickness + (sigma * places.delta[:, part]).sum(-1) * distance_scale
        blocks.append(sigma)
        evaluated += count
    return torch.cat(blocks, -1), evaluated


@torch.no_grad()
def render_image(
    field: Field,
    camera: Camera,
    c2w: Float[Tensor, "4 4"],
    near: float,
    far: float,
    samples: int,
    background: Float[Tensor, "3"],
    *,
    alpha_mask: Occupied | None = None,
    chunk: int = 8192,
    **options: Any,
) -> Rendered:
    """A picture: ``rgb`` (h, w, 3) clipped to [0, 1], ``opacity`` and ``depth`` (h, w). ``chunk`` rays at a time."""
    from tensorbench.radiance_fields.cameras import camera_rays

    box = field.box
    origins, directions = (x.reshape(-1, 3).to(box) for x in camera_rays(camera, c2w))
    parts = [
        render_rays(
            field, origins[k : k + chunk], directions[k : k + chunk], near, far, samples, background.to(box),
            alpha_mask=alpha_mask, **options,
        )
        for k in range(0, len(origins), chunk)
    ]  # fmt: skip
    size = (camera.height, camera.width)
    return Rendered(
        torch.cat([p.rgb for p in parts]).clamp(0, 1).reshape(*size, 3),
        torch.cat([p.opacity for p in parts]).reshape(size),
        torch.cat([p.depth for p in parts]).reshape(size),
        density_points=sum(p.density_points for p in parts),
        color_points=sum(p.color_points for p in parts),
    )


def distortion_loss(
    weights: Float[Tensor, "n s"], t: Float[Tensor, "n s"], delta: Float[Tensor, "n s"]
) -> Float[Tensor, ""]:
    """Mip-NeRF 360's distortion (Barron et al. 2022, arXiv 2111.12077), the mean over rays, in linear time.

    ``Σ_ij w_i w_j |t_i − t_j| + ⅓ Σ_i w_i² δ_i``: zero where all weight sits in one vanishing segment. ``t`` ascends.
    """
    mass, moment = weights.cumsum(-1) - weights, (weights * t).cumsum(-1) - weights * t
    between = 2 * (weights * (t * mass - moment)).sum(-1)
    return (between + (weights.square() * delta).sum(-1) / 3).mean()


def nerfacc_weights(
    sigma: Float[Tensor, "n s"], t: Float[Tensor, "n s"], delta: Float[Tensor, "n s"],
    distance_scale: float = DISTANCE_SCALE,
) -> Shaped[Tensor, "n s"]:  # fmt: skip
    """Weights by nerfacc (Li et al. 2023, arXiv 2305.04966; ``pip install nerfacc``) for dense rays: an oracle."""
    from nerfacc import render_weight_from_density

    scale = distance_scale
    weights, _, _ = render_weight_from_density((t - delta / 2) * scale, (t + delta / 2) * scale, sigma)
    return weights
