"""Classical formats as tensor networks, and networks recognised as classical formats.

A CP or Tucker tensor of m modes is a star: m leaves with the factors around an internal vertex (mode of size 1, last)
with the core, which for CP is the superdiagonal tensor of the weights. Trains and rings are paths and cycles of m
vertices. The way to TensorLy goes through :mod:`tensorbench.decomposition.formats`; ``TensorNetwork.to_tensorly`` and
``from_tensorly`` go it in one step.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..formats import CP, TR, TT, Tucker
from .container import TensorNetwork
from .ring import ring_cores, ring_network


def from_tucker(tensor: Tucker) -> TensorNetwork:
    """Leaves 0..m-1 with the factors, vertex m with the core."""
    order = len(tensor.factors)
    cores = []
    for k, factor in enumerate(tensor.factors):
        shape = [1] * (order + 1)
        shape[k], shape[order] = factor.shape
        cores.append(factor.numpy().reshape(shape))
    return TensorNetwork([*cores, tensor.core.numpy()[..., None]])


def from_cp(tensor: CP) -> TensorNetwork:
    """The star whose core is superdiagonal; r^m entries, so for small ranks."""
    order, rank = len(tensor.factors), tensor.rank
    core = np.zeros((rank,) * order)
    core[(np.arange(rank),) * order] = tensor.weights.numpy()
    return from_tucker(Tucker(core, tensor.factors))


def from_ring(tensor: TR) -> TensorNetwork:
    """Vertex k carries mode k; a train (``TT``) is the ring without its closing bond. Two modes make one bond."""
    cores = [core.numpy() for core in tensor.cores]
    if len(cores) == 2 and cores[0].shape[0] == 1:
        return TensorNetwork([cores[0][0], cores[1][..., 0]])
    return ring_network(cores)


def to_ring(network: TensorNetwork) -> tuple[TR, tuple[int, ...]]:
    """The ring and the mode that each of its cores carries.

    Raises:
        ValueError: the network is no ring (nor path, nor pieces of one).
    """
    if network.order == 2:
        train, line = to_train(network)
        return TR(train.cores), line
    cores, line = ring_cores(network)
    return TR(tuple(cores)), line


def to_train(network: TensorNetwork) -> tuple[TT, tuple[int, ...]]:
    """The train and the mode that each of its cores carries.

    Raises:
        ValueError: the network is no path (nor pieces of one).
    """
    if network.order == 2:
        first, second = map(np.asarray, network.cores)
        return TT((first[None], second[..., None])), (0, 1)
    cores, line = ring_cores(network)
    widths = [core.shape[0] for core in cores]
    if 1 not in widths:
        raise ValueError(f"the network is a closed ring with bonds {widths}; a train has an open end, use to_ring")
    start = widths.index(1)
    return TT(tuple(cores[start:] + cores[:start])), tuple(line[start:] + line[:start])


def to_tucker(network: TensorNetwork) -> Tucker:
    """The Tucker format of a star around one internal vertex (wherever it stands among the vertices).

    Raises:
        ValueError: no internal vertex or several, or a bond between two modes.
    """
    inside = [v for v, size in enumerate(network.shape) if size == 1]
    if len(inside) != 1:
        raise ValueError(f"a Tucker network has one internal vertex (mode of size 1), this one has {len(inside)}")
    hub = inside[0]
    astray = [(i, j) for i, j, _ in network.edges() if hub not in (i, j)]
    if astray:
        raise ValueError(f"bond {astray[0]} joins two modes; in a Tucker network all bonds end at the core")
    leaves = [v for v in range(network.order) if v != hub]
    factors = [np.moveaxis(np.asarray(network.cores[v]), v, 0).reshape(network.shape[v], -1) for v in leaves]
    return Tucker(np.asarray(network.cores[hub]).squeeze(axis=hub), tuple(factors))


def to_cp(network: TensorNetwork) -> CP:
    """The CP format of a Tucker network whose core is superdiagonal to rounding.

    Raises:
        ValueError: no star, or a core with entries off the superdiagonal.
    """
    tucker = to_tucker(network)
    core = tucker.core.numpy()
    place = (np.arange(min(core.shape)),) * core.ndim
    rest = core.copy()
    rest[place] = 0.0
    if len(set(core.shape)) > 1 or np.abs(rest).max() > 1e-14 * np.abs(core).max():
        raise ValueError(f"the core of shape {core.shape} is not superdiagonal: this network is Tucker, not CP")
    return CP(core[place], tucker.factors)


def to_classical(network: TensorNetwork) -> TT | TR | Tucker:
    """The train, ring or Tucker tensor that a network is with its modes as they stand, so that ``full()`` agrees.

    The internal vertex of a Tucker network goes, with its mode of size 1.

    Raises:
        ValueError: no such network, or a train or ring whose modes stand in another order.
    """
    order = network.order
    if order == 1:
        return TT((np.asarray(network.cores[0]).reshape(1, -1, 1),))
    if order == 2:
        return to_train(network)[0]
    if all(j - i in (1, order - 1) for i, j, _ in network.edges()):
        cores = []
        for k, core in enumerate(network.cores):
            before, after = (k - 1) % order, (k + 1) % order
            rest = [v for v in range(order) if v not in (before, k, after)]
            moved = np.transpose(np.asarray(core), (before, k, after, *rest))
            cores.append(moved.reshape(moved.shape[:3]))
        return TT(tuple(cores)) if cores[0].shape[0] == 1 else TR(tuple(cores))
    found = kind(network)
    if found == "tucker":
        return to_tucker(network)
    if found == "graph":
        raise ValueError(
            f"a network with the bonds {[(i, j) for i, j, _ in network.edges()]} is no train, ring or Tucker tensor, "
            "and TensorLy has no format for other graphs; full() is the tensor"
        )
    line = (to_train if found == "train" else to_ring)(network)[1]
    raise ValueError(
        f"the network is a {found} through the modes {line}, and TensorLy's have them in order; take "
        f"permute({list(line)}) first and transpose what comes of it"
    )


def from_tensorly(tensor: Any) -> TensorNetwork:
    """The network of a TensorLy CP, Tucker, TT or TR tensor (CP: r^m entries in its core).

    Raises:
        ValueError: anything else.
    """
    from tensorly.cp_tensor import CPTensor
    from tensorly.tr_tensor import TRTensor
    from tensorly.tt_tensor import TTTensor
    from tensorly.tucker_tensor import TuckerTensor

    if isinstance(tensor, CPTensor):
        return from_cp(CP.from_tensorly(tensor))
    if isinstance(tensor, TuckerTensor):
        return from_tucker(Tucker.from_tensorly(tensor))
    if isinstance(tensor, TTTensor):
        return from_ring(TT.from_tensorly(tensor))
    if isinstance(tensor, TRTensor):
        return from_ring(TR.from_tensorly(tensor))
    raise ValueError(f"{type(tensor).__name__} is no tensorly CP, Tucker, TT or TR tensor")


def kind(network: TensorNetwork) -> str:
    """ "train", "ring", "tucker" or "graph": the smallest classical format that the network's bonds spell."""
    for name, convert in (("train", to_train), ("ring", to_ring), ("tucker", to_tucker)):
        try:
            convert(network)
        except ValueError:
            continue
        return name
    return "graph"
