"""Reduced models of the kinetic equation: stacked tensor trains, POD + ridge, a dense network, DeepONet, tuned alike.

All see the parameters (a2, log ell, 1 - a1; the first two mapped to [0, 1]) and the inflow at both walls, and predict
rho on the grid. Inflow and rho are divided by mean|rho| while training. The map is linear in the inflow, which stacked
trains and POD + ridge have built in; the two networks are made homogeneous of degree one by dividing the inflow by its
mean.

Errors are relative L2 norms, averaged over samples: ``test_error`` on geometries that were not trained on,
``wide_error`` for a2 above the trained range, ``long_error`` and ``short_error`` for ell above and below,
``piecewise_error`` for inflows of steps. ``wide_ratio`` is ``wide_error / test_error``.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from tensorbench.core.errors import unknown
from tensorbench.core.run import Run
from tensorbench.core.training import fit
from tensorbench.pde_operators.baselines.deeponet import DeepONet, grid_coordinates, mlp
from tensorbench.pde_operators.baselines.pod import PODRidge
from tensorbench.pde_operators.datasets.kinetic import KineticSamples, Solutions, scale_params
from tensorbench.pde_operators.experiments import kinetic_figures
from tensorbench.pde_operators.stnn import StackedTNN, count
from tensorbench.pde_operators.tt_layers import bounded_ranks, factor_modes

SETS = ("valid", "test", "wide", "long", "short", "piecewise")
KEPT = ("test", "wide", "long", "short")  # whose samples' errors are kept for the figures


class Samples(NamedTuple):
    """One set as the models see it."""

    params: Tensor
    inflow: Tensor
    rho: Tensor
    raw: np.ndarray  # a2, ell, 1 - a1


class Fit(NamedTuple):
    """A fitted model: rho for scaled parameters and inflow, and how many numbers it is made of."""

    predict: Callable[[Tensor, Tensor], Tensor]
    weights: int
    model: nn.Module | None = None


class Homogeneous(nn.Module):
    """s net(parameters, inflow / s) with s the mean inflow: twice the inflow is twice the prediction."""

    def __init__(self, net: nn.Module, shape: tuple[int, int]) -> None:
        super().__init__()
        self.net, self.shape = net, shape

    def forward(self, params: Tensor, inflow: Tensor) -> Tensor:
        size = inflow.abs().mean(dim=(1, 2, 3)).clamp_min(1e-12)[:, None]
        out = self.net(torch.cat([params, inflow.flatten(1) / size], dim=1)).flatten(1)
        return (out * size).unflatten(1, self.shape)


def build_stnn(
    data: KineticSamples, generator: torch.Generator, *, K: int, W: int, rank: int, cores: int, hidden: list[int],
    symmetric: bool = True,
) -> StackedTNN:  # fmt: skip
    """A stacked network whose modes are the grid's sizes in nearly equal factors."""
    (n_1, n_2), n_w = data.rho.shape[1:], 2 * data.inflow.shape[3]
    out_modes, in_modes = factor_modes(n_1 * n_2, cores), factor_modes(2 * n_2 * W or n_2 * n_w, cores)
    return StackedTNN(
        K, W, (n_1, n_2, n_w), out_modes, in_modes, bounded_ranks(in_modes, out_modes, rank), hidden=hidden,
        symmetric=symmetric, generator=generator,
    )  # fmt: skip


