"""What a tracking step costs: jets in closed form, and the Jacobian by torch's own means, in one process.

The work is the paper's step: the surface at the tracked points and at the control points, the metric there, three
losses, backward, an Adam step. Rivals differ in the Jacobian: ``released`` sums the outputs over the batch and
calls ``torch.autograd.functional.jacobian`` with ``vectorize=True``, as the paper's code does; ``jacrev`` and
``jacfwd`` are torch.func's, mapped over the points; ``jvp`` are two Jacobian-vector products of the batch. The steps of
the histories are numbers of control points.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor

from tensorbench.core import plotting
from tensorbench.core import records as rec
from tensorbench.core.run import Run
from tensorbench.core.timing import compare, growth, measure
from tensorbench.radiance_fields.surfaces.geometry import first_form
from tensorbench.radiance_fields.surfaces.geometry import jacobian as jvp_jacobian
from tensorbench.radiance_fields.surfaces.metric_losses import frobenius
from tensorbench.radiance_fields.surfaces.nets import SurfaceNet
from tensorbench.radiance_fields.surfaces.registration import Registered, register
from tensorbench.radiance_fields.surfaces.sequences import SurfaceSequence
from tensorbench.radiance_fields.surfaces.tracking import Objective, Weights, correspondence_terms, track

NAMES = {"jet": "jet (ours)", "released": "released code's", "jacrev": "jacrev", "jacfwd": "jacfwd", "jvp": "two jvp"}


def released(net: SurfaceNet, uv: Tensor) -> Tensor:
    """The batch's outputs summed, so that one vectorised Jacobian holds those of all points."""
    summed = torch.autograd.functional.jacobian(lambda x: net(x).sum(0), uv, create_graph=True, vectorize=True)
    assert isinstance(summed, Tensor)
    return summed.permute(1, 0, 2)


def mapped(transform: Callable, net: SurfaceNet, uv: Tensor) -> Tensor:
    """A transform of torch.func for one point, over the batch."""
    return torch.func.vmap(transform(lambda x: net(x[None])[0]))(uv)


JACOBIANS: dict[str, Callable[[SurfaceNet, Tensor], Tensor]] = {
    "released": released,
    "jacrev": lambda net, uv: mapped(torch.func.jacrev, net, uv),
    "jacfwd": lambda net, uv: mapped(torch.func.jacfwd, net, uv),
    "jvp": jvp_jacobian,
}
METHODS = {"jet": None}


class Step:
    """One step with one of the Jacobians; calling it takes the step and returns the loss."""

    def __init__(self, registered: Registered, sequence: SurfaceSequence, control: int, kind: str, seed: int) -> None:
        import copy

        self.net = copy.deepcopy(registered.net)
        rng = np.random.default_rng(seed)
        self.at = torch.from_numpy(sequence.template.draw(control, rng)).float()
        term = next(correspondence_terms(registered, sequence.camera, sequence.observations))
        with torch.no_grad():
            self.goal, self.previous = first_form(self.net.jacobian(self.at)), self.net(self.at)
        self.objective = Objective(registered.normalizer, term, self.at, self.goal, self.previous, Weights())
        self.optimizer = torch.optim.Adam(self.net.parameters(), lr=1e-3, fused=True)
        self.kind = kind

    def loss(self) -> Tensor:
        """The same sum by either way."""
        if self.kind == "jet":
            return self.objective(self.net)[0]
        o, w = self.objective, self.objective.weights
        points = self.net(o.uv)
        g = first_form(JACOBIANS[self.kind](self.net, self.at))
        return (
            w.projection * o.term(o.normalizer.inverse(points[: o.seen]))
            + w.time * (points[o.seen :] - o.previous).square().mean()
            + w.metric * frobenius(g, self.goal)
        )

    def __call__(self) -> Tensor:
        self.optimizer.zero_grad()
        loss = self.loss()
        loss.backward()
        self.optimizer.step()
        return loss.detach()


def run(run: Run) -> None:
    """Seconds of a step by control points, seconds of a frame, memory."""
    options = dict(run.method.params)
    sequence = run.dataset.load(run.seed)["cylinder"]
    rng = run.rng
    registered = register(SurfaceNet(options["hidden"], generator=run.generator), sequence.template, rng=rng)
    seconds: dict[str, dict[int, float]] = {name: {} for name in NAMES}
    for control in options["controls"]:
        steps = {name: Step(registered, sequence, control, name, run.seed) for name in NAMES}
        first = {name: float(step.loss().detach()) for name, step in steps.items()}
        result = compare(steps, repeats=options["repeats"])
        for name in NAMES:
            seconds[name][control] = result[name]
            run.log(step=control, **{f"{name}_milliseconds": 1000 * result[name]})
        if control == options["at"]:
            run.log(step_milliseconds=1000 * result["jet"])
            run.log(**{f"over_{name}": result.speedup("jet", name).value for name in NAMES if name != "jet"})
            run.log(agreement=max(abs(value - first["jet"]) for value in first.values()))
    run.log(growth=growth(list(seconds["jet"]), list(seconds["jet"].values())).exponent)
    terms = correspondence_terms(registered, sequence.camera, sequence.observations[:1])
    with measure() as cost:
        fits = list(track(registered, terms, control=options["at"], steps=options["steps"], patience=10**6, rng=rng))
    run.log(frame_seconds=cost.seconds, frame_mib=cost.peak_mib, frame_steps=fits[0].steps)


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Milliseconds of a step by the number of control points."""
    fig, ax = plotting.figure(columns=1, height=6.5)
    plotting.log_axis(ax, "y")
    found = [
        history.assign(rival=label)
        for name, label in NAMES.items()
        if len(records) and not (history := rec.history(records, f"{name}_milliseconds")).empty
    ]
    if found:
        together = pd.concat(found)
        plotting.log_axis(ax, "x", ticks=sorted(set(together["step"])))
        plotting.series(ax, together, "step", "value", by="rival")
        plotting.reference(ax, y=6, text="6 ms")
    else:
        plotting.empty(ax)
    ax.set(xlabel="control points", ylabel="time of a step (ms)")
    plotting.legend(fig)
    yield "step", fig
