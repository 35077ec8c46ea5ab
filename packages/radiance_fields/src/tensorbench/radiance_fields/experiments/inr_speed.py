"""What a training step on a picture costs as one network an axis (F-INR) and as one network of all coordinates.

The layers are the same (so the monolithic network has fewer weights), the grid is the whole picture, a step is forward,
backward and Adam. The steps of the histories are the picture's side. The JAX peer is the arithmetic of the authors'
demo (CP in two dimensions, channels with factors of their own) on the same weights, compiled.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from tensorbench.core import plotting
from tensorbench.core import records as rec
from tensorbench.core.run import Run
from tensorbench.core.timing import compare, measure
from tensorbench.radiance_fields.experiments import inr_common as common
from tensorbench.radiance_fields.implicit import compression
from tensorbench.radiance_fields.implicit.functional import FunctionalTensor, pixel_centres
from tensorbench.radiance_fields.implicit.nets import AxisNet
from tensorbench.radiance_fields.implicit.training import as_image, channel_mse, grid_points

log = logging.getLogger(__name__)
BACKENDS: dict[str, dict[str, Any]] = {
    "siren": {"backend": "siren"},
    "relu": {"backend": "relu", "embedding": "positional"},
}
MILLION = 1_000_000


def step_of(net: torch.nn.Module, loss: Callable[[], torch.Tensor]) -> Callable[[], float]:
    """One step of Adam as a function of no arguments."""
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        value = loss()
        value.backward()
        optimizer.step()
        return float(value.detach())

    return step


def saved_numbers(loss: Callable[[], torch.Tensor]) -> int:
    """Numbers that the backward pass keeps besides weights: each storage once."""
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if not isinstance(tensor, torch.nn.Parameter):
            storage = tensor.untyped_storage()
            kept[storage.data_ptr()] = storage.nbytes() // 4
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        value = loss()
    del value
    return sum(kept.values())


def rivals(image: torch.Tensor, backend: str, run: Run, options: dict[str, Any]) -> dict[str, tuple]:
    """Model and loss of both."""
    common_options = {"features": options["features"], **BACKENDS[backend]}
    net = common.functional(2, image.shape[-1], run.generator, rank=options["rank"], **common_options).to(run.device)
    one = common.monolithic(2, image.shape[-1], run.generator, **common_options).to(run.device)
    x = [pixel_centres(n, image.device) for n in image.shape[:2]]
    points, colours = grid_points(image.shape[:2], image.device), image.reshape(-1, image.shape[-1])
    return {
        "functional": (net, lambda: channel_mse(net.forward_grid(x), image)),
        "monolithic": (one, lambda: channel_mse(one(points), colours)),
    }


def steps(run: Run, options: dict[str, Any]) -> None:
    """Seconds of a step and memory at each size."""
    for backend in BACKENDS:
        speedup = {}
        for size in options["sizes"]:
            image = as_image(run.dataset.load(0, size=size)).to(run.device)
            pair = rivals(image, backend, run, options)
            calls = {name: step_of(*both) for name, both in pair.items()}
            with measure() as one:
                calls["monolithic"]()
            with measure() as axis:
                calls["functional"]()
            # The largest pictures take seconds a step: one call each after the one that memory was measured on.
            large = size > min(options["sizes"])
            repeats, shortest = (1, 0.0) if large else (options["repeats"], options["min_seconds"])
            times = compare(calls, repeats=repeats, warmup=0, min_seconds=shortest)
            speedup[size] = times.speedup("functional", "monolithic").value
            run.log(step=size, **{f"{backend}_functional_seconds": times["functional"],
                                  f"{backend}_monolithic_seconds": times["monolithic"],
                                  f"{backend}_functional_mib": max(axis.peak_mib, 0.1),
                                  f"{backend}_monolithic_mib": max(one.peak_mib, 0.1)})  # fmt: skip
            run.log(**{f"{backend}_speedup_{size}": speedup[size]})
            if backend == "siren":
                shape = (size, size), options["rank"], image.shape[-1], options["features"]
                expected = compression.grid_step_memory(*shape)
                kept = saved_numbers(pair["functional"][1])
                run.log(step=size, numbers_kept=kept, kept_over_formula=kept / expected["functional"])
                if not large:
                    run.log(kept_share=kept / saved_numbers(pair["monolithic"][1]))
        sizes = options["sizes"]
        run.log(**{f"{backend}_growth": speedup[sizes[-1]] / speedup[sizes[0]]})


def million_points(run: Run, options: dict[str, Any]) -> None:
    """Seconds for a million points: exact (timed on a part) and from a table of each factor."""
    count, part = options["points"], options["timed_points"]
    net = common.functional(2, 1, run.generator, rank=64, features=options["features"], **BACKENDS["siren"])
    points = 2 * torch.rand(count, 2, generator=run.generator) - 1
    table = net.tabulate(options["nodes"])
    with torch.no_grad():
        exact = net.forward_points(points[:part])
        with measure() as direct:
            net.forward_points(points[:part])
        with measure() as quick:
            found = table.forward_points(points)
    error = float((found[:part] - exact).square().mean().sqrt() / exact.square().mean().sqrt())
    run.log(points_seconds=direct.seconds * MILLION / part, table_seconds=quick.seconds * MILLION / count)
    run.log(table_error=error)


@functools.lru_cache(maxsize=4)
def _jax_step(rank: int, channels: int, omega: float) -> Callable:
    """Compiled: weights, Adam's moments, time, coordinates, picture → new weights, moments, loss."""
    import jax
    import jax.numpy as jnp

    def factor(weights: list, x: Any) -> Any:
        *hidden, (w, b) = weights
        for v, c in hidden:
            x = jnp.sin(omega * (x @ v.T + c))
        return (x @ w.T + b).reshape(len(x), channels, rank)

    def loss(weights: list, x: Any, y: Any, image: Any) -> Any:
        values = jnp.einsum("acr,bcr->abc", factor(weights[0], x), factor(weights[1], y))
        return jnp.square(values - image).mean(axis=(0, 1)).sum()

    def step(weights: list, first: list, second: list, t: Any, x: Any, y: Any, image: Any) -> tuple:
        value, slope = jax.value_and_grad(loss)(weights, x, y, image)
        first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, first, slope)
        second = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, second, slope)
        moved = jax.tree.map(
            lambda w, m, v: w - 1e-3 * (m / (1 - 0.9**t)) / (jnp.sqrt(v / (1 - 0.999**t)) + 1e-8),
            weights,
            first,
            second,
        )
        return moved, first, second, value

    return jax.jit(step)