def train(
    run: Run, model: nn.Module, parts: dict[str, Samples], *, lr: float, epochs: int, batch: int, schedule: str,
    smooth: float = 0.0,
) -> None:  # fmt: skip
    """Adam on the mean square of rho / mean|rho|; ``plateau`` halves the rate when validation rests for 20 epochs."""
    if schedule not in ("cosine", "plateau"):
        raise ValueError(unknown("schedule", schedule, ["cosine", "plateau"]))
    size = parts["train"].rho.abs().mean(dim=(1, 2), keepdim=True)
    params, inflow, rho = parts["train"].params, parts["train"].inflow / size[:, None], parts["train"].rho / size
    generator = torch.Generator().manual_seed(run.seed + 10_000)
    per_epoch = math.ceil(len(params) / batch)

    def batches() -> Iterator[Tensor]:
        yield from torch.randperm(len(params), generator=generator).split(batch)

    def loss(net: nn.Module, rows: Tensor) -> Tensor:
        error = (net(params[rows], inflow[rows]) - rho[rows]).square().mean()
        return error + smooth * net.roughness() if smooth else error  # type: ignore[operator]

    optimizer = torch.optim.Adam(model.parameters(), lr, fused=True)
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=20)

    def epoch_end(step: int, _: float) -> None:
        if step % per_epoch == 0:
            plateau.step(errors(model, parts["valid"]).mean())

    history = fit(
        model, batches, loss, optimizer, steps=epochs * per_epoch, clip=1.0,
        schedule="cosine" if schedule == "cosine" else None, warmup=0.0 if schedule == "plateau" else 0.1,
        callback=epoch_end if schedule == "plateau" else None,
    )  # fmt: skip
    run.log(diverged=history.diverged)  # as it stood then: its errors lose a trial, and show in a seeded run


def fit_stnn(
    run: Run, data: KineticSamples, parts: dict[str, Samples], *, K: int, W: int, rank: int, cores: int,
    hidden: list[int], lr: float, epochs: int, batch: int, schedule: str = "cosine", smooth: float = 0.002,
    symmetric: bool = True,
) -> Fit:  # fmt: skip
    """K trains and W velocity vectors each; ``smooth`` is the strength of the penalty, ``symmetric`` the mirror."""
    model = build_stnn(
        data, run.generator, K=K, W=W, rank=rank, cores=cores, hidden=hidden, symmetric=symmetric
    ).to(run.device)  # fmt: skip
    train(
        run, model, parts, lr=lr, epochs=epochs, batch=batch, schedule=schedule, smooth=smooth if W else 0.0
    )  # fmt: skip
    run.log(velocity_weights=model.boundary.vectors.numel())
    return Fit(model, count(model), model)


def fit_mlp(
    run: Run, data: KineticSamples, parts: dict[str, Samples], *, width: int, depth: int, lr: float, epochs: int,
    batch: int, schedule: str = "cosine",
) -> Fit:  # fmt: skip
    """A dense network from parameters and inflow to the whole grid."""
    shape = (data.rho.shape[1], data.rho.shape[2])
    inputs = 3 + data.inflow[0].size
    net = mlp([inputs, *[width] * depth, shape[0] * shape[1]], "relu", run.generator)
    model = Homogeneous(net, shape).to(run.device)
    train(run, model, parts, lr=lr, epochs=epochs, batch=batch, schedule=schedule)
    return Fit(model, count(model), model)


def fit_deeponet(
    run: Run, data: KineticSamples, parts: dict[str, Samples], *, width: int, depth: int, basis: int, lr: float,
    epochs: int, batch: int, schedule: str = "cosine",
) -> Fit:  # fmt: skip
    """A branch network of parameters and inflow, a trunk of the place on the grid."""
    shape = (data.rho.shape[1], data.rho.shape[2])
    net = DeepONet(
        3 + data.inflow[0].size, grid_coordinates(shape, (False, True)), shape, width=width, depth=depth, basis=basis,
        generator=run.generator,
    )  # fmt: skip
    model = Homogeneous(net, shape).to(run.device)
    train(run, model, parts, lr=lr, epochs=epochs, batch=batch, schedule=schedule)
    return Fit(model, count(model), model)


def fit_pod(
    run: Run, data: KineticSamples, parts: dict[str, Samples], *, out_rank: int, in_rank: int, degree: int, alpha: float
) -> Fit:
    """POD coefficients of rho by ridge regression on those of the inflow times monomials of the parameters."""
    train_part = parts["train"]
    size = train_part.rho.abs().mean(dim=(1, 2), keepdim=True)

    def flat(values: Tensor) -> np.ndarray:
        return values.flatten(1).double().cpu().numpy()

    model = PODRidge(out_rank, in_rank, alpha=alpha, degree=degree, center=False)
    model.fit(flat(train_part.inflow / size[:, None]), flat(train_part.rho / size), flat(train_part.params))
    test = flat(parts["test"].rho)
    lost = np.linalg.norm(test - model.outputs.project(test), axis=1) / np.linalg.norm(test, axis=1)
    run.log(projection_error=lost.mean())

    def predict(params: Tensor, inflow: Tensor) -> Tensor:
        out = model.predict(flat(inflow), flat(params))
        return torch.from_numpy(out).to(inflow).unflatten(1, tuple(data.rho.shape[1:]))

    return Fit(predict, model.num_parameters)


