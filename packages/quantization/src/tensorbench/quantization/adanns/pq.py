"""Product quantisation of prefixes, plain and with a learnt rotation.

PQ (Jégou et al., 2011) cuts a vector of d dimensions into M parts and keeps of each the number of its nearest centroid,
``nbits`` bits. OPQ (Ge et al., 2013) alternates: quantise the rotated vectors X R, then turn R to the orthogonal
Procrustes solution argmin_R |X R - X̂| = U Vᵀ with U Σ Vᵀ = svd(Xᵀ X̂). Both steps lower the distortion or leave it, and
from R = I the first round is PQ's own, so that OPQ is never worse than PQ on its training vectors.

Queries stay exact (asymmetric distances): with a table of |q_m - c_mj|² for each part, 2^nbits·d multiply-adds, the
distance to a code is a sum of M entries. AdANNS-OPQ (Rege, Kusupati et al., 2023, arXiv 2305.19435, section 4.2) picks
the prefix d for a given number of bytes.
"""

from __future__ import annotations

from typing import Self

import numpy as np
from jaxtyping import Float, UInt8

from .kmeans import assign, initial_centroids, lloyd, warn_if_few
from .vectors import Found, check_vectors, nearest, prefix

_BLOCK = 64  # queries whose distances to all codes are in the cache together


