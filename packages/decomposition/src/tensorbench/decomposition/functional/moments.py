"""First and second moments of products of independent Gaussian vectors, and their sums over groups of tensor entries.

For independent u_j ~ N(m_j, V_j) the Kronecker product z = u_1 ⊗ ... ⊗ u_J has E[z] = ⊗ m_j and
E[z z'] = ⊗ (V_j + m_j m_j'); the Hadamard product has the same with elementwise products. These are the expectations
of the Tucker and CP models in Fang et al. 2024 (arXiv 2311.04829). Kronecker products are row-major: the last factor
varies fastest, as in ``core.reshape(-1)``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int
from scipy import sparse

Product = Literal["kron", "hadamard"]
# Numbers held at once while summing over entries: 128 KiB, which stays in the cache and which malloc reuses instead of
# asking the system for new pages (that alone can cost more than the sums).
CHUNK = 1 << 14


def kron_rows(factors: Sequence[Float[np.ndarray, "n _"]]) -> Float[np.ndarray, "n q"]:
    """Row-wise Kronecker product (the transposed Khatri-Rao product) of matrices with the same number of rows."""
    out = factors[0]
    for factor in factors[1:]:
        out = np.einsum("na,nb->nab", out, factor).reshape(len(out), -1)
    return out


def kron_matrices(factors: Sequence[Float[np.ndarray, "n _ _"]]) -> Float[np.ndarray, "n q q"]:
    """Kronecker product of the n-th matrices of every factor, for every n."""
    out = factors[0]
    for factor in factors[1:]:
        size = out.shape[1] * factor.shape[1]
        out = np.einsum("nac,nbd->nabcd", out, factor).reshape(len(out), size, size)
    return out


def hadamard(factors: Sequence[np.ndarray]) -> np.ndarray:
    """Elementwise product of all factors."""
    out = factors[0]
    for factor in factors[1:]:
        out = out * factor
    return out


def second_moment(mean: Float[np.ndarray, "n r"], cov: Float[np.ndarray, "n r r"]) -> Float[np.ndarray, "n r r"]:
    """E[u u'] = V + m m'."""
    return cov + np.einsum("na,nb->nab", mean, mean)


def kron_moments(
    means: Sequence[Float[np.ndarray, "n _"]], covs: Sequence[Float[np.ndarray, "n _ _"]]
) -> tuple[Float[np.ndarray, "n q"], Float[np.ndarray, "n q q"]]:
    """E[z] and E[z z'] of z = u_1 ⊗ ... ⊗ u_J, independent Gaussians, for n cases at once."""
    return kron_rows(means), kron_matrices([second_moment(m, v) for m, v in zip(means, covs, strict=True)])


def hadamard_moments(
    means: Sequence[Float[np.ndarray, "n r"]], covs: Sequence[Float[np.ndarray, "n r r"]]
) -> tuple[Float[np.ndarray, "n r"], Float[np.ndarray, "n r r"]]:
    """E[z] and E[z z'] of z = u_1 ∘ ... ∘ u_J, independent Gaussians, for n cases at once."""
    return hadamard(means), hadamard([second_moment(m, v) for m, v in zip(means, covs, strict=True)])


@dataclass(frozen=True)
class Chunk:
    """Entries of consecutive states: ``scatter`` (states here, entries here) adds entries up per state."""

    scatter: sparse.csc_matrix
    first: int
    others: list[Int[np.ndarray, " c"]]
    y: Float[np.ndarray, " c"]


class EntrySums:
    """Sums over the entries of each state of one mode, streamed so that memory does not grow with N R^K.

    ``states[k]`` (N,) says which state of mode k an entry belongs to; ``width`` is how many numbers the second moment
    of one entry takes and sets the chunk size.
    """

    def __init__(self, states: Sequence[Int[np.ndarray, " n"]], y: Float[np.ndarray, " n"], mode: int, width: int):
        order = np.argsort(states[mode], kind="stable")
        own, values = states[mode][order], y[order]
        others = [s[order] for j, s in enumerate(states) if j != mode]
        size = max(1, CHUNK // max(width, 1))
        self.mode = mode
        self.chunks: list[Chunk] = []
        for a in range(0, len(y), size):
            b = min(a + size, len(y))
            first, last = own[a], own[b - 1]
            scatter = sparse.csc_matrix(
                (np.ones(b - a), own[a:b] - first, np.arange(b - a + 1)), shape=(last - first + 1, b - a)
            )
            self.chunks.append(Chunk(scatter, int(first), [o[a:b] for o in others], values[a:b]))

    def __call__(
        self, product: Product, means: Sequence[np.ndarray], seconds: Sequence[np.ndarray]
    ) -> Iterator[tuple[slice, Float[np.ndarray, "c q"], Float[np.ndarray, "c q q"]]]:
        """For each chunk its slice of states, Σ y_n E[z_n] and Σ E[z_n z_n'], z over all modes but this one.

        ``means[j]`` (M_j, R_j) and ``seconds[j]`` (M_j, R_j, R_j) are tables over the states of mode j. A state can be
        split over two chunks: add the parts.
        """
        means = [m for j, m in enumerate(means) if j != self.mode]
        seconds = [s for j, s in enumerate(seconds) if j != self.mode]
        flat = [s.reshape(len(s), -1) for s in seconds]
        ranks = [m.shape[1] for m in means]
        multiply = kron_rows if product == "kron" else hadamard
        for chunk in self.chunks:
            z = multiply([m.take(i, axis=0) for m, i in zip(means, chunk.others, strict=True)])
            zz = multiply([s.take(i, axis=0) for s, i in zip(flat, chunk.others, strict=True)])
            size = chunk.scatter.shape[0]
            first = chunk.scatter @ (chunk.y[:, None] * z)
            second = chunk.scatter @ zz
            if product == "kron":  # sorted out after the sum, where it is cheap: (a a') (b b') -> (a b) (a' b')
                axes = second.reshape(size, *(r for rank in ranks for r in (rank, rank)))
                modes = len(ranks)
                second = axes.transpose(0, *range(1, 2 * modes, 2), *range(2, 2 * modes + 1, 2))
            yield slice(chunk.first, chunk.first + size), first, second.reshape(size, z.shape[1], z.shape[1])
