"""Products with the Hessian and Lanczos against a gradient, PyHessian and curvlinops, one process, one thread.

    OMP_NUM_THREADS=1 python packages/optimizers/benchmarks/curvature.py

Prints milliseconds on a perceptron (64-128-128-10) and all 1197 training digits, and each in units of ours.
"""

from __future__ import annotations

import torch
from torch import nn

from tensorbench.core.data import load
from tensorbench.core.timing import compare
from tensorbench.optimizers import autodiff, curvature, linops, probes
from tensorbench.optimizers.experiments.curvature_speed import pyhessian_density
from tensorbench.optimizers.flat import flatten, trainable
from tensorbench.optimizers.tasks import images

STEPS = 20


def main() -> None:
    from curvlinops import HessianLinearOperator

    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    batch = images.prepare(load("digits", seed=0)).train
    model = images.perceptron(generator, activation="tanh")
    params, closure = trainable(model), autodiff.objective(model, images.loss, batch)
    v = probes.gaussian(flatten(params).detach(), generator)
    op = curvature.hessian_operator(closure, params)
    theirs = HessianLinearOperator(model, nn.CrossEntropyLoss(), params, [batch], check_deterministic=False)

    def density() -> linops.Density:
        return linops.slq_density(curvature.hessian_operator(closure, params), STEPS, 1, generator, "rademacher")

    for title, ours, work in (
        ("one product", "graph kept", {
            "graph kept": lambda: op @ v,
            "from scratch": lambda: autodiff.hvp(closure, params, autodiff.unflatten(v, params)),
            "gradient": lambda: autodiff.grad(closure(), params),
            "curvlinops": lambda: theirs @ v,
        }),
        (f"density, {STEPS} steps", "ours", {
            "ours": density,
            "pyhessian": lambda: pyhessian_density(model, batch, STEPS),
        }),
    ):  # fmt: skip
        seconds = compare(work, repeats=3)
        for name, value in seconds.items():
            print(f"{title:20s} {name:13s} {1000 * value:8.2f} ms {seconds.ratio(name, ours).value:6.2f}x")


if __name__ == "__main__":
    main()
