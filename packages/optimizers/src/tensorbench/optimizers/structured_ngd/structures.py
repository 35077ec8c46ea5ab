"""Structured matrix groups on which τ = A Aᵀ moves without leaving its structure (Lin et al. 2023, arXiv 2302.09738,
section 3.2; Lin et al. 2021, arXiv 2102.07405, for block-triangular and hierarchical ones).

A belongs to a group and steps A ← A Expm(X) with X in the group's Lie algebra. With the metric ½ tr(τ⁻¹ dτ τ⁻¹ dτ)
(the Fisher metric of a Gaussian of covariance τ) the natural gradient in these coordinates is the X whose symmetric
part is the orthogonal projection, on what symmetric parts there are, of S = Aᵀ (∂f/∂τ) A. So symmetric directions take
S itself, and one-sided ones (the corner of a triangle) twice S. This is what :meth:`Structure.project` does.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tensorbench.core.errors import unknown

from .spd import ORDERS, Order, expm


@dataclass(frozen=True)
class Structure:
    """A group of dim × dim matrices and its Lie algebra. Elements are kept as one tensor (see :meth:`dense`)."""

    dim: int

    def __post_init__(self) -> None:
        if isinstance(self.dim, bool) or not isinstance(self.dim, int) or self.dim < 1:
            raise ValueError(f"dim {self.dim!r} must be a whole number of at least 1")

    def identity(self, dtype: torch.dtype | None = None, device: torch.device | None = None) -> Tensor:
        """The group's unit element."""
        return torch.eye(self.dim, dtype=dtype, device=device)

    def zeros(self, dtype: torch.dtype | None = None, device: torch.device | None = None) -> Tensor:
        """The algebra's zero."""
        return torch.zeros_like(self.identity(dtype, device))

    def dense(self, x: Tensor) -> Float[Tensor, "dim dim"]:
        """The element as a full matrix."""
        return x

    def project(self, S: Float[Tensor, "dim dim"]) -> Tensor:
        """The natural gradient X in the algebra, of a symmetric S = Aᵀ (∂f/∂τ) A."""
        raise NotImplementedError

    def inner(self, A: Tensor, M: Float[Tensor, "dim dim"] | None = None) -> Tensor:
        """``project(Aᵀ M A)``, with M = I where it is not given."""
        full = self.dense(A)
        self._fits("M", M)
        return self.project(full.mT @ full if M is None else full.mT @ (M @ full))

    def retract(self, A: Tensor, X: Tensor, order: Order = 1) -> Tensor:
        """A Expm(X), or with the first one or two terms of the exponential."""
        if order == 1:
            return A + self.matmul(A, X)
        return self.matmul(A, self.expm(X, order))

    def expm(self, X: Tensor, order: Order = "exact") -> Tensor:
        """Expm(X) as an element of the group."""
        return expm(X, order)

    def matmul(self, x: Tensor, y: Tensor) -> Tensor:
        """The product of two elements, which has the structure again."""
        return x @ y

    def apply(self, x: Tensor, M: Float[Tensor, "dim n"]) -> Float[Tensor, "dim n"]:
        """x @ M for any matrix M."""
        self._fits("M", M)
        return self.dense(x) @ M

    def apply_transpose(self, x: Tensor, M: Float[Tensor, "dim n"]) -> Float[Tensor, "dim n"]:
        """xᵀ @ M."""
        self._fits("M", M)
        return self.dense(x).mT @ M

    def trace(self, X: Tensor) -> Float[Tensor, ""]:
        """tr of an element of the algebra."""
        return X.trace()

    def unit_direction(self, like: Tensor) -> Tensor:
        """The identity as an element of the algebra: what ``project`` makes of I."""
        return self.identity(like.dtype, like.device)

    def random(self, generator: torch.Generator, scale: float = 1.0, dtype: torch.dtype | None = None) -> Tensor:
        """An element of the algebra: the projection of a Gaussian symmetric matrix."""
        S = torch.randn(self.dim, self.dim, generator=generator, dtype=dtype)
        return scale * self.project((S + S.mT) / 2)

    def _fits(self, name: str, M: Tensor | None) -> None:
        if M is not None and M.shape[0] != self.dim:
            raise ValueError(
                f"{name} has {M.shape[0]} rows, but the structure {type(self).__name__} has dim {self.dim}"
            )


