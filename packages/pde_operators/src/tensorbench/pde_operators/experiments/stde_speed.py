"""Time and memory of a Laplacian and its gradient in the weights, by dimension, in one process on one thread.

The work: the mean over 100 points of the squared Laplacian of the paper's network with its boundary factor, and the
gradient of that in the weights. ``jet`` (this package), ``sdgd_loop``, ``sdgd_vmapped``, ``hvp_vmapped`` and
``jax_jet`` estimate it from the same number of dimensions (probes for ``hvp_vmapped``); ``forward_laplacian``,
``folx`` and ``full_hessian`` take all. The steps are the dimensions. A rival ends where its arrays would pass
``memory_gib``; ``<rival>_largest`` says where.
"""

from __future__ import annotations

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
from tensorbench.core.timing import compare, growth, measure
from tensorbench.pde_operators.stde import Local, OnBall, TanhNet, baselines, coordinates, probes

log = logging.getLogger(__name__)
METHODS = {"jet": Local}
COMPILED = {"jax_jet": "jax", "folx": "folx"}
CLAIMED = ("jet", "sdgd_loop", "jax_jet", "folx")
NAMES = {
    "jet": "jet (STDE)",
    "sdgd_loop": "SDGD loop",
    "sdgd_vmapped": "SDGD, vmapped",
    "hvp_vmapped": "HVP, vmapped",
    "forward_laplacian": "forward Laplacian",
    "full_hessian": "full Hessian",
    "jax_jet": "JAX jet",
    "folx": "folx (JAX)",
}
LONG = 0.4  # seconds of a call past which one call is enough, unless a claim is about it
AT_MOST = {"full_hessian": 100, "folx": 1000, "jax_jet": 1000}  # dimensions: a call, or compiling it, takes seconds


def arrays_gib(name: str, d: int, points: int, batch: int, width: int) -> float:
    """About what a rival holds at once, beside the weights: arrays of points × tangents × (d or width) numbers."""
    numbers = {
        "jet": 8 * points * batch * width,
        "jax_jet": 4 * points * batch * (width + d),
        "sdgd_loop": 3 * points * d + batch * 4 * points * (d + width),
        "sdgd_vmapped": 3 * points * batch * d,
        "hvp_vmapped": 6 * points * batch * d,
        "forward_laplacian": 10 * points * d * width,
        "folx": 10 * points * d * width,
        "full_hessian": 4 * points * d * (d + width),
    }[name]
    return 4 * numbers / 2**30


def work(name: str, f: OnBall, x: torch.Tensor, index: torch.Tensor, v: torch.Tensor) -> Callable[[], Any]:
    """The rival's call; it returns the Laplacian's estimates."""
    estimates: dict[str, Callable[[], torch.Tensor]] = {
        "jet": lambda: Local(f, x, index).laplacian(),
        "sdgd_loop": lambda: baselines.sdgd(f, x, index),
        "sdgd_vmapped": lambda: baselines.sdgd_vmapped(f, x, index),
        "hvp_vmapped": lambda: baselines.hvp_vmapped(f, x, v),
        "forward_laplacian": lambda: baselines.forward_laplacian(f, x),
        "full_hessian": lambda: baselines.hessian_trace(f, x),
    }
    if name in estimates:

        def call() -> torch.Tensor:
            f.zero_grad()
            value = estimates[name]()
            value.square().mean().backward()
            return value.detach()

        return call
    weights = [(layer.weight.detach().numpy(), layer.bias.detach().numpy()) for layer in _layers(f)]
    compiled = baselines.jax_laplacian(baselines.jax_mlp(), "jet" if name == "jax_jet" else "folx")
    arguments = (weights, x.numpy(), index.numpy())

    def call_jax() -> torch.Tensor:
        gradient, values = compiled(*arguments)
        gradient[0][0].block_until_ready()
        return torch.from_numpy(np.array(values))

    return call_jax


def measured(call: Callable[[], Any]) -> float:
    """Seconds of one call."""
    with measure() as cost:
        call()
    return cost.seconds


def _jax_on_one_thread() -> bool:
    """Whether JAX and folx are there; as many threads as torch has here, which must be said before JAX starts."""
    if not all(importlib.util.find_spec(name) for name in COMPILED.values()):
        log.warning("jax or folx is not installed (the package's extra `bench`): they do not take part")
        return False
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")
    return True


def _layers(f: OnBall) -> Any:
    return f.net.layers


