"""Every optimizer that has a learning rate by name, ours and the baselines: ``create("adahessian", model, lr=0.15)``.

An entry is a function of the model, the learning rate and options, since several rules need to know which parameter
is a matrix, an embedding or a bias, or need hooks in the model. What comes back steps as ``base`` describes; where
``needs_graph`` is true its closure returns the loss without a backward pass. ``tensorbench.core.training.fit`` trains
with any of them, and with the tensor methods (``inexact_tensor.torch_optimizers``), which take constants of the loss
instead."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from tensorbench.core.errors import unknown

from . import baselines
from .adahessian import AdaHessian
from .base import positive
from .m_fac import MFAC
from .norm_descent import SignDescent
from .norm_descent import modular as modular_descent
from .norm_loss import DecoupledNormLoss, layers
from .psgd import PSGD
from .shampoo import Shampoo
from .structured_ngd.ingd import INGD
from .structured_ngd.kfac import KFAC


def modular(model: nn.Module, lr: float, **options: Any) -> Any:
    """Steepest descent under a norm for each role, one learning rate for all (``norm_descent``)."""
    return modular_descent(model, lr, **options)


def sign(model: nn.Module, lr: float, momentum: float = 0.9) -> Any:
    """Steepest descent under the entrywise maximum norm: Adam without its averages (``norm_descent``)."""
    return SignDescent(model.parameters(), lr, momentum=momentum)


def shampoo_averaged(model: nn.Module, lr: float, every: int = 10, **options: Any) -> Any:
    """This package's Shampoo: roots of the summed statistics every ``every`` steps, momentum (``norm_descent``)."""
    return Shampoo(model.parameters(), lr, **{"beta": 1.0, "update_every": every, "momentum": 0.9} | options)


def adahessian(model: nn.Module, lr: float, **options: Any) -> Any:
    return AdaHessian(model.parameters(), lr, **options)


def m_fac(model: nn.Module, lr: float, ngrads: int = 128, **options: Any) -> Any:
    """Natural gradient with the empirical Fisher of the last ``ngrads`` batches (``m_fac``)."""
    return MFAC(model.parameters(), lr=lr, ngrads=ngrads, **options)


def ingd(model: nn.Module, lr: float, others: str = "sgd", **options: Any) -> Any:
    """Kronecker-factored natural gradient without inverses (``structured_ngd``); other parameters get SGD."""
    return INGD(model, lr, others=others, **options)  # type: ignore[arg-type]


def kfac(model: nn.Module, lr: float, others: str = "sgd", **options: Any) -> Any:
    """KFAC with damped inverses; with ``eig=True`` damped in the eigenbases."""
    return KFAC(model, lr, others=others, **options)  # type: ignore[arg-type]


def kfac_eig(model: nn.Module, lr: float, **options: Any) -> Any:
    return kfac(model, lr, eig=True, **options)


def psgd_kron(model: nn.Module, lr: float, **options: Any) -> Any:
    """PSGD, Kronecker factors that whiten the gradients (``hessian_fitting``)."""
    return PSGD(model.parameters(), lr, kind="kron", **{"momentum": 0.9, "whiten_momentum": True} | options)


def psgd_lra(model: nn.Module, lr: float, **options: Any) -> Any:
    """PSGD, one low-rank factor for all parameters, whitening (``hessian_fitting``)."""
    return PSGD(model.parameters(), lr, kind="lra", **{"rank": 10, "momentum": 0.9} | options)


def psgd_newton(model: nn.Module, lr: float, **options: Any) -> Any:
    """PSGD, Kronecker factors fitted to Hessian-vector products (``hessian_fitting``)."""
    chosen = {"momentum": 0.9, "grad_clip_max_norm": 1.0} | options
    return PSGD(model.parameters(), lr, kind="kron", whiten=False, **chosen)


def sgd_norm_loss(model: nn.Module, lr: float, factor: float = 1e-2) -> Any:
    """SGD whose weights' rows are pulled towards norm one, classifier excepted (``norm_loss``)."""
    weights = [module.weight for module in layers(model).values()]
    return DecoupledNormLoss(baselines.sgd(model, lr), factor, weights)  # type: ignore[arg-type]


METHODS: dict[str, Callable[..., Any]] = {
    **baselines.BASELINES,
    "modular": modular,
    "sign": sign,
    "shampoo_averaged": shampoo_averaged,
    "adahessian": adahessian,
    "m_fac": m_fac,
    "ingd": ingd,
    "kfac": kfac,
    "kfac_eig": kfac_eig,
    "psgd_kron": psgd_kron,
    "psgd_lra": psgd_lra,
    "psgd_newton": psgd_newton,
    "sgd_norm_loss": sgd_norm_loss,
}


def create(name: str, model: nn.Module, lr: float, **options: Any) -> Any:
    """The optimizer called ``name`` for all parameters of ``model``.

    Raises:
        ValueError: an unknown name (with the nearest valid one), a learning rate that is not positive.
        TypeError: an option that the method does not have.
        ImportError: a baseline whose library is not installed.
    """
    if name not in METHODS:
        raise ValueError(unknown("optimizer", name, sorted(METHODS)))
    return METHODS[name](model, positive("lr", lr), **options)
