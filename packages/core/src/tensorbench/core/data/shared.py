"""The datasets that several packages use, each with one fixed split, so that results compare across packages.

``seed`` changes nothing here: the split is part of the dataset.
"""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from .files import File
from .registry import dataset

_PHOTOGRAPHS = (
    "astronaut",
    "brick",
    "camera",
    "chelsea",
    "coffee",
    "coins",
    "grass",
    "gravel",
    "hubble_deep_field",
    "immunohistochemistry",
    "moon",
    "retina",
    "rocket",
)


@dataclass(frozen=True)
class LabelledImages:
    """Grey images in [0, 1] with class labels from 0, in three parts."""

    train_images: Float[np.ndarray, "train height width"]
    train_labels: Int[np.ndarray, " train"]
    valid_images: Float[np.ndarray, "valid height width"]
    valid_labels: Int[np.ndarray, " valid"]
    test_images: Float[np.ndarray, "test height width"]
    test_labels: Int[np.ndarray, " test"]
    classes: int = 10


@dataclass(frozen=True)
class TokenText:
    """A text as token numbers in three parts; token ``k`` reads ``vocabulary[k]``."""

    train: Int[np.ndarray, " train"]
    valid: Int[np.ndarray, " valid"]
    test: Int[np.ndarray, " test"]
    vocabulary: tuple[str, ...]


def _split(images: np.ndarray, labels: np.ndarray, train: int, valid: int) -> LabelledImages:
    """The one permutation of all packages: numpy's ``default_rng(0)``; then train, validation and the rest as test."""
    order = np.random.default_rng(0).permutation(len(images))
    images, labels = images[order], labels[order].astype(np.int64)
    x_train, x_valid, x_test = np.split(images, [train, train + valid])
    y_train, y_valid, y_test = np.split(labels, [train, train + valid])
    return LabelledImages(x_train, y_train, x_valid, y_valid, x_test, y_test)


