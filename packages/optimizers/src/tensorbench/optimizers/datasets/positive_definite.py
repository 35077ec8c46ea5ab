"""What positive-definite matrices are estimated from: planted problems, a mixture on iris, layers' statistics."""

from __future__ import annotations

from typing import Any

import numpy as np

from tensorbench.core.data import dataset


@dataset(title="Planted problems over positive-definite matrices", source="generated here", licence="Apache-2.0",
         generated=True, cache=False)  # fmt: skip
def spd_problem(*, seed: int, kind: str = "log_determinant", d: int = 40) -> Any:
    """A :class:`tensorbench.optimizers.structured_ngd.problems.Problem` of d × d matrices."""
    import torch

    from tensorbench.optimizers.structured_ngd.problems import problem

    return problem(kind, d, torch.Generator().manual_seed(seed))


@dataset(
    title="Gaussian mixture on iris: 150 flowers, 4 lengths, 3 components",
    source="scikit-learn (Fisher 1936)",
    licence="BSD-3-Clause",
    library="scikit-learn",
)
def iris_mixture(*, seed: int, components: int = 3) -> Any:
    """The mixture's likelihood as a problem over three 5 × 5 matrices; the seed draws the start."""
    import torch
    from sklearn.datasets import load_iris

    from tensorbench.optimizers.structured_ngd.problems import gaussian_mixture

    x = load_iris().data
    x = torch.from_numpy((x - x.mean(0)) / x.std(0))
    return gaussian_mixture(x, components, torch.Generator().manual_seed(seed))


@dataset(title="Kronecker statistics of random layers", source="generated here", licence="Apache-2.0", generated=True,
         cache=False)  # fmt: skip
def wishart_statistics(
    *, seed: int, sizes: tuple[tuple[int, int], ...] | list[list[int]] = ((40, 20), (20, 10))
) -> list[tuple[np.ndarray, np.ndarray]]:
    """(U, G) of layers with p inputs and d outputs, second moments of Gaussians whose variances fall as 1/rank²."""
    rng = np.random.default_rng(seed)

    def moments(n: int) -> np.ndarray:
        x = rng.standard_normal((4 * n, n)) / np.arange(1, n + 1)
        x = x @ np.linalg.qr(rng.standard_normal((n, n)))[0]
        return x.T @ x / len(x)

    return [(moments(p), moments(d)) for p, d in sizes]


@dataset(
    title="Kronecker statistics of a perceptron on digits",
    source="scikit-learn (UCI, optical recognition of handwritten digits)",
    licence="CC-BY-4.0",
    library="scikit-learn",
)
def digits_statistics(
    *, seed: int, widths: list[int] | tuple[int, ...] = (64, 32, 10), steps: int = 50
) -> list[tuple[np.ndarray, np.ndarray]]:
    """(U, G) in float64 of each layer of a perceptron after ``steps`` of SGD, over the training part, with labels drawn
    from the model's prediction (so that G ⊗ U stands for the Fisher matrix)."""
    import torch
    from torch.nn import functional as F

    from tensorbench.core.data import load
    from tensorbench.optimizers.kron import KroneckerStatistics
    from tensorbench.optimizers.tasks import images

    generator = torch.Generator().manual_seed(seed)
    part = images.prepare(load("digits", seed=seed), dtype=torch.float64).train
    model = images.perceptron(generator, widths).to(torch.float64)
    sgd = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    batches = images.batches(part, generator)
    for _ in range(steps):
        sgd.zero_grad()
        images.loss(model, next(batches)).backward()
        sgd.step()
    with KroneckerStatistics(model) as statistics:
        scores = model(part[0])
        drawn = torch.multinomial(scores.detach().softmax(1), 1, generator=generator)[:, 0]
        F.cross_entropy(scores, drawn).backward()
    return [(statistics[name].U.numpy(), statistics[name].G.numpy()) for name in statistics.layers]


@dataset(
    title="Breast cancer (Wisconsin, diagnostic): 569 samples, 30 measurements",
    source="scikit-learn (UCI)",
    licence="CC-BY-4.0",
    library="scikit-learn",
)
def cancer_posterior(*, seed: int, prior_variance: float = 1.0) -> tuple[np.ndarray, np.ndarray, float]:
    """Standardised measurements with a column of ones, labels ±1, and the prior variance of the weights; the same for
    every seed."""
    from sklearn.datasets import load_breast_cancer

    x, y = load_breast_cancer(return_X_y=True)
    x = (x - x.mean(0)) / x.std(0)
    return np.c_[x, np.ones(len(x))], 2.0 * y - 1.0, prior_variance
