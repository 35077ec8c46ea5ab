"""Losses of MIGS (2024, arXiv 2407.07284) beside the difference of pictures.

As isometric as possible (from 3DGS-Avatar, arXiv 2312.09228): with N(i) the nearest neighbours of a Gaussian at rest,

    L(x, x') = mean_i mean_{j ∈ N(i)} | ‖x_i - x_j‖ - ‖x'_i - x'_j‖ |

for the centres, and for the covariances with the Frobenius norm, which a rotation leaves as it is. (The code of
3DGS-Avatar takes the norm of six of the nine entries, which a rotation changes.)
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

_EPS = 1e-14  # under the root, for a gradient where two Gaussians are alike


@torch.no_grad()
def neighbours(points: Float[Tensor, "*batch n 3"], count: int = 5) -> Int[Tensor, "*batch n count"]:
    """The ``count`` nearest other points of each.

    Raises:
        ValueError: fewer points than that.
    """
    if points.shape[-2] <= count:
        raise ValueError(f"{points.shape[-2]} points do not have {count} neighbours each")
    return torch.cdist(points, points).topk(count + 1, largest=False).indices[..., 1:]


def isometry(
    rest: Float[Tensor, "b n d"], moved: Float[Tensor, "b n d"], near: Int[Tensor, "b n k"]
) -> Float[Tensor, ""]:
    """How much the distances to neighbours change, on average. Flatten covariances to d = 9."""
    if rest.shape != moved.shape:
        raise ValueError(f"rest {tuple(rest.shape)} and moved {tuple(moved.shape)} must have the same shape")

    def distances(x: Tensor) -> Tensor:
        b, n, d = x.shape
        start = torch.arange(b, device=x.device)[:, None, None] * n
        others = torch.nn.functional.embedding(near + start, x.reshape(b * n, d))
        return ((x[:, :, None] - others).square().sum(-1) + _EPS).sqrt()

    return (distances(rest) - distances(moved)).abs().mean()


def skinning_prior(predicted: Float[Tensor, "*batch n 24"], known: Float[Tensor, "*batch n 24"]) -> Float[Tensor, ""]:
    """Squared error of skinning weights at points of the skin, summed over the joints."""
    return (predicted - known).square().sum(-1).mean()


def dissimilarity(image: Float[Tensor, "b h w c"], truth: Float[Tensor, "b h w c"]) -> Float[Tensor, ""]:
    """1 - SSIM (Wang, Bovik, Sheikh, Simoncelli 2004) in windows of 7 pixels, every other one: cheap, and in the
    place of LPIPS, whose network has to be downloaded.
    """
    x, y = image.movedim(-1, 1), truth.movedim(-1, 1)
    means = torch.nn.functional.avg_pool2d(torch.cat([x, y, x * x, y * y, x * y], dim=1), 7, stride=2)
    mx, my, xx, yy, xy = means.chunk(5, dim=1)
    product, squares = mx * my, mx * mx + my * my
    c1, c2 = 0.01**2, 0.03**2
    similar = (2 * product + c1) * (2 * (xy - product) + c2) / ((squares + c1) * (xx + yy - squares + c2))
    return 1 - similar.mean()


def picture_loss(
    image: Float[Tensor, "b h w c"],
    alpha: Float[Tensor, "b h w"],
    truth: Float[Tensor, "b h w c"],
    mask: Float[Tensor, "b h w"],
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Mean absolute differences of colours and of coverage.

    Raises:
        ValueError: a mask of another size, or one that is empty: then there is nobody to learn from.
    """
    if mask.shape != alpha.shape:
        raise ValueError(f"mask {tuple(mask.shape)} does not fit the picture {tuple(alpha.shape)}")
    if not bool((mask.flatten(1).amax(1) > 0).all()):
        raise ValueError("a mask is empty: nobody is in that frame, leave it out")
    return (image - truth).abs().mean(), (alpha - mask).abs().mean()
