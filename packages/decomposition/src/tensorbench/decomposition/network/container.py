"""A tensor network as N cores on a graph.

Core i is a full-order array of shape (R_i1, ..., R_iN): axis j ≠ i is the bond to vertex j (1 = no edge) and axis i
is the mode of the target, of size d_i (1 for an internal vertex that carries no mode). The matrix R, with d on its
diagonal, is therefore the whole structure. The convention is that of Hashemizadeh et al., "Adaptive Learning of Tensor
Network Structures" (arXiv 2008.05437); the structure search of Li et al. (arXiv 2304.12875) uses the same matrix.
Flattening is row-major everywhere.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import networkx as nx
import numpy as np
import opt_einsum
from torch import Tensor

from tensorbench.decomposition.formats import _Format, as_tensor


@dataclass(frozen=True)
class TensorNetwork(_Format):
    """Cores on a graph; numpy arrays or torch tensors alike.

    Raises:
        ValueError: a core whose order is not the number of cores, or two cores that disagree about their bond.
    """

    cores: tuple[Any, ...]
    kind: ClassVar[str] = "network"

    def __init__(self, cores: Sequence[Any]):
        object.__setattr__(self, "cores", tuple(cores))
        order = len(self.cores)
        for i, core in enumerate(self.cores):
            if core.ndim != order:
                raise ValueError(f"core {i} has {core.ndim} axes; a network of {order} cores needs {order} per core")
            for j in range(i):
                if core.shape[j] != self.cores[j].shape[i]:
                    raise ValueError(
                        f"bond ({j}, {i}) has size {self.cores[j].shape[i]} at core {j} and {core.shape[j]} at core {i}"
                    )

    @property
    def order(self) -> int:
        return len(self.cores)

    @property
    def shape(self) -> tuple[int, ...]:
        """Mode sizes d_i, internal vertices included (as 1)."""
        return tuple(int(core.shape[i]) for i, core in enumerate(self.cores))

    def adjacency(self) -> np.ndarray:
        """The structure matrix: bond ranks off the diagonal (1 = no edge), mode sizes on it."""
        return np.array([core.shape for core in self.cores], dtype=np.int64)

    def edges(self) -> list[tuple[int, int, int]]:
        """(i, j, rank) of every bond with rank > 1, i < j."""
        ranks = self.adjacency()
        order = self.order
        return [(i, j, int(ranks[i, j])) for i in range(order) for j in range(i + 1, order) if ranks[i, j] > 1]

    def num_params(self) -> int:
        return int(sum(np.prod(core.shape) for core in self.cores))

    def full(self) -> Any:
        """The tensor the network stands for, shape ``self.shape``; opt_einsum's order, cached per structure."""
        labels, squeezed = _labels(self.adjacency()), []
        for core, (shape, _) in zip(self.cores, labels, strict=True):
            squeezed.append(core.reshape(shape))
        return _expression(tuple(labels), self.order)(*squeezed).reshape(self.shape)

    def permute(self, order: Sequence[int]) -> TensorNetwork:
        """The network of the transposed tensor: vertex k of the result is vertex ``order[k]`` of this one."""
        order = [int(k) for k in order]
        transposed = [self.cores[k] for k in order]
        return TensorNetwork(
            [c.permute(order) if hasattr(c, "permute") else np.transpose(c, order) for c in transposed]
        )

    def graph(self) -> nx.Graph:
        """networkx graph: node attribute ``size`` = mode size, edge attribute ``rank``."""
        graph = nx.Graph()
        graph.add_nodes_from((i, {"size": d}) for i, d in enumerate(self.shape))
        graph.add_edges_from((i, j, {"rank": rank}) for i, j, rank in self.edges())
        return graph

    def arrays(self) -> list[Tensor]:
        return [as_tensor(core) for core in self.cores]

    @classmethod
    def from_arrays(cls, arrays: Sequence[Any]) -> TensorNetwork:
        return cls(arrays)

    def to_tensorly(self) -> Any:
        """A TensorLy TT, TR or Tucker tensor, where the network is one; see :func:`.convert.to_classical`.

        Raises:
            ValueError: a graph that TensorLy has no format for, or modes in another order than along the train.
        """
        from .convert import to_classical

        return to_classical(self).to_tensorly()

    @classmethod
    def from_tensorly(cls, tensor: Any) -> TensorNetwork:
        """From a tensorly CP, Tucker, TT or TR tensor; CP and Tucker get an internal vertex, the last."""
        from .convert import from_tensorly

        return from_tensorly(tensor)


def _labels(ranks: np.ndarray) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Per core: the shape without bonds of rank 1, and the label of each remaining axis (bond i·N + j, mode -1 - i)."""
    order, out = len(ranks), []
    for i in range(order):
        kept = [j for j in range(order) if j == i or ranks[i, j] > 1]
        shape = tuple(int(ranks[i, j]) for j in kept)
        out.append((shape, tuple(-1 - i if j == i else min(i, j) * order + max(i, j) for j in kept)))
    return out


@functools.lru_cache(maxsize=512)
def _expression(labels: tuple, order: int) -> Callable[..., Any]:
    """One compiled opt_einsum expression per structure (the search for the order is dearer than the contraction)."""
    names = {label: opt_einsum.get_symbol(k) for k, label in enumerate(sorted({x for _, ls in labels for x in ls}))}
    terms = ["".join(names[x] for x in ls) for _, ls in labels]
    equation = ",".join(terms) + "->" + "".join(names[-1 - i] for i in range(order))
    return opt_einsum.contract_expression(equation, *(shape for shape, _ in labels), optimize="auto")
