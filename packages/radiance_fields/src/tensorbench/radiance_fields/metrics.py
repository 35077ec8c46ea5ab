"""How good a picture, a depth map or a shape is, and how large a model.

LPIPS is left out: its networks' weights do not come with a package and would have to be downloaded.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor


def mse(found: Float[Tensor, "..."], true: Float[Tensor, "..."]) -> float:
    """Mean squared error; shapes must agree."""
    if found.shape != true.shape:
        raise ValueError(f"images of {tuple(found.shape)} and {tuple(true.shape)} cannot be compared")
    return float((found.double() - true.double()).square().mean())


def psnr(found: Float[Tensor, "..."], true: Float[Tensor, "..."]) -> float:
    """Peak signal-to-noise ratio in dB of values in [0, 1]; infinite for equal images."""
    error = mse(found, true)
    return math.inf if error == 0 else -10 * math.log10(error)


def ssim(found: Float[Tensor, "height width c"], true: Float[Tensor, "height width c"]) -> float:
    """Structural similarity (Wang et al. 2004) of one image in [0, 1]: 11 × 11 Gaussian window, deviation 1.5.

    The window narrows where the image is smaller than 11 pixels.
    """
    from pytorch_msssim import ssim as library

    if found.shape != true.shape:
        raise ValueError(f"images of {tuple(found.shape)} and {tuple(true.shape)} cannot be compared")
    side = min(11, *found.shape[:2])
    a, b = (x.detach().double().movedim(-1, 0)[None].clamp(0, 1) for x in (found, true))
    return float(library(a, b, data_range=1.0, win_size=side - (side + 1) % 2))


def image_metrics(found: Float[Tensor, "n h w 3"], true: Float[Tensor, "n h w 3"]) -> dict[str, float]:
    """Mean PSNR (dB) and SSIM over images, as the field reports them: a mean of images' PSNRs, not of all pixels."""
    return {
        "psnr": float(np.mean([psnr(a, b) for a, b in zip(found, true, strict=True)])),
        "ssim": float(np.mean([ssim(a, b) for a, b in zip(found, true, strict=True)])),
    }


def depth_error(found: Float[Tensor, "..."], true: Float[Tensor, "..."]) -> float:
    """Mean absolute difference of distances, in scene units, where the truth meets a surface (is finite)."""
    hit = torch.isfinite(true)
    if not bool(hit.any()):
        raise ValueError("the true depth is nowhere finite: no surface was met")
    return float((found[hit] - true[hit]).abs().mean())


def chamfer(a: Float[np.ndarray, "n d"], b: Float[np.ndarray, "m d"]) -> float:
    """Mean distance to the nearest point of the other set, averaged over both directions (not squared)."""
    from scipy.spatial import cKDTree

    if not len(a) or not len(b):
        raise ValueError("the Chamfer distance of an empty set of points is undefined")
    return 0.5 * float(cKDTree(b).query(a)[0].mean() + cKDTree(a).query(b)[0].mean())


def count_weights(model: torch.nn.Module) -> int:
    """Learnt numbers."""
    return sum(p.numel() for p in model.parameters())


def size_bytes(model: torch.nn.Module, dtype: torch.dtype = torch.float32) -> int:
    """Bytes of the learnt numbers, stored as ``dtype``."""
    return count_weights(model) * torch.empty((), dtype=dtype).element_size()