@dataclass(frozen=True)
class Pattern(Structure):
    """Matrices with zeros outside a pattern that products keep. Blocks that the pattern has on both sides of the
    diagonal move symmetrically (turning them changes no τ)."""

    @cached_property
    def mask(self) -> Bool[Tensor, "dim dim"]:
        """Where elements of the group may differ from zero."""
        raise NotImplementedError

    @cached_property
    def weight(self) -> Float[Tensor, "dim dim"]:
        """1 where an entry and its mirror are free, 2 where the mirror is not, 0 where the entry is not."""
        return self.mask * (2.0 - self.mask.T.to(torch.float64))

    def project(self, S: Float[Tensor, "dim dim"]) -> Float[Tensor, "dim dim"]:
        self._fits("S", S)
        return S * self.weight.to(S)


@dataclass(frozen=True)
class Dense(Pattern):
    """All matrices; the algebra's directions are symmetric."""

    @cached_property
    def mask(self) -> Bool[Tensor, "dim dim"]:
        return torch.ones(self.dim, self.dim, dtype=torch.bool)

    def project(self, S: Float[Tensor, "dim dim"]) -> Float[Tensor, "dim dim"]:
        self._fits("S", S)
        return (S + S.mT) / 2


@dataclass(frozen=True)
class LowerTriangular(Pattern):
    """Cholesky's factors."""

    @cached_property
    def mask(self) -> Bool[Tensor, "dim dim"]:
        return torch.ones(self.dim, self.dim, dtype=torch.bool).tril()


@dataclass(frozen=True)
class BlockDiagonal(Pattern):
    """Blocks of ``block`` on the diagonal, the last one smaller where ``block`` does not divide ``dim``."""

    block: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        _within("block", self.block, self.dim)

    @cached_property
    def mask(self) -> Bool[Tensor, "dim dim"]:
        owner = torch.arange(self.dim) // self.block
        return owner[:, None] == owner


@dataclass(frozen=True)
class BlockTriangular(Pattern):
    """[[dense k × k, dense k × (dim − k)], [0, diagonal]]: τ is diagonal plus a matrix of rank k."""

    k: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        _within("k", self.k, self.dim)

    @cached_property
    def mask(self) -> Bool[Tensor, "dim dim"]:
        mask = torch.eye(self.dim, dtype=torch.bool)
        mask[: self.k] = True
        return mask


@dataclass(frozen=True)
class UpperHierarchical(Pattern):
    """[[dense, dense, dense], [0, diagonal, 0], [0, dense, dense]] with blocks of k, the rest, and ``last``."""

    k: int = 1
    last: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        _within("k", self.k, self.dim)
        _within("k + last", self.k + self.last, self.dim)

    @cached_property
    def mask(self) -> Bool[Tensor, "dim dim"]:
        mask = torch.eye(self.dim, dtype=torch.bool)
        mask[: self.k] = True
        mask[self.dim - self.last :, self.k :] = True
        return mask


