"""Numbers to predict from multi-channel images (N, C, H, W), with a fixed training and test part.

``block_images`` is the simulation of the Tensor-GPST paper (Sun et al., ICML 2023) as its code draws it;
``stained_patches`` are real images with a target computed from them. The paper's solar flares are not public;
:func:`flares` prepares them for whoever has them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from jaxtyping import Float

from tensorbench.core.data import dataset

_K12 = np.array([[1.0, 0.9, 0.99], [0.9, 1.0, 0.9], [0.99, 0.9, 1.0]])
_K3 = np.array([[1.0, -0.9, 0.9], [-0.9, 1.0, -0.9], [0.9, -0.9, 1.0]])


@dataclass(frozen=True)
class ImageRegression:
    """Training and test images with their targets; ``A`` and ``B`` are the true contraction where there is one."""

    train_X: Float[np.ndarray, "n c H W"]
    train_y: Float[np.ndarray, " n"]
    test_X: Float[np.ndarray, "m c H W"]
    test_y: Float[np.ndarray, " m"]
    A: Float[np.ndarray, "h H"] | None = None
    B: Float[np.ndarray, "w W"] | None = None

    def validation(self, seed: int, share: float = 0.25) -> ImageRegression:
        """The training part alone, a random ``share`` of it held out as the test part: what tuning may see."""
        order = np.random.default_rng(seed).permutation(len(self.train_y))
        held, kept = np.split(order, [max(1, round(share * len(order)))])
        X, y = self.train_X, self.train_y
        return replace(self, train_X=X[kept], train_y=y[kept], test_X=X[held], test_y=y[held])


def simulate(images: int, sigma: float, seed: int, size: int = 25) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The paper's images X (N, 3, size, size), targets y (N,) and contraction A = B (3, size).

    Background N(0, 0.3); a block N(4, 0.3) of a fifth of the size in one random channel, in the middle where that is
    channel 1 and in a random corner otherwise. The rows of A average over the blocks' rows. y is a draw of the Gaussian
    process with kernel K3 ⊗ K2 ⊗ K1 on Z = A X B^T plus N(0, sigma) noise. In the paper's code Z is flattened with the
    channels last and fastest, so that K3 acts along the height and K1 along the channels; so it is here.
    """
    if images < 4 or size < 10 or sigma < 0:
        raise ValueError(f"images {images}, size {size} and sigma {sigma} must be at least 4, 10 and 0")
    rng = np.random.default_rng(seed)
    width = size // 5
    places = [round(share * size) for share in (0.08, 0.4, 0.72)]
    X = rng.normal(0.0, 0.3, (images, 3, size, size))
    for image in X:
        channel = rng.integers(3)
        top, left = (1, 1) if channel == 1 else 2 * rng.integers(2, size=2)
        rows, columns = (slice(places[k], places[k] + width) for k in (top, left))
        image[channel, rows, columns] = rng.normal(4.0, 0.3, (width, width))
    A = np.zeros((3, size))
    for row, place in zip(A, places, strict=True):
        row[place : place + width] = 1.0 / width
    Z = (A @ X @ A.T).transpose(0, 2, 3, 1).reshape(images, -1)
    root = np.kron(np.linalg.cholesky(_K3), np.kron(np.linalg.cholesky(_K12), np.linalg.cholesky(_K12)))
    return X, Z @ (root @ rng.normal(size=27)) + rng.normal(0.0, sigma, images), A


@dataset(
    title="Images with a block in one of three channels, and a Gaussian process of their block means",
    source="simulation of Sun et al. (2023), generated here",
    licence="Apache-2.0",
    generated=True,
)
def block_images(*, seed: int, images: int = 200, sigma: float = 0.5, size: int = 25) -> ImageRegression:
    """The first three quarters of the images are for training, as in the paper's code."""
    X, y, A = simulate(images, sigma, seed, size)
    n = int(np.ceil(0.75 * images))
    return ImageRegression(X[:n], y[:n], X[n:], y[n:], A, A)


@dataset(
    title="Patches of a stained tissue section; target: haematoxylin in the patch's middle",
    source="scikit-image's immunohistochemistry image",
    licence="CC0",
    library="scikit-image",
)
def stained_patches(
    *, seed: int, images: int = 400, test_images: int = 200, size: int = 25, middle: int = 9
) -> ImageRegression:
    """Random patches (3 colours, size x size); target: mean haematoxylin optical density of the central pixels.

    Test patches come from one third of the picture (which, by the seed) and training patches from the rest, so that no
    pixel is in both. Colours and target are standardised by the training part; the density is a logarithm of the
    colours, so a linear model can come close to it and not reach it.
    """
    from skimage.color import rgb2hed
    from skimage.data import immunohistochemistry

    picture = immunohistochemistry()
    density = rgb2hed(picture)[..., 0]
    colours = picture.transpose(2, 0, 1) / 255.0
    rng = np.random.default_rng(seed)
    height, width = density.shape
    edges = np.linspace(0, width, 4).astype(int)
    bands = [np.arange(a, b - size + 1) for a, b in pairwise(edges)]
    test_columns = bands.pop(seed % 3)
    inner = slice((size - middle) // 2, (size - middle) // 2 + middle)

    def draw(columns: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        corners = zip(rng.integers(height - size + 1, size=count), rng.choice(columns, count), strict=True)
        cuts = [(slice(i, i + size), slice(j, j + size)) for i, j in corners]
        X = np.stack([colours[:, rows, cols] for rows, cols in cuts])
        return X, np.array([density[rows, cols][inner, inner].mean() for rows, cols in cuts])

    X, y = draw(np.concatenate(bands), images)
    X_test, y_test = draw(test_columns, test_images)
    mean, std = X.mean(axis=(0, 2, 3), keepdims=True), X.std(axis=(0, 2, 3), keepdims=True)
    return ImageRegression(
        (X - mean) / std, (y - y.mean()) / y.std(), (X_test - mean) / std, (y_test - y.mean()) / y.std()
    )


def flares(
    X: Float[np.ndarray, "n c H W"], intensity: Float[np.ndarray, " n"], train_share: float = 0.75
) -> ImageRegression:
    """The paper's solar flares, for who has them: images in order of time, peak intensity in units of 1e-9 W/m^2.

    The target is log10(intensity) - 3.5, the middle between classes B and M; the split is chronological, and every
    channel is divided by its largest training value.

    Raises:
        ValueError: images that are not (N, C, H, W), another number of intensities, intensities that are not positive.
    """
    X, intensity = np.asarray(X, dtype=np.float64), np.asarray(intensity, dtype=np.float64)
    if X.ndim != 4 or intensity.shape != X.shape[:1]:
        raise ValueError(f"flares are images (N, C, H, W) and N intensities, got {X.shape} and {intensity.shape}")
    if not (intensity > 0).all() or not 0 < train_share < 1:
        raise ValueError("intensities must be positive and train_share between 0 and 1")
    n = int(np.ceil(train_share * len(X)))
    X = X / (np.abs(X[:n]).max(axis=(0, 2, 3), keepdims=True) + 1e-5)
    y = np.log10(intensity) - 3.5
    return ImageRegression(X[:n], y[:n], X[n:], y[n:])
