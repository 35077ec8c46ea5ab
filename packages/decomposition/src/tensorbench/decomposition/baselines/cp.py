"""CP decompositions from well-kept libraries, and two classical algorithms, behind one signature.

Every function takes a tensor, a rank and a seed and returns a `CP`. Libraries run with the number of threads the
process has; their defaults are kept where not stated.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from tensorbench.decomposition.formats import CP

log = logging.getLogger(__name__)


def tensorly_als(
    tensor: Float[np.ndarray, ...],
    rank: int,
    *,
    seed: int = 0,
    init: str = "svd",
    iterations: int = 200,
    tol: float = 1e-8,
    normalize: bool = False,
) -> CP:
    """`tensorly.decomposition.parafac`: alternating least squares, `init` "svd" or "random"."""
    from tensorly.decomposition import parafac

    model = parafac(
        tensor, rank, n_iter_max=iterations, init=init, tol=tol, random_state=seed, normalize_factors=normalize
    )
    return CP.from_tensorly(model)


def tensorly_symmetric_power(
    tensor: Float[np.ndarray, ...], rank: int, *, seed: int = 0, repeats: int = 10, iterations: int = 50
) -> CP:
    """`tensorly.decomposition.symmetric_parafac_power_iteration`: deflation by the plain power method, for (nearly)
    orthogonally decomposable symmetric tensors. It draws from NumPy's global stream, which is put back afterwards."""
    from tensorly.decomposition import symmetric_parafac_power_iteration

    state = np.random.get_state()
    np.random.seed(seed % 2**32)
    try:
        weights, factor = symmetric_parafac_power_iteration(tensor, rank, n_repeat=repeats, n_iteration=iterations)
    finally:
        np.random.set_state(state)
    return CP(np.asarray(weights), (np.asarray(factor),) * tensor.ndim)


def pyttb_als(
    tensor: Float[np.ndarray, ...],
    rank: int,
    *,
    seed: int = 0,
    init: str = "random",
    iterations: int = 200,
    tol: float = 1e-8,
) -> CP:
    """`pyttb.cp_als` (optional dependency `bench`)."""
    import pyttb

    start = _pyttb_start(tensor.shape, rank, seed) if init == "random" else init
    model, _, _ = pyttb.cp_als(
        pyttb.tensor(np.asfortranarray(tensor)), rank, stoptol=tol, maxiters=iterations, init=start, printitn=0
    )
    return _from_pyttb(model)


def pyttb_gcp(tensor: Float[np.ndarray, ...], rank: int, *, seed: int = 0, iterations: int = 200) -> CP:
    """`pyttb.gcp_opt` with the Gaussian loss and L-BFGS-B: all factors at once by their gradient."""
    import pyttb
    from pyttb.gcp.handles import Objectives
    from pyttb.gcp.optimizers import LBFGSB

    model, _, _ = pyttb.gcp_opt(
        pyttb.tensor(np.asfortranarray(tensor)),
        rank,
        Objectives.GAUSSIAN,
        LBFGSB(maxiter=iterations, iprint=-1)
        if "iprint" in LBFGSB.__init__.__code__.co_varnames
        else LBFGSB(maxiter=iterations),
        init=_pyttb_start(tensor.shape, rank, seed),
        printitn=0,
    )
    return _from_pyttb(model)


def jennrich(tensor: Float[np.ndarray, "a b c"], rank: int, *, seed: int = 0) -> CP:
    """Jennrich's algorithm, the generalised eigenvalue decomposition of two random mixtures of slices.

    T_u = A diag(C^T u) B^T for a random u, compressed to rank x rank by the leading singular vectors of the first two
    unfoldings; A's columns are the eigenvectors of T_u T_v^-1, the others follow by least squares. Needs
    rank <= the two largest modes (Harshman 1970; Leurgans, Ross, Abel, SIAM J. Matrix Anal. Appl. 1993). Complex pairs,
    which noise can produce, are replaced by their real parts.
    """
    if tensor.ndim != 3:
        raise ValueError(f"Jennrich's algorithm takes order-3 tensors, got order {tensor.ndim}")
    by_size = np.argsort([-size for size in tensor.shape], kind="stable")
    cube = np.transpose(tensor, by_size)
    a, b, c = cube.shape
    if rank > b:
        raise ValueError(f"rank {rank} exceeds the second largest mode of shape {tensor.shape}, {b}; use rank <= {b}")
    left = np.linalg.svd(cube.reshape(a, -1), full_matrices=False)[0][:, :rank]
    right = np.linalg.svd(np.moveaxis(cube, 1, 0).reshape(b, -1), full_matrices=False)[0][:, :rank]
    core = np.einsum("abc,ar,bs->rsc", cube, left, right, optimize=True)
    u, v = np.random.default_rng(seed).standard_normal((2, c))
    first, second = core @ u, core @ v
    _, vectors = np.linalg.eig(np.linalg.solve(second.T, first.T).T)
    A = left @ np.real(vectors)
    rest = np.linalg.lstsq(A, cube.reshape(a, -1), rcond=None)[0].reshape(rank, b, c)  # row r: b_r (x) c_r
    U, s, Vt = np.linalg.svd(rest, full_matrices=False)
    factors: list[np.ndarray] = [np.empty(0)] * 3
    for mode, factor in zip(by_size, (A, U[:, :, 0].T * s[:, 0], Vt[:, 0].T), strict=True):
        factors[mode] = factor
    return CP(None, tuple(factors)).normalized()


