"""Trained classifiers with their data, to be quantised."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tensorbench.core import data
from tensorbench.core.data import dataset, shared

if TYPE_CHECKING:
    from tensorbench.quantization.tasks.classifiers import Task

_MNIST = data.get(shared.mnist10k.__name__)


@dataset(
    title="Six linear layers trained on handwritten digits",
    source="trained here on UCI optical digits, as in scikit-learn",
    licence="CC BY 4.0",
    library="sklearn",
)
def digits_mlp(*, seed: int, steps: int | None = None) -> Task:
    """64-96-64-48-32-24-10 with ReLU, AdamW from the seed; the split is that of ``digits``."""
    return _task("digits_mlp", seed, steps)


@dataset(title="ResNet-8 trained on MNIST-10k", source=_MNIST.source, licence=_MNIST.licence, files=_MNIST.files)
def mnist_resnet8(files: list[Path], *, seed: int, steps: int | None = None) -> Task:
    """Ten layers of 8 to 32 channels on images averaged to 14 × 14, AdamW from the seed; the split of ``mnist10k``."""
    return _task("mnist_resnet8", seed, steps)


@dataset(title="A patch transformer trained on MNIST-10k", source=_MNIST.source, licence=_MNIST.licence,
         files=_MNIST.files)  # fmt: skip
def mnist_transformer(files: list[Path], *, seed: int, steps: int | None = None) -> Task:
    """Two blocks of size 32 on sixteen 7 × 7 patches, AdamW from the seed; the split of ``mnist10k``."""
    return _task("mnist_transformer", seed, steps)


def _task(name: str, seed: int, steps: int | None) -> Task:
    from tensorbench.quantization.tasks.classifiers import task

    return task(name, seed, steps=steps)
