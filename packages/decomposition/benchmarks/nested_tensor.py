"""Speed of the nested matrix-tensor model's pieces against the same work done the ordinary way.

    OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python packages/decomposition/benchmarks/nested_tensor.py

Prints ratios measured in one process (one thread with the variables above):

- rank_one: TensorLy's `parafac` of rank one (SVD start, at most 100 iterations) over `rank_one_tensor`, 150 x 300 x 60;
- theory: alignments at 100 |mu| by root finding on the fixed-point iteration, as in the authors' code, over `solve`;
- phase_diagram: 25 cells of a phase diagram from explicit tensors over `SecondGrams`, 150 x 100 x 50;

and seconds and MiB of one pass for the Gram matrix of the second unfolding, 600 x 400 x 200, in slabs.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import brentq

from tensorbench.core.timing import compare, measure
from tensorbench.decomposition.baselines.cp import tensorly_als
from tensorbench.decomposition.linalg import gram, streaming_gram
from tensorbench.decomposition.spiked import tensor_theory
from tensorbench.decomposition.spiked.estimators import rank_one_tensor
from tensorbench.decomposition.spiked.nested import NestedModel, SecondGrams, multiview

DIMS = (150, 300, 60)


def rank_one() -> float:
    T = multiview(*DIMS, mu_norm=2.0, h_norm=1.5, generator=0).sample().T
    seconds = compare(
        {"ours": lambda: rank_one_tensor(T), "peer": lambda: tensorly_als(T, 1, init="svd", iterations=100)}, repeats=3
    )
    return seconds["peer"] / seconds["ours"]


def by_fixed_point(beta_M: float, beta_T: float, edge: float) -> float:
    """q_y by Brent's method over the complex fixed-point iteration, which starts anew at every xi."""
    c = np.array(DIMS) / sum(DIMS)

    def at(xi: float) -> tuple[float, float]:
        g = tensor_theory.stieltjes(xi, DIMS, beta_T, tol=1e-8)
        gamma = beta_T**2 * (1 - g[2] ** 2 / c[2]) / (c[0] + c[1])
        q = np.sqrt(1 - np.array([1 + gamma, 1 + gamma, 1]) * g**2 / c)
        return xi + (1 + gamma) * g.sum() - gamma * g[2] - beta_T * beta_M * q.prod(), float(q[1])

    return at(brentq(lambda xi: at(xi)[0], edge + 1e-3, 2 * beta_T * beta_M + 5, xtol=1e-5))[1]


def theory() -> float:
    beta_T, mu = 1.5, np.linspace(1.2, 5, 100)
    edge = tensor_theory.bulk_edge(DIMS, beta_T)
    slow = [by_fixed_point(value, beta_T, edge) for value in mu]
    np.testing.assert_allclose(slow, tensor_theory.solve(DIMS, mu, beta_T).q_y, atol=1e-4)
    seconds = compare(
        {
            "ours": lambda: tensor_theory.solve(DIMS, mu, beta_T),
            "peer": lambda: [by_fixed_point(value, beta_T, edge) for value in mu],
        },
        repeats=3,
        warmup=0,
    )
    return seconds["peer"] / seconds["ours"]


def phase_diagram() -> float:
    draw = NestedModel((150, 100, 50), 1.0, rho_T=1.0, generator=0).draw()
    cells = [(b, t) for b in np.linspace(0.5, 3, 5) for t in np.linspace(0.5, 3, 5)]

    def shared() -> None:
        grams = SecondGrams(draw)
        for cell in cells:
            grams(*cell)

    def explicit() -> None:
        for cell in cells:
            gram(draw.with_strengths(*cell).tensor(), 1)

    seconds = compare({"shared": shared, "explicit": explicit}, repeats=3)
    return seconds["explicit"] / seconds["shared"]


def main() -> None:
    for function in (rank_one, theory, phase_diagram):
        print(f"{function.__name__:14s} {function():8.1f}x")
    draw = NestedModel((600, 400, 200), 1.5, rho_T=2.0, generator=0).draw()
    with measure() as cost:
        streaming_gram(draw.slabs(), 1)
    print(f"{'streaming_gram':14s} {cost.seconds:8.2f} s, {cost.peak_mib:.0f} MiB")


if __name__ == "__main__":
    main()
