"""Surfaces: a tracking step and its Jacobians, curvature of many points, a cone program, on one thread.

    OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python packages/radiance_fields/benchmarks/surfaces.py

The ledger's rows on speed are those of ``radiance_fields/surface_speed``, which compares the same steps.
"""

from __future__ import annotations

import logging

import numpy as np
import torch

from tensorbench.core.timing import compare, measure
from tensorbench.radiance_fields.experiments.surface_speed import NAMES, Step
from tensorbench.radiance_fields.surfaces.baselines.socp import reconstruct
from tensorbench.radiance_fields.surfaces.geometry import from_derivatives, geometry
from tensorbench.radiance_fields.surfaces.nets import SurfaceNet
from tensorbench.radiance_fields.surfaces.registration import register
from tensorbench.radiance_fields.surfaces.sequences import developable_sequence

logger = logging.getLogger("benchmark")


def main() -> None:
    """Measure and report."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    sequence = developable_sequence("cylinder", seed=0, frames=1, curvature=0.2, side=10)
    generator = torch.Generator().manual_seed(0)
    registered = register(SurfaceNet(generator=generator), sequence.template, rng=np.random.default_rng(0))

    seconds = compare({name: Step(registered, sequence, 100, name, 0) for name in NAMES}, repeats=3)
    for name, label in NAMES.items():
        logger.info("step at 100 control and 200 tracked points, %s: %.2f ms (goal 6)", label, 1000 * seconds[name])

    net, uv = registered.net.requires_grad_(False), torch.rand(20_000, 2, generator=generator) - 0.5

    def jets() -> None:
        from_derivatives(net(uv), net.jacobian(uv), net.second_derivatives(uv))

    seconds = compare({"jets": jets, "jvp of jvp": lambda: geometry(net, uv)}, repeats=3)
    logger.info("curvature of 20,000 points: jets %.3f s, nested jvp %.3f s", *seconds.values())

    with measure() as cost:
        found = reconstruct(sequence.camera, sequence.template, sequence.observations[0])
    logger.info("cone program, 10 × 10 vertices: %.2f s (goal 5), edges exceed by %.1e", cost.seconds, found.excess)


if __name__ == "__main__":
    main()