@dataset(
    title="Handwritten digits, 1,797 images of 8 × 8",
    source="UCI optical digits, as in scikit-learn",
    licence="CC BY 4.0",
    library="sklearn",
)
def digits(*, seed: int) -> LabelledImages:
    """Float64 in [0, 1] (sixteenths); 1,197 training, 300 validation and 300 test images under a fixed permutation."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return _split(bunch.images / 16.0, bunch.target, 1197, 300)


_MNIST = {
    "repository": "fgnt/mnist",
    "commit": "ae608a02b796c9ee908c082585a5f006fe05258e",
    "licence": "CC BY-SA 3.0 as usually stated",
}


@dataset(
    title="MNIST-10k, 10,000 images of 28 × 28",
    source="LeCun, Cortes, Burges: MNIST test file",
    licence="CC BY-SA 3.0 as usually stated",
    files=[
        File(
            path="t10k-images-idx3-ubyte.gz",
            sha256="8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            bytes=1648877,
            **_MNIST,
        ),
        File(
            path="t10k-labels-idx1-ubyte.gz",
            sha256="f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
            bytes=4542,
            **_MNIST,
        ),
    ],
)
def mnist10k(files: list[Path], *, seed: int) -> LabelledImages:
    """Float32 in [0, 1]; 8,000 training, 1,000 validation and 1,000 test images under a fixed permutation.

    The file's second half is harder than its first, hence the permutation.
    """
    images, labels = (np.frombuffer(gzip.decompress(path.read_bytes()), dtype=np.uint8) for path in files)
    pixels = images[16:].reshape(-1, 28, 28).astype(np.float32) / np.float32(255)
    return _split(pixels, labels[8:], 8000, 1000)


@dataset(
    title="Tiny Shakespeare, 1.1 million characters",
    source="Karpathy: char-rnn",
    licence="public-domain text",
    files=[
        File(
            repository="karpathy/char-rnn",
            commit="6f9487a6fe5b420b7ca9afb0d7c078e37c1d1b4e",
            path="data/tinyshakespeare/input.txt",
            sha256="86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
            bytes=1115394,
            licence="public-domain text",
        )
    ],
)
def tinyshakespeare(files: list[Path], *, seed: int) -> TokenText:
    """Characters as numbers (65 kinds, in code-point order); the first 90 % train, then 5 % validation and 5 % test."""
    text = np.frombuffer(files[0].read_bytes(), dtype=np.uint8)  # the file is ASCII
    kinds, tokens = np.unique(text, return_inverse=True)
    train, valid, test = np.split(tokens.astype(np.int64), [len(text) * 90 // 100, len(text) * 95 // 100])
    return TokenText(train, valid, test, tuple(map(chr, kinds)))


_WIKITEXT = {
    "repository": "pytorch/examples",
    "commit": "77f55b912142e11fcfdf5b530231fb9c52f181e8",
    "licence": "CC BY-SA 3.0",
}


@dataset(
    title="WikiText-2, its validation and test articles",
    source="Merity et al. (2017), as in PyTorch's examples",
    licence="CC BY-SA 3.0",
    files=[
        File(
            path="word_language_model/data/wikitext-2/valid.txt",
            sha256="f0737ed31fc1329026e95cb8b98e19c2a182c39c240ab909dc31abf2f8af58e8",
            bytes=1121681,
            **_WIKITEXT,
        ),
        File(
            path="word_language_model/data/wikitext-2/test.txt",
            sha256="d790b833ef8cf03a90db7bf1271b7520b83c45ce07ba3c1a9699df81e239eca0",
            bytes=1256449,
            **_WIKITEXT,
        ),
    ],
)
def wikitext2(files: list[Path], *, seed: int) -> TokenText:
    """Words as numbers, lines ended by ``<eos>``: train is the first 90 % of the validation file, valid its rest.

    The words are those of the training part, by frequency; a word that is not among them reads ``<unk>``.
    """
    first, test = (path.read_text(encoding="utf-8").replace("\n", " <eos> ").split() for path in files)
    cut = len(first) * 9 // 10
    train = first[:cut]
    words, counts = np.unique(train, return_counts=True)
    vocabulary = tuple(str(word) for word in words[np.lexsort((words, -counts))])
    if "<unk>" not in vocabulary:
        raise ValueError("the training part has no <unk>; this is not WikiText-2")
    number = {word: k for k, word in enumerate(vocabulary)}

    def tokens(part: list[str]) -> np.ndarray:
        return np.array([number.get(word, number["<unk>"]) for word in part], dtype=np.int64)

    return TokenText(tokens(train), tokens(first[cut:]), tokens(test), vocabulary)


@dataset(
    title="Photographs and textures",
    source="scikit-image",
    licence="public domain or CC0, see scikit-image's data/README.txt",
    library="skimage",
)
def photograph(*, seed: int, image: str = "astronaut", size: int | None = None, gray: bool = False) -> np.ndarray:
    """One picture, rows × columns (× colours), float64 in [0, 1]; ``size`` averages a centred square to size × size."""
    from skimage import color, data, transform

    from ..errors import unknown

    if image not in _PHOTOGRAPHS:
        raise ValueError(unknown("photograph", image, _PHOTOGRAPHS))
    pixels = np.asarray(getattr(data, image)(), dtype=np.float64) / 255.0
    if gray and pixels.ndim == 3:
        pixels = color.rgb2gray(pixels)
    if size is None:
        return pixels
    side = min(pixels.shape[:2])
    if not 1 <= size <= side:
        raise ValueError(f"size {size} of photograph {image!r} must be between 1 and its shorter side, {side}")
    top, left = ((extent - side) // 2 for extent in pixels.shape[:2])
    square = pixels[top : top + side, left : left + side]
    if side % size == 0:
        return square.reshape(size, side // size, size, side // size, *square.shape[2:]).mean(axis=(1, 3))
    return transform.resize(square, (size, size), order=1, anti_aliasing=True)


@dataset(title="Text from a second-order Markov chain", source="generated here", licence="Apache-2.0", generated=True)
def markov_text(*, seed: int, characters: int = 200_000, kinds: int = 32, successors: int = 8) -> TokenText:
    """Tokens of ``kinds`` kinds; each pair of them is followed by one of ``successors`` with Zipf's probabilities.

    A seed has its own chain. First 90 % train, then 5 % validation and 5 % test, as the other texts.
    """
    rng = np.random.default_rng(seed)
    weights = 1.0 / np.arange(1, successors + 1)
    edges = np.cumsum(weights / weights.sum())
    # The last character alone decides which kinds may follow; the one before it in which order they are likely.
    allowed = np.argsort(rng.random((kinds, kinds)), axis=1)[:, :successors]
    order = np.argsort(rng.random((kinds, kinds, successors)), axis=2)
    draws = np.minimum(np.searchsorted(edges, rng.random(characters), side="right"), successors - 1)
    tokens = np.empty(characters, dtype=np.int64)
    before, last = 0, 0
    for k, draw in enumerate(draws):
        before, last = last, allowed[last, order[before, last, draw]]
        tokens[k] = last
    train, valid, test = np.split(tokens, [characters * 90 // 100, characters * 95 // 100])
    return TokenText(train, valid, test, tuple(chr(33 + k) for k in range(kinds)))
