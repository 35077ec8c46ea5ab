"""Characters for few-shot classification: the two small sets of Omniglot, and glyphs drawn here.

Loaders return :class:`FewShotImages`, whose three parts share no class.
"""

from __future__ import annotations

import functools
import io
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from tensorbench.core.data import DataError, File, dataset

_OMNIGLOT = {
    "repository": "brendenlake/omniglot",
    "commit": "057f034baf2ecb8530bc5710e5a23584d2a519cc",
    "licence": "MIT",
}
# Latin and Greek are in both sets and so no test of new characters.
_SHARED = ("Latin", "Greek")
_VALID = "Tagalog"


@dataclass(frozen=True)
class FewShotImages:
    """Images (classes, samples, size x size), float32, ink 1 on 0; 20 samples of each class."""

    train: Float[np.ndarray, "train samples pixels"]
    valid: Float[np.ndarray, "valid samples pixels"]
    test: Float[np.ndarray, "test samples pixels"]
    size: int


def _rotated(images: np.ndarray, size: int) -> np.ndarray:
    """Each class and its three quarter turns, as classes."""
    square = images.reshape(*images.shape[:2], size, size)
    return np.concatenate([np.rot90(square, k, axes=(2, 3)).reshape(images.shape) for k in range(4)])


@functools.lru_cache(maxsize=4)
def _read(path: Path, size: int) -> dict[str, np.ndarray]:
    """Alphabet to images (characters, 20, pixels), resized from 105 x 105 by Pillow's bilinear filter."""
    from PIL import Image

    found: dict[str, dict[str, list[np.ndarray]]] = {}
    with zipfile.ZipFile(path) as archive:
        for name in sorted(archive.namelist()):
            if not name.endswith(".png"):
                continue
            _, alphabet, character, _ = name.split("/")
            with Image.open(io.BytesIO(archive.read(name))) as image:
                pixels = image.convert("L").resize((size, size), Image.Resampling.BILINEAR)
            found.setdefault(alphabet, {}).setdefault(character, []).append(1 - np.asarray(pixels, np.float32) / 255)
    if not found:
        raise DataError(f"{path} holds no image of a character; it is not Omniglot's archive")
    return {
        alphabet: np.stack([np.stack(images).reshape(len(images), -1) for images in characters.values()])
        for alphabet, characters in found.items()
    }


@dataset(
    title="Omniglot, its two small background sets",
    source="Lake, Salakhutdinov, Tenenbaum (2015)",
    licence="MIT",
    files=[
        File(
            path="python/images_background_small1.zip",
            sha256="f38eb80f801274ac2b4dff5b24289016bfaba4a7d5bb50deebf27104ad6cb8a4",
            bytes=1319022,
            **_OMNIGLOT,
        ),
        File(
            path="python/images_background_small2.zip",
            sha256="3ccaa407515a8778e5d0861875af38b17e418f301ad5bb3b5a6b65d901a41c7f",
            bytes=1580917,
            **_OMNIGLOT,
        ),
    ],
)
def omniglot(files: list[Path], *, seed: int, size: int = 20, rotations: bool = False) -> FewShotImages:
    """136 characters to train (small1); of small2 Tagalog (17) to validate, Katakana and Sanskrit (89) to test.

    The two sets share the Latin and Greek alphabets, which are left out of validation and test. ``rotations`` adds the
    quarter turns of the training characters as classes of their own. ``seed`` changes nothing.
    """
    if not 4 <= size <= 105:
        raise ValueError(f"size {size} must be between 4 and the images' own 105 pixels")
    first, second = (_read(path, size) for path in files)
    train = np.concatenate(list(first.values()))
    new = {alphabet: images for alphabet, images in second.items() if alphabet not in _SHARED}
    if _VALID not in new or len(new) < 2 or set(new) & set(first):
        raise DataError(f"the archives' alphabets {sorted(first)} and {sorted(second)} are not those of the small sets")
    test = np.concatenate([images for alphabet, images in new.items() if alphabet != _VALID])
    return FewShotImages(_rotated(train, size) if rotations else train, new[_VALID], test, size)


@dataset(title="Glyphs of three strokes", source="generated here", licence="Apache-2.0", generated=True)
def glyphs(*, seed: int, classes: int = 80, samples: int = 20, size: int = 20) -> FewShotImages:
    """Each class is three curved strokes; a sample moves their ends, turns and shifts them, and draws them anew.

    Of ``classes``, 5/8 are to train and 3/16 each to validate and to test.
    """
    if classes < 32 or samples < 2 or size < 4:
        raise ValueError(f"classes {classes}, samples {samples}, size {size}: at least 32, 2 and 4 are needed")
    rng = np.random.default_rng([seed, 4])
    strokes = rng.uniform(0.15, 0.85, (classes, 1, 3, 3, 2))  # class, sample, stroke, control point, coordinate
    points = strokes + 0.05 * rng.standard_normal((classes, samples, 3, 3, 2))
    angle = 0.15 * rng.standard_normal((classes, samples, 1, 1))
    centred = points - 0.5
    x = np.cos(angle) * centred[..., 0] - np.sin(angle) * centred[..., 1]
    y = np.sin(angle) * centred[..., 0] + np.cos(angle) * centred[..., 1]
    points = np.stack([x, y], -1) + 0.5 + 0.04 * rng.standard_normal((classes, samples, 1, 1, 2))
    t = np.linspace(0, 1, 24)
    bezier = np.stack([(1 - t) ** 2, 2 * t * (1 - t), t**2])
    path = np.einsum("csnpx,pt->csntx", points, bezier).reshape(classes, samples, -1, 2)
    pixel = (np.arange(size) + 0.5) / size
    # Ink is the largest of Gaussian dots along the strokes; a dot is a product over the two axes.
    dots = np.exp(-0.5 * ((pixel - path[..., None]) / 0.035) ** 2).astype(np.float32)
    images = np.empty((classes, samples, size * size), dtype=np.float32)
    for k in range(classes):
        ink = dots[k, :, :, 1, :, None] * dots[k, :, :, 0, None, :]
        images[k] = ink.max(axis=1).reshape(samples, -1)
    first, second = classes * 5 // 8, classes * 13 // 16
    return FewShotImages(images[:first], images[first:second], images[second:], size)
