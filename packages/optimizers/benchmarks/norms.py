"""Steps under matrix norms beside the libraries that make the same ones, on one thread.

    OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python packages/optimizers/benchmarks/norms.py

Peers: torch's Muon, Shampoo of pytorch_optimizer, Prodigy of its authors, Riemannian SGD of geoopt. What a step costs
beside AdamW's, and orthogonalising beside the singular value decomposition, are experiments
(``optimizers/norms_speed``, ``optimizers/norm_loss_speed``).
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import geoopt
import prodigyopt
import pytorch_optimizer
import torch
from torch import nn

from tensorbench.core.timing import compare
from tensorbench.optimizers.norm_descent import SpectralDescent
from tensorbench.optimizers.norms import Spectral
from tensorbench.optimizers.prodigy import Prodigy
from tensorbench.optimizers.shampoo import Shampoo
from tensorbench.optimizers.weight_regularizers import create

logger = logging.getLogger("benchmark")
SHAPES = [(192, 64), (64, 64), (256, 64), (64, 256)] * 4


def step_of(make: Callable[[list[nn.Parameter]], torch.optim.Optimizer]) -> Callable[[], object]:
    """A step on weights of the character model's shapes with fixed gradients."""
    generator = torch.Generator().manual_seed(0)
    params = [nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]
    for p in params:
        p.grad = torch.randn(p.shape, generator=generator)
    return make(params).step


def main() -> None:
    """Measure and report."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    quintic = Spectral(scaling="muon", method="quintic", flatten=False)
    pairs = {
        "quintic steps with momentum, torch's Muon": (
            lambda p: SpectralDescent(p, 1e-3, quintic, momentum=0.95, nesterov=True),
            lambda p: torch.optim.Muon(p, 1e-3, momentum=0.95, weight_decay=0.0),
        ),
        "Shampoo, pytorch_optimizer's": (
            lambda p: Shampoo(p, 1e-3),
            lambda p: pytorch_optimizer.Shampoo(p, lr=1e-3),
        ),
        "Prodigy, prodigyopt's": (lambda p: Prodigy(p), lambda p: prodigyopt.Prodigy(p)),
    }
    for name, (ours, theirs) in pairs.items():
        seconds = compare({"ours": step_of(ours), "theirs": step_of(theirs)}, repeats=5)
        logger.info("%s: %.2f ms, %.2f ms", name, 1000 * seconds["ours"], 1000 * seconds["theirs"])

    layers = [*(nn.Linear(into, out, bias=False) for out, into in SHAPES), nn.Linear(256, 10)]
    net = nn.Sequential(*layers)
    reg = create("riemannian", net)
    weights = [layer.weight for layer in layers[:-1]]
    peers = [geoopt.ManifoldParameter(w.detach().clone(), manifold=geoopt.Sphere()) for w in weights]
    for w, p in zip(weights, peers, strict=True):
        w.grad = torch.randn_like(w)
        p.grad = w.grad.clone()
    sgd, peer = torch.optim.SGD(weights, lr=1e-3), geoopt.optim.RiemannianSGD(peers, lr=1e-3)

    def riemannian() -> None:
        reg.before_step()
        sgd.step()
        reg.after_step(1e-3)

    seconds = compare({"ours": riemannian, "theirs": peer.step}, repeats=5)
    logger.info("unit rows, geoopt's: %.2f ms, %.2f ms", 1000 * seconds["ours"], 1000 * seconds["theirs"])


if __name__ == "__main__":
    main()
