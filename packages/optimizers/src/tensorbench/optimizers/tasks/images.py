"""Classification of small images: a perceptron on scikit-learn's digits, a residual network on MNIST-10k at 14 × 14.

The networks take images (batch, 1, height, width) in [0, 1], less the mean of the training part and over its standard
deviation. Initial weights, the order of the samples and nothing else depend on the generators.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from tensorbench.core.data.shared import LabelledImages
from tensorbench.core.errors import unknown
from tensorbench.core.tasks.resnet import ResNet8

from . import PARTS, Task

Part = tuple[Float[Tensor, "samples 1 height width"], Int[Tensor, " samples"]]
_ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh, "gelu": nn.GELU}


@dataclass(frozen=True)
class Images:
    """Three parts of standardised images with labels."""

    train: Part
    valid: Part
    test: Part
    classes: int


def prepare(
    data: LabelledImages, *, halve: bool = False, train: int | None = None, dtype: torch.dtype = torch.float32
) -> Images:
    """Tensors of a dataset; ``halve`` averages 2 × 2 pixels (28 × 28 to 14 × 14), ``train`` keeps the first so many.

    Raises:
        ValueError: ``train`` is not between 1 and the number of training images.
    """
    count = len(data.train_images)
    if train is not None and not 1 <= train <= count:
        raise ValueError(f"train {train} must be between 1 and the number of training images, {count}")
    mean, std = float(data.train_images.mean()), float(data.train_images.std())

    def part(images: np.ndarray, labels: np.ndarray, keep: int | None = None) -> Part:
        x = torch.from_numpy(np.array(images[:keep])).to(dtype)[:, None]
        if halve:
            x = F.avg_pool2d(x, 2)
        return (x - mean) / std, torch.from_numpy(np.array(labels[:keep])).long()

    return Images(
        part(data.train_images, data.train_labels, train),
        part(data.valid_images, data.valid_labels),
        part(data.test_images, data.test_labels),
        data.classes,
    )


def perceptron(
    generator: torch.Generator, widths: Sequence[int] = (64, 128, 128, 10), activation: str = "relu"
) -> nn.Sequential:
    """Linear layers of the given widths with ``relu``, ``tanh`` or ``gelu`` between them, He's or LeCun's normal start.

    Weights have variance 2/inputs under ReLU and 1/inputs otherwise and in the last layer; biases start at 0.
    """
    if activation not in _ACTIVATIONS:
        raise ValueError(unknown("activation", activation, list(_ACTIVATIONS)))
    if len(widths) < 2 or min(widths) < 1:
        raise ValueError(f"widths {tuple(widths)} must be at least two numbers of at least 1")
    layers: list[nn.Module] = [nn.Flatten()]
    for number, (wide, narrow) in enumerate(itertools.pairwise(widths), start=2):
        linear = nn.utils.skip_init(nn.Linear, wide, narrow)
        last = number == len(widths)
        gain = 2.0 if activation == "relu" and not last else 1.0
        with torch.no_grad():
            linear.weight.normal_(0, (gain / wide) ** 0.5, generator=generator)
            linear.bias.zero_()
        layers += [linear] if last else [linear, _ACTIVATIONS[activation]()]
    return nn.Sequential(*layers)


def resnet8(generator: torch.Generator, width: int = 8, norm: str = "batch", classes: int = 10) -> ResNet8:
    """The residual network with He's normal start; without norm, each block's second convolution starts at 0."""
    network = ResNet8(width, classes, norm)  # type: ignore[arg-type]
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.ndim > 1:
                gain = 1.0 if name == "head.weight" else 2.0
                parameter.normal_(0, (gain / parameter[0].numel()) ** 0.5, generator=generator)
                if norm == "none" and name.endswith("conv2.weight"):
                    parameter.zero_()
            elif norm == "none" or name == "head.bias":
                parameter.zero_()
    return network


def loss(model: nn.Module, batch: Part) -> Float[Tensor, ""]:
    """Mean cross-entropy in nats."""
    return F.cross_entropy(model(batch[0]), batch[1])


def batches(part: Part, generator: torch.Generator, size: int = 128) -> Iterator[Part]:
    """Endless batches of exactly ``size`` samples, each pass in a new order; what does not fill a batch waits.

    Raises:
        ValueError: fewer than ``size`` samples.
    """
    images, labels = part
    if not 1 <= size <= len(images):
        raise ValueError(f"size {size} of a batch must be between 1 and the number of samples, {len(images)}")
    while True:
        order = torch.randperm(len(images), generator=generator)
        for chosen in order[: len(order) // size * size].split(size):
            yield images[chosen], labels[chosen]


@torch.no_grad()
def measure(model: nn.Module, part: Part, chunk: int = 1024) -> tuple[float, float]:
    """Mean cross-entropy (nats) and the share of wrong answers of the model in evaluation mode."""
    was_training = model.training
    model.eval()
    nats, wrong = 0.0, 0
    try:
        for x, y in zip(part[0].split(chunk), part[1].split(chunk), strict=True):
            scores = model(x)
            nats += float(F.cross_entropy(scores, y, reduction="sum"))
            wrong += int((scores.argmax(1) != y).sum())
    finally:
        model.train(was_training)
    return nats / len(part[0]), wrong / len(part[0])


def task(
    model: nn.Module, images: Images, generator: torch.Generator, size: int = 128, measured: int | None = None
) -> Task:
    """The task of training ``model`` on ``images`` in batches of ``size`` drawn with ``generator``.

    Of each part the first ``measured`` images are evaluated (all by default).
    """

    def evaluate(model: nn.Module, parts: Sequence[str] = PARTS) -> dict[str, float]:
        found: dict[str, float] = {}
        for name in parts:
            inputs, labels = getattr(images, name)
            nats, share = measure(model, (inputs[:measured], labels[:measured]))
            found |= {f"{name}_loss": nats, f"{name}_error": share}
        return found

    return Task(model, batches(images.train, generator, size), loss, evaluate)
