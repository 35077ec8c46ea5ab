"""The Stochastic Taylor Derivative Estimator (Shi, Hu, Lin, Kawaguchi, NeurIPS 2024, arXiv 2412.00088).

Estimators of differential operators from jets along random tangents (:mod:`.estimators`), a network's residual with a
sampled operator of the user's own (:mod:`.local`, :mod:`.pinn`), the paper's problems (:mod:`.problems`,
:mod:`.parabolic`, :mod:`.low_order`), and Laplacians by other means (:mod:`.baselines`).
"""

from tensorbench.pde_operators.stde.estimators import (
    biharmonic_stde,
    dense_stde,
    dense_variance,
    high_order_diagonal,
    second_order_stde,
    sparse_stde,
    sparse_variance,
)  # fmt: skip
from tensorbench.pde_operators.stde.local import Local
from tensorbench.pde_operators.stde.networks import OnBall, TanhNet
from tensorbench.pde_operators.stde.pinn import StochasticPinn
from tensorbench.pde_operators.stde.problems import Problem, problem
from tensorbench.pde_operators.stde.sampling import ball, coordinates, probes

__all__ = [
    "Local", "OnBall", "Problem", "StochasticPinn", "TanhNet", "ball", "biharmonic_stde", "coordinates", "dense_stde",
    "dense_variance", "high_order_diagonal", "probes", "problem", "second_order_stde", "sparse_stde", "sparse_variance",
]  # fmt: skip
