"""In which order does a summation add? The tree behind a black box (FPRev: Xie, Gao, Wang, Xue, USENIX ATC 2025).

Among ones, put a huge M at place i and -M at place j. Whatever is added to M before -M meets it is lost; what is added
after, or elsewhere, survives. So the result counts the leaves outside the smallest subtree that holds i and j. The sets
``{j : subtree of (i, j) has at most s leaves}`` of all i and s are the subtrees themselves: they are nested, and a
node may have more than two children, as in a unit that adds many products at once.
"""

from __future__ import annotations

from collections.abc import Callable

import networkx as nx
import numpy as np
import torch
from torch import Tensor

from tensorbench.core.errors import unknown

from .probes import Unit

ROOT = "root"
_LARGE = {torch.float64: (2.0**900, 1.0), torch.float32: (2.0**100, 1.0), torch.bfloat16: (2.0**100, 2.0**-60),
          torch.float16: (2.0**15, 2.0**-14)}  # fmt: skip


def reveal_order(unit: Unit, n: int) -> nx.DiGraph:
    """The summation tree of a dot product of length ``n`` on a unit (simulated, or a GPU's), C = 0.

    Leaves are 0 … n-1; inner nodes are tuples of their leaves, edges go from parent to child, ``graph[ROOT]`` names the
    root. Exact arithmetic has no order: one node with n children.

    Raises:
        ValueError: fewer than two summands.
    """
    exponent = {"fp16": (15, 15), "e5m2": (15, 15), "e4m3": (8, 8)}.get(unit.in_fmt, (50, 50))
    one = {"fp16": (-10, -10), "e5m2": (-8, -8), "e4m3": (-4, -4)}.get(unit.in_fmt, (-5, -5))
    if unit.in_fmt.startswith("int"):
        exponent, one = (6, 6), (0, 0)
    elif unit.acc_fmt == "fp16":
        exponent, one = (7, 7), (-7, -7)
    a_one, b_one, a_big, b_big = (2.0**e for e in (*one, *exponent))

    def sums(i: np.ndarray, j: np.ndarray) -> np.ndarray:
        a = torch.full((len(i), n), a_one, dtype=torch.float64)
        b = torch.full((len(i), n), b_one, dtype=torch.float64)
        rows = torch.arange(len(i))
        a[rows, i], b[rows, i] = a_big, b_big
        a[rows, j], b[rows, j] = -a_big, b_big
        return unit.dot(a, b, torch.zeros(len(i), dtype=torch.float64)).to(torch.float64).numpy() / (a_one * b_one)

    return reveal_tree(sums, n)


def reveal_reduction(
    function: Callable[[Tensor], Tensor | float], n: int, dtype: torch.dtype = torch.float32
) -> nx.DiGraph:
    """The summation tree of ``function``, which sums a vector of ``n`` numbers (``torch.sum``, ``lambda x: x @ ones``).

    Raises:
        ValueError: fewer than two summands, an unsupported dtype.
    """
    if dtype not in _LARGE:
        raise ValueError(unknown("dtype to sum in", str(dtype), map(str, _LARGE)))
    big, one = _LARGE[dtype]

    def sums(i: np.ndarray, j: np.ndarray) -> np.ndarray:
        found = []
        for first, second in zip(i, j, strict=True):
            x = torch.full((n,), one, dtype=dtype)
            x[first], x[second] = big, -big
            found.append(float(function(x)) / one)
        return np.asarray(found)

    return reveal_tree(sums, n)


def reveal_tree(sums: Callable[[np.ndarray, np.ndarray], np.ndarray], n: int) -> nx.DiGraph:
    """The tree from ``sums(i, j)``: for each pair, the sum of ones with a huge number at i and its negative at j.

    Raises:
        ValueError: fewer than two summands; answers that are no tree's (a sum that depends on its values, or summands
            that are not lost in the huge number).
    """
    if n < 2:
        raise ValueError(f"n = {n}: at least two summands make a tree")
    i, j = np.triu_indices(n, 1)
    left = np.rint(np.asarray(sums(i, j), dtype=float))
    size = np.zeros((n, n), dtype=int)
    size[i, j] = size[j, i] = n - left
    if (size[i, j] == 2).all() and n > 2:  # nothing is ever lost: the arithmetic is exact
        size[i, j] = size[j, i] = n
    clusters = {
        frozenset(np.flatnonzero(size[k] <= s).tolist()) | {k} for k in range(n) for s in np.unique(size[k]) if s > 0
    }
    clusters |= {frozenset([k]) for k in range(n)} | {frozenset(range(n))}
    tree = nx.DiGraph()
    ordered = sorted(clusters, key=len)
    for position, cluster in enumerate(ordered):
        parent = next((other for other in ordered[position + 1 :] if cluster < other), None)
        if any(cluster & other and not cluster <= other for other in ordered[position + 1 :]):
            raise ValueError(
                "the answers fit no summation tree: the order depends on the values, or M does not absorb ones"
            )
        tree.add_node(_name(cluster))
        if parent is not None:
            tree.add_edge(_name(parent), _name(cluster))
    tree.graph[ROOT] = _name(ordered[-1])
    return tree


def _name(cluster: frozenset[int]) -> int | tuple[int, ...]:
    return next(iter(cluster)) if len(cluster) == 1 else tuple(sorted(cluster))


def shape_of(tree: nx.DiGraph) -> str:
    """``sequential`` (each node adds one leaf), ``pairwise`` (balanced), ``one node``, ``blocks of 8``, or
    ``mixed``."""
    inner = [node for node in tree if tree.out_degree(node)]
    leaves = {node: sum(tree.out_degree(child) == 0 for child in tree.successors(node)) for node in inner}
    if len(inner) == 1:
        return "one node"
    deep = max(nx.shortest_path_length(tree, tree.graph[ROOT]).values())
    if all(tree.out_degree(node) == 2 for node in inner):
        if all(leaves[node] >= 1 for node in inner):
            return "sequential"
        total = len(tree) - len(inner)
        return "pairwise" if deep == int(np.ceil(np.log2(total))) else "mixed"
    blocks = sorted(set(leaves.values()))
    chained = all(tree.out_degree(node) - leaves[node] <= 1 for node in inner)
    return f"blocks of {blocks[0]}" if len(blocks) == 1 and chained else "mixed"


def as_text(tree: nx.DiGraph) -> str:
    """Nested brackets: ``((0 1) 2)``."""

    def write(node: int | tuple[int, ...]) -> str:
        children = sorted(tree.successors(node), key=lambda c: c[0] if isinstance(c, tuple) else c)
        return str(node) if not children else "(" + " ".join(write(child) for child in children) + ")"

    return write(tree.graph[ROOT])
