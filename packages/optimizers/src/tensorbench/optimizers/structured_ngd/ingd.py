"""Inverse-free natural gradient descent: KFAC whose factors' inverses are learned by matrix products alone
(Lin et al. 2023, arXiv 2302.09738, section 4; with structured factors as in Lin et al. 2024, arXiv 2312.05705).

Every T steps each layer's A and B (of the preconditioner B Bᵀ · gradient · A Aᵀ) move down the Kullback-Leibler
divergence of :mod:`.fisher_kl` in normal coordinates,

    mA ← β₂ mA + gA,   A ← A (I − lr₁ mA),   and B alike,

the first-order cut of the exponential map, which keeps to additions and products and so works in half precision.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..base import Check, positive, share
from ..kron import Average, LayerStatistics, Shared
from .fisher_kl import gradients
from .layerwise import KroneckerOptimizer, Others
from .structures import STRUCTURES, Dense, Structure, structure

# Until which step (exclusive) which lr₁ holds, before ``lr_cov`` does: the reference code's.
WARMUP: tuple[tuple[int, float], ...] = ((101, 2e-4), (500, 2e-3))
_SUPPORTED = [name for name in STRUCTURES if name != "kronecker"]


class INGD(KroneckerOptimizer):
    """Inverse-free natural gradient descent on a model's Linear and Conv2d layers.

    Args:
        lr, momentum, weight_decay: of the descent on the weights.
        lr_cov: step size lr₁ of the factors after the warm-up; ``warmup``: pairs (step, lr₁ before that step).
        damping: λ, added to the curvature G ⊗ U. ``beta2``: momentum of the factors. ``T``: steps between refreshes.
        structure: of the factors A and B, one name for both or a pair: ``dense``, ``diagonal``, ``lower_triangular``,
            ``block_diagonal``, ``block_triangular``, ``upper_hierarchical``, ``toeplitz_triangular``;
            ``sizes``: their options, say ``{"block": 30}``.
        dtype: of statistics and factors (``torch.bfloat16``, say); the weights' where it is not given.
        faster: keep A Aᵀ and B Bᵀ between refreshes (dense factors only): two products a step instead of four, for
            six matrices a layer instead of four.
        split_positions: whether a convolution's number of positions divides U and multiplies G, as in the paper's code;
            otherwise U is the mean over positions, as in singd. The curvature G ⊗ U is the same, the way there differs.
        shared, average: see :class:`KroneckerStatistics`. ``others``: what becomes of parameters outside of Linear and
            Conv2d layers: ``refuse``, or ``sgd`` with the same lr and momentum.
    """

    checks: ClassVar[Mapping[str, Check]] = {**KroneckerOptimizer.checks, "lr_cov": positive, "beta2": share}

    def __init__(
        self,
        model: nn.Module,
        lr: float = 1e-2,
        *,
        lr_cov: float = 1e-2,
        damping: float = 1e-3,
        beta2: float = 0.5,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        T: int = 10,
        warmup: Sequence[tuple[int, float]] = WARMUP,
        structure: str | tuple[str, str] = "dense",
        sizes: dict[str, int] | None = None,
        dtype: torch.dtype | None = None,
        faster: bool = True,
        split_positions: bool = True,
        shared: Shared | None = None,
        average: Average = "batch",
        others: Others = "refuse",
        params: Iterable[Any] | None = None,
    ) -> None:
        self._names = (structure, structure) if isinstance(structure, str) else tuple(structure)
        self._sizes, self._faster, self._split = dict(sizes or {}), faster, split_positions
        if "kronecker" in self._names:
            raise ValueError(f"a factor cannot be kronecker itself; valid: {', '.join(_SUPPORTED)}")
        defaults = {
            "lr": lr, "lr_cov": lr_cov, "damping": damping, "beta2": beta2, "momentum": momentum,
            "weight_decay": weight_decay, "T": T, "warmup": tuple((int(k), positive("lr", v)) for k, v in warmup),
        }  # fmt: skip
        super().__init__(model, defaults, params=params, dtype=dtype, shared=shared, average=average, others=others)

    def _structures(self, p: int, d: int) -> tuple[Structure, Structure]:
        first, second = self._names
        return structure(first, p, **self._sizes), structure(second, d, **self._sizes)

    def _start(
        self, p: int, d: int, dtype: torch.dtype, device: torch.device, group: dict[str, Any]
    ) -> dict[str, Tensor]:
        inputs, outputs = self._structures(p, d)
        if not hasattr(self, "_by_size"):
            self._by_size: dict[tuple[int, int], tuple[Structure, Structure]] = {}
        self._by_size[p, d] = (inputs, outputs)
        A, B = inputs.identity(dtype, device), outputs.identity(dtype, device)
        factors = {"A": A, "B": B, "mA": torch.zeros_like(A), "mB": torch.zeros_like(B)}
        if self._caches(inputs, outputs):
            factors |= {"K": A.clone(), "C": B.clone()}
        return factors

    def _caches(self, inputs: Structure, outputs: Structure) -> bool:
        return self._faster and isinstance(inputs, Dense) and isinstance(outputs, Dense)

    def _lr_cov(self, group: dict[str, Any]) -> float:
        return next((value for until, value in group["warmup"] if group["steps"] < until), group["lr_cov"])

    def _refresh(self, factors: dict[str, Tensor], new: LayerStatistics, group: dict[str, Any]) -> None:
        U, G = new.split() if self._split else (new.U, new.G)
        A, B, mA, mB = (factors[name] for name in ("A", "B", "mA", "mB"))
        structures = self._by_size[len(U), len(G)]
        if "K" in factors:
            gA, gB = fused_gradients(A, B, U, G, group["damping"])
        else:
            gA, gB = gradients(A, B, U, G, group["damping"], structures)
        step = -self._lr_cov(group)
        for (x, m, g), kind in zip(((A, mA, gA), (B, mB, gB)), structures, strict=True):
            m.mul_(group["beta2"]).add_(g)
            x.add_(kind.matmul(x, m), alpha=step)
        if "K" in factors:
            torch.mm(A, A.T, out=factors["K"])
            torch.mm(B, B.T, out=factors["C"])

    def _precondition(
        self, factors: dict[str, Tensor], gradient: Float[Tensor, "d p"], group: dict[str, Any]
    ) -> Float[Tensor, "d p"]:
        gradient = gradient.to(factors["A"].dtype)
        if "K" in factors:
            return factors["C"] @ gradient @ factors["K"]
        d, p = gradient.shape
        inputs, outputs = self._by_size[p, d]
        A, B = factors["A"], factors["B"]
        right = inputs.apply(A, inputs.apply_transpose(A, gradient.T)).T
        return outputs.apply(B, outputs.apply_transpose(B, right))


def fused_gradients(
    A: Float[Tensor, "p p"], B: Float[Tensor, "d d"], U: Float[Tensor, "p p"], G: Float[Tensor, "d d"], damping: float
) -> tuple[Float[Tensor, "p p"], Float[Tensor, "d d"]]:
    """:func:`.fisher_kl.gradients` for dense factors, in two products a factor: Aᵀ (c₁ A + c₂ U A)."""
    p, d = len(U), len(G)
    UA, GB = U @ A, G @ B
    traces = (A * UA).sum() / p, (B * GB).sum() / d, A.square().sum() / p, B.square().sum() / d

    def half(X: Tensor, MX: Tensor, plain: Tensor, curved: Tensor) -> Tensor:
        g = X.T @ (damping * plain * X + curved * MX)
        g.diagonal().sub_(1)
        return (g + g.T) / 4

    return half(A, UA, traces[3], traces[1]), half(B, GB, traces[2], traces[0])
