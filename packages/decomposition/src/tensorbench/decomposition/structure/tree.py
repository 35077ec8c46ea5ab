"""Ranks of a tree tensor network under a budget of parameters: the packing problem on the edges of a tree.

Ghadiri, Fahrbach, Fu, Mirrokni (2023), arXiv 2302.03886, the extension to tree tensor networks. Cutting an edge e of
the tree parts the modes in two; the singular values of that matricisation bound what a rank r_e on the edge can keep:

    parameters      Σ_v (∏ sizes of the modes at v) · ∏_{e ∋ v} r_e
    packing value   Σ_e Σ_{i ≤ r_e} σ_i(X_e)²          surrogate loss   Σ_e Σ_{i > r_e} σ_i(X_e)²

The surrogate bounds the squared error of truncating edge after edge (Oseledets 2011 for trains, Grasedyck 2010 for
hierarchical Tucker). A star is the Tucker format, a path with one mode per node the tensor train.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from math import floor, log, prod

import networkx as nx
import numpy as np
import scipy.sparse
from jaxtyping import Float
from scipy.optimize import Bounds, LinearConstraint, milp

from tensorbench.core.errors import unknown
from tensorbench.decomposition.linalg import COO, as_tensor, squared_norm, squared_singular_values, tails

Edge = tuple[str, str]
_NODES = 2_000_000  # partial assignments the exact search may visit


@dataclass(frozen=True)
class TreeSpec:
    """A tree of nodes: ``edges`` between named nodes, ``modes[node]`` the modes of the tensor that a node carries.

    Raises ValueError unless the graph is a tree, every mode 0 ... N-1 sits at exactly one node and every end of the
    tree carries a mode.
    """

    edges: tuple[Edge, ...]
    modes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.edges or not nx.is_tree(self.graph):
            raise ValueError(
                f"edges {self.edges} do not form a tree: one connected graph with at least one edge, no cycle"
            )
        if strangers := sorted(set(self.modes) - set(self.graph)):
            raise ValueError(f"modes are given for nodes {strangers} that no edge mentions")
        carried = sorted(mode for modes in self.modes.values() for mode in modes)
        if carried != list(range(len(carried))) or len(carried) < 2:
            raise ValueError(f"modes {carried} must be 0, 1, 2, ... each at one node, two at least")
        if bare := [node for node in self.graph if self.graph.degree(node) == 1 and not self.modes.get(node)]:
            raise ValueError(f"nodes {bare} end the tree but carry no mode; remove them or give them one")

    @cached_property
    def graph(self) -> nx.Graph:
        """The tree as a networkx graph."""
        return nx.Graph(list(self.edges))

    @property
    def order(self) -> int:
        """Number of modes."""
        return sum(len(modes) for modes in self.modes.values())

    def cut(self, edge: Edge) -> tuple[int, ...]:
        """The modes on the side of ``edge[0]`` once the edge is cut."""
        rest = self.graph.copy()
        rest.remove_edge(*edge)
        side = nx.node_connected_component(rest, edge[0])
        return tuple(sorted(mode for node in side for mode in self.modes.get(node, ())))

    def weight(self, node: str, shape: Sequence[int]) -> int:
        """Product of the sizes of the modes at ``node``."""
        return prod(shape[mode] for mode in self.modes.get(node, ()))

    def params(self, shape: Sequence[int], ranks: Mapping[Edge, int]) -> int:
        """Numbers the network stores for a tensor of ``shape`` with ``ranks`` on its edges."""
        size = {node: self.weight(node, shape) for node in self.graph}
        for edge, rank in ranks.items():
            for node in edge:
                size[node] *= int(rank)
        return sum(size.values())


def tucker_star(order: int) -> TreeSpec:
    """A core node without modes, one leaf per mode: the Tucker format."""
    leaves = [f"mode{n}" for n in range(order)]
    return TreeSpec(tuple(("core", leaf) for leaf in leaves), {leaf: (n,) for n, leaf in enumerate(leaves)})


def tensor_train(order: int) -> TreeSpec:
    """A path of nodes with one mode each: the tensor train."""
    nodes = [f"mode{n}" for n in range(order)]
    return TreeSpec(tuple(pairwise(nodes)), {node: (n,) for n, node in enumerate(nodes)})


def hierarchical_tucker(order: int) -> TreeSpec:
    """Balanced binary tree over the modes, modes at the leaves; the root is contracted into one edge."""
    edges: list[Edge] = []

    def node(modes: range) -> str:
        if len(modes) == 1:
            return f"mode{modes[0]}"
        name = f"join{modes[0]}-{modes[-1]}"
        half = (len(modes) + 1) // 2
        edges.extend((name, node(part)) for part in (modes[:half], modes[half:]))
        return name

    if order < 2:
        raise ValueError(f"a tree over {order} modes has no edge; use at least 2")
    half = (order + 1) // 2
    left, right = node(range(half)), node(range(half, order))
    edges.append((left, right))
    return TreeSpec(tuple(edges), {f"mode{n}": (n,) for n in range(order)})


@dataclass(frozen=True)
class TreeSpectra:
    """Squared singular values of every edge's matricisation, ``values[edge]``; computed once, used for all budgets."""

    tree: TreeSpec
    shape: tuple[int, ...]
    values: Mapping[Edge, Float[np.ndarray, " _"]]
    norm2: float

    @cached_property
    def ranks(self) -> dict[Edge, int]:
        """Numerical rank of every edge, at least one."""
        return {edge: max(1, int(np.count_nonzero(a))) for edge, a in self.values.items()}

    @cached_property
    def prefixes(self) -> dict[Edge, Float[np.ndarray, " _"]]:
        """``prefixes[edge][r]``: energy of the leading ``r`` values."""
        return {edge: np.concatenate([[0.0], np.cumsum(a)]) for edge, a in self.values.items()}

    def value(self, ranks: Mapping[Edge, int]) -> float:
        """Packing value of the ranks."""
        return float(sum(self.prefixes[edge][rank] for edge, rank in ranks.items()))

    def loss(self, ranks: Mapping[Edge, int]) -> float:
        """Surrogate loss of the ranks: a bound on the squared error."""
        return float(sum(tails(self.values[edge])[rank] for edge, rank in ranks.items()))


