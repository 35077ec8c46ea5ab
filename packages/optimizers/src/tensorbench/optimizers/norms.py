"""Norms of weights with their duals and steepest directions.

A matrix W (out, in) maps inputs to outputs, and the norm that fits is the largest ratio of the size of an output to
that of an input: the operator norm between the norms in which one and the other are measured (Bernstein, Newhouse 2024,
arXiv 2409.20325). Steepest descent under a norm needs of it three things:

* ``value(W)`` = ‖W‖;
* ``dual(G)`` = max ⟨G, T⟩ over ‖T‖ ≤ 1;
* ``lmo(G)``: the T at which that maximum is (linear minimisation oracle, up to sign); 0 for G = 0.

``project(W, radius)`` is the point of the ball of that radius nearest to W in the Frobenius norm. All take batches of
tensors along leading axes. Norms are data: two of the same kind and options are equal and serve the same group.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from tensorbench.core.errors import unknown

from .base import whole
from .matrix_functions import METHODS, Method, orthogonalize

Scaling = Literal["none", "rms", "muon", "adam"]
_KINDS = {
    2: "a matrix (out, in)",
    3: "a kernel (out, in, width)",
    4: "a kernel (out, in, height, width)",
    5: "a kernel (out, in, depth, height, width)",
}
_SCALINGS = ("none", "rms", "muon", "adam")


class NoClosedFormError(ValueError):
    """The induced norm asked for is NP-hard to compute in general, so there is no closed form to step with."""


@dataclass(frozen=True)
class Norm:
    """What all norms share. ``axes`` is the number of last axes that the norm is of (None: all, and no batches)."""

    axes: ClassVar[int | None] = 2

    @property
    def batched(self) -> bool:
        """Whether axes before the last ``axes`` count a batch."""
        return self.axes is not None

    def value(self, W: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """‖W‖."""
        raise NotImplementedError

    def lmo(self, G: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """The T of ‖T‖ ≤ 1 with the largest ⟨G, T⟩."""
        raise NotImplementedError

    def project(self, W: Float[Tensor, "..."], radius: float) -> Float[Tensor, "..."]:
        """The tensor nearest to W (Frobenius) with ‖·‖ ≤ radius."""
        raise NotImplementedError(f"{type(self).__name__} has no projection in closed form")

    def dual(self, G: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """max ⟨G, T⟩ over ‖T‖ ≤ 1, as ⟨G, lmo(G)⟩."""
        return self.inner(G, self.lmo(G))

    def inner(self, G: Tensor, T: Tensor) -> Tensor:
        """⟨G, T⟩ over the axes that the norm is of."""
        product = G * T
        return product.sum() if self.axes is None else product.sum(dim=tuple(range(-self.axes, 0)))

    def check(self, W: Tensor) -> Tensor:
        """W where the norm is of such tensors.

        Raises:
            ValueError: too few axes, or complex or whole numbers.
        """
        if not W.is_floating_point():
            raise ValueError(f"{type(self).__name__} is a norm of real tensors, got {W.dtype}")
        least = 1 if self.axes is None else self.axes
        if W.ndim < least:
            kind = _KINDS.get(least, f"{least} axes")
            raise ValueError(f"{type(self).__name__} takes {kind}, got shape {tuple(W.shape)}")
        return W


def _maximiser(g: Tensor, q: float) -> Tensor:
    """The t of ‖t‖_q ≤ 1 with the largest ⟨g, t⟩ along the last axis; 0 for g = 0."""
    if q == math.inf:
        return torch.sign(g)
    size = g.abs()
    top = size.amax(dim=-1, keepdim=True)
    if q == 1:
        return torch.sign(g) * torch.nn.functional.one_hot(size.argmax(dim=-1), g.shape[-1]).to(g.dtype)
    scaled = torch.where(top > 0, size / torch.where(top > 0, top, 1.0), 0.0)
    powers = scaled ** (1 / (q - 1))  # |g|^(p-1) with 1/p + 1/q = 1
    norm = torch.linalg.vector_norm(powers, q, dim=-1, keepdim=True)
    return torch.sign(g) * powers / torch.where(norm > 0, norm, 1.0)


def _nearest(w: Tensor, q: float, radius: float) -> Tensor:
    """The nearest point to w along the last axis with ‖·‖_q ≤ radius, for q = 1, 2, ∞."""
    if q == math.inf:
        return w.clamp(-radius, radius)
    if q == 2:
        norm = torch.linalg.vector_norm(w, dim=-1, keepdim=True)
        return w * torch.where(norm > radius, radius / norm, 1.0)
    if q != 1:
        raise ValueError(f"projecting on the ball of exponent {q:g} has no closed form here; use 1, 2 or inf")
    size, order = w.abs(), torch.arange(1, w.shape[-1] + 1, device=w.device, dtype=w.dtype)
    sorted_sizes = size.sort(dim=-1, descending=True).values
    excess = (sorted_sizes.cumsum(dim=-1) - radius) / order
    last = ((sorted_sizes > excess) * order).amax(dim=-1, keepdim=True).long().clamp_min(1) - 1
    threshold = excess.gather(-1, last).clamp_min(0)
    return torch.sign(w) * (size - threshold).clamp_min(0)


def conjugate(p: float) -> float:
    """q with 1/p + 1/q = 1."""
    if not p >= 1:
        raise ValueError(f"exponent {p} must be at least 1 (inf is one)")
    return math.inf if p == 1 else 1.0 if p == math.inf else p / (p - 1)


@dataclass(frozen=True)
class MaxEntry(Norm):
    """max |W_ij|, of tensors of any shape; for matrices the operator norm ℓ1 → ℓ∞. Its direction is the sign."""

    axes: ClassVar[int | None] = None

    def value(self, W):
        return self.check(W).abs().amax()

    def lmo(self, G):
        return torch.sign(self.check(G))

    def project(self, W, radius):
        return self.check(W).clamp(-radius, radius)


@dataclass(frozen=True)
class Frobenius(Norm):
    """√Σ W², of tensors of any shape; with ``mean`` the root mean square, √(Σ W²/size)."""

    mean: bool = False
    axes: ClassVar[int | None] = None

    def _unit(self, W: Tensor) -> float:
        return math.sqrt(W.numel()) if self.mean else 1.0

    def value(self, W):
        return torch.linalg.vector_norm(self.check(W)) / self._unit(W)

    def lmo(self, G):
        norm = torch.linalg.vector_norm(self.check(G))
        return G * torch.where(norm > 0, self._unit(G) / norm, 0.0)

    def project(self, W, radius):
        return _nearest(self.check(W).flatten(), 2, radius * self._unit(W)).view_as(W)


@dataclass(frozen=True)
class RMS(Frobenius):
    """Root mean square of the entries: what fits vectors (biases, gains)."""

    mean: bool = True


@dataclass(frozen=True)
class ColNorm(Norm):
    """ℓ1 → ℓp: the largest p-norm of a column; with ``mean`` divided by out^(1/p) (p = 2: root mean square)."""

    p: float = 2.0
    mean: bool = False

    def __post_init__(self) -> None:
        conjugate(self.p)

    def _unit(self, W: Tensor) -> float:
        return W.shape[-2] ** (1 / self.p) if self.mean else 1.0

    def value(self, W):
        return torch.linalg.vector_norm(self.check(W), self.p, dim=-2).amax(dim=-1) / self._unit(W)

    def lmo(self, G):
        return _maximiser(self.check(G).mT, self.p).mT * self._unit(G)

    def dual(self, G):
        return torch.linalg.vector_norm(self.check(G), conjugate(self.p), dim=-2).sum(dim=-1) * self._unit(G)

    def project(self, W, radius):
        return _nearest(self.check(W).mT, self.p, radius * self._unit(W)).mT


@dataclass(frozen=True)
class L1ToRMS(ColNorm):
    """ℓ1 → RMS: the largest root mean square of a column, for matrices that are fed one-hot vectors."""

    mean: bool = True


@dataclass(frozen=True)
class RowNorm(Norm):
    """ℓp → ℓ∞: the largest norm of a row, of exponent q with 1/p + 1/q = 1."""

    p: float = 2.0

    def __post_init__(self) -> None:
        conjugate(self.p)

    def value(self, W):
        return torch.linalg.vector_norm(self.check(W), conjugate(self.p), dim=-1).amax(dim=-1)

    def lmo(self, G):
        return _maximiser(self.check(G), conjugate(self.p))

    def dual(self, G):
        return torch.linalg.vector_norm(self.check(G), self.p, dim=-1).sum(dim=-1)

    def project(self, W, radius):
        return _nearest(self.check(W), conjugate(self.p), radius)


@dataclass(frozen=True)
class Schatten(Norm):
    """The p-norm of the singular values; p = 1 nuclear, 2 Frobenius, ∞ spectral."""

    p: float = 2.0

    def __post_init__(self) -> None:
        conjugate(self.p)

    def value(self, W):
        return torch.linalg.vector_norm(torch.linalg.svdvals(_precise(self.check(W))), self.p, dim=-1).to(W.dtype)

    def lmo(self, G):
        U, S, Vh = torch.linalg.svd(_precise(self.check(G)), full_matrices=False)
        floor = S[..., :1] * max(G.shape[-2:]) * torch.finfo(S.dtype).eps
        return ((U * _maximiser(torch.where(torch.gt(S, floor), S, 0.0), self.p)[..., None, :]) @ Vh).to(G.dtype)

    def project(self, W, radius):
        U, S, Vh = torch.linalg.svd(_precise(self.check(W)), full_matrices=False)
        return ((U * _nearest(S, self.p, radius)[..., None, :]) @ Vh).to(W.dtype)


@dataclass(frozen=True)
class Spectral(Norm):
    """The largest singular value over a factor of the shape; the direction is that factor times U Vᵀ.

    Args:
        scaling: the factor: ``none`` 1; ``rms`` √(out/in), the operator norm between root mean squares; ``muon``
            √max(1, out/in) (Jordan 2024); ``adam`` 0.2 √max(out, in), steps of the size of AdamW's (Liu et al. 2025,
            arXiv 2502.16982).
        method, steps: how U Vᵀ is computed, see :func:`~.matrix_functions.orthogonalize`. All but ``svd`` are
            approximate, and with them ``dual(G)`` is ⟨G, lmo(G)⟩ of the approximate direction.
        flatten: take tensors of other numbers of axes as matrices (out, rest), vectors as columns, without batches.
    """

    scaling: Scaling = "none"
    method: Method = "svd"
    steps: int | None = None
    flatten: bool = False

    def __post_init__(self) -> None:
        if self.scaling not in _SCALINGS:
            raise ValueError(unknown("scaling", self.scaling, _SCALINGS))
        if self.method not in METHODS or self.method == "sketch":
            raise ValueError(unknown("method", self.method, [name for name in METHODS if name != "sketch"]))

    def factor(self, shape: torch.Size) -> float:
        """Of a matrix of this shape."""
        out, into = shape[-2:]
        match self.scaling:
            case "rms":
                return math.sqrt(out / into)
            case "muon":
                return math.sqrt(max(1.0, out / into))
            case "adam":
                return 0.2 * math.sqrt(max(out, into))
        return 1.0

    @property
    def batched(self) -> bool:
        """With ``flatten`` further axes belong to the matrix."""
        return not self.flatten

    def check(self, W):
        return W if self.flatten and W.ndim == 1 and W.is_floating_point() else super().check(W)

    def _matrix(self, W: Tensor) -> Tensor:
        return self.check(W).reshape(len(W), -1) if self.flatten else self.check(W)

    def value(self, W):
        matrix = self._matrix(W)
        return torch.linalg.svdvals(_precise(matrix))[..., 0].to(W.dtype) / self.factor(matrix.shape)

    def lmo(self, G):
        matrix = self._matrix(G)
        return (orthogonalize(matrix, self.method, self.steps) * self.factor(matrix.shape)).view_as(G)

    def dual(self, G):
        matrix = self._matrix(G)
        if self.method != "svd":
            return (matrix * self.lmo(matrix)).sum(dim=(-2, -1))
        return torch.linalg.svdvals(_precise(matrix)).sum(dim=-1).to(G.dtype) * self.factor(matrix.shape)

    def project(self, W, radius):
        matrix = self._matrix(W)
        return Schatten(math.inf).project(matrix, radius * self.factor(matrix.shape)).view_as(W)


@dataclass(frozen=True)
class RMSToRMS(Spectral):
    """RMS → RMS: √(in/out) times the spectral norm, for matrices between dense vectors."""

    scaling: Scaling = "rms"


@dataclass(frozen=True)
class ConvSpectral(Norm):
    """A bound on the RMS → RMS norm of a convolution (out, in, height, width) by the norms of its taps.

    ``combine="max"``: taps times the largest norm of a tap, whose direction moves every tap (Large et al. 2024, arXiv
    2405.14813); ``"sum"``: the sum of the norms, whose direction moves the one tap with the largest dual norm.

    Args:
        spatial: the kernel's axes besides the two of channels: 1 for ``nn.Conv1d``, 3 for ``nn.Conv3d``.
        transposed: the kernel is (in, out / groups, height, width), as that of ``nn.ConvTranspose2d``; it has the norm
            of the kernel (out, in / groups, height, width) that makes the same sums.
        groups: of a transposed kernel, whose shape does not tell them.
    """

    combine: Literal["max", "sum"] = "max"
    method: Method = "svd"
    steps: int | None = None
    spatial: int = 2
    transposed: bool = False
    groups: int = 1
    tap: RMSToRMS = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.combine not in ("max", "sum"):
            raise ValueError(unknown("combine", self.combine, ("max", "sum")))
        if self.spatial not in (1, 2, 3):
            raise ValueError(f"a kernel has 1, 2 or 3 axes besides those of channels, got spatial={self.spatial}")
        whole("groups", self.groups)
        object.__setattr__(self, "tap", RMSToRMS(method=self.method, steps=self.steps))

    @property
    def axes(self) -> int:  # type: ignore[override]
        """Those of channels and the spatial ones."""
        return 2 + self.spatial

    def check(self, W):
        super().check(W)
        if self.transposed and W.shape[-self.axes] % self.groups:
            raise ValueError(f"{W.shape[-self.axes]} input channels do not make {self.groups} groups")
        return W

    def _taps(self, W: Tensor) -> Tensor:
        """(..., taps, out, in)."""
        taps = self.check(W).flatten(-self.spatial).movedim(-1, -3)
        return taps.unflatten(-2, (self.groups, -1)).mT.flatten(-3, -2) if self.transposed else taps

    def _kernel(self, taps: Tensor, shape: torch.Size) -> Tensor:
        """Back from :meth:`_taps`."""
        if self.transposed:
            taps = taps.unflatten(-2, (self.groups, -1)).mT.flatten(-3, -2)
        return taps.movedim(-3, -1).reshape(shape)

    def value(self, W):
        norms = self.tap.value(self._taps(W))
        return norms.amax(dim=-1) * norms.shape[-1] if self.combine == "max" else norms.sum(dim=-1)

    def lmo(self, G):
        taps = self._taps(G)
        steps = self.tap.lmo(taps)
        if self.combine == "max":
            steps = steps / taps.shape[-3]
        else:
            duals = (taps * steps).sum(dim=(-2, -1))
            steps = steps * torch.nn.functional.one_hot(duals.argmax(dim=-1), duals.shape[-1])[..., None, None]
        return self._kernel(steps, G.shape).to(G.dtype)

    def project(self, W, radius):
        taps = self._taps(W)
        if self.combine == "sum":
            raise ValueError("the ball of combine='sum' has no projection in closed form; use combine='max'")
        return self._kernel(self.tap.project(taps, radius / taps.shape[-3]), W.shape)


@dataclass(frozen=True)
class Transposed(Norm):
    """A norm of Wᵀ: for tables (in, out) such as ``nn.Embedding.weight``, whose rows are outputs."""

    of: Norm = field(default_factory=L1ToRMS)

    def value(self, W):
        return self.of.value(self.check(W).mT)

    def lmo(self, G):
        return self.of.lmo(self.check(G).mT).mT

    def project(self, W, radius):
        return self.of.project(self.check(W).mT, radius).mT


def induced_norm(alpha: float, beta: float) -> Norm:
    """The operator norm ℓ_alpha → ℓ_beta, for the pairs that have a closed form: alpha = 1, beta = ∞, and (2, 2).

    Raises:
        NoClosedFormError: any other pair; ∞ → 1 and p → p for 1 < p < ∞, p ≠ 2 are NP-hard (Rohn 2000; Hendrickx,
            Olshevsky 2010).
    """
    conjugate(alpha), conjugate(beta)
    if alpha == 1:
        return MaxEntry() if beta == math.inf else ColNorm(beta)
    if beta == math.inf:
        return RowNorm(alpha)
    if alpha == beta == 2:
        return Spectral()
    raise NoClosedFormError(
        f"the operator norm l{alpha:g} -> l{beta:g} has no closed form (such pairs are NP-hard in general); there is "
        "one for alpha = 1, for beta = inf and for alpha = beta = 2"
    )


def _precise(W: Tensor) -> Tensor:
    """LAPACK takes no half precision."""
    return W.float() if W.dtype in (torch.bfloat16, torch.float16) else W