def nonlinear_least_squares(
    tensor: Float[np.ndarray, ...],
    rank: int,
    *,
    seed: int = 0,
    symvec: Sequence[int] | None = None,
    evaluations: int = 100,
    start: Sequence[Float[np.ndarray, "_ r"]] | None = None,
) -> CP:
    """CP by `scipy.optimize.least_squares` (trust region, exact dense Jacobian), one factor per symmetry group.

    The start is random Gaussian unless `start` gives factors, with the best weights for it. Even orders need
    signed weights, so the weights are variables too. Memory is entries x parameters: small tensors only.
    """
    from scipy.optimize import least_squares

    symvec = list(range(tensor.ndim)) if symvec is None else list(symvec)
    groups = max(symvec) + 1
    dims = [tensor.shape[symvec.index(g)] for g in range(groups)]
    rng = np.random.default_rng(seed)
    factors = [rng.standard_normal((d, rank)) / np.sqrt(d) for d in dims] if start is None else list(start)
    stops = np.cumsum([rank, *(d * rank for d in dims)])

    def unpack(z: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
        return z[:rank], [z[lo:hi].reshape(d, rank) for lo, hi, d in zip(stops[:-1], stops[1:], dims, strict=True)]

    def model(weights: np.ndarray, modes: list[np.ndarray], skip: int | None = None) -> np.ndarray:
        """(entries of the kept modes, r): products of rows, weights included."""
        out = weights[None, :]
        for k, mode in enumerate(modes):
            if k != skip:
                out = (out[:, None] * mode[None]).reshape(-1, rank)
        return out

    def residual(z: np.ndarray) -> np.ndarray:
        weights, current = unpack(z)
        return model(weights, [current[g] for g in symvec]).sum(axis=1) - tensor.reshape(-1)

    def jacobian(z: np.ndarray) -> np.ndarray:
        weights, current = unpack(z)
        modes = [current[g] for g in symvec]
        out = np.zeros((*tensor.shape, len(z)))
        out[..., :rank] = model(np.ones(rank), modes).reshape(*tensor.shape, rank)
        for k, g in enumerate(symvec):
            others = model(weights, modes, skip=k).reshape(*(n for j, n in enumerate(tensor.shape) if j != k), rank)
            view = np.moveaxis(out[..., stops[g] : stops[g + 1]], k, 0)  # (n_k, other modes, n_k * rank)
            for i in range(tensor.shape[k]):
                view[i, ..., i * rank : (i + 1) * rank] += others
        return out.reshape(-1, len(z))

    columns = model(np.ones(rank), [factors[g] for g in symvec])
    best_weights = np.linalg.lstsq(columns, tensor.reshape(-1), rcond=None)[0]  # signs included
    z0 = np.concatenate([best_weights, *(f.reshape(-1) for f in factors)])
    solution = least_squares(
        residual,
        z0,
        jac=jacobian,
        method="trf",
        tr_solver="exact",
        max_nfev=evaluations,
        xtol=1e-15,
        ftol=1e-15,
        gtol=1e-15,
    )
    weights, current = unpack(solution.x)
    return CP(weights, tuple(current[g] for g in symvec)).normalized()


def symmetric_average(model: CP, symvec: Sequence[int]) -> CP:
    """A symmetric model from an asymmetric fit: within each group the unit columns are averaged after their signs have
    been aligned to the group's first mode (the sign goes into the weight)."""
    unit = model.normalized()
    weights = unit.weights.numpy().copy()
    factors = [f.numpy() for f in unit.factors]
    averaged: dict[int, np.ndarray] = {}
    for group in sorted(set(symvec)):
        modes = [k for k, g in enumerate(symvec) if g == group]
        total = factors[modes[0]].copy()
        for k in modes[1:]:
            sign = np.where(np.sum(factors[k] * factors[modes[0]], axis=0) < 0, -1.0, 1.0)
            total += factors[k] * sign
            weights *= sign
        norm = np.linalg.norm(total, axis=0)
        averaged[group] = total / np.where(norm > 0, norm, 1.0)
    return CP(weights, tuple(averaged[g] for g in symvec))


def _pyttb_start(shape: Sequence[int], rank: int, seed: int) -> object:
    import pyttb

    rng = np.random.default_rng(seed)
    return pyttb.ktensor([np.asfortranarray(rng.standard_normal((n, rank))) for n in shape])


def _from_pyttb(model: object) -> CP:
    return CP(np.array(model.weights), tuple(np.array(f) for f in model.factor_matrices))  # type: ignore[attr-defined]
