"""Following a deforming surface from frame to frame: projections agree, the metric stays, nothing is learnt before.

A network that is the template (:mod:`.registration`) is refined in each frame from where the last one left it, by
Adam on

    L = λ_p · data(f(u_i)) + λ_t · mean |f(c_k) − f_previous(c_k)|² + λ_m · metric(J'J(c_k), G(c_k))

with new random control points c_k in each frame, G the template's metric there and J in closed form. The state with
the lowest L is kept (the released code keeps the one with the lowest error to the ground truth; no truth enters here).

The data term of tracked points is a Huber loss of the pixel residuals, mean squares up to ``threshold`` pixels.
Residuals are scaled by depth / (focal length · size of the template), so that a pixel counts as the distance across the
ray that it stands for, in the normalised units of the other terms (the released code divides by the picture's size).

Paper: Barbany, Colomé, Torras (arXiv 2212.11596): equations of the code, as the text could not be read.
"""

from __future__ import annotations

import copy
import logging
import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from tensorbench.core.errors import unknown
from tensorbench.radiance_fields.surfaces.geometry import first_form
from tensorbench.radiance_fields.surfaces.meshes import Template, as_tensor
from tensorbench.radiance_fields.surfaces.metric_losses import METRIC_LOSSES
from tensorbench.radiance_fields.surfaces.nets import SurfaceNet
from tensorbench.radiance_fields.surfaces.pinhole import Pinhole
from tensorbench.radiance_fields.surfaces.registration import PointNormalizer, Registered, evaluate
from tensorbench.radiance_fields.surfaces.sequences import Observation

log = logging.getLogger(__name__)
FEWEST = 4  # correspondences of a frame


@dataclass(frozen=True)
class Weights:
    """λ of the terms; 0 leaves one out."""

    projection: float = 1.0
    time: float = 0.01
    metric: float = 0.1

    def __post_init__(self) -> None:
        for name, value in (("projection", self.projection), ("time", self.time), ("metric", self.metric)):
            if not (value >= 0 and math.isfinite(value)):
                raise ValueError(f"the weight of the {name} term is {value}; weights must be finite and >= 0")


class DataTerm(Protocol):
    """What a frame says of the surface: where it must be evaluated, and a loss of the points there."""

    @property
    def uv(self) -> Float[np.ndarray, "n 2"]: ...

    def __call__(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, ""]: ...


def usable(observation: Observation) -> Observation:
    """Without lost points (NaN pixels), which are dropped with a warning.

    Raises:
        ValueError: fewer than four points are left.
    """
    there = np.isfinite(observation.pixels).all(1)
    if not there.all():
        log.warning("%d of %d tracked points are lost in this frame and left out", (~there).sum(), len(there))
    if there.sum() < FEWEST:
        raise ValueError(f"{int(there.sum())} correspondences are too few to place a surface; {FEWEST} are needed")
    return Observation(observation.uv[there], observation.pixels[there])


def pixel_unit(camera: Pinhole, template: Template, scale: float) -> float:
    """Distance across the ray, over ``scale``, that one pixel stands for at the template's mean depth.

    Raises:
        ValueError: the template is behind the camera.
    """
    depth = float(camera.in_frame(template.points)[:, 2].mean())
    if depth <= 0:
        raise ValueError(f"the template is behind the camera (mean depth {depth:.3g})")
    return depth / (math.sqrt(camera.fx * camera.fy) * scale)


class Correspondences:
    """Data term of tracked points: 2 × Huber loss of the scaled residuals (their mean square where they are small).

    Raises:
        ValueError: fewer than four points that are not lost, or a threshold that is not positive.
    """

    def __init__(
        self, camera: Pinhole, observation: Observation, unit: float, threshold: float = 2.0, like: Tensor | None = None
    ) -> None:
        if not threshold > 0:
            raise ValueError(f"threshold {threshold} pixels must be positive (math.inf for mean squares)")
        there = usable(observation)
        self.camera, self.unit, self.uv = camera, unit, there.uv
        self.delta = threshold * unit
        self.target = as_tensor(there.pixels * unit, torch.zeros(()) if like is None else like)

    def __call__(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, ""]:
        found = self.camera.project(points, nearest=1e-3) * self.unit
        if math.isinf(self.delta):
            return F.mse_loss(found, self.target)
        return 2 * F.huber_loss(found, self.target, delta=self.delta)


