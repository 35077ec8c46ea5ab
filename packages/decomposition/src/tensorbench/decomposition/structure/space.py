"""Structures of tensor networks and the discrete spaces in which a search moves.

A structure is (ranks of the template's edges, assignment of modes to vertices); what it *is* is the matrix of bond
ranks between modes, and that matrix is its canonical form: rotating or reflecting a ring, relabelling Tucker's leaves
or taking a rank-1 edge away does not change it. Li et al., "Permutation Search of Tensor Network Structures via Local
Sampling" (arXiv 2206.06597, TNLS) and "Alternating Local Enumeration" (arXiv 2304.12875, TnALE).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from . import topology as topologies
from .topology import Topology


@dataclass(frozen=True)
class Structure:
    """Ranks on a template and the mode that each vertex carries.

    Attributes:
        dims: mode sizes of the target.
        topology: the template.
        ranks: one per edge of the template.
        permutation: vertex v carries mode ``permutation[v]``; identity by default.

    Raises:
        ValueError: ranks below 1 or too few of them, a permutation that is not a bijection.
    """

    dims: tuple[int, ...]
    topology: Topology
    ranks: tuple[int, ...]
    permutation: tuple[int, ...] = ()

    def __post_init__(self):
        object.__setattr__(self, "dims", tuple(int(d) for d in self.dims))
        object.__setattr__(self, "ranks", tuple(int(r) for r in self.ranks))
        modes = self.topology.modes
        if len(self.dims) != modes:
            raise ValueError(f"{self.topology.name} has {modes} modes, dims {self.dims} has {len(self.dims)}")
        if len(self.ranks) != len(self.topology.edges):
            raise ValueError(f"{self.topology.name} has {len(self.topology.edges)} edges, got {len(self.ranks)} ranks")
        if min(self.ranks) < 1:
            raise ValueError(f"ranks must be >= 1 (1 = no edge), got {self.ranks}")
        permutation = tuple(int(p) for p in self.permutation) or tuple(range(modes))
        if sorted(permutation) != list(range(modes)):
            raise ValueError(f"permutation {permutation} is not a bijection of the modes 0..{modes - 1}")
        object.__setattr__(self, "permutation", permutation)

    @classmethod
    def from_adjacency(cls, matrix: np.ndarray) -> Structure:
        """From a structure matrix over modes (sizes on the diagonal), on the complete template."""
        matrix = np.asarray(matrix)
        template = topologies.complete(len(matrix))
        return cls(tuple(np.diag(matrix)), template, tuple(matrix[i, j] for i, j in template.edges))

    @cached_property
    def adjacency(self) -> np.ndarray:
        """Structure matrix over modes then internal vertices: bonds off the diagonal, sizes on it (internal: 1)."""
        size, modes = self.topology.vertices, self.topology.modes
        matrix = np.ones((size, size), dtype=np.int64)
        place = (*self.permutation, *range(modes, size))
        for (i, j), rank in zip(self.topology.edges, self.ranks, strict=True):
            a, b = place[i], place[j]
            matrix[a, b] = matrix[b, a] = rank
        matrix[range(modes), range(modes)] = self.dims
        return matrix

    @cached_property
    def key(self) -> tuple[tuple[int, ...], ...]:
        """Canonical form: the structure matrix; over the orders of the internal vertices the smallest one."""
        modes, size = self.topology.modes, self.topology.vertices
        if not 2 <= size - modes <= 5:
            return tuple(map(tuple, self.adjacency.tolist()))
        fixed = list(range(modes))
        orders = (fixed + list(tail) for tail in itertools.permutations(range(modes, size)))
        return min(tuple(map(tuple, self.adjacency[np.ix_(o, o)].tolist())) for o in orders)

    @cached_property
    def params(self) -> int:
        """Σ over vertices of (mode size × ranks of its bonds)."""
        return int(sum(math.prod(row) for row in self.adjacency.tolist()))

    @property
    def compression(self) -> float:
        """Parameters over entries of the target (the paper's CR; smaller is better)."""
        return self.params / math.prod(self.dims)

    def with_rank(self, edge: int, rank: int) -> Structure:
        ranks = (*self.ranks[:edge], int(rank), *self.ranks[edge + 1 :])
        return Structure(self.dims, self.topology, ranks, self.permutation)

    def with_permutation(self, permutation: Sequence[int]) -> Structure:
        return Structure(self.dims, self.topology, self.ranks, tuple(permutation))

    def neighbours(self, radius: int = 1, max_rank: int | None = None) -> list[Structure]:
        """Structures with exactly one rank changed by at most ``radius``, without this one."""
        if radius < 1:
            raise ValueError(f"radius must be >= 1, got {radius}")
        top = max_rank or max(self.ranks) + radius
        out = []
        for edge, rank in enumerate(self.ranks):
            steps = range(max(1, rank - radius), min(top, rank + radius) + 1)
            out += [self.with_rank(edge, r) for r in steps if r != rank]
        return out

    def __str__(self) -> str:
        order = "" if self.permutation == tuple(range(len(self.dims))) else f" modes {list(self.permutation)}"
        return f"{self.topology.name} ranks {list(self.ranks)}{order}"


@dataclass(frozen=True)
class RankSpace:
    """All rank vectors in {1..max_rank}^K on a fixed template with the modes in order.

    Raises:
        ValueError: max_rank < 1, mode sizes < 1, or a target of more than 2^31 entries.
    """

    dims: tuple[int, ...]
    topology: Topology
    max_rank: int
    permutable = False

    def __post_init__(self):
        object.__setattr__(self, "dims", tuple(int(d) for d in self.dims))
        if self.max_rank < 1:
            raise ValueError(f"max_rank must be >= 1, got {self.max_rank}: the space would be empty")
        if min(self.dims, default=0) < 1 or len(self.dims) != self.topology.modes:
            raise ValueError(f"dims {self.dims} do not fit a {self.topology.name} of {self.topology.modes} modes >= 1")
        if math.prod(self.dims) > 2**31:
            raise ValueError(f"dims {self.dims} make {math.prod(self.dims):.3g} entries, over 2^31; search on a part")

    @property
    def variables(self) -> int:
        """K, the number of rank variables."""
        return len(self.topology.edges)

    @property
    def size(self) -> int:
        """Number of (not yet canonicalised) points."""
        return self.max_rank**self.variables * (math.factorial(len(self.dims)) if self.permutable else 1)

    def structure(self, ranks: Sequence[int], permutation: Sequence[int] = ()) -> Structure:
        return Structure(self.dims, self.topology, tuple(ranks), tuple(permutation))

    def random(self, generator: np.random.Generator) -> Structure:
        """Uniform over ranks (and permutations)."""
        ranks = generator.integers(1, self.max_rank + 1, size=self.variables)
        permutation = generator.permutation(len(self.dims)) if self.permutable else ()
        return self.structure(ranks, permutation)

    def window(self, centre: Structure, edge: int, radius: int) -> list[Structure]:
        """The ranks [r - radius, r + radius] of one edge, shifted (not cut) to lie inside 1..max_rank, ascending."""
        if radius < 1:
            raise ValueError(f"radius must be >= 1, got {radius}: there would be nothing to compare")
        width = min(2 * radius + 1, self.max_rank)
        low = min(max(centre.ranks[edge] - radius, 1), self.max_rank - width + 1)
        return [centre.with_rank(edge, rank) for rank in range(low, low + width)]

    def transpositions(self, centre: Structure) -> list[Structure]:
        """The centre, then every swap of two modes: 1 + N(N-1)/2 structures."""
        out = [centre]
        for i, j in itertools.combinations(range(len(self.dims)), 2):
            swapped = list(centre.permutation)
            swapped[i], swapped[j] = swapped[j], swapped[i]
            out.append(centre.with_permutation(swapped))
        return out

    def all(self) -> Iterator[Structure]:
        """Every point of the space (for brute force)."""
        orders = itertools.permutations(range(len(self.dims))) if self.permutable else [()]
        for order in orders:
            for ranks in itertools.product(range(1, self.max_rank + 1), repeat=self.variables):
                yield self.structure(ranks, order)


@dataclass(frozen=True)
class PermutationSpace(RankSpace):
    """Ranks and the assignment of modes to vertices (the papers' TN-PS)."""

    permutable = True


def TopologySpace(dims: Sequence[int], max_rank: int) -> RankSpace:
    """Upper-triangular ranks on the complete graph, 1 = no edge (the papers' TN-TS)."""
    return RankSpace(tuple(dims), topologies.complete(len(tuple(dims))), max_rank)
