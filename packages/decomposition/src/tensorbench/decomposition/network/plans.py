"""Contraction plans of alternating sweeps over a tensor network, compiled once per structure and cached.

Every least-squares update of core k needs the network without core k, its *environment*. With the vertices in a line,
the environment is (all cores left of k) × (all cores right of k); a sweep that goes to and fro therefore extends one
*prefix* or one *suffix* by one core per update and never contracts the rest again. Two routes give the normal
equations:

- ``environment``: build the environment E (rows: other modes, columns: bonds of k); Gram = EᵀE, right side = EᵀX_k.
- ``gram``: contract the two-layer network for the Gram and the target with prefix and suffix for the right side; E is
  never formed. Much cheaper for long modes with few bonds (a ring), much dearer for dense graphs.

The plan takes the route with fewer multiplications. Each pairwise step is lowered to one batched ``matmul`` when the
plan is made, because for the small networks of a structure search parsing an einsum costs more than the arithmetic.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Labels = tuple[int, ...]
MAX_ENVIRONMENT = 2**31  # bytes of one environment before the plan refuses


@dataclass(frozen=True)
class Pair:
    """A contraction of two batched arrays over their shared labels, lowered to one matrix product."""

    perm_a: tuple[int, ...]
    shape_a: tuple[int, int, int]
    perm_b: tuple[int, ...]
    shape_b: tuple[int, int, int]
    shape: tuple[int, ...]
    labels: Labels
    flops: int

    def __call__(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        product = a.transpose(self.perm_a).reshape(self.shape_a) @ b.transpose(self.perm_b).reshape(self.shape_b)
        return product.reshape(self.shape)


@dataclass(frozen=True)
class Arrange:
    """A transposition to named axes followed by grouping them (batch axis in front)."""

    perm: tuple[int, ...]
    shape: tuple[int, ...]

    def __call__(self, a: np.ndarray) -> np.ndarray:
        return a.transpose(self.perm).reshape(self.shape)


def pair(a: Labels, b: Labels, sizes: dict[int, int]) -> Pair:
    """Plan the contraction of labels ``a`` with ``b``; the result's labels are free(a) then free(b)."""
    shared = [x for x in a if x in b]
    free_a, free_b = [x for x in a if x not in shared], [x for x in b if x not in shared]
    m, k, n = (math.prod(sizes[x] for x in group) for group in (free_a, shared, free_b))
    return Pair(
        perm_a=(0, *(1 + a.index(x) for x in free_a + shared)),
        shape_a=(-1, m, k),
        perm_b=(0, *(1 + b.index(x) for x in shared + free_b)),
        shape_b=(-1, k, n),
        shape=(-1, *(sizes[x] for x in free_a + free_b)),
        labels=(*free_a, *free_b),
        flops=m * k * n,
    )


def arrange(have: Labels, groups: Sequence[Sequence[int]], sizes: dict[int, int]) -> Arrange:
    order = [x for group in groups for x in group]
    return Arrange(
        perm=(0, *(1 + have.index(x) for x in order)),
        shape=(-1, *(math.prod(sizes[x] for x in group) for group in groups)),
    )


@dataclass(frozen=True)
class SweepPlan:
    """Everything a sweep needs for one structure. Lists are indexed by vertex (``forward[k]`` absorbs core k)."""

    dims: tuple[int, ...]
    core_shapes: tuple[tuple[int, ...], ...]  # bonds (rank > 1) in order of the neighbour, then the mode
    full_shapes: tuple[tuple[int, ...], ...]  # the same core with all N axes, mode last
    route: str
    flops: int  # multiplications of one pass over all cores
    forward: tuple[Pair, ...]  # prefix (environment route: cores; gram route: target × cores)
    backward: tuple[Pair, ...]  # suffix of cores
    environment: tuple[Pair, ...]  # environment route: prefix × suffix; gram route: (target × prefix) × suffix
    arrange_environment: tuple[Arrange, ...]
    forward2: tuple[tuple[Pair, Pair], ...]  # gram route only: two-layer prefix, suffix and their product
    backward2: tuple[tuple[Pair, Pair], ...]
    gram: tuple[Pair, ...]
    arrange_gram: tuple[Arrange, ...]

    @property
    def order(self) -> int:
        return len(self.dims)

    def compact(self, core: np.ndarray, k: int) -> np.ndarray:
        """Full-order core -> (bonds, mode)."""
        return np.moveaxis(core, k, -1).reshape(self.core_shapes[k])

    def expand(self, core: np.ndarray, k: int) -> np.ndarray:
        """(bonds, mode) -> full-order core."""
        return np.moveaxis(core.reshape(self.full_shapes[k]), -1, k)


@functools.lru_cache(maxsize=4096)
def network_plan(ranks: tuple[tuple[int, ...], ...], force: str | None = None) -> SweepPlan:
    """The plan for a structure matrix (bonds off, mode sizes on the diagonal), vertices swept in index order.

    Args:
        ranks: the structure matrix as nested tuples (hashable: plans are cached).
        force: "environment" or "gram" to insist on a route (masked fits need the environment).

    Raises:
        ValueError: when even the cheaper route would need more than 2 GiB for one intermediate.
    """
    if force is not None:
        plan = _compile(ranks, force)
    else:
        plan = min((_compile(ranks, route) for route in ("environment", "gram")), key=lambda p: p.flops)
    largest = max(math.prod(p.shape[1:]) for p in (*plan.forward, *plan.backward, *plan.environment, *plan.gram))
    if 8 * largest > MAX_ENVIRONMENT:
        raise ValueError(
            f"fitting this network needs an intermediate of {largest:.2g} entries (over 2 GiB); lower the ranks or use "
            "fit_adam, which contracts the whole network only"
        )
    return plan


