"""What a step of AdaHessian costs: against SGD, with and without a delayed Hessian; its product, arithmetic and memory.

The residual network, batches of 64, one process, one thread. ``product_over_backward`` is a Hessian product from a
gradient with its graph over the backward pass of that loss. ``arithmetic_over_adamw`` is a step from given gradients
and a given diagonal (averaged over kernels, checked for NaN as always) over torch's AdamW with ``foreach``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pandas as pd
import torch
from matplotlib.figure import Figure

from tensorbench.core import plotting
from tensorbench.core.run import Run
from tensorbench.core.timing import compare, measure
from tensorbench.optimizers.adahessian import AdaHessian, spatial_average
from tensorbench.optimizers.autodiff import grad, hvp_of_grads
from tensorbench.optimizers.probes import rademacher
from tensorbench.optimizers.tasks import images


class _Given(AdaHessian):
    """Takes gradients and the diagonal as they come, so that the arithmetic alone is left."""

    def _gradients(self, closure, refresh):  # type: ignore[no-untyped-def]
        from tensorbench.optimizers.base import check_gradients

        params = [p for group in self.param_groups for p in group["params"]]
        check_gradients(params)
        return None, params, [p.grad for p in params]

    def _diagonals(self, params, gradients):  # type: ignore[no-untyped-def]
        return [spatial_average(g.abs()) for g in gradients]


METHODS = {"adahessian": AdaHessian}


def _network(seed: int) -> torch.nn.Module:
    return images.resnet8(torch.Generator().manual_seed(seed))


def _stepper(seed: int, batch: images.Part, make: Callable) -> Callable[[], None]:
    network = _network(seed)
    optimizer = make(network.parameters())
    graph = getattr(optimizer, "needs_graph", False)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        value = images.loss(network, batch)
        if not graph:
            value.backward()
        return value

    return lambda: optimizer.step(closure)


def _four(step: Callable[[], None]) -> Callable[[], None]:
    def several() -> None:
        for _ in range(4):
            step()

    return several


def run(run: Run) -> None:
    """All ratios of one seed."""
    options = run.method.params
    source = run.dataset.load(run.seed)
    data = images.prepare(source, halve=source.train_images.shape[1] == 28)
    inputs, labels = data.train
    batch = inputs[: options["batch"]], labels[: options["batch"]]
    rate = 1e-5  # nothing is trained here
    makers = {
        "sgd": lambda p: torch.optim.SGD(p, rate, momentum=0.9),
        "adam": lambda p: torch.optim.Adam(p, rate),
        "adahessian": lambda p: AdaHessian(p, rate),
        "delayed": lambda p: AdaHessian(p, rate, update_every=4),
    }
    # Turns of four steps, so that each holds one refresh of the delayed Hessian.
    steppers = {name: _four(_stepper(run.seed, batch, make)) for name, make in makers.items()}
    found = compare(steppers, repeats=options["repeats"], min_seconds=0)
    run.log(**{f"{name}_over_sgd": found.ratio(name, "sgd").value for name in ("adam", "adahessian", "delayed")})
    run.log(**{f"{name}_milliseconds": 250 * found[name] for name in makers})

    network = _network(run.seed)
    params = list(network.parameters())
    loss = images.loss(network, batch)
    gradients = grad(loss, params, create_graph=True)
    probe = rademacher(params, torch.Generator().manual_seed(run.seed))
    parts = {
        "product": lambda: hvp_of_grads(gradients, params, probe),
        "backward": lambda: torch.autograd.grad(loss, params, retain_graph=True),
    }
    run.log(product_over_backward=compare(parts, repeats=options["repeats"]).ratio("product", "backward").value)

    rivals = {}
    for name, make in (
        ("ours", lambda p: _Given(p, rate)),
        ("adamw", lambda p: torch.optim.AdamW(p, rate, foreach=True)),
    ):
        own = list(_network(run.seed).parameters())
        given = [torch.randn_like(p) for p in own]
        optimizer = make(own)

        def step(own=own, given=given, optimizer=optimizer) -> None:
            for p, g in zip(own, given, strict=True):
                p.grad = g
            optimizer.step()

        rivals[name] = step
    run.log(arithmetic_over_adamw=compare(rivals, repeats=options["repeats"]).ratio("ours", "adamw").value)

    large = inputs[: options["memory_batch"]], labels[: options["memory_batch"]]
    peaks = {}
    for name in ("adam", "adahessian"):
        training = _stepper(run.seed, large, makers[name])
        with measure() as cost:
            for _ in range(2):
                training()
        peaks[name] = cost.peak_mib
        run.log(**{f"{name}_mib": cost.peak_mib})
    if peaks["adam"] > 0:
        run.log(memory_over_adam=peaks["adahessian"] / peaks["adam"])


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Milliseconds of a step."""
    fig, ax = plotting.figure(height=6.5)
    columns = {"sgd": "SGD", "adam": "Adam", "delayed": "AdaHessian, every 4th", "adahessian": "AdaHessian"}
    if not len(records):
        plotting.empty(ax)
    else:
        names = [str(n) for n in pd.unique(records["dataset"])]
        for offset, name in enumerate(names):
            own = records[records["dataset"] == name]
            for place, column in enumerate(columns):
                values = own[f"{column}_milliseconds"].dropna()
                look = {"marker": "os^"[offset % 3], "color": f"C{offset}", "markersize": 4, "linestyle": ""}
                ax.plot(values, [place + 0.15 * offset] * len(values), label=plotting.label(name), **look)
        ax.set_yticks(range(len(columns)), list(columns.values()))
        ax.set(xlabel="time of a step (ms)", xlim=(0, None))
        plotting.legend(fig)
    yield "step", fig
