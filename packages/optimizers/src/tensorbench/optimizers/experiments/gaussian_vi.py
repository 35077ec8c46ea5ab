"""Variational logistic regression: natural gradients in normal coordinates against Adam on mean and Cholesky factor.

What is judged is the exact negative evidence bound: under a Gaussian each sample's score xᵀθ is a Gaussian too, so that
the expectation is a one-dimensional integral, computed by Gauss and Hermite's rule. Its least value over all Gaussians
is found by L-BFGS and subtracted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional as F

from tensorbench.core import plotting
from tensorbench.core import records as rec
from tensorbench.core.run import Run
from tensorbench.optimizers.structured_ngd import GaussianVI
from tensorbench.optimizers.structured_ngd.structures import BlockDiagonal, BlockTriangular, Dense, LowerTriangular

STRUCTURES = {
    "dense": lambda n: Dense(n),
    "lower_triangular": lambda n: LowerTriangular(n),
    "diagonal": lambda n: BlockDiagonal(n, 1),
    "block_triangular": lambda n: BlockTriangular(n, 5),
}


class Posterior:
    """Logistic regression with a Gaussian prior; labels are folded into the rows of ``x``."""

    def __init__(self, x: np.ndarray, y: np.ndarray, prior_variance: float) -> None:
        self.x = torch.from_numpy(x * y[:, None])
        self.variance = prior_variance
        nodes, weights = np.polynomial.hermite_e.hermegauss(30)
        self.nodes, self.weights = torch.from_numpy(nodes), torch.from_numpy(weights / weights.sum())

    def logp(self, theta: Tensor) -> Tensor:
        return F.logsigmoid(theta @ self.x.T).sum(1) - theta.square().sum(1) / (2 * self.variance)

    def bound(self, mean: Tensor, L: Tensor) -> Tensor:
        """The divergence from the posterior less the log evidence, in nats."""
        centre, spread = self.x @ mean, (self.x @ L).norm(dim=1)
        fit = -(F.logsigmoid(centre[:, None] + spread[:, None] * self.nodes) @ self.weights).sum()
        n = len(mean)
        prior = (mean.square().sum() + L.square().sum()) / self.variance / 2 - n / 2
        return fit + prior + n / 2 * np.log(self.variance) - torch.linalg.slogdet(L)[1]


@cache
def _least(posterior: Posterior) -> float:
    from scipy.optimize import minimize

    n = posterior.x.shape[1]
    low = torch.tril_indices(n, n)

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        v = torch.from_numpy(flat).requires_grad_()
        L = torch.zeros(n, n, dtype=torch.float64).index_put((low[0], low[1]), v[n:])
        value = posterior.bound(v[:n], L)
        (g,) = torch.autograd.grad(value, v)
        return float(value), g.numpy()

    start = np.concatenate([np.zeros(n), 0.3 * np.eye(n)[tuple(low.numpy())]])
    return float(minimize(objective, start, jac=True, method="L-BFGS-B", options={"maxiter": 3000, "maxfun": 6000}).fun)


def natural(
    posterior: Posterior, run: Run, visit: Any, lr: float, steps: int, samples: int, structure: str, beta: float
) -> None:
    """GaussianVI with the reparametrised gradient."""
    n = posterior.x.shape[1]
    vi = GaussianVI(posterior.logp, STRUCTURES[structure](n), lr=lr, beta=beta, samples=samples, scale=0.3,
                    generator=run.generator)  # fmt: skip
    for k in range(1, steps + 1):
        try:
            vi.step()
        except ValueError:
            return visit(k, torch.full((n,), torch.nan, dtype=torch.float64), vi.L)
        visit(k, vi.mean, vi.L)
    return None


def adam_cholesky(posterior: Posterior, run: Run, visit: Any, lr: float, steps: int, samples: int) -> None:
    """Adam on the mean and a lower-triangular factor with log diagonal, the same draws and start."""
    n, generator = posterior.x.shape[1], run.generator
    mean = torch.zeros(n, dtype=torch.float64, requires_grad=True)
    strict = torch.zeros(n, n, dtype=torch.float64, requires_grad=True)
    logs = torch.full((n,), float(np.log(0.3)), dtype=torch.float64, requires_grad=True)
    adam = torch.optim.Adam([mean, strict, logs], lr=lr)
    half = samples // 2
    for k in range(1, steps + 1):
        e = torch.randn(samples - half, n, generator=generator, dtype=torch.float64)
        e = torch.cat([e, -e[:half]])
        adam.zero_grad()
        L = strict.tril(-1) + torch.diag(logs.exp())
        (-posterior.logp(mean + e @ L.T).mean() - logs.sum()).backward()
        adam.step()
        with torch.no_grad():
            visit(k, mean.detach(), strict.tril(-1) + torch.diag(logs.exp()))


METHODS: dict[str, Callable[..., None]] = {"natural": natural, "adam_cholesky": adam_cholesky}


def run(run: Run) -> None:
    """Fit; log the exact bound above the least one."""
    options = dict(run.method.params)
    every = options.pop("every")
    posterior = Posterior(*run.dataset.load(run.seed))
    history: list[tuple[int, float]] = []
    last: list[Tensor] = []

    def visit(k: int, mean: Tensor, L: Tensor) -> None:
        last[:] = [mean, L]
        if run.trial is None and (k % every == 0 or k == 1):
            history.append((k, float(posterior.bound(mean, L))))

    METHODS[run.method.uses](posterior, run, visit, **options)
    final = float(posterior.bound(*last))
    score = final if np.isfinite(final) else 1e9
    if run.trial is not None:
        run.log(bound=score)
        return
    least = _least(posterior)
    for k, value in history:
        if np.isfinite(value):
            run.log(step=k, excess=max(value - least, 1e-12))
    run.log(bound=final, least_bound=least, excess=final - least)


def figures(records: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Excess against steps."""
    fig, ax = plotting.figure(height=7)
    history = rec.history(records, "excess") if len(records) else None
    if history is None or history.empty:
        plotting.empty(ax)
    else:
        plotting.series(ax, history, "step", "value", log="y")
        ax.set(xlabel="steps", ylabel="negative evidence bound\nabove the least one (nats)")
        plotting.legend(fig)
    yield "bound", fig
