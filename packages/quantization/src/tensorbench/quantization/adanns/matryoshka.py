"""Matryoshka embeddings: every prefix of one vector is trained to be an embedding itself.

Kusupati et al. (2022), arXiv 2205.13147, as used by AdANNS (Rege, Kusupati et al., 2023, arXiv 2305.19435). The loss is
the sum over the nested sizes d of c_d times the cross entropy of a linear classifier on the first d coordinates; the
efficient head shares one weight matrix, of which size d uses the first d columns. A single size gives the rigid
encoder, which is the paper's baseline.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from tensorbench.core.training import fit


class MatryoshkaHead(nn.Module):
    """Linear classifiers on prefixes of the embedding, one for each size in ``dims`` (ascending).

    ``efficient=True`` shares weights: the classifier of size d is the first d columns of the largest one's, with one
    bias for all. There is no normalisation in the head.
    """

    def __init__(self, dims: Sequence[int], n_classes: int, *, efficient: bool = False) -> None:
        super().__init__()
        self.dims = _check_dims(dims)
        if n_classes < 2:
            raise ValueError(f"a classifier needs at least 2 classes, got {n_classes}")
        sizes = self.dims[-1:] if efficient else self.dims
        self.efficient = efficient
        self.classifiers = nn.ModuleList(nn.Linear(d, n_classes) for d in sizes)

    def forward(self, embedding: Float[Tensor, "batch D"]) -> tuple[Float[Tensor, "batch classes"], ...]:
        """Logits of every size, in the order of ``dims``."""
        if embedding.shape[-1] < self.dims[-1]:
            raise ValueError(f"embeddings of {embedding.shape[-1]} dimensions have no prefix of {self.dims[-1]}")
        if not self.efficient:
            return tuple(layer(embedding[:, :d]) for layer, d in zip(self.classifiers, self.dims, strict=True))
        (shared,) = self.classifiers
        return tuple(functional.linear(embedding[:, :d], shared.weight[:, :d], shared.bias) for d in self.dims)


class MatryoshkaCELoss(nn.Module):
    """Σ_d c_d · cross entropy of size d, averaged over the batch; ``weights`` c_d are one where none are given."""

    def __init__(self, weights: Sequence[float] | None = None) -> None:
        super().__init__()
        if weights is not None and (not len(weights) or min(weights) < 0):
            raise ValueError(f"weights must be one number >= 0 a size, got {list(weights)}")
        self.weights = None if weights is None else [float(w) for w in weights]

    def forward(
        self, logits: Sequence[Float[Tensor, "batch classes"]], labels: Int[Tensor, " batch"]
    ) -> Float[Tensor, ""]:
        weights = self.weights or [1.0] * len(logits)
        if len(weights) != len(logits):
            raise ValueError(f"{len(weights)} weights for the logits of {len(logits)} sizes")
        return torch.stack(
            [w * functional.cross_entropy(z, labels) for w, z in zip(weights, logits, strict=True)]
        ).sum()


class Encoder(nn.Module):
    """A perceptron with one hidden layer whose output is the embedding, and the head that trains it."""

    def __init__(
        self, n_inputs: int, dims: Sequence[int], n_classes: int, *, hidden: int = 256, efficient: bool = False
    ) -> None:
        super().__init__()
        self.head = MatryoshkaHead(dims, n_classes, efficient=efficient)
        self.body = nn.Sequential(nn.Linear(n_inputs, hidden), nn.ReLU(), nn.Linear(hidden, self.head.dims[-1]))

    def forward(self, x: Float[Tensor, "batch inputs"]) -> tuple[Float[Tensor, "batch classes"], ...]:
        return self.head(self.body(x))


def train_encoder(
    x: Float[np.ndarray, "n inputs"],
    labels: Int[np.ndarray, " n"],
    dims: Sequence[int],
    *,
    seed: int,
    hidden: int = 256,
    efficient: bool = False,
    weights: Sequence[float] | None = None,
    epochs: int = 6,
    batch: int = 128,
    learning_rate: float = 1e-3,
) -> Encoder:
    """Train an encoder by Adam with a cosine schedule; one size in ``dims`` gives a rigid one.

    Raises:
        ValueError: labels that do not pair with the rows, or training that diverged.
    """
    if labels.ndim != 1 or len(labels) != len(x) or labels.min() < 0:
        raise ValueError(f"labels must be one integer >= 0 a row: {len(x)} rows, labels of shape {labels.shape}")
    inputs, targets = torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32)), torch.from_numpy(labels)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Encoder(inputs.shape[1], dims, int(labels.max()) + 1, hidden=hidden, efficient=efficient)
    loss = MatryoshkaCELoss(weights)
    order = torch.Generator().manual_seed(seed)

    def batches() -> Iterator[Tensor]:
        return iter(torch.randperm(len(inputs), generator=order).split(batch))

    history = fit(
        model,
        batches,
        lambda network, rows: loss(network(inputs[rows]), targets[rows]),
        torch.optim.Adam(model.parameters(), lr=learning_rate),
        steps=epochs * -(-len(inputs) // batch),
        schedule="cosine",
    )
    if history.diverged:
        raise ValueError(f"training diverged after {history.steps} steps; lower the learning rate {learning_rate}")
    return model.eval()


def embed(model: Encoder, x: Float[np.ndarray, "n inputs"]) -> Float[np.ndarray, "n D"]:
    """The embeddings of the rows (float32, of any length)."""
    with torch.no_grad():
        return model.body(torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32))).numpy()


def svd_basis(x: Float[np.ndarray, "n D"]) -> tuple[Float[np.ndarray, " D"], Float[np.ndarray, "D D"]]:
    """Mean and principal directions (columns, largest variance first): the paper's RR-SVD baseline.

    ``prefix((x - mean) @ basis, d)`` is the reduction to d dimensions.
    """
    if len(x) < 2:
        raise ValueError(f"principal directions need at least two vectors, got {len(x)}")
    mean = x.mean(axis=0)
    _, vectors = np.linalg.eigh(np.cov((x - mean).T.astype(np.float64)).reshape(x.shape[1], -1))
    return mean, vectors[:, ::-1].astype(np.float32)


def _check_dims(dims: Sequence[int]) -> tuple[int, ...]:
    sizes = tuple(int(d) for d in dims)
    if not sizes or sizes[0] < 1 or any(a >= b for a, b in pairwise(sizes)):
        raise ValueError(f"sizes of prefixes must be ascending and at least 1, got {list(dims)}")
    return sizes
