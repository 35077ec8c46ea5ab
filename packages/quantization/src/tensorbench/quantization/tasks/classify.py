"""A small convolutional network for grey images: model, loss, batches and evaluation.

Convolutions are linear layers on unfolded patches, so that a recipe quantises them as it does any other product:
their tokens are the places of all images. The first convolution and the head stay (``KEEP``).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from .regression import seeded_linear

KEEP = ("first.weights", "head")
"""What ``convert(model, spec, keep=KEEP)`` leaves in float32."""
Batch = tuple[Float[Tensor, "batch height width"], Int[Tensor, " batch"]]


class PatchConv(nn.Module):
    """A convolution with a square kernel as one linear layer on the unfolded patches."""

    def __init__(self, channels: int, outputs: int, generator: torch.Generator, *, kernel: int, stride: int) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride
        self.weights = seeded_linear(channels * kernel**2, outputs, generator)

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch outputs rows columns"]:
        pad = self.kernel // 2
        patches = nn.functional.unfold(x, self.kernel, padding=pad, stride=self.stride).transpose(1, 2)
        y = self.weights(patches).transpose(1, 2)
        rows, columns = ((size + 2 * pad - self.kernel) // self.stride + 1 for size in x.shape[-2:])
        return y.unflatten(-1, (rows, columns))


class SmallCNN(nn.Module):
    """Three convolutions of stride 2 with ReLU, the mean over places, and a linear head."""

    def __init__(
        self, classes: int, generator: torch.Generator, *, channels: tuple[int, int, int] = (8, 32, 64)
    ) -> None:
        super().__init__()
        a, b, c = channels
        self.first = PatchConv(1, a, generator, kernel=5, stride=2)
        self.second = PatchConv(a, b, generator, kernel=3, stride=2)
        self.third = PatchConv(b, c, generator, kernel=3, stride=2)
        self.head = seeded_linear(c, classes, generator)

    def forward(self, images: Float[Tensor, "batch height width"]) -> Float[Tensor, "batch classes"]:
        x = images[:, None]
        for layer in (self.first, self.second, self.third):
            x = torch.relu(layer(x))
        return self.head(x.mean((-1, -2)))


def loss(model: nn.Module, batch: Batch) -> Float[Tensor, ""]:
    """Mean cross-entropy in nats."""
    images, labels = batch
    return nn.functional.cross_entropy(model(images), labels)


def batches(
    images: Float[Tensor, "n height width"], labels: Int[Tensor, " n"], generator: torch.Generator, *, batch: int = 32
) -> Iterator[Batch]:
    """Endless batches drawn with ``generator``, with replacement."""
    while True:
        rows = torch.randint(len(images), (batch,), generator=generator)
        yield images[rows], labels[rows]


@torch.no_grad()
def evaluate(
    model: nn.Module, images: Float[Tensor, "n height width"], labels: Int[Tensor, " n"], *, batch: int = 250
) -> tuple[float, float]:
    """Mean cross-entropy (nats) and accuracy."""
    was_training = model.training
    model.eval()
    total, right = 0.0, 0
    try:
        for part, truth in zip(images.split(batch), labels.split(batch), strict=True):
            logits = model(part)
            total += float(nn.functional.cross_entropy(logits, truth, reduction="sum"))
            right += int((logits.argmax(-1) == truth).sum())
    finally:
        model.train(was_training)
    return total / len(images), right / len(images)
