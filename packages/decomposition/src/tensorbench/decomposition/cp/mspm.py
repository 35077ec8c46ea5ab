"""Multi-subspace power method: CP decomposition of tensors of any symmetry type.

"Multi-subspace power method for decomposing all tensors", arXiv 2510.18627 (October 2025). With modes grouped by
symmetry, T = sum_r lambda_r (x)_i a_{r,i}^(tensor power n_i). A flattening M = U S V^T puts u_i copies of group i on
the left. Rank-one tensors in the range of U are partially symmetric singular vector tuples with singular value one
(`psvt_power`); each gives the left vectors of a component. The other vectors are the leading left singular vector of a
basis in which the known ones have been contracted: the right side if the flattening breaks a symmetry, else a second
flattening. Weight and deflation as in `extraction`.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from jaxtyping import Float

from tensorbench.decomposition.cp.extraction import Options, Stats, extract
from tensorbench.decomposition.cp.flattening import (
    Groups,
    best_flattenings,
    check_flattenings,
    flatten,
    leading_svd,
    max_rank,
    parse_symmetries,
    select_rank,
    sides,
    thin_svd,
)
from tensorbench.decomposition.cp.inputs import as_generator, check_tensor
from tensorbench.decomposition.cp.power import PowerResult, Side, random_unit, subspace_power
from tensorbench.decomposition.cp.symmetric import asymmetry, symmetrize
from tensorbench.decomposition.formats import CP

Basis = tuple[Side, np.ndarray]


@dataclass(frozen=True)
class CPResult:
    """weights (r,), one factor (d_i, r) of unit columns per symmetry group, and `symvec`, the group of every mode.

    Largest |weight| first; the largest entry of every column is positive and the sign sits in the weight wherever the
    multiplicity is odd (an even power has no sign to give).
    """

    weights: Float[np.ndarray, " r"]
    factors: list[Float[np.ndarray, "_ r"]]
    symvec: tuple[int, ...]
    stats: Stats

    @property
    def rank(self) -> int:
        return len(self.weights)

    def to_cp(self) -> CP:
        """One factor per mode, groups repeated."""
        return CP(self.weights, tuple(self.factors[group] for group in self.symvec))

    def full(self) -> Float[np.ndarray, ...]:
        return self.to_cp().full().numpy()


def mspm(
    tensor: Float[Any, ...],
    rank: int | None = None,
    symmetries: Sequence[Any] | None = None,
    flattenings: Sequence[Sequence[int]] | None = None,
    *,
    maxiter: int = 5000,
    ntries: int = 5,
    gradtol: float = 1e-15,
    ranksel: float | str | Callable[[np.ndarray], int] = 1e-4,
    ftol: float = 1e-2,
    exact_weights: bool = False,
    symmetrize_input: bool = False,
    symmetry_tol: float = 1e-6,
    batch: int = 128,
    generator: np.random.Generator | int | None = None,
) -> CPResult | Float[np.ndarray, " s"]:
    """Decompose a real tensor of order >= 3 whose symmetry is `symmetries` (default: none; see `parse_symmetries`).

    `flattenings`: copies of each group on the left, one or two of them; default `best_flattenings`. `ranksel`: a
    tolerance, a callable, or "return_sv" to get the singular values of the first flattening back and stop.
    `exact_weights`: 1 / (alpha^T C beta) without the factor |alpha| |beta| that helps noisy data. Other parameters as
    in `spm`. If the declared symmetry holds only to more than `symmetry_tol` the tensor is refused, or with
    `symmetrize_input` averaged over it after a warning.

    ValueError: order < 3, a mode of size 1, complex or non-finite entries, symmetries that do not fit, flattenings that
    neither break a symmetry nor complement each other, rank above `max_rank`, rank 0 found.
    """
    generator = as_generator(generator)
    clock = time.perf_counter()
    array = check_tensor(tensor)
    groups = parse_symmetries(symmetries, array.ndim)
    array = _checked_symmetry(array, groups, symmetrize_input, symmetry_tol)
    dims, mult = [array.shape[group[0]] for group in groups], [len(group) for group in groups]
    chosen = best_flattenings(dims, mult) if flattenings is None else check_flattenings(mult, flattenings)
    bound = max_rank(dims, mult, chosen)
    if rank is not None and not 1 <= rank <= bound:
        raise ValueError(
            f"rank {rank} is outside 1..{bound}, the max_rank of shape {array.shape} with these symmetries"
        )
    options = Options(maxiter, ntries, gradtol, ftol, batch=batch)
    options.check()
    stats = Stats()

    left, right = sides(dims, mult, chosen[0])
    matrix = flatten(array, groups, chosen[0])
    U, values, V = thin_svd(matrix) if rank is None else leading_svd(matrix, rank)
    if rank is None:
        selected = select_rank(values, ranksel)
        if isinstance(selected, np.ndarray):
            return selected
        rank = selected
        if rank == 0:
            raise ValueError("no singular value of the flattening is above the tolerance (rank 0): the tensor is zero")
        if rank > bound:
            raise ValueError(
                f"rank {rank} found exceeds the max_rank {bound}; the tensor is noisy or of full rank: "
                "give `rank`, or a larger `ranksel`"
            )
    if values[rank - 1] == 0.0:
        raise ValueError(f"rank {rank} was asked for but the flattening has rank {int(np.sum(values != 0))}")
    more: list[Basis] = []
    if len(chosen) == 2:
        left2, right2 = sides(dims, mult, chosen[1])
        U2, _, V2 = leading_svd(flatten(array, groups, chosen[1]), rank)
        more = [(left2, U2), (right2, V2)]
    stats.extract_seconds = time.perf_counter() - clock

    def complete(vectors: dict[int, np.ndarray], U: np.ndarray, V: np.ndarray) -> dict[int, np.ndarray]:
        return _complete(vectors, [(left, U), (right, V), *more], options, generator)

    weights, found = extract(
        left,
        np.ascontiguousarray(U[:, :rank]),
        right,
        np.ascontiguousarray(V[:, :rank]),
        np.diag(1.0 / values[:rank]),
        options,
        generator,
        stats,
        complete=complete if len(left.groups) < len(groups) else None,
        exact_weights=exact_weights,
    )
    factors = []
    for group, n in enumerate(mult):
        factor = found[group]
        sign = np.sign(np.take_along_axis(factor, np.argmax(np.abs(factor), axis=0)[None], axis=0)[0])
        factors.append(factor * sign)
        weights = weights * sign**n
    order = np.argsort(-np.abs(weights), kind="stable")
    symvec = tuple(next(g for g, group in enumerate(groups) if mode in group) for mode in range(array.ndim))
    return CPResult(weights[order], [factor[:, order] for factor in factors], symvec, stats)


def mspm_21(tensor: Float[Any, "d d e"], rank: int | None = None, **options: Any) -> CPResult:
    """Tensors symmetric in the first two modes, by the one flattening (a, b | a)."""
    return mspm(tensor, rank, symmetries=(2, 1), flattenings=[(1, 1)], **options)


def mspm_asym(tensor: Float[Any, "a b c"], rank: int | None = None, **options: Any) -> CPResult:
    """Third-order tensors without symmetry: power method on the two longer modes, the third from a second flattening
    that shares the longest mode."""
    shape = check_tensor(tensor).shape
    if len(shape) != 3:
        raise ValueError(f"mspm_asym takes order-3 tensors, got shape {shape}; use mspm")
    single = _single_right_mode(shape)
    other = min((m for m in range(3) if m != single), key=lambda m: shape[m])
    flattenings = [tuple(int(m != right) for m in range(3)) for right in (single, other)]
    return mspm(tensor, rank, flattenings=flattenings, **options)


def _single_right_mode(shape: Sequence[int]) -> int:
    """The mode to stand alone on the right: the one whose flattening reaches the largest rank."""
    bounds = [min(prod(shape) // d - (sum(shape) - d), d) for d in shape]
    return int(np.argmax(bounds))


def psvt_power(
    V: Float[np.ndarray, "size k"],
    dims: Sequence[int],
    mult: Sequence[int],
    start: Sequence[Float[np.ndarray, " d"]] | None = None,
    *,
    maxiter: int = 5000,
    gradtol: float = 1e-15,
    generator: np.random.Generator | int | None = None,
) -> PowerResult:
    """One partially symmetric singular vector tuple of the space spanned by V (orthonormal columns, compressed
    coordinates of Sym^{mult_1}(R^{dims_1}) (x) ...), with f before every block update in `history`."""
    side = Side(tuple(range(len(dims))), tuple(dims), tuple(mult))
    if V.shape[0] != side.size:
        raise ValueError(
            f"V has {V.shape[0]} rows; dims {tuple(dims)} with multiplicities {tuple(mult)} need {side.size}"
        )
    rng = as_generator(generator)
    starts = [random_unit(d, 1, rng) for d in dims] if start is None else [np.array(x, float)[:, None] for x in start]
    starts = [x / np.linalg.norm(x) for x in starts]
    return subspace_power(V, side, starts, maxiter=maxiter, gradtol=gradtol, history=True)


def psvt_residual(
    V: Float[np.ndarray, "size k"], dims: Sequence[int], mult: Sequence[int], xs: Sequence[Float[np.ndarray, "_ batch"]]
) -> Float[np.ndarray, " batch"]:
    """How far xs is from a singular vector tuple: max over blocks of |y_i - f x_i| (0 at critical points of f)."""
    side = Side(tuple(range(len(dims))), tuple(dims), tuple(mult))
    coordinates = V.T @ side.rank_one(xs)
    f, image = np.sum(coordinates**2, axis=0), V @ coordinates
    blocks = [np.linalg.norm(side.partial(image, xs, i) - f * xs[i], axis=0) for i in range(len(xs))]
    return np.max(blocks, axis=0)


def orthonormal_slices(
    tensor: Float[np.ndarray, ...], symmetries: Sequence[Any] | None, left: Sequence[int], rank: int
) -> Float[np.ndarray, ...]:
    """The transformed tensor of the paper: left modes as they are (full, not compressed), then one mode of size `rank`
    whose slices are an orthonormal basis of the range of the flattening."""
    groups = parse_symmetries(symmetries, tensor.ndim)
    modes = [m for group, u in zip(groups, left, strict=True) for m in group[:u]]
    rest = [m for m in range(tensor.ndim) if m not in modes]
    shape = [tensor.shape[m] for m in modes]
    U, _, _ = thin_svd(tensor.transpose(modes + rest).reshape(prod(shape), -1))
    return U[:, :rank].reshape(*shape, rank)


def _checked_symmetry(array: np.ndarray, groups: Groups, average: bool, tol: float) -> np.ndarray:
    for group in groups:
        if len({array.shape[mode] for mode in group}) != 1:
            raise ValueError(
                f"modes {list(group)} are declared symmetric but have sizes {[array.shape[m] for m in group]}"
            )
    error = asymmetry(array, groups)
    if error <= tol:
        return array
    if not average:
        raise ValueError(
            f"tensor does not have the declared symmetry {[list(g) for g in groups]}: relative asymmetry {error:.1e} > "
            f"{tol:.0e}; pass symmetrize_input=True to average over it"
        )
    warnings.warn(f"relative asymmetry {error:.1e}: averaging over the declared symmetry", stacklevel=3)
    return symmetrize(array, groups)


def _complete(
    vectors: dict[int, np.ndarray], bases: list[Basis], options: Options, generator: np.random.Generator
) -> dict[int, np.ndarray]:
    """Find the groups that are not known yet, each time from the side that knows most about its unknown vectors."""
    vectors = dict(vectors)
    while True:
        open_sides = [(side, V) for side, V in bases if 0 < sum(g in vectors for g in side.groups) < len(side.groups)]
        if not open_sides:
            return vectors

        def unknown_copies(basis: Basis) -> int:
            return sum(u for g, u in zip(basis[0].groups, basis[0].copies, strict=True) if g not in vectors)

        side, V = min(open_sides, key=unknown_copies)
        missing = [i for i, g in enumerate(side.groups) if g not in vectors]
        if len(missing) == 1 and side.copies[missing[0]] == 1:
            vectors[side.groups[missing[0]]] = _leading_vector(V, side, vectors, missing[0])
            continue
        frozen = [i for i in range(len(side.groups)) if i not in missing]
        batch = next(iter(vectors.values())).shape[1]
        best: PowerResult | None = None
        for _ in range(options.ntries):  # the known vectors stay; starts of the others compete by their f
            starts = [
                vectors[g] if g in vectors else random_unit(d, batch, generator)
                for g, d in zip(side.groups, side.dims, strict=True)
            ]
            result = subspace_power(V, side, starts, maxiter=options.maxiter, gradtol=options.gradtol, frozen=frozen)
            if best is None:
                best = result
            else:
                better = result.objective > best.objective
                best.objective[better] = result.objective[better]
                for i in missing:
                    best.vectors[i][:, better] = result.vectors[i][:, better]
            if (best.objective > 1 - options.ftol).all():
                break
        assert best is not None
        for i in missing:
            vectors[side.groups[i]] = best.vectors[i]


def _leading_vector(
    V: np.ndarray, side: Side, vectors: dict[int, np.ndarray], block: int, maxiter: int = 100
) -> Float[np.ndarray, "d batch"]:
    """For each column: the leading left singular vector of V with all known vectors contracted, a d x k matrix."""
    d, k = side.dims[block], V.shape[1]
    before, after = prod(side.sizes[:block]), prod(side.sizes[block + 1 :])
    rest = [i for i in range(len(side.groups)) if i != block]
    known = Side(*(tuple(getattr(side, name)[i] for i in rest) for name in ("groups", "dims", "copies"))).rank_one(
        [vectors[side.groups[i]] for i in rest]
    )
    cube = V.reshape(before, d, after, k).transpose(0, 2, 1, 3).reshape(before * after, d * k)
    W = (known.T @ cube).reshape(-1, d, k)
    # In the exact case the leading singular value is 1 and the next well below: a few products beat an SVD of each.
    x = np.take_along_axis(W, np.argmax(np.sum(W**2, axis=1), axis=1)[:, None, None], axis=2)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    for _ in range(maxiter):
        y = W @ (W.transpose(0, 2, 1) @ x)
        y /= np.linalg.norm(y, axis=1, keepdims=True)
        step = np.linalg.norm(y - x, axis=(1, 2))
        x = y
        if (step < 1e-15).all():
            break
    slow = step > 1e-13
    if slow.any():
        x[slow, :, 0] = np.linalg.svd(W[slow], full_matrices=False)[0][:, :, 0]
    return x[:, :, 0].T