METHODS: dict[str, Callable[..., Fit]] = {
    "stnn": fit_stnn, "dense_mlp": fit_mlp, "deeponet": fit_deeponet, "pod_ridge": fit_pod,
}  # fmt: skip


def _samples(part: Solutions, ranges: dict[str, Any], device: torch.device) -> Samples:
    scaled = scale_params(part.params, ranges["a2"], ranges["ell"], log_ell=True)
    return Samples(*(torch.from_numpy(a).to(device) for a in (scaled, part.inflow, part.rho)), part.params)


@torch.no_grad()
def errors(predict: Callable[[Tensor, Tensor], Tensor], part: Samples, batch: int = 64) -> np.ndarray:
    """Relative L2 error of each sample."""
    found = []
    for params, inflow, rho in zip(*(t.split(batch) for t in part[:3]), strict=True):
        gap = (predict(params, inflow) - rho).flatten(1).norm(dim=1)
        found.append((gap / rho.flatten(1).norm(dim=1)).cpu())
    return torch.cat(found).numpy()


def run(run: Run) -> None:
    """Fit on the training geometries, measure on all sets."""
    data: KineticSamples = run.dataset.load(0)  # one set of solutions: seeds are of the training
    ranges = {"a2": (2.0, 8.0), "ell": (0.1, 10.0)} | {
        k: run.dataset.params[k] for k in run.dataset.params if k in ("a2", "ell")
    }
    parts = {name: _samples(data.part(name), ranges, run.device) for name in ("train", *SETS)}
    with run.time("fit"):
        fitted = METHODS[run.method.uses](run, data, parts, **run.method.params)
    if fitted.model is not None:
        fitted.model.eval()
    kept: dict[str, np.ndarray] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that parameters are outside the range is what is measured
        for name in SETS:
            found = errors(fitted.predict, parts[name])
            run.log(**{f"{name}_error": found.mean()})
            if name in KEPT:
                kept |= {f"{name}_params": parts[name].raw, f"{name}_errors": found}
    run.log(
        weights=fitted.weights,
        test_worst=float(errors(fitted.predict, parts["test"]).max()),
        wide_ratio=run.metrics["wide_error"] / run.metrics["test_error"],
        long_ratio=run.metrics["long_error"] / run.metrics["test_error"],
        short_ratio=run.metrics["short_error"] / run.metrics["test_error"],
    )
    if run.trial is None:
        if run.seed == 0 and isinstance(fitted.model, StackedTNN):
            kept |= _experts(fitted.model, ranges, run.device)
        np.savez_compressed(run.artifact("errors.npz"), **kept)  # type: ignore[arg-type]


@torch.no_grad()
def _experts(model: StackedTNN, ranges: dict[str, Any], device: torch.device, n: int = 48) -> dict[str, np.ndarray]:
    """Weights of the branches over mean free path and outer size, at a1 = 0.6."""
    ell, a2 = np.geomspace(*ranges["ell"], n), np.linspace(*ranges["a2"], n)
    places = np.stack([*(g.ravel() for g in np.meshgrid(a2, ell, indexing="ij")), np.full(n * n, 0.4)], axis=1)
    params = torch.from_numpy(scale_params(places, ranges["a2"], ranges["ell"], log_ell=True)).to(device)
    weights = model.expert_weights(params).cpu().numpy().reshape(n, n, -1)
    return {"expert_ell": ell, "expert_a2": a2, "expert_weights": weights}


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Error against branches and weights, the branches' weights, and errors in and outside the trained range."""
    yield "accuracy", kinetic_figures.accuracy(records)
    yield "experts", kinetic_figures.experts(records, "stnn_k4")
    yield "shift", kinetic_figures.shift(records, ["stnn_k1", "stnn_k4", "pod_ridge", "dense_mlp", "deeponet"])