def split(x: Float[np.ndarray, "n d"], M: int) -> Float[np.ndarray, "M n part"]:
    """The M parts of every vector, part by part."""
    n, d = x.shape
    return np.ascontiguousarray(x.reshape(n, M, d // M).transpose(1, 0, 2))


def train_codebooks(
    x: Float[np.ndarray, "n d"], M: int, nbits: int, *, seed: int = 0, iterations: int = 25
) -> Float[np.ndarray, "M K part"]:
    """2^nbits centroids for each part."""
    check_parts(x.shape[1], M, nbits)
    warn_if_few(len(x), 2**nbits)
    parts = split(x, M)
    return lloyd(parts, initial_centroids(parts, 2**nbits, np.random.default_rng(seed)), iterations)


def encode(x: Float[np.ndarray, "n d"], codebooks: Float[np.ndarray, "M K part"]) -> UInt8[np.ndarray, "n M"]:
    """The nearest centroid of each part."""
    return np.ascontiguousarray(assign(split(x, len(codebooks)), codebooks).T.astype(np.uint8))


def decode(codes: UInt8[np.ndarray, "n M"], codebooks: Float[np.ndarray, "M K part"]) -> Float[np.ndarray, "n d"]:
    """The vectors that the codes stand for."""
    return codebooks[np.arange(len(codebooks)), codes].reshape(len(codes), -1)


def tables(q: Float[np.ndarray, "m d"], codebooks: Float[np.ndarray, "M K part"]) -> Float[np.ndarray, "M m K"]:
    """|q_m - c_mj|² of every part of every query with every centroid."""
    parts = split(q, len(codebooks))
    out = parts @ codebooks.transpose(0, 2, 1)
    out *= -2.0
    out += np.einsum("Mmp,Mmp->Mm", parts, parts)[:, :, None]
    out += np.einsum("MKp,MKp->MK", codebooks, codebooks)[:, None, :]
    return np.maximum(out, 0.0, out=out)


def look_up(table: Float[np.ndarray, "M m K"], codes: UInt8[np.ndarray, "n M"]) -> Float[np.ndarray, "m n"]:
    """Σ_m table[m, query, code_m]: squared distances of queries to reconstructions."""
    out = table[0][:, codes[:, 0]]
    for part in range(1, len(table)):
        out += table[part][:, codes[:, part]]
    return out


def train_rotation(
    x: Float[np.ndarray, "n d"], M: int, nbits: int, *, seed: int = 0, rounds: int = 8, iterations: int = 25
) -> tuple[Float[np.ndarray, "d d"], Float[np.ndarray, "M K part"]]:
    """OPQ's rotation R (vectors are rows, x R) and codebooks: ``rounds`` alternations of 4 k-means steps each.

    The first codebooks come from ``iterations`` steps on the vectors as they are; the last rotation is followed by
    as many again.
    """
    codebooks = train_codebooks(x, M, nbits, seed=seed, iterations=iterations)
    rotation = np.eye(x.shape[1], dtype=np.float32)
    rotated = x
    for step in range(rounds):
        reconstruction = decode(encode(rotated, codebooks), codebooks)
        u, _, vt = np.linalg.svd(x.T @ reconstruction)
        rotation = u @ vt
        rotated = x @ rotation
        codebooks = lloyd(split(rotated, M), codebooks, 4 if step < rounds - 1 else iterations)
    return rotation, codebooks


class PQ:
    """Codes of ``M`` parts of ``nbits`` bits each, of prefixes of ``d`` dimensions (None: all)."""

    def __init__(self, d: int | None, M: int, nbits: int = 8, *, iterations: int = 25, seed: int = 0) -> None:
        self.d, self.M, self.nbits = d, M, nbits
        self.iterations, self.seed = iterations, seed
        if d is not None:
            check_parts(d, M, nbits)
        self.codebooks: np.ndarray | None = None
        self.codes = np.zeros((0, M), dtype=np.uint8)
        self._dims: int | None = None

    def _prefix(self, x: np.ndarray, name: str) -> np.ndarray:
        x = check_vectors(x, name, self._dims)
        self._dims = x.shape[1]
        return prefix(x, self.d or self._dims)

    def _fit(self, x: np.ndarray) -> None:
        self.codebooks = train_codebooks(x, self.M, self.nbits, seed=self.seed, iterations=self.iterations)

    def rotate(self, x: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
        """Prefixes as they are cut into parts; OPQ turns them first."""
        return x

    def train(self, x: Float[np.ndarray, "n D"]) -> Self:
        self._fit(self._prefix(x, "training vectors"))
        return self

    def add(self, x: Float[np.ndarray, "n D"]) -> Self:
        self.codes = np.concatenate([self.codes, self.encode(x)])
        return self

    def encode(self, x: Float[np.ndarray, "n D"]) -> UInt8[np.ndarray, "n M"]:
        self._trained()
        return encode(self.rotate(self._prefix(x, "vectors")), self.codebooks)

    def decode(self, codes: UInt8[np.ndarray, "n M"]) -> Float[np.ndarray, "n d"]:
        """Reconstructed prefixes, in the rotated coordinates."""
        self._trained()
        return decode(codes, self.codebooks)

    def tables(self, xq: Float[np.ndarray, "m D"]) -> Float[np.ndarray, "M m K"]:
        self._trained()
        return tables(self.rotate(self._prefix(xq, "queries")), self.codebooks)

    def distortion(self, x: Float[np.ndarray, "n D"]) -> float:
        """Mean squared distance of prefixes to their reconstructions."""
        part = self.rotate(self._prefix(x, "vectors"))
        return float(((part - decode(encode(part, self.codebooks), self.codebooks)) ** 2).sum(axis=1).mean())

    def search(self, xq: Float[np.ndarray, "m D"], k: int) -> Found:
        if not len(self.codes):
            raise ValueError("the index is empty; add vectors before searching")
        table = self.tables(xq)
        m = table.shape[1]
        blocks = [nearest(look_up(table[:, start : start + _BLOCK], self.codes), k) for start in range(0, m, _BLOCK)]
        values, ids = (np.concatenate(part) for part in zip(*blocks, strict=True))
        every = np.ones(m)
        return Found(values, ids, every * self.cost(), every * len(self.codes))

    def cost(self) -> float:
        """Table and look-ups (an addition each); OPQ's rotation of the query comes on top."""
        self._trained()
        return float(self.codebooks.size + self.M * len(self.codes))

    @property
    def bytes_per_vector(self) -> float:
        return self.M * self.nbits / 8

    def _trained(self) -> None:
        if self.codebooks is None:
            raise ValueError("there are no codebooks yet; train the index first")


class OPQ(PQ):
    """PQ of prefixes that a learnt rotation spreads evenly over the parts."""

    def __init__(
        self, d: int | None, M: int, nbits: int = 8, *, rounds: int = 8, iterations: int = 25, seed: int = 0
    ) -> None:
        super().__init__(d, M, nbits, iterations=iterations, seed=seed)
        self.rounds = rounds
        self.rotation: np.ndarray | None = None

    def _fit(self, x: np.ndarray) -> None:
        self.rotation, self.codebooks = train_rotation(
            x, self.M, self.nbits, seed=self.seed, rounds=self.rounds, iterations=self.iterations
        )

    def rotate(self, x: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
        return x @ self.rotation

    def cost(self) -> float:
        return super().cost() + float(self.rotation.size)


def check_parts(d: int, M: int, nbits: int) -> None:
    """ValueError unless ``M`` divides ``d`` and ``nbits`` is between 1 and 8."""
    if M < 1 or d % M:
        fits = [m for m in range(1, d + 1) if d % m == 0]
        raise ValueError(f"M = {M} parts do not divide {d} dimensions; use one of {fits}")
    if not 1 <= nbits <= 8:
        raise ValueError(f"codes of {nbits} bits a part are not kept here; use 1 to 8")
