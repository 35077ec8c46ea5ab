"""Denoising diffusion of small images: model, loss, batches and evaluation.

The model of Ho, Jain and Abbeel (2020, arXiv 2006.11239) in small: an image x is mixed with noise to
``sqrt(a_t) x + sqrt(1 - a_t) e`` with ``a_t`` the product of ``1 - beta`` up to step t, and a perceptron with
residual blocks predicts ``e`` from it and from a sinusoidal embedding of t. The first and the last layer stay
(``KEEP``).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from .regression import seeded_linear

KEEP = ("first", "last")
"""What ``convert(model, spec, keep=KEEP)`` leaves in float32."""
STEPS = 100
Batch = tuple[Float[Tensor, "batch pixels"], Int[Tensor, " batch"], Float[Tensor, "batch pixels"]]
"""Clean images in [-1, 1], steps, and the noise to mix in."""


def signal(steps: int = STEPS) -> Float[Tensor, " steps"]:
    """``a_t`` of every step; beta rises linearly from 1e-3 to 0.2 (the paper's range, over a tenth of its steps)."""
    return torch.cumprod(1 - torch.linspace(1e-3, 0.2, steps), 0)


def time_features(t: Int[Tensor, " batch"], size: int = 32) -> Float[Tensor, "batch size"]:
    """Sines and cosines of t at ``size / 2`` frequencies."""
    rates = torch.exp(torch.linspace(0, -4, size // 2))
    angle = t[:, None].float() * rates
    return torch.cat([angle.sin(), angle.cos()], -1)


class Denoiser(nn.Module):
    """Predicts the noise in a flattened image at step t."""

    def __init__(self, pixels: int, generator: torch.Generator, *, width: int = 128, depth: int = 2) -> None:
        super().__init__()
        if pixels < 1 or width < 1 or depth < 1:
            raise ValueError(f"pixels {pixels}, width {width} and depth {depth} must be at least 1")
        self.first = seeded_linear(pixels + 32, width, generator)
        self.hidden = nn.ModuleList(seeded_linear(width, width, generator) for _ in range(depth))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(depth))
        self.last = seeded_linear(width, pixels, generator)

    def forward(self, x: Float[Tensor, "batch pixels"], t: Int[Tensor, " batch"]) -> Float[Tensor, "batch pixels"]:
        h = self.first(torch.cat([x, time_features(t)], -1))
        for norm, layer in zip(self.norms, self.hidden, strict=True):
            h = h + nn.functional.silu(layer(norm(h)))
        return self.last(h)


def loss(model: nn.Module, batch: Batch) -> Float[Tensor, ""]:
    """Mean squared error of the predicted noise (1 when it predicts zero)."""
    clean, t, noise = batch
    a = signal()[t][:, None]
    return nn.functional.mse_loss(model(a.sqrt() * clean + (1 - a).sqrt() * noise, t), noise)


def batches(images: Float[Tensor, "n pixels"], generator: torch.Generator, *, batch: int = 64) -> Iterator[Batch]:
    """Endless batches: images (with replacement), steps and noise drawn with ``generator``."""
    while True:
        clean = images[torch.randint(len(images), (batch,), generator=generator)]
        t = torch.randint(STEPS, (batch,), generator=generator)
        yield clean, t, torch.randn(clean.shape, generator=generator)


@torch.no_grad()
def evaluate(model: nn.Module, images: Float[Tensor, "n pixels"], *, repeats: int = 4) -> float:
    """The loss on all images with steps and noise that are always the same, ``repeats`` times each."""
    generator = torch.Generator().manual_seed(0)
    clean = images.repeat(repeats, 1)
    t = torch.randint(STEPS, (len(clean),), generator=generator)
    noise = torch.randn(clean.shape, generator=generator)
    was_training = model.training
    model.eval()
    try:
        return float(loss(model, (clean, t, noise)))
    finally:
        model.train(was_training)
