"""Embeddings to search: images encoded by one Matryoshka encoder and by a rigid encoder for each size.

The encoders are trained once for each set of images and seed and the embeddings are kept, so that every method searches
the same ones. The database is the training images; validation and test images are the queries. Noise is drawn once for
each image and seed.
"""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tensorbench.core import data
from tensorbench.core.data import File, dataset
from tensorbench.core.data.shared import LabelledImages
from tensorbench.core.errors import unknown

_IMAGES = ("digits", "mnist10k", "omniglot_small1")
_DIMS = (2, 4, 8, 16, 32, 64, 128)
_OMNIGLOT = [
    File(
        repository="brendenlake/omniglot",
        commit="057f034baf2ecb8530bc5710e5a23584d2a519cc",
        path="python/images_background_small1.zip",
        sha256="f38eb80f801274ac2b4dff5b24289016bfaba4a7d5bb50deebf27104ad6cb8a4",
        bytes=1319022,
        licence="MIT",
    )
]


@dataclass(frozen=True)
class Embeddings:
    """Embeddings (not normalised) and labels of the database, of validation queries and of test queries.

    ``*_nested`` are of the Matryoshka encoder; ``*_rigid`` those of the rigid encoders of sizes ``dims`` side by side.
    """

    dims: np.ndarray
    database_nested: np.ndarray
    database_rigid: np.ndarray
    database_labels: np.ndarray
    valid_nested: np.ndarray
    valid_rigid: np.ndarray
    valid_labels: np.ndarray
    test_nested: np.ndarray
    test_rigid: np.ndarray
    test_labels: np.ndarray

    def nested(self, part: str) -> np.ndarray:
        """The Matryoshka embeddings of the part "database", "valid" or "test"."""
        return getattr(self, f"{part}_nested")

    def rigid(self, part: str, d: int) -> np.ndarray:
        """The embeddings of the rigid encoder of ``d`` dimensions."""
        if d not in self.dims:
            raise ValueError(unknown("size of a rigid encoder", str(d), map(str, self.dims)))
        start = int(self.dims[self.dims < d].sum())
        return getattr(self, f"{part}_rigid")[:, start : start + d]

    def labels(self, part: str) -> np.ndarray:
        return getattr(self, f"{part}_labels")


@dataset(
    title="Handwritten characters of five alphabets, 2,720 images of 28 × 28",
    source="Omniglot, background set small 1",
    licence="MIT",
    files=_OMNIGLOT,
)
def omniglot_small1(files: list[Path], *, seed: int) -> LabelledImages:
    """Float32 in [0, 1], ink 1; of each of 136 characters 14 drawers train, 3 validate and 3 test (permuted once).

    The pictures of 105 × 105 are averaged to 28 × 28.
    """
    from PIL import Image

    images, labels = [], []
    with zipfile.ZipFile(files[0]) as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".png") and "__MACOSX" not in name)
        characters = sorted({name.rsplit("/", 1)[0] for name in names})
        number = {character: k for k, character in enumerate(characters)}
        for name in names:
            picture = Image.open(io.BytesIO(archive.read(name))).convert("L").resize((28, 28), Image.Resampling.BOX)
            images.append(1 - np.asarray(picture, dtype=np.float32) / np.float32(255))
            labels.append(number[name.rsplit("/", 1)[0]])
    x, y = np.stack(images), np.array(labels, dtype=np.int64)
    rng = np.random.default_rng(0)
    rows = np.stack([rng.permutation(np.flatnonzero(y == k)) for k in range(len(characters))])
    train, valid, test = (part.ravel() for part in np.split(rows, [14, 17], axis=1))
    return LabelledImages(x[train], y[train], x[valid], y[valid], x[test], y[test], classes=len(characters))