def tree_spectra(X: Float[np.ndarray, "*_"], tree: TreeSpec) -> TreeSpectra:
    """The singular values of ``X`` that the edges of ``tree`` cut. Raises ValueError when the orders differ."""
    X = as_tensor(X)
    if isinstance(X, COO):
        raise ValueError("tree ranks need a dense array; use X.full() where it fits in memory")
    if tree.order != X.ndim:
        raise ValueError(f"the tree has {tree.order} modes, the tensor {X.shape} has {X.ndim}")
    values = {}
    for edge in tree.edges:
        side = tree.cut(edge)
        other = tuple(mode for mode in range(X.ndim) if mode not in side)
        values[edge] = squared_singular_values(X, min(side, other, key=lambda modes: prod(X.shape[m] for m in modes)))
    return TreeSpectra(tree, X.shape, values, squared_norm(X))


@dataclass(frozen=True)
class TreePackingResult:
    """Ranks of the edges and how they were found; units and fields as in ``CoreShapeResult``."""

    ranks: dict[Edge, int]
    params: int
    value: float
    surrogate_loss: float
    seconds: float
    evaluations: int


def _grow(s: TreeSpectra, budget: int, start: Mapping[Edge, int]) -> tuple[dict[Edge, int], int]:
    """Raise the rank with the largest next value that still fits, until none does."""
    ranks, evaluations = dict(start), 0
    while True:
        best, best_edge = -1.0, None
        for edge, rank in ranks.items():
            if rank < s.ranks[edge] and (gain := float(s.values[edge][rank])) > best:
                evaluations += 1
                if s.tree.params(s.shape, {**ranks, edge: rank + 1}) <= budget:
                    best, best_edge = gain, edge
        if best_edge is None:
            return ranks, evaluations
        ranks[best_edge] += 1


