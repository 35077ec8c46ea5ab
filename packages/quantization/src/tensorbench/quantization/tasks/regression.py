"""A small perceptron that predicts a number from a row of features: model, loss, batches and evaluation.

The linear layers that a recipe may quantise are the hidden ones; the first and the last stay (``KEEP``), as papers on
few-bit training keep them.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor, nn

KEEP = ("first", "last")
"""What ``convert(model, spec, keep=KEEP)`` leaves in float32."""
Batch = tuple[Float[Tensor, "batch features"], Float[Tensor, " batch"]]


def seeded_linear(inputs: int, outputs: int, generator: torch.Generator) -> nn.Linear:
    """``nn.Linear`` with weights from ``generator`` (He et al. 2015) and no bias at first."""
    layer = nn.utils.skip_init(nn.Linear, inputs, outputs)
    with torch.no_grad():
        layer.weight.normal_(0.0, (2 / inputs) ** 0.5, generator=generator)
        layer.bias.zero_()
    return layer


class Perceptron(nn.Module):
    """``depth`` hidden layers of ``width`` with ReLU between the first and the last layer."""

    def __init__(self, features: int, generator: torch.Generator, *, width: int = 64, depth: int = 2) -> None:
        super().__init__()
        if features < 1 or width < 1 or depth < 1:
            raise ValueError(f"features {features}, width {width} and depth {depth} must be at least 1")
        self.first = seeded_linear(features, width, generator)
        self.hidden = nn.ModuleList(seeded_linear(width, width, generator) for _ in range(depth))
        self.last = seeded_linear(width, 1, generator)

    def forward(self, x: Float[Tensor, "batch features"]) -> Float[Tensor, " batch"]:
        h = torch.relu(self.first(x))
        for layer in self.hidden:
            h = torch.relu(layer(h))
        return self.last(h)[:, 0]


def loss(model: nn.Module, batch: Batch) -> Float[Tensor, ""]:
    """Mean squared error."""
    features, targets = batch
    return nn.functional.mse_loss(model(features), targets)


def batches(
    features: Float[Tensor, "rows features"],
    targets: Float[Tensor, " rows"],
    generator: torch.Generator,
    *,
    batch: int = 64,
) -> Iterator[Batch]:
    """Endless batches of rows drawn with ``generator``, with replacement."""
    while True:
        rows = torch.randint(len(features), (batch,), generator=generator)
        yield features[rows], targets[rows]


@torch.no_grad()
def evaluate(model: nn.Module, features: Float[Tensor, "rows features"], targets: Float[Tensor, " rows"]) -> float:
    """Mean squared error on all rows."""
    was_training = model.training
    model.eval()
    try:
        return float(loss(model, (features, targets)))
    finally:
        model.train(was_training)
