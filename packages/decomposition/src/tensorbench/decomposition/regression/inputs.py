"""What the tensor GPs refuse, and how they say so."""

from __future__ import annotations

from typing import Any

import numpy as np


def check_images(X: Any, shape: tuple[int, ...] | None = None) -> np.ndarray:
    """Images (N, C, H, W) as float64; ``shape`` is what they were fitted with."""
    X = np.asarray(X, dtype=np.float64)
    if X.ndim != 4:
        raise ValueError(
            f"images are (N, C, H, W), got an array of shape {X.shape}; reshape it or add the channel axis"
        )
    if shape is not None and X.shape[1:] != tuple(shape):
        raise ValueError(f"images of shape {X.shape[1:]} (C, H, W) for a model fitted to {tuple(shape)}")
    if not np.isfinite(X).all():
        raise ValueError("the images have entries that are not finite; fill them in first")
    return X


def check_training(X: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
    X = check_images(X)
    _, c, H, W = X.shape
    if min(c, H) > W and W <= 4:
        raise ValueError(
            f"images of shape {X.shape} seem to have their channels last; the layout is (N, C, H, W): "
            "X.transpose(0, 3, 1, 2)"
        )
    y = np.asarray(y, dtype=np.float64)
    if y.ndim != 1 or len(y) != len(X):
        raise ValueError(f"{len(X)} images need as many targets in one dimension, got shape {y.shape}")
    if not np.isfinite(y).all():
        raise ValueError("the targets have entries that are not finite")
    if len(y) < 2 or np.ptp(y) == 0:
        raise ValueError("the targets are all the same; there is nothing to learn")
    return X, y


def check_options(model: Any, images: int) -> None:
    """The options that both estimators have, and the penalties."""
    for name in ("lr", "sigma0"):
        if not getattr(model, name) > 0:
            raise ValueError(f"{name} {getattr(model, name)} must be positive")
    if model.rule not in ("min", "one_se"):
        raise ValueError(f"rule {model.rule!r} is not 'min' or 'one_se'")
    for name, least in (("max_iter", 1), ("restarts", 1), ("cv", 2), ("patience", 1), ("pilot", 1)):
        if getattr(model, name) < least:
            raise ValueError(f"{name} {getattr(model, name)} must be at least {least}")
    lams = [getattr(model, "lam", 0.0), *(getattr(model, "lam_path", None) or ())]
    if not all(lam >= 0 for lam in lams):
        raise ValueError(f"penalties {lams} must not be negative")
    if model._lams() is not None and model.cv > images // 2:
        raise ValueError(f"{model.cv} folds leave fewer than two of {images} images in a fold; use cv <= {images // 2}")


def check_latent_size(latent: Any, rank: Any, shape: tuple[int, ...]) -> None:
    """h <= H, w <= W, and every rank at most the size that it belongs to."""
    _, c, H, W = shape
    if len(latent) != 2 or len(rank) != 3:
        raise ValueError(f"latent {latent} is (h, w) and rank {rank} is (r1, r2, r3)")
    for name, size, most in zip("hw", latent, (H, W), strict=True):
        if not 1 <= size <= most:
            raise ValueError(f"latent size {name} = {size} does not fit images of {H} x {W}; use 1..{most}")
    for k, (r, most) in enumerate(zip(rank, (*latent, c), strict=True), start=1):
        if not 1 <= r <= most:
            raise ValueError(f"rank r{k} = {r} exceeds the latent size {(*latent, c)} (h, w, C); use 1..{most}")


def check_pair(name: str, pair: Any, shapes: tuple[tuple[int, int], tuple[int, int]]) -> None:
    """``masks`` or ``contraction``: one matrix for the height and one for the width."""
    if pair is None or len(pair) != 2:
        raise ValueError(f"{name} must be a pair of matrices of shapes {shapes}, got {pair!r:.60}")
    for matrix, shape in zip(pair, shapes, strict=True):
        if np.shape(matrix) != shape:
            raise ValueError(f"{name} has a matrix of shape {np.shape(matrix)} where {shape} is needed")
        if not np.any(matrix):
            raise ValueError(f"{name} has a matrix that is zero everywhere: no pixel would count")
