"""Fitting a network to a template whose 3-D shape is known, in normalised coordinates.

Two ways. ``least_squares``: the surface is linear in the last layer, whose weights are the ridge solution on the
template's samples: milliseconds, and exact for a plane where the last layer sees the parameters. ``adam``: the paper's
and its code's, Adam on all weights over the vertices and fresh barycentric samples (two in each face, three on each
border edge) until the loss has not fallen for ``patience`` steps, the best weights kept.

Paper: Barbany, Colomé, Torras (arXiv 2212.11596); released code, template registration. Its normaliser takes mean and
size from a frame's ground truth; here they are the template's.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tensorbench.core.errors import unknown
from tensorbench.radiance_fields.surfaces.meshes import Template, as_tensor
from tensorbench.radiance_fields.surfaces.nets import SurfaceNet

METHODS = ("least_squares", "adam")
Array = TypeVar("Array", np.ndarray, Tensor)


@dataclass(frozen=True)
class PointNormalizer:
    """x → (x − mean) / scale, with the largest distance from the mean as the scale."""

    mean: Float[np.ndarray, "3"]
    scale: float

    @classmethod
    def of(cls, points: Float[np.ndarray, "n 3"]) -> PointNormalizer:
        """Of the points of a template.

        Raises:
            ValueError: all points are the same.
        """
        mean = points.mean(0)
        scale = float(np.linalg.norm(points - mean, axis=1).max())
        if not scale > 0:
            raise ValueError("all points are the same: there is no size to normalise by")
        return cls(mean, scale)

    def __call__(self, points: Array) -> Array:
        """Normalised points."""
        if isinstance(points, Tensor):
            return (points - torch.from_numpy(self.mean).to(points)) / self.scale
        return (points - self.mean) / self.scale

    def inverse(self, points: Array) -> Array:
        """Points in the template's units."""
        if isinstance(points, Tensor):
            return points * self.scale + torch.from_numpy(self.mean).to(points)
        return points * self.scale + self.mean


@dataclass(frozen=True)
class Registered:
    """A network that is the template, in normalised coordinates, and how well it is (root mean square, normalised)."""

    net: SurfaceNet
    normalizer: PointNormalizer
    template: Template
    error: float
    steps: int = 0

    def surface(self, uv: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 3"]:
        """Points in the template's units."""
        return evaluate(self.net, self.normalizer, uv)


def evaluate(net: SurfaceNet, normalizer: PointNormalizer, uv: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 3"]:
    """The network's surface at parameters, as arrays in the template's units."""
    with torch.no_grad():
        points = net(as_tensor(uv, net.weights[0]))
    return normalizer.inverse(points.cpu().double().numpy())


def register(
    net: SurfaceNet,
    template: Template,
    *,
    method: str = "least_squares",
    per_face: int = 2,
    per_border: int = 3,
    ridge: float = 1e-9,
    lr: float = 1e-4,
    patience: int = 300,
    max_steps: int = 20_000,
    rng: np.random.Generator,
) -> Registered:
    """Make ``net`` (changed in place) the template.

    Raises:
        ValueError: an unknown method, or budgets below 1.
    """
    if method not in METHODS:
        raise ValueError(unknown("method", method, METHODS))
    if min(patience, max_steps) < 1 or min(per_face, per_border) < 0:
        raise ValueError(f"patience {patience} and max_steps {max_steps} must be at least 1, samples not negative")
    normalizer = PointNormalizer.of(template.points)
    steps = 0
    if method == "least_squares":
        uv, points = template.samples(per_face, per_border, rng)
        solve_last_layer(net, uv, normalizer(points), ridge=ridge)
    else:
        steps = _adam(net, template, normalizer, per_face, per_border, lr, patience, max_steps, rng)
    found = evaluate(net, normalizer, template.uv)
    error = math.sqrt(np.square(found - template.points).sum(1).mean()) / normalizer.scale
    return Registered(net, normalizer, template, error, steps)


def solve_last_layer(
    net: SurfaceNet, uv: Float[np.ndarray, "n 2"], points: Float[np.ndarray, "n 3"], ridge: float = 1e-9
) -> None:
    """Set the last layer to the ridge solution for these points, in double precision."""
    wide = copy.deepcopy(net).double().cpu()
    with torch.no_grad():
        features = wide.features(torch.from_numpy(uv).double())
        design = torch.cat([features, torch.ones_like(features[:, :1])], 1)
        gram = design.T @ design
        gram.diagonal().add_(ridge * float(gram.diagonal().mean()))
        solution = torch.linalg.solve(gram, design.T @ torch.from_numpy(points).double())
        net.weights[-1].copy_(solution[:-1].T)
        net.biases[-1].copy_(solution[-1])


def _adam(
    net: SurfaceNet,
    template: Template,
    normalizer: PointNormalizer,
    per_face: int,
    per_border: int,
    lr: float,
    patience: int,
    max_steps: int,
    rng: np.random.Generator,
) -> int:
    optimizer = torch.optim.Adam(net.parameters(), lr=lr)
    best, kept, since = math.inf, copy.deepcopy(net.state_dict()), 0
    step = 0
    while step < max_steps:
        step += 1
        uv, points = template.samples(per_face, per_border, rng)
        target = as_tensor(normalizer(points), net.weights[0])
        loss = (net(as_tensor(uv, net.weights[0])) - target).square().mean()
        if (value := float(loss.detach())) < best:
            best, kept, since = value, copy.deepcopy(net.state_dict()), 0
        else:
            since += 1
            if since >= patience:
                break
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    net.load_state_dict(kept)
    return step
