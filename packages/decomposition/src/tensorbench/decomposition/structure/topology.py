"""Templates of tensor networks: which vertices exist, which of them carry a mode, and which edges may have a rank.

Vertices 0..modes-1 carry the modes of the target; further vertices are internal (Tucker's core, the nodes of a tree).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import networkx as nx


@dataclass(frozen=True)
class Topology:
    """A template graph.

    Attributes:
        name: for messages and figures.
        modes: vertices 0..modes-1 carry a mode.
        edges: (i, j) with i < j, in the order in which a search visits their ranks.
        internal: number of further vertices without a mode.

    Raises:
        ValueError: no edge, an edge twice, a loop, or a vertex out of range.
    """

    name: str
    modes: int
    edges: tuple[tuple[int, int], ...]
    internal: int = 0

    def __post_init__(self):
        edges = tuple(tuple(sorted((int(i), int(j)))) for i, j in self.edges)
        object.__setattr__(self, "edges", edges)
        if self.modes < 2:
            raise ValueError(f"a topology needs at least 2 modes, got {self.modes}")
        if not edges:
            raise ValueError(f"topology {self.name!r} has no edge: the search space is empty")
        for i, j in edges:
            if i == j or not 0 <= i < j < self.vertices:
                raise ValueError(f"edge ({i}, {j}) of {self.name!r} is not between two of {self.vertices} vertices")
        if len(set(edges)) < len(edges):
            raise ValueError(f"topology {self.name!r} lists an edge twice: {edges}")

    @property
    def vertices(self) -> int:
        return self.modes + self.internal


def ring(order: int) -> Topology:
    """Tensor ring: edges (0,1), (1,2), …, (N-1,0). Raises ValueError below 3 modes."""
    if order < 3:
        raise ValueError(f"a ring needs at least 3 modes, got {order}")
    return Topology("ring", order, tuple((k, (k + 1) % order) for k in range(order)))


def train(order: int) -> Topology:
    """Tensor train."""
    return Topology("train", order, tuple((k, k + 1) for k in range(order - 1)))


def star(order: int) -> Topology:
    """Tucker: every mode is joined to one internal core."""
    return Topology("tucker", order, tuple((k, order) for k in range(order)), internal=1)


def lattice(rows: int, columns: int) -> Topology:
    """Rectangular grid (PEPS), row by row. A 2 x 2 grid is a ring of 4 in another order."""
    edges = []
    for r in range(rows):
        for c in range(columns):
            vertex = r * columns + c
            if c + 1 < columns:
                edges.append((vertex, vertex + 1))
            if r + 1 < rows:
                edges.append((vertex, vertex + columns))
    return Topology(f"lattice {rows}x{columns}", rows * columns, tuple(edges))


def tree(modes: int, edges: Sequence[tuple[int, int]]) -> Topology:
    """A tree over ``modes`` leaves and the internal vertices that the edges name. Raises ValueError on a cycle."""
    vertices = 1 + max(max(edge) for edge in edges)
    graph = nx.Graph(edges)
    if not (graph.number_of_nodes() == vertices and nx.is_tree(graph)):
        raise ValueError(f"these edges are not a tree over vertices 0..{vertices - 1}: {list(edges)}")
    return Topology("tree", modes, tuple(edges), internal=vertices - modes)


def complete(order: int) -> Topology:
    """Every pair may be joined; rank 1 means no edge (topology search)."""
    return Topology("complete", order, tuple((i, j) for i in range(order) for j in range(i + 1, order)))


def by_name(name: str, modes: int) -> Topology:
    """The template over ``modes`` modes called "ring", "train", "tucker", "complete" or "lattice 2x3".

    Raises:
        ValueError: another name, or a lattice of another number of modes.
    """
    plain = {"ring": ring, "train": train, "tucker": star, "complete": complete}
    if name in plain:
        return plain[name](modes)
    kind, _, size = name.partition(" ")
    if kind == "lattice" and size.count("x") == 1:
        rows, columns = map(int, size.split("x"))
        if rows * columns != modes:
            raise ValueError(f"{name!r} has {rows * columns} vertices, the target {modes} modes")
        return lattice(rows, columns)
    from tensorbench.core.errors import unknown

    raise ValueError(unknown("topology", name, [*plain, f"lattice 2x{modes // 2}"]))
