"""KFAC, the baseline: running averages of U and G, inverted or decomposed every T steps (Martens and Grosse 2015,
arXiv 1503.05671), as the code that accompanies arXiv 2302.09738 has it.

With ``eig=False`` the gradient becomes (G + λI)⁻¹ · gradient · (U + λI)⁻¹; with ``eig=True`` (G ⊗ U + λI)⁻¹ times it,
in the factors' eigenbases.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..base import Check, share
from ..kron import Average, LayerStatistics, Shared
from .layerwise import KroneckerOptimizer, Others

_TINY = 1e-10  # eigenvalues below count as zero


class KFAC(KroneckerOptimizer):
    """KFAC on a model's Linear and Conv2d layers; arguments as for ``INGD``.

    Args:
        eig: damp the product of the factors in their eigenbases instead of each factor.
        decay: of the running averages, which start at the identity.
        dtype: of statistics and factors. LAPACK has no half precision: inverses and eigenvectors are then computed in
            float32 and rounded, or, with ``cast=False``, torch's error is raised.
    """

    checks: ClassVar[Mapping[str, Check]] = {**KroneckerOptimizer.checks, "decay": share}

    def __init__(
        self,
        model: nn.Module,
        lr: float = 1e-2,
        *,
        eig: bool = False,
        damping: float = 1e-3,
        decay: float = 0.95,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        T: int = 10,
        dtype: torch.dtype | None = None,
        cast: bool = True,
        shared: Shared | None = None,
        average: Average = "batch",
        others: Others = "refuse",
        params: Iterable[Any] | None = None,
    ) -> None:
        self._eig, self._cast = eig, cast
        defaults = {
            "lr": lr, "damping": damping, "decay": decay, "momentum": momentum, "weight_decay": weight_decay, "T": T,
        }  # fmt: skip
        super().__init__(model, defaults, params=params, dtype=dtype, shared=shared, average=average, others=others)

    def _start(
        self, p: int, d: int, dtype: torch.dtype, device: torch.device, group: dict[str, Any]
    ) -> dict[str, Tensor]:
        U, G = torch.eye(p, dtype=dtype, device=device), torch.eye(d, dtype=dtype, device=device)
        factors = {"U": U, "G": G, "QU": U.clone(), "QG": G.clone()}
        if self._eig:
            factors |= {"eU": U.diagonal().clone(), "eG": G.diagonal().clone()}
        return factors

    def _refresh(self, factors: dict[str, Tensor], new: LayerStatistics, group: dict[str, Any]) -> None:
        for side, fresh in zip(("U", "G"), new.split(), strict=True):
            average = factors[side].mul_(group["decay"]).add_(fresh, alpha=1 - group["decay"])
            working = average.float() if self._cast and average.dtype in (torch.bfloat16, torch.float16) else average
            if self._eig:
                values, vectors = torch.linalg.eigh(working)
                factors["e" + side].copy_(values * (values > _TINY))
                factors["Q" + side].copy_(vectors)
            else:
                eye = torch.eye(len(working), dtype=working.dtype, device=working.device)
                factors["Q" + side].copy_(torch.linalg.inv(working + group["damping"] * eye))

    def _precondition(
        self, factors: dict[str, Tensor], gradient: Float[Tensor, "d p"], group: dict[str, Any]
    ) -> Float[Tensor, "d p"]:
        QU, QG = factors["QU"], factors["QG"]
        gradient = gradient.to(QU.dtype)
        if not self._eig:
            return QG @ gradient @ QU
        inside = QG.T @ gradient @ QU / (torch.outer(factors["eG"], factors["eU"]) + group["damping"])
        return QG @ inside @ QU.T