def _exact(s: TreeSpectra, budget: int, start: Mapping[Edge, int]) -> tuple[dict[Edge, int], int]:
    """Branch and bound over the edges; the last rank follows from the budget, which is affine in it."""
    edges = sorted(s.tree.edges, key=lambda edge: s.ranks[edge])
    best, best_value, nodes = dict(start), s.value(start), 0

    def most(ranks: dict[Edge, int], edge: Edge) -> int:
        """Largest rank of ``edge`` that fits, the other ranks given."""
        least = s.tree.params(s.shape, {**ranks, edge: 1})
        step = s.tree.params(s.shape, {**ranks, edge: 2}) - least
        return min(s.ranks[edge], 1 + (budget - least) // step) if least <= budget else 0

    def visit(depth: int, ranks: dict[Edge, int]) -> None:
        nonlocal best, best_value, nodes
        nodes += 1
        if nodes > _NODES:
            raise ValueError(f"more than {_NODES} partial rank assignments; use method 'ip' for a tree of this size")
        top = most(ranks, edges[depth])
        if depth == len(edges) - 1:
            if top and (value := s.value(full := {**ranks, edges[depth]: top})) > best_value:
                best, best_value = full, value
            return
        for rank in range(1, top + 1):
            now = {**ranks, edges[depth]: rank}
            bound = sum(s.prefixes[edge][now[edge]] for edge in edges[: depth + 1])
            bound += sum(s.prefixes[edge][most(now, edge)] for edge in edges[depth + 1 :])
            if bound > best_value:
                visit(depth + 1, now)

    visit(0, {edge: 1 for edge in edges})
    return best, nodes


def _integer_program(s: TreeSpectra, budget: int, eps: float) -> dict[Edge, int]:
    """One 0/1 variable per edge and rank, and per inner node and level (1+eps)^k of the product of its ranks."""
    gains = {edge: s.prefixes[edge][1 : rank + 1] - s.prefixes[edge][1] for edge, rank in s.ranks.items()}
    inner = [node for node in s.tree.graph if s.tree.graph.degree(node) > 1]
    levels = {}
    for node in inner:
        top = max(1, budget // s.tree.weight(node, s.shape))
        grid = sorted({floor((1 + eps) ** k) for k in range(floor(log(top) / log(1 + eps)) + 1)})
        levels[node] = np.array([*grid, *([top] if top > grid[-1] else [])])
    blocks: list[Edge | str] = [*s.tree.edges, *inner]
    width = {edge: s.ranks[edge] for edge in s.tree.edges} | {node: len(levels[node]) for node in inner}
    first = dict(zip(blocks, np.cumsum([0, *(width[block] for block in blocks)]), strict=False))
    total = sum(width.values())

    objective, cost = np.zeros(total), np.zeros(total)
    for edge in s.tree.edges:
        objective[first[edge] : first[edge] + width[edge]] = gains[edge]
        for node in edge:
            if s.tree.graph.degree(node) == 1:
                steps = np.arange(1, width[edge] + 1)
                cost[first[edge] : first[edge] + width[edge]] += s.tree.weight(node, s.shape) * steps
    products = np.zeros((len(inner), total))
    for row, node in enumerate(inner):
        here = slice(first[node], first[node] + width[node])
        cost[here] = s.tree.weight(node, s.shape) * levels[node]
        products[row, here] = -np.log(levels[node] + 0.5)  # products are whole numbers: half a unit of room
        for edge in s.tree.edges:
            if node in edge:
                products[row, first[edge] : first[edge] + width[edge]] = np.log(np.arange(1, width[edge] + 1))
    one_each = scipy.sparse.block_diag([np.ones((1, width[block])) for block in blocks], format="csr")
    scale = max(sum(float(gain[-1]) for gain in gains.values()), np.finfo(np.float64).tiny)
    result = milp(
        -objective / scale,
        constraints=[
            LinearConstraint(one_each, 1, 1),
            LinearConstraint(scipy.sparse.csr_array(products), -np.inf, 0),
            LinearConstraint(cost[None], -np.inf, budget + 0.5),
        ],
        integrality=1,
        bounds=Bounds(0, 1),
        options={"mip_rel_gap": 1e-6},
    )
    if result.status != 0 or result.x is None:
        raise RuntimeError(f"integer program not solved (budget {budget}): {result.message}")
    return {edge: int(np.argmax(result.x[first[edge] : first[edge] + width[edge]])) + 1 for edge in s.tree.edges}


def tree_packing(
    X: Float[np.ndarray, "*_"] | TreeSpectra,
    tree: TreeSpec | None,
    budget: float,
    method: str = "ip",
    eps: float = 0.25,
) -> TreePackingResult:
    """Ranks for the edges of ``tree`` that pack the most energy into ``budget`` parameters.

    ``method``: ``"ip"`` (one integer program on a grid of products with ratio 1 + ``eps``, at least the best value
    for the budget / (1 + eps), then what is left is filled up), ``"greedy"`` or ``"exact"`` (branch and bound, small
    trees). With spectra computed before, ``tree`` may be None. Raises ValueError when not even ranks of one fit.
    """
    if not 0 < eps <= 1:
        raise ValueError(f"eps {eps} must lie in (0, 1]: the relative step between levels of a product of ranks")
    if isinstance(X, TreeSpectra):
        s = X
    elif tree is None:
        raise ValueError("give a tree, such as tucker_star(X.ndim), or spectra from tree_spectra")
    else:
        s = tree_spectra(X, tree)
    ones = {edge: 1 for edge in s.tree.edges}
    least = s.tree.params(s.shape, ones)
    if not np.isfinite(budget) or budget < least:
        raise ValueError(f"budget {budget} is too small for a tensor {s.shape}; this tree needs at least {least}")
    limit = int(budget)
    started = time.perf_counter()
    ranks, evaluations = _grow(s, limit, ones)
    if method == "exact":
        ranks, evaluations = _exact(s, limit, ranks)
    elif method == "ip":
        packed = _integer_program(s, limit, eps)
        packed = packed if s.tree.params(s.shape, packed) <= limit else ones
        filled, more = _grow(s, limit, packed)
        ranks, evaluations = max(ranks, filled, key=s.value), evaluations + more + 1
    elif method != "greedy":
        raise ValueError(unknown("method", method, ["exact", "greedy", "ip"]))
    seconds = time.perf_counter() - started
    return TreePackingResult(ranks, s.tree.params(s.shape, ranks), s.value(ranks), s.loss(ranks), seconds, evaluations)
