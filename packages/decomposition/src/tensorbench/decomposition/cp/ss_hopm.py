"""Shifted symmetric higher-order power method: Z-eigenpairs of symmetric tensors.

T. G. Kolda, J. R. Mayo, "Shifted power method for computing tensor eigenpairs", SIAM J. Matrix Anal. Appl. 2011
(arXiv 1007.1267): x <- normalise(T x^(m-1) + c x), whose fixed points satisfy T x^(m-1) = lambda x with
lambda = T x^m. The objective T x^m rises when T x^m + (c m / 2) |x|^m is convex, for which c >= (m-1) max |T x^m| is
enough. Kileel and Pereira (arXiv 1912.04007) show that with such shifts the iteration converges from every start,
without the finiteness of eigenvectors that earlier proofs needed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float

from tensorbench.decomposition.cp.inputs import check_tensor
from tensorbench.decomposition.cp.symmetric import asymmetry


@dataclass(frozen=True)
class Eigenpair:
    """lambda and unit x with T x^(m-1) = lambda x; `residual` the norm of the difference, `history` T x^m per step."""

    value: float
    vector: Float[np.ndarray, " d"]
    residual: float
    iterations: int
    converged: bool
    history: list[float] = field(default_factory=list)


def apply_power(tensor: Float[np.ndarray, ...], x: Float[np.ndarray, " d"], times: int) -> Float[np.ndarray, ...]:
    """T with `times` copies of x contracted into its last modes."""
    for _ in range(times):
        tensor = tensor @ x
    return tensor


def ss_hopm(
    tensor: Float[Any, ...],
    x0: Float[np.ndarray, " d"],
    shift: str | float = "adaptive",
    *,
    maximize: bool = True,
    maxiter: int = 10_000,
    tol: float = 1e-14,
    symmetry_tol: float = 1e-6,
) -> Eigenpair:
    """One eigenpair of a symmetric tensor of order >= 2 from the start x0 (any non-zero vector).

    `shift`: "fixed" uses the safe c = (m-1) |T|_F; "adaptive" the smallest c >= 0 that makes the Hessian of the shifted
    objective positive semidefinite at the current point (Kolda and Mayo, GEAP 2014, with a small margin); a number is
    used as it is (0 is the plain power method, which may cycle). `maximize=False` looks for minima of T x^m.
    Stops when x moves less than `tol`.
    """
    array = check_tensor(tensor, min_order=2)
    if len(set(array.shape)) != 1 or (error := asymmetry(array)) > symmetry_tol:
        detail = "modes differ" if len(set(array.shape)) != 1 else f"relative asymmetry {error:.1e}"
        raise ValueError(f"ss_hopm needs a symmetric tensor, got shape {array.shape} ({detail})")
    x = np.array(x0, dtype=np.float64)
    if x.shape != array.shape[:1] or not np.linalg.norm(x) > 0:
        raise ValueError(f"start has shape {x.shape}; expected a non-zero vector of length {array.shape[0]}")
    if isinstance(shift, str) and shift not in ("adaptive", "fixed"):
        raise ValueError(f'shift {shift!r} is unknown; use "adaptive", "fixed" or a number')
    order, sign = array.ndim, 1.0 if maximize else -1.0
    x /= np.linalg.norm(x)
    array = sign * array
    constant = (order - 1) * float(np.linalg.norm(array)) if shift == "fixed" else 0.0 if shift == "adaptive" else shift
    history: list[float] = []
    for _ in range(maxiter):
        matrix = apply_power(array, x, order - 2)
        y = matrix @ x
        history.append(sign * float(x @ y))
        if shift == "adaptive":
            lowest = (order - 1) * float(np.linalg.eigvalsh(matrix)[0])
            constant = max(0.0, 1e-6 * (1 + abs(lowest)) - lowest)
        y = y + constant * x
        norm = np.linalg.norm(y)
        if norm == 0:
            break
        y /= norm
        step, x = np.linalg.norm(y - x), y
        if step < tol:
            break
    image = apply_power(array, x, order - 1)
    value = float(x @ image)
    residual = float(np.linalg.norm(image - value * x))
    return Eigenpair(sign * value, x, residual, len(history), bool(step < tol), [*history, sign * value])
