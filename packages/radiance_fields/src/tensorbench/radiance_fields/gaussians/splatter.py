"""A differentiable splatter in plain torch: sorted compositing of elliptic Gaussians, on any device, quick on one core.

Kerbl et al. (2023, arXiv 2308.04079), section 4 and eq. 3: at a pixel p the Gaussians, sorted by depth, have

    α_k = min(0.99, o_k exp(-½ (p - μ_k)ᵀ Σ'_k⁻¹ (p - μ_k))),   C = Σ_k c_k α_k Π_{j<k} (1 - α_j) + C_bg Π_k (1 - α_k),

and contributions below ``cutoff`` (1/255, which an 8-bit picture does not show) count as none. The picture is cut
into small tiles; each takes the Gaussians that reach above the cutoff in it, so that the tiles change the time and not
the picture. log α is a quadratic polynomial of the pixel: one matrix product evaluates it for all pixels of a tile.
Blending has its backward pass written out (the sums behind a Gaussian are a reversed cumulative sum).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import embedding

from tensorbench.radiance_fields.cameras import Camera
from tensorbench.radiance_fields.gaussians.projection import DILATION, Projected, project

CUTOFF = 1 / 255
CEILING = 0.99
_EMPTY = -1e4  # log α of a place in a tile's list that no Gaussian fills


@dataclass(frozen=True)
class Splat:
    """Pictures with as many channels as the colours had, and how much of each pixel is covered (0 to 1)."""

    image: Float[Tensor, "*batch h w c"]
    alpha: Float[Tensor, "*batch h w"]


class _Blend(torch.autograd.Function):
    """(log α, colours) of (tiles, pixels, places), front first, to the blended colours and what shines through."""

    @staticmethod
    def forward(ctx: Any, log_alpha: Tensor, colors: Tensor, cutoff: float, ceiling: float) -> tuple[Tensor, Tensor]:
        alpha = log_alpha.exp()
        capped = alpha > ceiling
        alpha = torch.threshold(alpha.clamp_(max=ceiling), cutoff, 0.0)
        through = torch.cumprod(1 - alpha, dim=-1)
        weights = alpha * (through / (1 - alpha))
        ctx.save_for_backward(alpha, through, weights, colors, capped)
        return weights @ colors, through[..., -1]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor, grad_through: Tensor) -> tuple[Tensor, Tensor, None, None]:
        alpha, through, weights, colors, capped = ctx.saved_tensors
        of_color = grad @ colors.mT  # how the loss changes with the weight of each
        parts = weights * of_color
        behind = parts.sum(-1, keepdim=True) - parts.cumsum(-1) + (grad_through * through[..., -1])[..., None]
        # α dL/dα: its own weight grows, all that is behind it loses 1/(1 - α) of what it had
        out = parts - behind * (alpha / (1 - alpha))
        return out.masked_fill_(capped, 0.0), weights.mT @ grad, None, None


def rasterize(
    projected: Projected,
    colors: Float[Tensor, "*batch n c"],
    opacity: Float[Tensor, "*batch n"],
    height: int,
    width: int,
    *,
    background: Float[Tensor, "c"] | None = None,
    tile: int = 8,
    cutoff: float = CUTOFF,
    ceiling: float = CEILING,
    most: int = 1 << 21,
) -> Splat:
    """Blend projected Gaussians into pictures.

    Args:
        opacity: in [0, 1].
        background: of the c channels; zero by default.
        tile: side of a tile in pixels. The picture does not depend on it.
        cutoff, ceiling: the least α that counts, and the largest.
        most: pairs of pixel and Gaussian worked on at once, which bounds the memory.

    Raises:
        ValueError: sizes that are not positive, colours or opacities that do not fit.
    """
    if height < 1 or width < 1 or tile < 1:
        raise ValueError(f"height {height}, width {width} and tile {tile} must be positive")
    if not 0 < cutoff < ceiling < 1:
        raise ValueError(f"0 < cutoff < ceiling < 1 is expected, got {cutoff} and {ceiling}")
    batch, n = projected.depth.shape[:-1], projected.depth.shape[-1]
    if colors.shape[:-1] != projected.depth.shape or opacity.shape != projected.depth.shape:
        raise ValueError(
            f"colors {tuple(colors.shape)} and opacity {tuple(opacity.shape)} do not fit {n} Gaussians a picture"
        )
    channels, views = colors.shape[-1], math.prod(batch)
    columns, rows = -(-width // tile), -(-height // tile)
    flat_opacity = opacity.reshape(views, n)
    log_opacity = flat_opacity.clamp(min=1e-10).log()
    parts = [projected.mean, projected.conic, log_opacity.view(*batch, n, 1), colors]
    features = torch.cat([part.reshape(views * n, part.shape[-1]) for part in parts], dim=-1)
    tiles, lists = _lists(projected, flat_opacity.detach(), views, n, (rows, columns), tile, cutoff)
    basis = _basis(tile, features)
    blended, through, places = [], [], []
    for chosen, index in _chunks(tiles, lists, tile * tile, most):
        where = chosen % (rows * columns)
        corner = torch.stack([where % columns, where // columns], dim=-1) * tile
        centre = corner.to(features.dtype) + tile / 2
        mean, conic, log_o, rgb = torch.split(embedding(index.clamp(min=0), features), [2, 3, 1, channels], dim=-1)
        polynomial = _polynomial(mean - centre[:, None], conic, log_o[..., 0], index >= 0)
        rgb, left = _Blend.apply(basis @ polynomial.mT, rgb, cutoff, ceiling)
        blended.append(rgb)
        through.append(left)
        places.append(chosen)
    full = torch.zeros(views * rows * columns, tile * tile, channels, dtype=features.dtype, device=features.device)
    clear = torch.ones(views * rows * columns, tile * tile, dtype=features.dtype, device=features.device)
    if places:
        at = torch.cat(places)
        full = full.index_copy(0, at, torch.cat(blended))
        clear = clear.index_copy(0, at, torch.cat(through))
    if background is not None:
        full = full + clear[..., None] * background.to(full)
    image = full.view(views, rows, columns, tile, tile, channels).transpose(2, 3)
    image = image.reshape(views, rows * tile, columns * tile, channels)[:, :height, :width]
    clear = clear.view(views, rows, columns, tile, tile).transpose(2, 3).reshape(views, rows * tile, columns * tile)
    alpha = 1 - clear[:, :height, :width]
    return Splat(image.reshape(*batch, height, width, channels), alpha.reshape(*batch, height, width))


def render(
    means: Float[Tensor, "*batch n 3"],
    covariances: Float[Tensor, "*batch n 3 3"],
    colors: Float[Tensor, "*batch n c"],
    opacity: Float[Tensor, "*batch n"],
    camera: Camera,
    c2w: Float[Tensor, "*batch 4 4"],
    *,
    background: Float[Tensor, "c"] | None = None,
    dilation: float = DILATION,
    **options: Any,
) -> Splat:
    """Project 3-D Gaussians and blend them: one picture for each pose. ``options`` are those of :func:`rasterize`.

    >>> render(means, covariance(q, s), rgb, opacity, Camera(64, 64, 80.0), c2w, background=torch.ones(3)).image
    """
    projected = project(means, covariances, camera, c2w, dilation=dilation)
    return rasterize(projected, colors, opacity, camera.height, camera.width, background=background, **options)


def _basis(tile: int, like: Tensor) -> Float[Tensor, "pixels 6"]:
    """1, x, y, x², xy, y² at the pixel centres of a tile whose centre is the origin."""
    at = torch.arange(tile, dtype=like.dtype, device=like.device) + 0.5 - tile / 2
    y, x = torch.meshgrid(at, at, indexing="ij")
    x, y = x.reshape(-1), y.reshape(-1)
    return torch.stack([torch.ones_like(x), x, y, x * x, x * y, y * y], dim=-1)


def _polynomial(mean: Tensor, conic: Tensor, log_opacity: Tensor, filled: Tensor) -> Float[Tensor, "tiles places 6"]:
    """The coefficients of log α = log o - ½ (a dx² + 2 b dx dy + c dy²) for that basis."""
    mx, my = mean.unbind(-1)
    a, b, c = (conic * filled[..., None]).unbind(-1)
    ax, cy = a * mx + b * my, b * mx + c * my
    constant = torch.where(filled, log_opacity - 0.5 * (ax * mx + cy * my), _EMPTY)
    coefficients = [constant, ax, cy, -0.5 * a, -b, -0.5 * c]
    return torch.stack(coefficients, dim=-1)


@torch.no_grad()
def _lists(
    projected: Projected, opacity: Tensor, views: int, n: int, grid: tuple[int, int], tile: int, cutoff: float
) -> tuple[Tensor, Tensor]:
    """For each pair of a tile and a Gaussian that reaches it: the tile's number (ascending) and the Gaussian's, those
    of a tile from front to back. Numbers count through all views.
    """
    order = projected.depth.reshape(views, n).argsort(dim=-1)
    opacity = opacity.gather(1, order)
    reach = (2 * (opacity.clamp(min=1e-10) / cutoff).log()).clamp(min=0).sqrt()
    extent = reach[..., None] * projected.spread.reshape(views, n, 2).gather(1, order[..., None].expand(-1, -1, 2))
    mean = projected.mean.reshape(views, n, 2).gather(1, order[..., None].expand(-1, -1, 2))
    shown = projected.visible.reshape(views, n).gather(1, order) & (opacity > cutoff)
    low, high = mean - extent, mean + extent
    rows, columns = grid
    first_x = torch.arange(columns, device=mean.device, dtype=mean.dtype)[:, None] * tile + 0.5
    first_y = torch.arange(rows, device=mean.device, dtype=mean.dtype)[:, None] * tile + 0.5
    in_x = (high[:, None, :, 0] >= first_x) & (low[:, None, :, 0] <= first_x + (tile - 1))
    in_y = (high[:, None, :, 1] >= first_y) & (low[:, None, :, 1] <= first_y + (tile - 1)) & shown[:, None]
    reached = (in_y[:, :, None] & in_x[:, None]).reshape(views * rows * columns, n)
    tiles, places = reached.nonzero(as_tuple=True)
    view = tiles // (rows * columns)
    return tiles, view * n + order[view, places]


@torch.no_grad()
def _chunks(tiles: Tensor, lists: Tensor, pixels: int, most: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Tiles with lists of about the same length together: their numbers, and the lists (-1 where one is shorter)."""
    if not len(tiles):
        return
    found, counts = torch.unique_consecutive(tiles, return_counts=True)
    start = counts.cumsum(0) - counts
    counts, by_length = counts.sort(descending=True)
    lengths = counts.tolist()
    begin = 0
    while begin < len(lengths):
        longest = lengths[begin]
        end = begin + 1
        room = max(1, most // (pixels * longest))
        while end < len(lengths) and end - begin < room and 2 * lengths[end] >= longest:
            end += 1
        chosen = by_length[begin:end]
        step = torch.arange(longest, device=tiles.device)
        index = lists[(start[chosen, None] + step).clamp(max=len(lists) - 1)]
        yield found[chosen], index.masked_fill(step >= counts[begin:end, None], -1)
        begin = end
