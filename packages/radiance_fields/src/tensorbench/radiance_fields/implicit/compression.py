"""What a representation weighs: checkpoints, weights of 16 and 8 bits; and rivals: JPEG, tensor formats on the grid.

A functional tensor of rank R on the training grid is a tensor of rank R there, so for a picture the singular values
of each channel bound its PSNR (:func:`svd_bound`); for volumes TensorLy's decompositions of the same ranks are shown
beside it, which for CP is not a bound but a strong fit (the best rank-R approximation of a tensor need not exist).
"""

from __future__ import annotations

import copy
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from tensorbench.core.errors import unknown

Model = TypeVar("Model", bound=nn.Module)


def save_checkpoint(module: nn.Module, path: str | Path) -> int:
    """Write the state of a module; the bytes of the file."""
    torch.save(module.state_dict(), path)
    return Path(path).stat().st_size


def quantized(module: Model, bits: int) -> tuple[Model, int]:
    """A copy whose weights were rounded, and the bytes that hold them: 32 and 16 (floating point), or 2 to 8 bits in
    equal steps between each tensor's ends (two more floats a tensor).

    Raises ValueError for other numbers of bits.
    """
    if bits not in (16, 32) and not 2 <= bits <= 8:
        raise ValueError(f"{bits} bits: use 32 or 16 (floating point), or 2 to 8 (equal steps)")
    other = copy.deepcopy(module)
    total = 0
    with torch.no_grad():
        for weight in other.parameters():
            total += math.ceil(weight.numel() * bits / 8)
            if bits == 16:
                weight.copy_(weight.half().float())
            elif bits <= 8:
                low, high = weight.min(), weight.max()
                step = (high - low).clamp(min=1e-12) / (2**bits - 1)
                weight.copy_(((weight - low) / step).round() * step + low)
                total += 8
    return other, total


def jpeg(image: Float[np.ndarray, "h w c"], qualities: Sequence[int]) -> list[tuple[int, int, float]]:
    """(quality, bytes, PSNR in dB) of a picture in [0, 1] by Pillow's JPEG, chroma halved below quality 90."""
    from PIL import Image

    pixels = np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)
    pixels = pixels[:, :, 0] if pixels.shape[2] == 1 else pixels
    found = []
    for quality in qualities:
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, "JPEG", quality=int(quality), optimize=True,
                                     subsampling=0 if quality >= 90 else 2)  # fmt: skip
        back = np.asarray(Image.open(stream), dtype=np.float64).reshape(image.shape) / 255
        error = float(np.mean((back - image) ** 2))
        found.append((int(quality), stream.tell(), 10 * math.log10(1 / max(error, 1e-20))))
    return found


def svd_bound(image: Float[np.ndarray, "h w c"], rank: int) -> float:
    """The highest PSNR (dB) of any matrix of rank ``rank`` for each channel. ValueError for a rank below 1."""
    if rank < 1:
        raise ValueError(f"rank {rank} must be at least 1")
    lost = 0.0
    for channel in np.moveaxis(np.asarray(image, dtype=np.float64), -1, 0):
        lost += float((np.linalg.svd(channel, compute_uv=False)[rank:] ** 2).sum())
    return 10 * math.log10(image.size / max(lost, 1e-20 * image.size))


def grid_format(
    values: Float[np.ndarray, "*sizes"], format: str, rank: int | Sequence[int], iterations: int = 50, seed: int = 0
) -> tuple[Float[np.ndarray, "*sizes"], int]:
    """TensorLy's CP (ALS), TT (SVD) or Tucker (HOOI) of an array: the approximation, and how many numbers hold it."""
    import tensorly as tl
    from tensorly.decomposition import parafac, tensor_train, tucker

    tensor = np.asarray(values, dtype=np.float64)
    # Whichever backend the caller, or a library that it imports (tltorch does), has set for the process.
    with tl.backend_context("numpy"):
        if format == "cp":
            found = parafac(tensor, rank, n_iter_max=iterations, init="random", random_state=seed, tol=1e-8)
            return tl.cp_to_tensor(found), sum(factor.size for factor in found.factors)
        if format == "tt":
            bonds = rank if isinstance(rank, int) else [1, *rank, 1]
            train = tensor_train(tensor, bonds)
            return tl.tt_to_tensor(train), sum(factor.size for factor in train.factors)
        if format == "tucker":
            core, factors = tucker(tensor, rank, n_iter_max=iterations, tol=1e-8)
            return tl.tucker_to_tensor((core, factors)), core.size + sum(factor.size for factor in factors)
    raise ValueError(unknown("format", format, ("cp", "tt", "tucker")))


def grid_step_memory(sizes: Sequence[int], rank: int, channels: int, features: Sequence[int]) -> dict[str, int]:
    """Numbers that one training step of a CP keeps, and of a monolithic network of the same layers: activations of all
    layers and outputs, in the leading order."""
    axes, product = sum(sizes), math.prod(sizes)
    split = math.prod(sizes[:-1]) * rank * channels if len(sizes) > 2 else 0
    layers = sum(features)
    return {
        "functional": axes * (2 * layers + rank * channels) + split + product * channels,
        "monolithic": product * (2 * layers + channels),
    }


def to_numpy(values: Tensor) -> np.ndarray:
    """Detached, on the CPU."""
    return values.detach().cpu().numpy()
