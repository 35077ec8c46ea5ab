"""Problems of tensor network structure search: targets planted on a known network, pictures and weights as tensors of
high order, and synthetic landscapes.

Every loader returns a :class:`SearchProblem` (the landscapes one per order). The planted tensors depend on ``instance``
alone: the seed of a run belongs to the search.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tensorbench.core.data import dataset


@dataclass(frozen=True)
class SearchProblem:
    """What is searched, for what price, and the truth where there is one.

    Attributes:
        dims: mode sizes.
        topology: "ring", "tucker" or "lattice RxC".
        permutable: whether the search may assign modes to vertices.
        max_rank: rank bound of the space.
        lam: weight of the relative squared error against the compression ratio.
        budget: evaluations every method may spend.
        sweeps: sweeps of least squares per fit.
        tensor: the target; None for a landscape.
        ranks, permutation: the planted structure on the topology, if planted.
        landscape: (Hessian, minimiser) of a quadratic objective in place of a tensor.
    """

    dims: tuple[int, ...]
    topology: str
    permutable: bool
    max_rank: int
    lam: float
    budget: int
    sweeps: int
    tensor: np.ndarray | None = None
    ranks: tuple[int, ...] | None = None
    permutation: tuple[int, ...] | None = None
    landscape: tuple[np.ndarray, np.ndarray] | None = None


def _planted(dims, topology, permutable, ranks, low, high, instance, **settings) -> SearchProblem:
    """Gaussian cores on the topology; modes in a random order where the search may permute them."""
    from tensorbench.decomposition.network import TensorNetwork
    from tensorbench.decomposition.structure.space import Structure
    from tensorbench.decomposition.structure.topology import by_name

    if not 1 <= low <= high:
        raise ValueError(f"planted ranks are drawn from {low}..{high}: the bounds must satisfy 1 <= low <= high")
    rng = np.random.default_rng([7, instance])
    template = by_name(topology, len(dims))
    count = len(template.edges)
    if ranks is not None and len(ranks) != count:
        raise ValueError(f"ranks {list(ranks)} must be {count} numbers for a {topology} of {len(dims)} modes")
    ranks = tuple(ranks) if ranks is not None else tuple(int(r) for r in rng.integers(low, high + 1, count))
    permutation = tuple(int(p) for p in (rng.permutation(len(dims)) if permutable else range(len(dims))))
    structure = Structure(dims, template, ranks, permutation)
    cores = [rng.standard_normal(tuple(shape)) for shape in structure.adjacency]
    tensor = np.asarray(TensorNetwork(cores).full()).reshape(dims)
    return SearchProblem(dims, topology, permutable, tensor=tensor, ranks=ranks, permutation=permutation, **settings)


@dataset(
    title="Tensor rings with planted ranks and order of modes",
    source="generated here",
    licence="Apache-2.0",
    generated=True,
    cache=False,
)
def ring_target(
    *,
    seed: int,
    order: int = 6,
    size: int = 3,
    ranks: list[int] | None = None,
    low: int = 2,
    high: int = 4,
    instance: int = 0,
    max_rank: int = 7,
    lam: float = 200.0,
    budget: int = 700,
    sweeps: int = 20,
) -> SearchProblem:
    """A ring of ``order`` modes of ``size``; ranks given or drawn from low..high, modes in a random order."""
    return _planted(
        (size,) * order, "ring", True, ranks, low, high, instance,
        max_rank=max_rank, lam=lam, budget=budget, sweeps=sweeps,
    )  # fmt: skip


@dataset(
    title="Lattices (PEPS) with planted ranks",
    source="generated here",
    licence="Apache-2.0",
    generated=True,
    cache=False,
)
def lattice_target(
    *,
    seed: int,
    rows: int = 2,
    columns: int = 2,
    size: int = 4,
    low: int = 2,
    high: int = 3,
    instance: int = 0,
    max_rank: int = 6,
    lam: float = 200.0,
    budget: int = 150,
    sweeps: int = 20,
) -> SearchProblem:
    """A grid of rows × columns modes in order; only the ranks are searched. (A 2 × 2 grid is a ring of 4.)"""
    return _planted(
        (size,) * (rows * columns), f"lattice {rows}x{columns}", False, None, low, high, instance,
        max_rank=max_rank, lam=lam, budget=budget, sweeps=sweeps,
    )  # fmt: skip


@dataset(
    title="Tucker tensors with planted ranks",
    source="generated here",
    licence="Apache-2.0",
    generated=True,
    cache=False,
)
def tucker_target(
    *,
    seed: int,
    order: int = 4,
    size: int = 5,
    low: int = 2,
    high: int = 4,
    instance: int = 0,
    max_rank: int = 5,
    lam: float = 200.0,
    budget: int = 150,
    sweeps: int = 20,
) -> SearchProblem:
    """A Tucker tensor; the multilinear rank is searched."""
    return _planted(
        (size,) * order, "tucker", False, None, low, high, instance,
        max_rank=max_rank, lam=lam, budget=budget, sweeps=sweeps,
    )  # fmt: skip


def _quarters(matrix: np.ndarray, name: str) -> np.ndarray:
    """A 2^k × 2^k matrix as a tensor of k modes of size 4, row-major."""
    order = round(float(np.log2(matrix.shape[0])))
    if matrix.shape != (2**order, 2**order) or order < 3:
        raise ValueError(f"{name} has shape {matrix.shape}; a square of 2^k pixels a side, k >= 3, becomes 4^k")
    return np.ascontiguousarray(matrix).reshape((4,) * order)


@dataset(
    title="A photograph as a tensor of modes of size 4",
    source="scikit-image (camera: public domain)",
    licence="CC0-1.0",
    library="scikit-image",
)
def picture_ring(
    *, seed: int, picture: str = "camera", pixels: int = 256, max_rank: int = 8, lam: float = 5.0, budget: int = 200,
    sweeps: int = 10,
) -> SearchProblem:  # fmt: skip
    """``pixels`` × ``pixels`` averaged blocks of a square picture, reshaped row-major to 4^k; a ring is searched."""
    from skimage import data

    image = np.asarray(getattr(data, picture)(), dtype=np.float64) / 255.0
    if image.ndim == 3:
        image = image.mean(-1)
    side = image.shape[0]
    if image.shape != (side, side) or side % pixels:
        raise ValueError(f"{picture} has {image.shape} pixels; a square picture and a divisor of its side are needed")
    block = side // pixels
    small = image.reshape(pixels, block, pixels, block).mean((1, 3))
    tensor = _quarters(small, picture)
    return SearchProblem(tensor.shape, "ring", True, max_rank, lam, budget, sweeps, tensor=tensor)


@dataset(
    title="Hidden layer of a network trained on digits, 64 × 64",
    source="generated here from the digits of scikit-learn",
    licence="BSD-3-Clause",
    library="scikit-learn",
)
def digits_layer(
    *, seed: int, max_rank: int = 8, lam: float = 5.0, budget: int = 200, sweeps: int = 10
) -> SearchProblem:
    """First weight matrix (64 × 64) of an MLP with 64 hidden units (trained from a fixed seed) as 4^6."""
    from sklearn.datasets import load_digits
    from sklearn.neural_network import MLPClassifier

    features, labels = load_digits(return_X_y=True)
    network = MLPClassifier((64,), alpha=1e-2, max_iter=60, random_state=0)
    network.fit(features / 16.0, labels)
    tensor = _quarters(network.coefs_[0], "the weight")
    return SearchProblem(tensor.shape, "ring", True, max_rank, lam, budget, sweeps, tensor=tensor)


@dataset(
    title="Quadratic landscapes over the ranks of a ring",
    source="generated here",
    licence="Apache-2.0",
    generated=True,
    cache=False,
)
def ring_landscapes(
    *,
    seed: int,
    orders: Sequence[int] = (4, 6, 8),
    max_rank: int = 7,
    beta: float = 2.0,
    instance: int = 0,
    budget: int = 300,
) -> tuple[SearchProblem, ...]:
    """One landscape per order: ½ (r - r*)ᵀ H (r - r*) in place of a fit, eigenvalues of H in [1, beta]; permuting modes
    changes nothing."""
    from tensorbench.decomposition.structure.landscape import quadratic_landscape

    problems = []
    for order in orders:
        made = quadratic_landscape(order, max_rank, np.random.default_rng([11, instance, order]), beta=beta)
        problem = SearchProblem(
            (2,) * order, "ring", True, max_rank, 1.0, budget, 0, landscape=(made.hessian, made.minimiser)
        )
        problems.append(problem)
    return tuple(problems)
