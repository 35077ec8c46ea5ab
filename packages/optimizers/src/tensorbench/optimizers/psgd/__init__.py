"""Preconditioners fitted from pairs (X.-L. Li, 2024, arXiv 2402.11858), and PSGD, the optimizer that they make."""

from .euclidean import BFGS, SPDGD, ClosedForm, EuclidGD
from .fitter import Fitter
from .fitting_criterion import criterion, gradient, minimiser, minimum, strong_convexity_probe
from .inverse_free import PRO4P, QEP, QEQ, QUAD, InverseFree, Q0p5EQ1p5, procrustes_step
from .kronecker import Kron, balance_kron
from .lie_groups import Diagonal, GLn, Triangular
from .low_rank import LowRank
from .norm_bounds import norm_lower_bound, norm_lower_bound_spd
from .optimizer import PSGD
from .pairs import DriftingPairs, LossPairs, MatrixPairs, PairSource, WhiteningPairs, hvp_pairs, tridiagonal

__all__ = [
    "BFGS", "PRO4P", "PSGD", "QEP", "QEQ", "QUAD", "SPDGD", "ClosedForm", "Diagonal", "DriftingPairs", "EuclidGD",
    "Fitter", "GLn", "InverseFree", "Kron", "LossPairs", "LowRank", "MatrixPairs", "PairSource", "Q0p5EQ1p5",
    "Triangular", "WhiteningPairs", "balance_kron", "criterion", "gradient", "hvp_pairs", "minimiser", "minimum",
    "norm_lower_bound", "norm_lower_bound_spd", "procrustes_step", "strong_convexity_probe", "tridiagonal",
]  # fmt: skip
