"""The rules that everybody has, made in one call from a model: torch's own, and those of the library pytorch_optimizer.

Each takes the model, because some treat matrices, embeddings and vectors apart. Weight decay is off unless asked for,
so that rules are compared and not their defaults."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from .together import Together

Made = torch.optim.Optimizer


def sgd(model: nn.Module, lr: float, momentum: float = 0.9, nesterov: bool = True, weight_decay: float = 0.0) -> Made:
    """Stochastic gradient descent with Nesterov's momentum."""
    return torch.optim.SGD(model.parameters(), lr, momentum=momentum, nesterov=nesterov, weight_decay=weight_decay)


def adam(model: nn.Module, lr: float, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8) -> Made:
    return torch.optim.Adam(model.parameters(), lr, betas=(betas[0], betas[1]), eps=eps)


def adamw(
    model: nn.Module,
    lr: float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.01,
) -> Made:
    return torch.optim.AdamW(model.parameters(), lr, betas=(betas[0], betas[1]), eps=eps, weight_decay=weight_decay)


def lbfgs(model: nn.Module, lr: float, evaluations: int = 4, history: int = 10) -> Made:
    """L-BFGS on each batch, at most ``evaluations`` of the loss a step, no line search."""
    return torch.optim.LBFGS(
        model.parameters(), lr, max_iter=evaluations, max_eval=evaluations, history_size=history, line_search_fn=None
    )


def matrices_apart(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Hidden matrices (2-D weights that are neither embeddings nor the last layer), and everything else."""
    modules = [m for m in model.modules() if isinstance(m, nn.Linear)]
    last = modules[-1].weight if modules else None
    inner = {id(m.weight) for m in modules if m.weight is not last}
    parameters = list(model.parameters())
    return [p for p in parameters if id(p) in inner], [p for p in parameters if id(p) not in inner]


def muon(model: nn.Module, lr: float, momentum: float = 0.95, rest_lr: float = 3e-3) -> Made:
    """torch's Muon on hidden matrices, AdamW on the rest with a learning rate that moves along with ``lr``.

    ``rest_lr`` is AdamW's learning rate where ``lr`` is Muon's usual 0.02.

    Raises:
        ValueError: no hidden matrices: torch's Muon does not take convolutions.
    """
    matrices, rest = matrices_apart(model)
    if not matrices:
        raise ValueError("torch's Muon takes matrices only and this model has no hidden ones; use modular instead")
    hidden = torch.optim.Muon(matrices, lr, momentum=momentum, weight_decay=0.0)
    return Together(hidden, torch.optim.AdamW(rest, rest_lr * lr / 0.02, weight_decay=0.0))


def _library(name: str) -> Callable[..., torch.optim.Optimizer]:
    try:
        import pytorch_optimizer
    except ImportError as error:
        raise ImportError(
            f"{name} comes from pytorch_optimizer: pip install 'tensorbench-optimizers[bench]'"
        ) from error
    return getattr(pytorch_optimizer, name)


def shampoo(model: nn.Module, lr: float, momentum: float = 0.0, every: int = 10) -> Made:
    """Gupta et al. (2018, arXiv 1802.09568); roots of the statistics every ``every`` steps.

    Without momentum, the library's default: it mixes its momentum into the gradient before the statistics are taken,
    and with 0.9 small problems blew up at any learning rate.
    """
    return _library("Shampoo")(model.parameters(), lr=lr, momentum=momentum, preconditioning_compute_steps=every)


def soap(model: nn.Module, lr: float, every: int = 10) -> Made:
    """Adam in the eigenbasis of Shampoo (Vyas et al. 2024, arXiv 2409.11321)."""
    return _library("SOAP")(model.parameters(), lr=lr, weight_decay=0.0, precondition_frequency=every)


def prodigy(model: nn.Module, lr: float) -> Made:
    """Mishchenko and Defazio (2024, arXiv 2306.06101); ``lr`` multiplies the step size that it finds."""
    return _library("Prodigy")(model.parameters(), lr=lr)


def psgd_library(model: nn.Module, lr: float) -> Made:
    """PSGD with Kronecker factors as the library has it, whitening gradients."""
    return _library("Kron")(model.parameters(), lr=lr)


BASELINES: dict[str, Callable[..., Any]] = {
    "sgd": sgd,
    "adam": adam,
    "adamw": adamw,
    "lbfgs": lbfgs,
    "muon": muon,
    "shampoo": shampoo,
    "soap": soap,
    "prodigy": prodigy,
    "psgd_library": psgd_library,
}