@dataclass(frozen=True)
class Diagonal(Structure):
    """Diagonal matrices, kept as vectors."""

    def identity(self, dtype: torch.dtype | None = None, device: torch.device | None = None) -> Float[Tensor, " dim"]:
        return torch.ones(self.dim, dtype=dtype, device=device)

    def dense(self, x: Float[Tensor, " dim"]) -> Float[Tensor, "dim dim"]:
        return torch.diag(x)

    def project(self, S: Float[Tensor, "dim dim"]) -> Float[Tensor, " dim"]:
        self._fits("S", S)
        return S.diagonal().clone()

    def inner(self, A: Float[Tensor, " dim"], M: Float[Tensor, "dim dim"] | None = None) -> Float[Tensor, " dim"]:
        self._fits("M", M)
        return A.square() if M is None else A.square() * M.diagonal()

    def expm(self, X: Float[Tensor, " dim"], order: Order = "exact") -> Float[Tensor, " dim"]:
        if order not in ORDERS:
            raise ValueError(unknown("order", str(order), [str(o) for o in ORDERS]))
        return X.exp() if order == "exact" else 1 + X if order == 1 else 1 + X + X.square() / 2

    def matmul(self, x: Tensor, y: Tensor) -> Tensor:
        return x * y

    def apply(self, x: Float[Tensor, " dim"], M: Float[Tensor, "dim n"]) -> Float[Tensor, "dim n"]:
        self._fits("M", M)
        return x[:, None] * M

    apply_transpose = apply

    def trace(self, X: Float[Tensor, " dim"]) -> Float[Tensor, ""]:
        return X.sum()


@dataclass(frozen=True)
class ToeplitzTriangular(Structure):
    """Lower-triangular matrices that are constant along diagonals, kept as their first column."""

    def identity(self, dtype: torch.dtype | None = None, device: torch.device | None = None) -> Float[Tensor, " dim"]:
        return torch.eye(self.dim, dtype=dtype, device=device)[0]

    @cached_property
    def _lag(self) -> Tensor:
        n = torch.arange(self.dim)
        return n[:, None] - n

    def dense(self, x: Float[Tensor, " dim"]) -> Float[Tensor, "dim dim"]:
        lag = self._lag.to(x.device)
        return torch.where(lag >= 0, x[lag.clamp(min=0)], 0)

    def project(self, S: Float[Tensor, "dim dim"]) -> Float[Tensor, " dim"]:
        self._fits("S", S)
        n = self.dim
        sums = S.new_zeros(n).index_add_(0, self._lag.abs().flatten().to(S.device), S.flatten())
        return sums / torch.arange(n, 0, -1, device=S.device).to(S)

    def trace(self, X: Float[Tensor, " dim"]) -> Float[Tensor, ""]:
        return self.dim * X[0]

    def expm(self, X: Float[Tensor, " dim"], order: Order = "exact") -> Float[Tensor, " dim"]:
        return expm(self.dense(X), order)[:, 0]

    def matmul(self, x: Float[Tensor, " dim"], y: Float[Tensor, " dim"]) -> Float[Tensor, " dim"]:
        return self.dense(x) @ y


@dataclass(frozen=True)
class Kronecker(Structure):
    """A ⊗ C of p × p and q × q matrices, kept flattened one after the other; algebra X ⊗ I + I ⊗ Y, symmetric.

    The multiple of the identity that X and Y can exchange is shared equally.
    """

    p: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        _within("p", self.p, self.dim)
        if self.dim % self.p:
            raise ValueError(f"p {self.p} does not divide dim {self.dim}")

    @property
    def q(self) -> int:
        return self.dim // self.p

    def factors(self, x: Tensor) -> tuple[Float[Tensor, "p p"], Float[Tensor, "q q"]]:
        """The two factors as matrices."""
        return x[: self.p**2].view(self.p, self.p), x[self.p**2 :].view(self.q, self.q)

    def identity(self, dtype: torch.dtype | None = None, device: torch.device | None = None) -> Tensor:
        return _pack(*(torch.eye(n, dtype=dtype, device=device) for n in (self.p, self.q)))

    def dense(self, x: Tensor) -> Float[Tensor, "dim dim"]:
        return torch.kron(*self.factors(x))

    def algebra(self, x: Tensor) -> Float[Tensor, "dim dim"]:
        """X ⊗ I + I ⊗ Y of an element of the algebra."""
        X, Y = self.factors(x)
        eyes = torch.eye(self.q, dtype=x.dtype), torch.eye(self.p, dtype=x.dtype)
        return torch.kron(X, eyes[0]) + torch.kron(eyes[1], Y)

    def project(self, S: Float[Tensor, "dim dim"]) -> Tensor:
        self._fits("S", S)
        blocks = S.view(self.p, self.q, self.p, self.q)
        X = torch.einsum("iaja->ij", blocks) / self.q
        Y = torch.einsum("iaib->ab", blocks) / self.p
        shared = S.diagonal().mean() / 2
        X.diagonal().sub_(shared)
        Y.diagonal().sub_(shared)
        return _pack(X, Y)

    def trace(self, X: Tensor) -> Float[Tensor, ""]:
        first, second = self.factors(X)
        return self.q * first.trace() + self.p * second.trace()

    def unit_direction(self, like: Tensor) -> Tensor:
        return self.identity(like.dtype, like.device) / 2

    def expm(self, X: Tensor, order: Order = "exact") -> Tensor:
        return _pack(*(expm(x, order) for x in self.factors(X)))

    def retract(self, A: Tensor, X: Tensor, order: Order = 1) -> Tensor:
        return self.matmul(A, self.expm(X, order))

    def matmul(self, x: Tensor, y: Tensor) -> Tensor:
        return _pack(*(a @ b for a, b in zip(self.factors(x), self.factors(y), strict=True)))


