"""Momentum on structured positive-definite matrices without inverses, and training rules made of it
(Lin, Duruisseaux, Leok, Nielsen, Khan and Schmidt 2023, arXiv 2302.09738)."""

from .fisher_kl import fisher_kl, fixed_point, fixed_point_residual
from .gaussian_vi import GaussianVI
from .ingd import INGD
from .kfac import KFAC
from .momentum import RGDMomentum
from .spd import SPD, gnc_step, riemannian_grad, transport

__all__ = [
    "INGD",
    "KFAC",
    "SPD",
    "GaussianVI",
    "RGDMomentum",
    "fisher_kl",
    "fixed_point",
    "fixed_point_residual",
    "gnc_step",
    "riemannian_grad",
    "transport",
]