def _compile(ranks: tuple[tuple[int, ...], ...], route: str) -> SweepPlan:
    order = len(ranks)
    dims = tuple(ranks[i][i] for i in range(order))
    bra = order * order + order  # offset of the second layer's bond labels
    sizes: dict[int, int] = {}
    bonds: list[Labels] = []
    for i in range(order):
        labels = []
        for j in range(order):
            if j != i and ranks[i][j] > 1:
                label = min(i, j) * order + max(i, j)
                sizes[label] = sizes[label + bra] = ranks[i][j]
                labels.append(label)
        bonds.append(tuple(labels))
        sizes[-1 - i] = dims[i]
    cores = [(*bonds[i], -1 - i) for i in range(order)]
    doubles = [(*(x + bra for x in bonds[i]), -1 - i) for i in range(order)]
    modes = tuple(-1 - i for i in range(order))

    forward, backward = [], [None] * order
    prefix: list[Labels] = [modes if route == "gram" else ()]
    for k in range(order):
        forward.append(pair(prefix[k], cores[k], sizes))
        prefix.append(forward[k].labels)
    suffix: list[Labels] = [()] * (order + 1)
    for k in reversed(range(order)):
        backward[k] = pair(cores[k], suffix[k + 1], sizes)
        suffix[k] = backward[k].labels

    environment, arranged = [], []
    for k in range(order):
        rest = [x for i, x in enumerate(modes) if i != k]
        environment.append(pair(prefix[k], suffix[k + 1], sizes))
        groups = [bonds[k], [modes[k]]] if route == "gram" else [rest, bonds[k]]
        arranged.append(arrange(environment[k].labels, groups, sizes))
    flops = sum(p.flops for p in (*forward, *backward)) // 2 + sum(p.flops for p in environment)

    forward2, backward2, gram, arranged_gram = [], [None] * order, [], []
    if route == "gram":
        prefix2: list[Labels] = [()]
        for k in range(order):
            first = pair(prefix2[k], cores[k], sizes)
            forward2.append((first, pair(first.labels, doubles[k], sizes)))
            prefix2.append(forward2[k][1].labels)
        suffix2: list[Labels] = [()] * (order + 1)
        for k in reversed(range(order)):
            first = pair(cores[k], suffix2[k + 1], sizes)
            backward2[k] = (first, pair(first.labels, doubles[k], sizes))
            suffix2[k] = backward2[k][1].labels
        for k in range(order):
            gram.append(pair(prefix2[k], suffix2[k + 1], sizes))
            arranged_gram.append(arrange(gram[k].labels, [bonds[k], [x + bra for x in bonds[k]]], sizes))
        flops += sum(p.flops for two in (*forward2, *backward2) for p in two) // 2 + sum(p.flops for p in gram)
    else:
        for k in range(order):
            columns = math.prod(sizes[x] for x in bonds[k])
            flops += math.prod(dims) // dims[k] * columns * (columns + dims[k])

    full = [(*(ranks[i][j] for j in range(order) if j != i), dims[i]) for i in range(order)]
    return SweepPlan(
        dims=dims,
        core_shapes=tuple(tuple(sizes[x] for x in core) for core in cores),
        full_shapes=tuple(full),
        route=route,
        flops=flops,
        forward=tuple(forward),
        backward=tuple(backward),
        environment=tuple(environment),
        arrange_environment=tuple(arranged),
        forward2=tuple(forward2),
        backward2=tuple(backward2),
        gram=tuple(gram),
        arrange_gram=tuple(arranged_gram),
    )


@functools.lru_cache(maxsize=4096)
def best_order(ranks: tuple[tuple[int, ...], ...]) -> tuple[int, ...]:
    """An order of the vertices in a line with thin cuts: greedy from every start, the smallest sum of cut ranks wins.

    For a ring this is the ring's own order whatever the labels, so prefix and suffix have two open bonds only.
    """
    logs = np.log(np.array(ranks, dtype=float))
    np.fill_diagonal(logs, 0.0)
    order, degree = len(ranks), logs.sum(1)
    best, best_cost = tuple(range(order)), math.inf
    for start in range(order):
        chosen, cut = [start], degree[start]
        inside = logs[start].copy()  # per vertex: log-ranks towards the chosen set
        left = [v for v in range(order) if v != start]
        cost = math.exp(cut)
        while left:
            steps = degree[left] - 2 * inside[left]
            pick = int(np.argmin(np.round(steps, 9)))
            cut += steps[pick]
            cost += math.exp(cut)
            vertex = left.pop(pick)
            inside += logs[vertex]
            chosen.append(vertex)
        if cost < best_cost - 1e-9:
            best, best_cost = tuple(chosen), cost
    return best