@dataset(
    title="Embeddings of images by Matryoshka and rigid encoders",
    source="trained here",
    licence="that of the images",
    generated=True,
    cache=True,
)
def encoded_images(
    *,
    seed: int,
    images: str,
    noise: float,
    most_dims: int,
    hidden: int,
    epochs: int,
    batch: int,
    learning_rate: float,
) -> Embeddings:
    """Perceptrons with one hidden layer, trained on the database: one nested, and a rigid one for each size."""
    from tensorbench.quantization.adanns.matryoshka import embed, train_encoder

    if images not in _IMAGES:
        raise ValueError(unknown("set of images", images, _IMAGES))
    pictures = data.load(images, seed=0)
    rng = np.random.default_rng([seed, 7])
    parts = {}
    for part, field in (("database", "train"), ("valid", "valid"), ("test", "test")):
        x = getattr(pictures, f"{field}_images").reshape(len(getattr(pictures, f"{field}_labels")), -1)
        parts[part] = (x + noise * rng.standard_normal(x.shape)).astype(np.float32)
    labels = {"database": pictures.train_labels, "valid": pictures.valid_labels, "test": pictures.test_labels}
    dims = [d for d in _DIMS if d <= most_dims]
    options = {"hidden": hidden, "epochs": epochs, "batch": batch, "learning_rate": learning_rate}
    models = [
        train_encoder(parts["database"], labels["database"], sizes, seed=1000 * seed + k, **options)
        for k, sizes in enumerate([dims, *([d] for d in dims)])
    ]
    arrays = {"dims": np.array(dims, dtype=np.int64)}
    for part, x in parts.items():
        nested, *rigid = (embed(model, x) for model in models)
        arrays |= {f"{part}_nested": nested, f"{part}_rigid": np.concatenate(rigid, axis=1)}
        arrays[f"{part}_labels"] = labels[part].astype(np.int64)
    return Embeddings(**arrays)


def _encoded(images: str, seed: int, **options) -> Embeddings:
    return data.load("encoded_images", seed=seed, images=images, **options)


@dataset(
    title="Embeddings of handwritten digits with noise",
    source="UCI optical digits, as in scikit-learn; encoders trained here",
    licence="CC BY 4.0",
    library="sklearn",
)
def digit_embeddings(
    *, seed: int, noise: float = 0.3, most_dims: int = 64, hidden: int = 128, epochs: int = 12
) -> Embeddings:
    """1,197 database vectors, 300 validation and 300 test queries."""
    options = {"most_dims": most_dims, "hidden": hidden, "epochs": epochs, "batch": 64, "learning_rate": 2e-3}
    return _encoded("digits", seed, noise=noise, **options)


@dataset(
    title="Embeddings of MNIST-10k with noise",
    source="LeCun, Cortes, Burges: MNIST test file; encoders trained here",
    licence="CC BY-SA 3.0 as usually stated",
    files=data.get("mnist10k").files,
)
def mnist_embeddings(
    files: list[Path], *, seed: int, noise: float = 0.5, most_dims: int = 128, hidden: int = 256, epochs: int = 6
) -> Embeddings:
    """8,000 database vectors, 1,000 validation and 1,000 test queries."""
    options = {"most_dims": most_dims, "hidden": hidden, "epochs": epochs, "batch": 128, "learning_rate": 1e-3}
    return _encoded("mnist10k", seed, noise=noise, **options)


@dataset(
    title="Embeddings of handwritten characters of five alphabets",
    source="Omniglot, background set small 1; encoders trained here",
    licence="MIT",
    files=_OMNIGLOT,
)
def omniglot_embeddings(
    files: list[Path], *, seed: int, noise: float = 0.0, most_dims: int = 128, hidden: int = 128, epochs: int = 15
) -> Embeddings:
    """1,904 database vectors, 408 validation and 408 test queries, 136 classes."""
    options = {"most_dims": most_dims, "hidden": hidden, "epochs": epochs, "batch": 64, "learning_rate": 1e-3}
    return _encoded("omniglot_small1", seed, noise=noise, **options)


@dataset(title="Vectors around random centres", source="generated here", licence="Apache-2.0", generated=True)
def clustered_vectors(
    *, seed: int, n: int = 8000, queries: int = 2000, dims: int = 128, centres: int = 200, spread: float = 0.6
) -> dict[str, np.ndarray]:
    """Unit vectors "database" and "queries" around centres; coordinate i shrinks as 1/√i, as in nested embeddings."""
    if min(n, queries, dims, centres) < 1 or spread < 0:
        raise ValueError(f"n={n}, queries={queries}, dims={dims}, centres={centres} must be at least 1, spread >= 0")
    rng = np.random.default_rng(seed)
    scale = 1 / np.sqrt(np.arange(1, dims + 1))
    middle = rng.standard_normal((centres, dims)) * scale
    out = {}
    for name, size in (("database", n), ("queries", queries)):
        x = middle[rng.integers(centres, size=size)] + spread * scale * rng.standard_normal((size, dims))
        out[name] = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)
    return out
