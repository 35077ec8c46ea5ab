"""Three small classifiers with their data, trained from a seed in seconds.

- ``digits_mlp``: six linear layers on scikit-learn's 8 × 8 digits;
- ``mnist_resnet8``: three residual blocks (He et al. 2016, arXiv 1512.03385) on MNIST-10k averaged to 14 × 14;
- ``mnist_transformer``: two pre-norm blocks on the sixteen 7 × 7 patches of MNIST-10k.

A task has the shared split into training, validation and test samples. Trained weights are kept by ``core.data``'s
cache, keyed by the source of this module, the seed and the number of steps.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from tensorbench.core import data
from tensorbench.core.data.generated import cached
from tensorbench.core.errors import unknown
from tensorbench.core.tasks.resnet import ResNet8
from tensorbench.core.training import fit


@dataclass(frozen=True)
class Task:
    """A trained model (evaluation mode) and its data."""

    model: nn.Module
    train: tuple[Float[Tensor, "train *input"], Int[Tensor, " train"]]
    valid: tuple[Float[Tensor, "valid *input"], Int[Tensor, " valid"]]
    test: tuple[Float[Tensor, "test *input"], Int[Tensor, " test"]]


def digits_mlp() -> nn.Sequential:
    """64-96-64-48-32-24-10 with ReLU."""
    widths = (64, 96, 64, 48, 32, 24)
    layers: list[nn.Module] = [nn.Flatten()]
    for wide, narrow in itertools.pairwise(widths):
        layers += [nn.Linear(wide, narrow), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], 10))


class TransformerBlock(nn.Module):
    """Attention and a two-layer network, each behind a layer norm."""

    def __init__(self, size: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(size), nn.LayerNorm(size)
        self.attention = nn.MultiheadAttention(size, heads, batch_first=True)
        self.up, self.down = nn.Linear(size, 2 * size), nn.Linear(2 * size, size)

    def forward(self, x: Float[Tensor, "batch tokens size"]) -> Float[Tensor, "batch tokens size"]:
        h = self.norm1(x)
        x = x + self.attention(h, h, h, need_weights=False)[0]
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class PatchTransformer(nn.Module):
    """Two blocks on patches, a mean over tokens and a linear layer."""

    def __init__(self, patch: int = 7, size: int = 32, heads: int = 4, blocks: int = 2, classes: int = 10) -> None:
        super().__init__()
        self.patch = patch
        self.embed = nn.Linear(patch * patch, size)
        self.position = nn.Parameter(torch.randn((28 // patch) ** 2, size) * 0.1)
        self.blocks = nn.Sequential(*(TransformerBlock(size, heads) for _ in range(blocks)))
        self.norm = nn.LayerNorm(size)
        self.head = nn.Linear(size, classes)

    def forward(self, x: Float[Tensor, "batch height width"]) -> Float[Tensor, "batch classes"]:
        patches = x.unfold(1, self.patch, self.patch).unfold(2, self.patch, self.patch).flatten(3).flatten(1, 2)
        return self.head(self.norm(self.blocks(self.embed(patches) + self.position)).mean(1))


@dataclass(frozen=True)
class _Recipe:
    build: Callable[[], nn.Module]
    dataset: str
    shape: Callable[[np.ndarray], np.ndarray]
    steps: int
    lr: float
    batch: int = 64


def _halved(images: np.ndarray) -> np.ndarray:
    n, height, width = images.shape
    return images.reshape(n, 1, height // 2, 2, width // 2, 2).mean(axis=(3, 5))


RECIPES = {
    "digits_mlp": _Recipe(digits_mlp, "digits", lambda x: x, 1200, 3e-3),
    "mnist_resnet8": _Recipe(ResNet8, "mnist10k", _halved, 500, 1e-2),
    "mnist_transformer": _Recipe(PatchTransformer, "mnist10k", lambda x: x, 1000, 3e-3),
}


def task(name: str, seed: int, *, steps: int | None = None) -> Task:
    """The task ``name`` with its model trained from ``seed`` (``steps`` of AdamW, default: the recipe's).

    Raises:
        ValueError: an unknown name. DataError: MNIST-10k cannot be had.
    """
    if name not in RECIPES:
        raise ValueError(unknown("task", name, RECIPES))
    recipe = RECIPES[name]
    steps = recipe.steps if steps is None else steps
    state = cached(f"classifier_{name}", 1, trained_state, seed, {"name": name, "steps": steps})
    model = _build(recipe, seed)
    model.load_state_dict({key: torch.from_numpy(np.array(value)) for key, value in state.items()})
    return Task(model.eval(), *_parts(recipe))


def trained_state(*, seed: int, name: str, steps: int) -> dict[str, np.ndarray]:
    """The weights after training, by name."""
    recipe = RECIPES[name]
    model = _build(recipe, seed)
    (x, y), _, _ = _parts(recipe)
    generator = torch.Generator().manual_seed(seed)

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        for rows in torch.randperm(len(x), generator=generator).split(recipe.batch):
            yield x[rows], y[rows]

    fit(
        model,
        batches,
        lambda m, batch: F.cross_entropy(m(batch[0]), batch[1]),
        torch.optim.AdamW(model.parameters(), lr=recipe.lr, weight_decay=0.01),
        steps=steps,
        schedule="cosine",
        warmup=0.05,
        clip=1.0,
    )
    return {key: value.detach().numpy() for key, value in model.state_dict().items()}


def _build(recipe: _Recipe, seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return recipe.build()


def _parts(recipe: _Recipe) -> tuple[tuple[Tensor, Tensor], ...]:
    images = data.load(recipe.dataset, seed=0)

    def part(x: np.ndarray, y: np.ndarray) -> tuple[Tensor, Tensor]:
        return torch.from_numpy(recipe.shape(x).astype(np.float32)), torch.from_numpy(np.array(y))

    return (
        part(images.train_images, images.train_labels),
        part(images.valid_images, images.valid_labels),
        part(images.test_images, images.test_labels),
    )
