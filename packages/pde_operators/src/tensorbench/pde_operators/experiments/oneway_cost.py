"""What one-way layers cost: multiplications, bytes and seconds, against dense and depthwise separable ones.

Counts are exact (:mod:`tensorbench.pde_operators.layer_costs`). Times are of a forward and backward pass on one
thread, all layers in one process. The steps of ``<layer>_milliseconds`` and ``<layer>_training_mib`` are channels.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import nn

from tensorbench.core import plotting
from tensorbench.core import records as rec
from tensorbench.core.run import Run
from tensorbench.core.timing import compare
from tensorbench.pde_operators.baselines.unet import UNet
from tensorbench.pde_operators.compress import Spec, compress_model
from tensorbench.pde_operators.datasets.waves import fe_waves
from tensorbench.pde_operators.layer_costs import checkpoint_bytes, cost, count_macs, count_parameters
from tensorbench.pde_operators.oneway_conv import OneWayConv2d

METHODS = {"layers": None, "solver": None}
RANKS = (1, 2, 4)
WIDTH, DEPTH = 16, 2  # of the U-Net whose layers and checkpoint are counted
MAIN_CHANNELS = 32
LAYERS: dict[str, Callable[[int], nn.Module]] = {
    "dense": lambda n: nn.Conv2d(n, n, 3, padding=1),
    "depthwise": lambda n: nn.Sequential(nn.Conv2d(n, n, 3, padding=1, groups=n, bias=False), nn.Conv2d(n, n, 1)),
    "oneway_1": lambda n: OneWayConv2d(n, n, 3, 1, padding=1),
    "oneway_2": lambda n: OneWayConv2d(n, n, 3, 2, padding=1),
    "oneway_4": lambda n: OneWayConv2d(n, n, 3, 4, padding=1),
    "oneway_4_again": lambda n: OneWayConv2d(n, n, 3, 4, padding=1, save_memory=True),
    "oneway_4_kernel": lambda n: OneWayConv2d(n, n, 3, 4, padding=1, compute="kernel"),
}
NAMES = {
    "dense": "dense", "depthwise": "depthwise separable", "oneway_1": "one-way, R = 1", "oneway_2": "one-way, R = 2",
    "oneway_4": "one-way, R = 4", "oneway_4_again": "R = 4, stages done again",
    "oneway_4_kernel": "R = 4, kernel multiplied out",
}  # fmt: skip


def run(run: Run) -> None:
    """Count and time."""
    if run.method.uses == "solver":
        return _solver(run)
    _network(run)
    for channels in run.method.params["channels"]:
        _layers(run, channels)


def _solver(run: Run) -> None:
    runs = run.method.params["runs"]
    fe_waves(seed=run.seed, train=1, valid=1, test=1, beyond=1, snapshots=3)  # imports and first calls
    start = time.perf_counter()
    fe_waves(seed=run.seed, train=runs, valid=1, test=1, beyond=1, snapshots=41)  # 3 runs more, 200 steps each
    run.log(seconds_for_60=60 * (time.perf_counter() - start) / (runs + 3))


def _network(run: Run) -> None:
    """The layers of a U-Net one by one, and its checkpoint."""
    dense = UNet(3, 1, WIDTH, DEPTH)
    oneway = compress_model(dense, Spec(rank=1), run.generator)
    run.log(
        checkpoint_ratio=checkpoint_bytes(oneway) / checkpoint_bytes(dense),
        parameter_ratio=count_parameters(oneway) / count_parameters(dense),
    )
    ratios: dict[bool, list[float]] = {False: [], True: []}
    for name, layer in dense.named_modules():
        if not isinstance(layer, nn.Conv2d) or layer.kernel_size != (3, 3) or layer.in_channels < WIDTH:
            continue
        x = torch.zeros(1, layer.in_channels, 16, 16)
        ratios[layer.stride != (1, 1)].append(count_macs(oneway.get_submodule(name), x) / count_macs(layer, x))
    run.log(macs_ratio=max(ratios[False]), macs_ratio_strided=max(ratios[True]))


def _layers(run: Run, channels: int) -> None:
    options = run.method.params
    x = torch.from_numpy(run.dataset.load(run.seed, channels=channels))
    layers = {name: make(channels) for name, make in LAYERS.items()}
    costs = {name: cost(layer, x) for name, layer in layers.items()}
    for name, spent in costs.items():
        run.log(step=channels, **{f"{name}_training_mib": spent.training_bytes / 2**20})

    def work(layer: nn.Module) -> Callable[[], None]:
        own = x.clone().requires_grad_(True)

        def step() -> None:
            own.grad = None
            layer.zero_grad(set_to_none=True)
            layer(own).square().sum().backward()

        return step

    seconds = compare(
        {name: work(layer) for name, layer in layers.items()},
        repeats=options["repeats"],
        min_seconds=options["min_seconds"],
    )
    for name in layers:
        run.log(step=channels, **{f"{name}_milliseconds": 1000 * seconds[name]})
    if channels == MAIN_CHANNELS or len(options["channels"]) == 1:
        run.log(
            over_depthwise=max(seconds.ratio(f"oneway_{r}", "depthwise").value / r for r in RANKS),
            over_dense=seconds.ratio("oneway_1", "dense").value,
            saved_ratio=costs["oneway_1"].training_bytes / costs["dense"].training_bytes,
        )


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Time and memory of layers over channels."""
    fig, axes = plotting.figure(columns=2, cols=2, height=8)
    part = records[records["method"] == "layers"] if len(records) else records
    looks = plotting.styles(NAMES.values())
    for ax, ending, words in (
        (axes[0], "milliseconds", "forward and backward pass (ms)"),
        (axes[1], "training_mib", "memory (MiB)"),
    ):
        ax.set(xlabel="channels", ylabel=words)
        plotting.log_axis(ax, "y")
        drawn = False
        for name, shown in NAMES.items():
            history = rec.history(part, f"{name}_{ending}") if len(part) else pd.DataFrame()
            if history.empty:
                continue
            mean = history.groupby("step")["value"].agg(lambda v: float(np.exp(np.log(v).mean())))
            ax.plot(mean.index, mean.values, **looks[shown])
            drawn = True
        if drawn:
            plotting.log_axis(ax, "x", ticks=sorted(mean.index))
        else:
            plotting.empty(ax)
    plotting.legend(fig)
    yield "cost", fig