@dataclass(frozen=True)
class GaussianEmbedding(Structure):
    """Mean and covariance as one matrix [[Σ + μμᵀ, μ], [μᵀ, 1]] of factor [[L, μ], [0, 1]]; ``covariance`` is the
    structure of L, a :class:`Pattern` of dimension dim − 1 (all matrices where it is not given)."""

    covariance: Pattern | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _within("dim", self.dim, 2**31, least=2)
        if self.covariance is not None and self.covariance.dim != self.dim - 1:
            raise ValueError(f"the covariance's structure has dim {self.covariance.dim}, expected {self.dim - 1}")

    @property
    def inside(self) -> Pattern:
        """The structure of L."""
        return self.covariance or Dense(self.dim - 1)

    def project(self, S: Float[Tensor, "dim dim"]) -> Float[Tensor, "dim dim"]:
        self._fits("S", S)
        X = torch.zeros_like(S)
        X[:-1, :-1] = self.inside.project(S[:-1, :-1])
        X[:-1, -1] = 2 * S[:-1, -1]
        return X

    def pack(self, mean: Float[Tensor, " n"], L: Float[Tensor, "n n"]) -> Float[Tensor, "dim dim"]:
        """The factor of a Gaussian with ``mean`` and covariance L Lᵀ."""
        A = self.identity(L.dtype, L.device)
        A[:-1, :-1], A[:-1, -1] = L, mean
        return A

    def unpack(self, A: Float[Tensor, "dim dim"]) -> tuple[Float[Tensor, " n"], Float[Tensor, "n n"]]:
        """(mean, L) of a factor."""
        return A[:-1, -1], A[:-1, :-1]


STRUCTURES: dict[str, type[Structure]] = {
    "dense": Dense,
    "diagonal": Diagonal,
    "lower_triangular": LowerTriangular,
    "block_triangular": BlockTriangular,
    "upper_hierarchical": UpperHierarchical,
    "kronecker": Kronecker,
    "toeplitz_triangular": ToeplitzTriangular,
    "block_diagonal": BlockDiagonal,
}


def structure(name: str, dim: int, **options: int) -> Structure:
    """A structure by name; block sizes above ``dim`` become ``dim``.

    Raises:
        ValueError: an unknown name.
    """
    if name not in STRUCTURES:
        raise ValueError(unknown("structure", name, STRUCTURES))
    if name in ("block_diagonal", "block_triangular"):
        options = {key: min(value, dim) for key, value in options.items()}
    if name == "upper_hierarchical" and sum(options.get(key, 1) for key in ("k", "last")) > dim:
        return Dense(dim)
    return STRUCTURES[name](dim, **options)


def _within(name: str, value: int, most: int, least: int = 1) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ValueError(f"{name} {value!r} must be a whole number between {least} and {most}")


def _pack(first: Tensor, second: Tensor) -> Tensor:
    return torch.cat([first.flatten(), second.flatten()])
