"""Fixed tensor formats from TensorLy at the largest uniform rank that a budget of parameters allows.

Each function takes a tensor, the mode sizes that parameters are counted with (those of the tensor proper when it was
compressed orthogonally) and the budget; it returns the approximation and its number of parameters.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import numpy as np
import tensorly as tl
from jaxtyping import Float
from tensorly.decomposition import parafac, tensor_ring_als, tensor_train, tucker

Fitted = tuple[np.ndarray, int]


def largest_rank(params: Callable[[int], int], budget: int, top: int = 100_000) -> int:
    """The largest rank with ``params(rank) <= budget`` (params non-decreasing).

    Raises:
        ValueError: not even rank 1 fits.
    """
    if params(1) > budget:
        raise ValueError(f"budget {budget} is below the {params(1)} parameters of rank 1")
    rank = 1
    while rank < top and params(rank + 1) <= budget and (rank < 2 or params(rank + 1) > params(rank - 1)):
        rank += 1
    return rank


def cp(
    tensor: Float[np.ndarray, ...],
    dims: Sequence[int],
    budget: int,
    *,
    seed: int,
    iterations: int,
    init: str = "random",
) -> Fitted:
    """CP by TensorLy's ``parafac`` (ALS)."""
    rank = largest_rank(lambda r: r * sum(dims), budget)
    fitted = parafac(tensor, rank, n_iter_max=iterations, init=init, random_state=seed, tol=1e-7)
    return tl.cp_to_tensor(fitted), rank * sum(dims)


def uniform_tucker(
    tensor: Float[np.ndarray, ...], dims: Sequence[int], budget: int, *, seed: int, iterations: int
) -> Fitted:
    """Tucker with one rank for all modes (at most the mode), by TensorLy's HOOI."""

    def core(rank: int) -> list[int]:
        return [min(rank, size) for size in tensor.shape]

    def params(rank: int) -> int:
        return int(np.prod(core(rank))) + sum(r * d for r, d in zip(core(rank), dims, strict=True))

    rank = largest_rank(params, budget, top=max(tensor.shape))
    fitted = tucker(tensor, core(rank), n_iter_max=iterations, init="svd", random_state=seed)
    return tl.tucker_to_tensor(fitted), params(rank)


def uniform_train(
    tensor: Float[np.ndarray, ...], dims: Sequence[int], budget: int, *, seed: int, iterations: int
) -> Fitted:
    """Tensor train by TensorLy's TT-SVD with one bound on all ranks (deterministic; seed and iterations unused)."""
    sizes = np.array(tensor.shape, dtype=float)
    caps = [int(min(sizes[:k].prod(), sizes[k:].prod())) for k in range(1, len(sizes))]

    def ranks(rank: int) -> list[int]:
        return [1, *(min(rank, cap) for cap in caps), 1]

    def params(rank: int) -> int:
        r = ranks(rank)
        return sum(r[k] * d * r[k + 1] for k, d in enumerate(dims))

    rank = largest_rank(params, budget, top=max(caps))
    return tl.tt_to_tensor(tensor_train(tensor, ranks(rank))), params(rank)


def uniform_ring(
    tensor: Float[np.ndarray, ...], dims: Sequence[int], budget: int, *, seed: int, iterations: int
) -> Fitted:
    """Tensor ring with one rank for all bonds by TensorLy's TR-ALS."""
    rank = largest_rank(lambda r: r * r * sum(dims), budget)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fitted = tensor_ring_als(
            tensor, [rank] * (tensor.ndim + 1), ls_solve="normal_eq", n_iter_max=iterations, random_state=seed
        )
    return tl.tr_to_tensor(fitted), rank * rank * sum(dims)