@dataclass(frozen=True)
class FrameFit:
    """The surface of one frame: a network of its own, the lowest loss and its terms, steps and seconds spent."""

    net: SurfaceNet
    normalizer: PointNormalizer
    loss: float
    terms: dict[str, float]
    steps: int
    seconds: float
    history: tuple[float, ...] = ()

    def surface(self, uv: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 3"]:
        """Points at any parameters, in the template's units."""
        return evaluate(self.net, self.normalizer, uv)


def correspondence_terms(
    registered: Registered, camera: Pinhole, observations: Iterable[Observation], threshold: float = 2.0
) -> Iterator[Correspondences]:
    """The data terms of a tracked sequence; a first frame far from the template is warned of."""
    unit = pixel_unit(camera, registered.template, registered.normalizer.scale)
    for k, observation in enumerate(observations):
        term = Correspondences(camera, observation, unit, threshold, registered.net.weights[0])
        if k == 0:
            _check_first(term, registered)
        yield term


def _check_first(term: Correspondences, registered: Registered) -> None:
    found = term.camera.project(registered.surface(term.uv), nearest=1e-3)
    seen = term.target.cpu().numpy() / term.unit
    miss = float(np.median(np.linalg.norm(found - seen, axis=1)))
    extent = float(min(np.ptp(found, axis=0).max(), np.ptp(seen, axis=0).max()))
    if miss > 0.25 * extent:
        log.warning(
            "the first frame's points are %.0f pixels (median) from the template's, which spans %.0f pixels: is the "
            "focal length that of these pixels, and the template in the camera's coordinates?", miss, extent
        )  # fmt: skip


def track(
    registered: Registered,
    data: Iterable[DataTerm],
    *,
    weights: Weights | None = None,
    metric_loss: str = "frobenius",
    control: int = 100,
    steps: int = 200,
    patience: int = 50,
    lr: float = 1e-3,
    rng: np.random.Generator,
) -> Iterator[FrameFit]:
    """One :class:`FrameFit` for each data term, in order; the registered network is not changed.

    Args:
        control: random parameters a frame at which metric and motion are compared.
        steps, patience: at most so many Adam steps a frame, and a stop after so many without a lower loss.
        rng: draws the control points.

    Raises:
        ValueError: an unknown metric loss, counts below 1, or a loss that is not finite from the start.
    """
    if metric_loss not in METRIC_LOSSES:
        raise ValueError(unknown("metric loss", metric_loss, METRIC_LOSSES))
    if min(control, steps, patience) < 1 or not lr > 0:
        raise ValueError(f"control {control}, steps {steps}, patience {patience} and lr {lr} must all be positive")
    weights = weights or Weights()
    net = copy.deepcopy(registered.net)
    for term in data:
        started = time.perf_counter()
        points = as_tensor(registered.template.draw(control, rng), net.weights[0])
        with torch.no_grad():
            goal = first_form(registered.net.jacobian(points))
            previous = net(points)
        objective = Objective(registered.normalizer, term, points, goal, previous, weights, metric_loss)
        best, kept, history = _descend(net, objective, steps, patience, lr)
        net.load_state_dict(kept)
        yield FrameFit(
            copy.deepcopy(net), registered.normalizer, best[0], best[1], len(history), time.perf_counter() - started,
            tuple(history),
        )  # fmt: skip


class Objective:
    """The loss of one frame as a function of the network."""

    def __init__(
        self,
        normalizer: PointNormalizer,
        term: DataTerm,
        control: Float[Tensor, "k 2"],
        goal: Float[Tensor, "k 2 2"],
        previous: Float[Tensor, "k 3"],
        weights: Weights,
        metric_loss: str = "frobenius",
    ) -> None:
        self.term, self.goal, self.previous, self.weights = term, goal, previous, weights
        self.normalizer, self.metric = normalizer, METRIC_LOSSES[metric_loss]
        self.seen = len(term.uv)
        self.uv = torch.cat([as_tensor(term.uv, control), control])
        self.tangents_of = len(control) if weights.metric else 0

    def __call__(self, net: SurfaceNet) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """The weighted sum, and its weighted terms."""
        points, jac = net.jet(self.uv, self.tangents_of)
        terms = {}
        if self.weights.projection:
            terms["projection"] = self.weights.projection * self.term(self.normalizer.inverse(points[: self.seen]))
        if self.weights.time:
            terms["time"] = self.weights.time * (points[self.seen :] - self.previous).square().mean()
        if self.weights.metric:
            terms["metric"] = self.weights.metric * self.metric(first_form(jac), self.goal)
        if not terms:
            raise ValueError("all weights are 0: there is nothing to minimise")
        return sum(terms.values()), terms  # type: ignore[return-value]


def _descend(
    net: SurfaceNet, objective: Objective, steps: int, patience: int, lr: float
) -> tuple[tuple[float, dict[str, float]], dict[str, Tensor], list[float]]:
    """Adam; the lowest loss with its terms, the weights there, and all losses."""
    optimizer = torch.optim.Adam(net.parameters(), lr=lr, fused=True)
    best: tuple[float, dict[str, float]] = (math.inf, {})
    kept = copy.deepcopy(net.state_dict())
    since, history = 0, []
    for _ in range(steps):
        loss, terms = objective(net)
        value = float(loss.detach())
        history.append(value)
        if value < best[0]:
            best, since = (value, {name: float(part.detach()) for name, part in terms.items()}), 0
            for name, parameter in net.state_dict().items():
                kept[name].copy_(parameter)
        else:  # worse, or not finite
            since += 1
            if since >= patience or not math.isfinite(value):
                break
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    if math.isinf(best[0]):
        raise ValueError("the loss is not finite: is the template before the camera, and are all pixels numbers?")
    return best, kept, history
