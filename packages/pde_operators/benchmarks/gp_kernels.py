"""Spectral-mixture covariances: Toeplitz factors from N lags beside dense evaluation and gpytorch, on one thread.

    OMP_NUM_THREADS=1 python packages/pde_operators/benchmarks/gp_kernels.py

Peer: gpytorch's ``SpectralMixtureKernel`` (values only; it has no derivatives). Kronecker algebra beside dense matrices
is an experiment (``pde_operators/gp_kronecker``).
"""

from __future__ import annotations

import logging

import torch

from tensorbench.core.timing import compare
from tensorbench.pde_operators.kernels import gaussian_mixture
from tensorbench.pde_operators.kronecker import toeplitz

logger = logging.getLogger("benchmark")


def main() -> None:
    """Measure and report."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(1)
    import gpytorch

    kernel, peer = gaussian_mixture(30, 20.0), gpytorch.kernels.SpectralMixtureKernel(num_mixtures=30).double()
    for n in (200, 1000):
        x = torch.linspace(0, 1, n, dtype=torch.float64)

        def with_gradient(make, module) -> None:
            torch.autograd.grad(make().sum(), [p for p in module.parameters() if p.requires_grad], allow_unused=True)

        jobs = {
            "toeplitz": lambda x=x: with_gradient(lambda: toeplitz(kernel(x)), kernel),
            "dense": lambda x=x: with_gradient(lambda: kernel(x[:, None] - x[None, :]), kernel),
            "gpytorch": lambda x=x: with_gradient(lambda: peer(x[:, None]).to_dense(), peer),
        }
        seconds = compare(jobs, repeats=3)
        logger.info(
            "N = %d, Q = 30, values and gradient: Toeplitz %.4f s; dense %.0f times, gpytorch %.0f times slower",
            n,
            seconds["toeplitz"],
            seconds.ratio("dense", "toeplitz").value,
            seconds.ratio("gpytorch", "toeplitz").value,
        )


if __name__ == "__main__":
    main()
