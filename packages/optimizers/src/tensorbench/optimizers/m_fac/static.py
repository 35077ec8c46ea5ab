"""Products with, and elements of, the inverse of F = λI + (1/m) Σ gᵢgᵢᵀ from a fixed set of m gradients.

Frantar, Kurtic and Alistarh (2021), *M-FAC: Efficient Matrix-Free Approximations of Second-Order Information*, NeurIPS,
arXiv 2107.03356, the static algorithm. Adding one gradient after another by Sherman and Morrison's formula gives

    Hgᵢ = gᵢ/λ - Σ_{j<i} Hgⱼ (Hgⱼ·gᵢ) / (m + gⱼ·Hgⱼ),     F⁻¹x = x/λ - Σᵢ Hgᵢ (Hgᵢ·x) / (m + gᵢ·Hgᵢ).

These Hg are (1/λ) L⁻¹G and the denominators are D in S = mI + GGᵀ/λ = LDLᵀ, so that all of them come from one product
of matrices, one factorisation of the small matrix S (in double precision) and one triangular solve: the same numbers
as the recursion at the speed of matrix products, O(dm²). A product then costs O(dm), an element of F⁻¹ O(m).

With ``block`` F is cut to blocks on its diagonal (WoodFisher's approximation; Singh and Alistarh 2020). A block of no
more than m rows is inverted as it is, which is cheaper and the same matrix.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from ..base import positive, whole


def woodbury(grads: Float[Tensor, "m d"], damp: float, x: Float[Tensor, "d *k"]) -> Float[Tensor, "d *k"]:
    """F⁻¹x in one line, x/λ - Gᵀ (mI + GGᵀ/λ)⁻¹ G x/λ²: what every algorithm here must agree with."""
    m = len(grads)
    small = m * torch.eye(m, dtype=grads.dtype, device=grads.device) + grads @ grads.T / damp
    gx = grads @ x
    solved = torch.linalg.solve(small, gx if gx.ndim == 2 else gx[:, None])
    return x / damp - (grads.T @ solved).reshape(x.shape) / damp**2


def check_gradient_rows(grads: Tensor) -> None:
    """Refuse what is no matrix of gradients.

    Raises:
        ValueError: no matrix, no rows or columns, a row with NaN or infinity (numbered).
    """
    if grads.ndim != 2 or 0 in grads.shape or not grads.is_floating_point():
        raise ValueError(f"gradients must be a real matrix (m, d) with m, d >= 1, got {tuple(grads.shape)}")
    # A sum of squares is finite exactly where all entries are (up to overflow, which is as bad).
    bad = ~torch.isfinite(torch.linalg.vector_norm(grads, dim=1))
    if bool(bad.any()):
        raise ValueError(f"gradient {int(bad.nonzero()[0])} of {len(grads)} has NaN or infinity")


class _LowRank:
    """One block of F with more columns than gradients: rows Hg and denominators, kept in pages of columns."""

    def __init__(self, grads: Tensor, damp: float, pages: int, device: torch.device) -> None:
        m, d = grads.shape
        self.damp, self.device = damp, device
        self.cuts = [int(p) for p in torch.linspace(0, d, min(pages, d) + 1).round()]
        parts = [grads[:, a:b] for a, b in zip(self.cuts[:-1], self.cuts[1:], strict=True)]
        small = m * torch.eye(m, dtype=torch.float64, device=device)
        for part in parts:
            here = part.to(device, torch.float64)
            small += here @ here.T / damp
        root = torch.linalg.cholesky(small)
        scale = root.diagonal()
        self.denominators = scale.square()
        lower = (root / scale).to(grads.dtype)
        self.rows = []
        for part in parts:
            here = torch.linalg.solve_triangular(lower, part.to(device), upper=False, unitriangular=True) / damp
            self.rows.append(here.to(grads.device))

    def _page(self, number: int) -> Tensor:
        return self.rows[number].to(self.device)

    def mul_many(self, x: Tensor) -> Tensor:
        parts = x.split([b - a for a, b in zip(self.cuts[:-1], self.cuts[1:], strict=True)])
        inner = sum(self._page(k) @ part.to(self.device) for k, part in enumerate(parts))
        weights = inner / self.denominators.to(x.dtype)[:, None]
        found = [part / self.damp - (self._page(k).T @ weights).to(part.device) for k, part in enumerate(parts)]
        return torch.cat(found)

    def diag(self) -> Tensor:
        weights = (1 / self.denominators).to(self.rows[0].dtype)
        parts = [1 / self.damp - weights @ self._page(k).square() for k in range(len(self.rows))]
        return torch.cat([part.to(self.rows[0].device) for part in parts])

    def _column(self, i: int) -> Tensor:
        page = next(k for k in range(len(self.rows)) if i < self.cuts[k + 1])
        return self.rows[page][:, i - self.cuts[page]].to(self.device)

    def element(self, i: int, j: int) -> float:
        a, b = self._column(i).double(), self._column(j).double()
        return (i == j) / self.damp - float((a * b / self.denominators).sum())

    def row(self, i: int) -> Tensor:
        weights = (self._column(i) / self.denominators).to(self.rows[0].dtype)
        found = torch.cat([-(weights @ self._page(k)).to(self.rows[0].device) for k in range(len(self.rows))])
        found[i] += 1 / self.damp
        return found


class _Dense:
    """``count`` blocks of k ≤ m columns, each inverted as a matrix."""

    def __init__(self, grads: Tensor, damp: float, count: int, device: torch.device) -> None:
        m, d = grads.shape
        self.k = d // count
        blocks = grads.reshape(m, count, self.k).permute(1, 2, 0).to(device, torch.float64)
        fisher = blocks @ blocks.mT / m + damp * torch.eye(self.k, dtype=torch.float64, device=device)
        self.inverses = torch.cholesky_inverse(torch.linalg.cholesky(fisher)).to(grads.device, grads.dtype)

    def mul_many(self, x: Tensor) -> Tensor:
        return (self.inverses @ x.reshape(len(self.inverses), self.k, -1)).reshape(x.shape)

    def diag(self) -> Tensor:
        return self.inverses.diagonal(dim1=1, dim2=2).reshape(-1)

    def element(self, i: int, j: int) -> float:
        (a, p), (b, q) = divmod(i, self.k), divmod(j, self.k)
        return float(self.inverses[a, p, q]) if a == b else 0.0

    def row(self, i: int) -> Tensor:
        found = torch.zeros(self.inverses.shape[:2], dtype=self.inverses.dtype, device=self.inverses.device)
        found[i // self.k] = self.inverses[i // self.k, i % self.k]
        return found.reshape(-1)


class StaticMFAC:
    """F⁻¹ of a fixed matrix of gradients.

    Args:
        grads: one gradient a row; float32 or float64. Not changed.
        damp: λ > 0, in squared units of a gradient.
        block: rows of a block of F; the last may be smaller. ``None`` keeps all of F.
        pages: runs of columns that are brought to ``device`` one at a time, for gradients that do not fit there. The
            result does not depend on it.
        device: where to compute; what is stored stays where ``grads`` is.

    Raises:
        ValueError: ``damp`` not positive, ``block`` or ``pages`` below 1, gradients that are no finite matrix.
    """

    def __init__(
        self, grads: Float[Tensor, "m d"], damp: float = 1e-5, block: int | None = None, pages: int = 1,
        device: torch.device | str | None = None,
    ) -> None:  # fmt: skip
        positive("damp", damp)
        whole("pages", pages)
        check_gradient_rows(grads)
        self.m, self.d = grads.shape
        self.damp = damp
        size = self.d if block is None else min(whole("block", block), self.d)
        where = torch.device(grads.device if device is None else device)
        full = self.d // size * size
        self._parts: list[_LowRank | _Dense] = []
        self._starts: list[int] = []
        if size <= self.m:
            self._add(0, _Dense(grads[:, :full], damp, full // size, where))
        else:
            for start in range(0, full, size):
                self._add(start, _LowRank(grads[:, start : start + size], damp, pages, where))
        if full < self.d:
            rest = grads[:, full:]
            small = rest.shape[1] <= self.m
            self._add(full, _Dense(rest, damp, 1, where) if small else _LowRank(rest, damp, pages, where))
        self._starts.append(self.d)

    def _add(self, start: int, part: _LowRank | _Dense) -> None:
        self._starts.append(start)
        self._parts.append(part)

    def mul_many(self, x: Float[Tensor, "d k"]) -> Float[Tensor, "d k"]:
        """F⁻¹ times each column.

        Raises:
            ValueError: another number of rows than the gradients have columns.
        """
        if x.ndim != 2 or len(x) != self.d:
            raise ValueError(f"shape {tuple(x.shape)} cannot be multiplied by an inverse of {self.d} × {self.d}")
        lengths = [b - a for a, b in zip(self._starts[:-1], self._starts[1:], strict=True)]
        return torch.cat([part.mul_many(piece) for part, piece in zip(self._parts, x.split(lengths), strict=True)])

    def mul(self, x: Float[Tensor, " d"]) -> Float[Tensor, " d"]:
        """F⁻¹x in O(dm)."""
        if x.ndim != 1:
            raise ValueError(f"mul takes a vector, got shape {tuple(x.shape)}; use mul_many")
        return self.mul_many(x[:, None])[:, 0]

    def diag(self) -> Float[Tensor, " d"]:
        """The diagonal of F⁻¹, in O(dm)."""
        return torch.cat([part.diag() for part in self._parts])

    def _find(self, i: int) -> int:
        if not 0 <= i < self.d:
            raise ValueError(f"index {i} is outside [0, {self.d})")
        return next(k for k in range(len(self._parts)) if i < self._starts[k + 1])

    def element(self, i: int, j: int) -> float:
        """[F⁻¹]ᵢⱼ in O(m); 0 between blocks."""
        k, other = self._find(i), self._find(j)
        return self._parts[k].element(i - self._starts[k], j - self._starts[k]) if k == other else 0.0

    def row(self, i: int) -> Float[Tensor, " d"]:
        """Row i of F⁻¹ in O(dm)."""
        k = self._find(i)
        own = self._parts[k].row(i - self._starts[k])
        found = torch.zeros(self.d, dtype=own.dtype, device=own.device)
        found[self._starts[k] : self._starts[k + 1]] = own
        return found