def jax_peer(run: Run, options: dict[str, Any]) -> None:
    """Seconds of our step over those of the same arithmetic in JAX; losses of the first steps agree."""
    if importlib.util.find_spec("jax") is None:
        log.warning("jax is not installed: the peer does not take part")
        return
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")
    import jax

    size, rank = min(options["sizes"]), options["rank"]
    image = as_image(run.dataset.load(0, size=size))
    layers = {"features": options["features"], **BACKENDS["siren"]}
    net = common.functional(2, image.shape[-1], run.generator, rank=rank, **layers)
    weights = [_weights(axis) for axis in net.nets]
    zeros = jax.tree.map(np.zeros_like, weights)
    x, picture = pixel_centres(size).numpy()[:, None], image.numpy()
    compiled = _jax_step(rank, image.shape[-1], 30.0)
    state = [weights, zeros, zeros]
    values, turn = [], [0]

    def theirs() -> None:
        turn[0] += 1
        *moved, value = compiled(*state, float(turn[0]), x, x, picture)
        state[:] = moved
        values.append(float(value))

    coordinates = [pixel_centres(size)] * 2
    ours = step_of(net, lambda: channel_mse(net.forward_grid(coordinates), image))
    apart = 0.0
    for _ in range(3):
        mine = ours()
        theirs()
        apart = max(apart, abs(mine - values[-1]) / mine)
    times = compare({"ours": ours, "jax": theirs}, repeats=3, warmup=1, min_seconds=options["min_seconds"])
    run.log(over_jax=times.ratio("ours", "jax").value, jax_seconds=times["jax"], jax_apart=apart)


def _weights(net: Any) -> list[tuple[np.ndarray, np.ndarray]]:
    assert isinstance(net, AxisNet)
    layers = [*net.hidden, net.last]
    return [(layer.weight.detach().numpy().copy(), layer.bias.detach().numpy().copy()) for layer in layers]


METHODS = {"functional": FunctionalTensor}


def run(run: Run) -> None:
    """All comparisons, on one thread."""
    options = dict(run.method.params)
    steps(run, options)
    million_points(run, options)
    if options["jax"]:
        jax_peer(run, options)


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    fig, axes = plotting.figure(columns=2, cols=2, height=7.5)
    names = {"siren": "SIREN", "relu": "ReLU-PE"}
    kinds = {"functional": "F-INR", "monolithic": "monolithic"}
    for ax, unit, text in zip(axes, ("seconds", "mib"), ("time of a step (s)", "peak memory (MiB)"), strict=True):
        parts = []
        for backend, title in names.items():
            for kind, word in kinds.items():
                history = rec.history(records, f"{backend}_{kind}_{unit}") if len(records) else pd.DataFrame()
                if len(history):
                    parts.append(history.assign(what=f"{word}, {title}"))
        if not parts:
            plotting.empty(ax)
            continue
        frame = pd.concat(parts)
        plotting.series(ax, frame, "step", "value", by="what", log="y")
        plotting.log_axis(ax, "x", ticks=sorted(frame["step"].unique()))
        ax.set(xlabel="side of the picture (pixels)", ylabel=text)
    plotting.legend(fig)
    yield "cost", fig
