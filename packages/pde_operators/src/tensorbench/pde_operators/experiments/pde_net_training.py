"""What the experiments on quasi-linear networks share: images as tensors, networks by name, one training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from tensorbench.core.data.shared import LabelledImages
from tensorbench.core.tasks.resnet import ResNet8
from tensorbench.core.training import History, fit
from tensorbench.pde_operators.baselines.depthwise import DepthwiseNet
from tensorbench.pde_operators.pde_resnet import PDEResNet

Part = tuple[Float[Tensor, "samples 1 height width"], Int[Tensor, " samples"]]


@dataclass(frozen=True)
class Images:
    """Standardised images (mean 0, deviation 1 over the training part) with labels."""

    train: Part
    valid: Part
    test: Part


def prepare(data: LabelledImages, train: int | None = None) -> Images:
    """Tensors, channels last; 28 × 28 is averaged to 14 × 14. ``train`` keeps the first so many."""
    mean, std = float(data.train_images.mean()), float(data.train_images.std())

    def part(images: np.ndarray, labels: np.ndarray) -> Part:
        x = torch.from_numpy(np.array(images, dtype=np.float32))[:, None]
        if x.shape[-1] == 28:
            x = F.avg_pool2d(x, 2)
        x = ((x - mean) / std).contiguous(memory_format=torch.channels_last)
        return x, torch.from_numpy(np.array(labels)).long()

    return Images(
        part(data.train_images[:train], data.train_labels[:train]),
        part(data.valid_images, data.valid_labels),
        part(data.test_images, data.test_labels),
    )


def resnet(seed: int, width: int = 8) -> nn.Module:
    """Core's ResNet-8, a stem and three blocks, with torch's default start from a seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ResNet8(width)


NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "pde": lambda seed, **options: PDEResNet(seed=seed, **options),
    "resnet": resnet,
    "depthwise": lambda seed, **options: DepthwiseNet(seed=seed, **options),
}


def train(
    model: nn.Module, part: Part, seed: int, *, lr: float, steps: int, batch: int = 64, decay: float = 1e-2
) -> History:
    """AdamW, one cycle of the learning rate (up during the first fifth, then a cosine), each pass in a new order.

    A network that diverged keeps the weights before that step.
    """
    images, labels = part
    if len(images) < batch:
        raise ValueError(f"{len(images)} images do not fill a batch of {batch}")
    generator = torch.Generator().manual_seed(seed)

    def batches() -> Iterator[Part]:
        order = torch.randperm(len(images), generator=generator)
        for rows in order[: len(order) // batch * batch].split(batch):
            yield images[rows].contiguous(memory_format=torch.channels_last), labels[rows]

    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=decay)
    history = fit(model, batches, loss, optimizer, steps=steps, schedule="cosine", warmup=0.2)
    model.eval()
    return history


def loss(model: nn.Module, part: Part) -> Float[Tensor, ""]:
    """Mean cross-entropy in nats."""
    return F.cross_entropy(model(part[0]), part[1])


@torch.no_grad()
def score(model: nn.Module, part: Part) -> dict[str, Any]:
    """Mean cross-entropy and share of right answers."""
    scores = model(part[0])
    return {
        "loss": float(F.cross_entropy(scores, part[1])),
        "accuracy": float((scores.argmax(1) == part[1]).double().mean()),
    }