def run(run: Run) -> None:
    """Every dimension, every rival that fits."""
    options = dict(run.method.params)
    batch, width, repeats, limit = options["batch"], options["width"], options["repeats"], options["memory_gib"]
    rivals = [name for name in NAMES if name not in COMPILED or (options["compiled"] and _jax_on_one_thread())]
    seconds: dict[str, dict[int, float]] = {name: {} for name in rivals}
    agree, speedups = 0.0, dict[tuple[str, int], float]()
    for d in run.progress(options["dimensions"], desc="dimension"):
        x = run.dataset.load(run.seed, d=d)
        points, generator = len(x), run.generator
        f = OnBall(TanhNet(d, width=width, generator=generator))
        index = coordinates(d, min(batch, d), generator)
        v = probes(d, batch, generator, dtype=x.dtype)
        jobs = {}
        for name in rivals:
            too_large = d > AT_MOST.get(name, d) or arrays_gib(name, d, points, batch, width) > limit
            if too_large or (name in COMPILED and d not in options["compiled"]):
                continue
            jobs[name] = work(name, f, x, index, v)
        reference, slow, peaks = {}, [], dict[str, float]()
        for name, job in jobs.items():
            with measure() as cost:
                reference[name] = job()
            if cost.seconds < LONG or name in CLAIMED:  # else the first call stands for all
                with measure() as cost:
                    job()
            else:
                slow.append(name)
                seconds[name][d] = cost.seconds
            peaks[name] = max(cost.peak_mib, 0.1)
            run.log(step=d, **{f"{name}_mib": peaks[name], f"{name}_largest": d})
        for name in ("sdgd_loop", "sdgd_vmapped", "jax_jet"):
            if name in reference:
                scale = float(reference["jet"].abs().max())
                agree = max(agree, float((reference[name] - reference["jet"]).abs().max()) / scale)
        fast = {name: job for name, job in jobs.items() if name not in slow}
        if len(fast) > 1:
            times = compare(fast, repeats=repeats, warmup=0, min_seconds=0)
            seconds = {name: of | ({d: times[name]} if name in fast else {}) for name, of in seconds.items()}
            speedups |= {(name, d): times.speedup("jet", name).value for name in fast if name != "jet"}
        else:
            seconds["jet"][d] = min(measured(fast["jet"]) for _ in range(repeats))
        for name in jobs:
            run.log(step=d, **{f"{name}_seconds": seconds[name][d]})
        speedups |= {(name, d): seconds[name][d] / seconds["jet"][d] for name in slow}
        if d in options["compared"]:
            run.log(**{f"over_{name}_{d}": value for (name, at), value in speedups.items() if at == d})
            if "sdgd_loop" in peaks:
                run.log(**{f"memory_over_sdgd_loop_{d}": peaks["sdgd_loop"] / peaks["jet"]})
    low, high = options["growth"]
    run.log(agreement=agree, growth=seconds["jet"][high] / seconds["jet"][low],
            exponent=growth(list(seconds["jet"]), list(seconds["jet"].values())).exponent)  # fmt: skip
    run.log(values_agree=_agreement_in_double(run, options))


def _agreement_in_double(run: Run, options: dict[str, Any]) -> float:
    """Largest relative difference of jet and SDGD values in double precision, d = 100."""
    x = run.dataset.load(run.seed, d=100).double()
    f = OnBall(TanhNet(100, width=options["width"], generator=run.generator, dtype=torch.float64))
    index = coordinates(100, options["batch"], run.generator)
    ours, theirs = Local(f, x, index).laplacian(), baselines.sdgd(f, x, index)
    return float((ours - theirs).abs().max() / theirs.abs().max())


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Time and memory by dimension, log-log."""
    fig, axes = plotting.figure(columns=2, cols=2, height=8)
    for ax, kind, text in zip(axes, ("seconds", "mib"), ("time of a step (s)", "peak memory (MiB)"), strict=True):
        found = [
            history.assign(rival=NAMES[name])
            for name in NAMES
            if len(records) and not (history := rec.history(records, f"{name}_{kind}")).empty
        ]
        plotting.log_axis(ax, "xy")
        if not found:
            plotting.empty(ax)
            continue
        plotting.series(ax, pd.concat(found), "step", "value", by="rival")
        ax.set(xlabel="dimension d", ylabel=text)
    plotting.legend(fig)
    yield "cost", fig
