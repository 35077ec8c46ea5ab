"""Networks that step a finite-element wave forward: dense, declared compressed, compressed after training, spectral.

Every network is trained alike on the same runs (:func:`tensorbench.pde_operators.wave_unet.train`); only its layers
differ. ``one_step_error`` is the relative L2 error of the next snapshot from two true ones on test runs,
``rollout_error_10`` and ``_40`` that of the 10th and 40th snapshot by the network's own predictions from the first
two, ``beyond_error`` the one-step error on runs outside what was trained on, ``gap`` (test − train) / train of the
one-step error, and ``energy_drift`` the departure of the energy from the true one at the end of a rollout. The steps of
``rollout_error`` are snapshots.

Two methods are not trained: ``uniform_medium`` knows the equation and that c is 1 outside the inclusion, but not where
that is, and propagates exactly in a medium of c = 1; ``persistence`` gives the last snapshot again.

``posthoc_cp`` is a dense network, trained like all others, whose kernels are then decomposed. Its metrics are those of
the decomposition with as many weights as one-way layers of rank 2 have, without further training. The histories
``posthoc_error`` and ``tuned_error`` are for several ranks of one-way layers (the steps), the latter after ``tune``
more steps of training.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from tensorbench.core.run import Run
from tensorbench.pde_operators.baselines.unet import UNet
from tensorbench.pde_operators.baselines.wave_steps import Persistence, UniformMedium
from tensorbench.pde_operators.compress import matched_rank, posthoc_cp
from tensorbench.pde_operators.datasets.waves import WaveData
from tensorbench.pde_operators.experiments import wave_figures
from tensorbench.pde_operators.factored_convs import DepthwiseSeparableConv2d, SeparableConv2d, TwoWayOneWayConv2d
from tensorbench.pde_operators.layer_costs import checkpoint_bytes, count_macs, count_parameters
from tensorbench.pde_operators.oneway_conv import OneWayConv2d
from tensorbench.pde_operators.wave_unet import (
    WaveSimulator,
    field_energy,
    one_step_error,
    relative_error,
    rollout_errors,
    train,
)

METHODS: dict[str, Any] = {
    "dense": None,
    "posthoc": None,
    "oneway": OneWayConv2d,
    "two_way": TwoWayOneWayConv2d,
    "separable": SeparableConv2d,
    "depthwise": DepthwiseSeparableConv2d,
    "fno": None,
    "uniform_medium": None,
    "persistence": None,
}
EVERY = 4  # one-step errors are averaged over every 4th time
MAIN_RANK = 2  # of one-way layers: the largest that keeps below 0.35 of the dense weights
SHOWN = (1, 10, 40)  # snapshots of the rollouts that are kept for the maps


def make_network(kind: str, generator: torch.Generator, *, width: int, depth: int, **options: Any) -> nn.Module:
    """The network of a method; layers with small kernels are trained as dense convolutions with those kernels."""
    if kind == "fno":
        from tensorbench.pde_operators.fno import FNO

        return FNO(3, 1, hidden=width, layers=depth, generator=generator, **options)
    if METHODS[kind] is None:
        return UNet(3, 1, width, depth, generator=generator)
    return UNet(3, 1, width, depth, conv=partial(METHODS[kind], compute="kernel", **options), generator=generator)


def untrained(kind: str, data: WaveData) -> WaveSimulator:
    """The simulator of a method without weights."""
    train = torch.from_numpy(data.train_u), torch.from_numpy(data.train_c)
    if kind == "persistence":
        return WaveSimulator.of(Persistence(), *train, base="last")
    step = UniformMedium(train[0].shape[-1], interval=data.interval, spacing=data.spacing)
    return WaveSimulator.of(step, *train, base="none")


def in_stages(network: nn.Module) -> nn.Module:
    """Let factored layers compute in stages, which is what their multiplications are counted for."""
    for module in network.modules():
        if getattr(module, "compute", None) == "kernel":
            module.compute = "stages"  # type: ignore[assignment]
    return network


def run(run: Run) -> None:
    """Train, where there is something to train, and measure."""
    data: WaveData = run.dataset.load(0)  # the same waves for all seeds, which are those of training
    parts = {name: fields_of(data, name, run.device) for name in ("train", "valid", "test", "beyond")}
    if run.method.uses in wave_figures.UNTRAINED:
        model = untrained(run.method.uses, data).to(run.device)
        run.log(valid_error=one_step_error(model, *parts["valid"], EVERY))
        _measure(run, model, parts, data)
        return
    options = dict(run.method.params)
    training = ("lr", "batch", "unrolled", "unrolled_share", "noise")
    protocol = {key: options.pop(key) for key in training if key in options}
    steps, trial_steps, fine = options.pop("steps"), options.pop("trial_steps"), options.pop("fine_tune", 0)
    ranks = options.pop("ranks", [])
    generator = run.generator
    network = make_network(run.method.uses, generator, **options).to(run.device)
    model = WaveSimulator.of(network, *parts["train"], base="none").to(run.device)
    tuning = run.trial is not None
    with run.time("fit"):
        history = train(model, *parts["train"], steps=trial_steps if tuning else steps, generator=generator, **protocol)
    run.log(valid_error=float("nan") if history.diverged else one_step_error(model, *parts["valid"], EVERY))
    if tuning:
        return
    for k in np.unique(np.linspace(0, len(history.losses) - 1, 30).astype(int)):
        run.log(step=int(k + 1), loss=history.losses[k])
    if run.method.uses == "posthoc":
        model = _posthoc(run, model, parts, ranks, steps=fine, generator=generator, **protocol)
    _measure(run, model, parts, data)
    dense = UNet(3, 1, run.method.params["width"], run.method.params["depth"])
    if run.method.uses != "fno":
        run.log(weights_ratio=count_parameters(model) / count_parameters(dense))


def fields_of(data: WaveData, name: str, device: torch.device) -> tuple[Tensor, Tensor]:
    """Snapshots and speeds of the ``train``, ``valid``, ``test`` or ``beyond`` runs."""
    return tuple(torch.from_numpy(getattr(data, f"{name}_{what}")).to(device) for what in "uc")  # type: ignore[return-value]


def _measure(run: Run, model: WaveSimulator, parts: dict[str, tuple[Tensor, Tensor]], data: WaveData) -> None:
    u, c = parts["test"]
    few = len(u)  # as many training runs as there are test runs
    test_error = one_step_error(model, u, c, EVERY)
    train_error = one_step_error(model, parts["train"][0][:few], parts["train"][1][:few], EVERY)
    errors, predicted = rollout_errors(model, u, c)
    for k, error in enumerate(errors.tolist()):
        run.log(step=k + 1, rollout_error=error)
    final = len(errors)
    energies = [
        field_energy(w[:, -2], w[:, -1], c, interval=data.interval, spacing=data.spacing)
        for w in (predicted, u[:, -final:])
    ]
    run.log(
        one_step_error=test_error,
        train_error=train_error,
        gap=(test_error - train_error) / train_error,
        beyond_error=one_step_error(model, *parts["beyond"], EVERY),
        rollout_error_10=errors[min(10, final) - 1],
        rollout_error_40=errors[-1],
        energy_drift=(energies[0] / energies[1] - 1).abs().mean(),
        parameters=count_parameters(model),
        checkpoint_bytes=checkpoint_bytes(model),
        macs=count_macs(in_stages(model), u[:1, 0], u[:1, 1], c[:1]),
    )
    if run.seed == 0:
        at = [k for k in SHOWN if k <= final]
        np.savez_compressed(
            run.artifact("fields.npz"),
            steps=np.array(at),
            predicted=predicted[0, [k - 1 for k in at]].cpu().numpy(),
            true=u[0, [k + 1 for k in at]].cpu().numpy(),
            error=relative_error(predicted[0], u[0, 2:]).cpu().numpy(),
        )


def _posthoc(
    run: Run,
    model: WaveSimulator,
    parts: dict[str, tuple[Tensor, Tensor]],
    ranks: list[int],
    *,
    steps: int,
    generator: torch.Generator,
    **protocol: Any,
) -> WaveSimulator:
    """Decompose at the weights of each rank of one-way layers, with and without fine-tuning; that of the main rank."""
    run.log(dense_error=one_step_error(model, *parts["test"], EVERY))
    kept = model
    for rank in ranks:
        small = decomposed(model, rank, seed=run.seed)
        run.log(step=rank, posthoc_error=one_step_error(small, *parts["test"], EVERY))
        run.log(step=rank, posthoc_parameters=count_parameters(small))
        if rank == MAIN_RANK:
            kept = decomposed(model, rank, seed=run.seed)
        tuned = {**protocol, "lr": protocol["lr"] / 4}
        train(small, *parts["train"], steps=steps, generator=generator, **tuned)
        run.log(step=rank, tuned_error=one_step_error(small, *parts["test"], EVERY))
    return kept


def decomposed(model: WaveSimulator, rank: int, *, seed: int) -> WaveSimulator:
    """A copy with each trained convolution in canonical form, at most as many weights as one-way layers of ``rank``."""
    small = WaveSimulator(nn.Identity(), base=model.base, walls=model.walls)
    small.network = _convert(model.network, rank, seed)
    for name, value in model.named_buffers(recurse=False):
        getattr(small, name).copy_(value)
    return small.to(model.scale.device)


def _convert(network: nn.Module, rank: int, seed: int) -> nn.Module:
    import copy

    network = copy.deepcopy(network)
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Conv2d) and child.kernel_size != (1, 1):
                oneway = child.out_channels * rank * (child.in_channels + sum(child.kernel_size))
                layer = posthoc_cp(child, matched_rank(child, oneway), seed=seed)
                layer.compute = "kernel"  # type: ignore[assignment]
                setattr(parent, name, layer)
    return network


def worst_over_posthoc(records: pd.DataFrame) -> list[float]:
    """Per seed, the largest of error(one-way of rank R) / error(decomposed dense network of as many weights)."""
    oneway = records[records["method"].str.startswith("oneway_")]
    posthoc = records[records["method"] == "posthoc_cp"].set_index("seed")["_history"]
    values = []
    for seed, group in oneway.groupby("seed"):
        steps, errors = posthoc[seed]["posthoc_error"]
        by_rank = dict(zip(map(int, steps), errors, strict=True))
        values.append(
            max(e / by_rank[int(r)] for r, e in zip(group["method.rank"], group["one_step_error"], strict=True))
        )
    return values


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Error against weights, rollouts, and maps of fields."""
    yield "weights", wave_figures.weights(records)
    yield "rollout", wave_figures.rollouts(records)
    yield "fields", wave_figures.fields(records)
