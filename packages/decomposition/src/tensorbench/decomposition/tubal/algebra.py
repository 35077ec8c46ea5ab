"""The algebra of third-order tensors under the t-product (Kilmer, Martin, 2011), with tubal rank, norms and proxes.

An n x m x k tensor is a matrix of tubes. A transform along the third mode turns the t-product A * B into one matrix
product per slice, the transpose into one conjugate transpose per slice, and so on: every function here is a batched
matrix routine between :func:`to_slices` and :func:`from_slices`. The transform is the real FFT, of which the
k // 2 + 1 slices that are not conjugates of others are kept, or the orthonormal DCT-II ("dct": the M-product of
Kernfeld, Kilmer, Aeron, 2015), under which all slices are real.

Norms: |A|_F^2 = sum_s c_s |A_s|_F^2 over the kept slices with the weights of :func:`slice_weights`. Tubal singular
values are the tubes S[i, i, :] of the t-SVD A = U * S * V^T; their sizes are 2-norms.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Complex, Float
from scipy.fft import dct, idct

TRANSFORMS = ("fft", "dct")


class TSVD(NamedTuple):
    """A = U * S * V^T with S diagonal in its frontal slices; `values[s, i]` are the singular values of slice s."""

    U: Float[np.ndarray, "n p k"]
    S: Float[np.ndarray, "p q k"]
    V: Float[np.ndarray, "m q k"]
    values: Float[np.ndarray, "slices min"]


def check_third_order(A: Any, name: str = "tensor") -> Float[np.ndarray, "n m k"]:
    """A float64 array of order 3 with finite real entries and no empty mode, or a ValueError."""
    if hasattr(A, "detach"):  # a torch tensor
        A = A.detach().cpu().numpy()
    array = np.asarray(A)
    if array.ndim != 3 or 0 in array.shape:
        raise ValueError(f"{name} has shape {array.shape}; the t-product is for third-order tensors, n x m x k")
    if np.iscomplexobj(array):
        raise ValueError(f"{name} is complex; the tubal algebra here is over the reals")
    array = array.astype(np.float64, copy=False)
    if not np.isfinite(array).all():
        raise ValueError(f"{name} has {int((~np.isfinite(array)).sum())} NaN or infinite entries")
    return array


def check_transform(transform: str) -> None:
    """ValueError unless the transform is known."""
    if transform not in TRANSFORMS:
        raise ValueError(f"transform {transform!r} is unknown; use one of {', '.join(TRANSFORMS)}")


def real_slices(k: int, transform: str = "fft") -> np.ndarray:
    """Which kept slices are real: all under the DCT; the mean and, for even k, the highest frequency of an FFT."""
    check_transform(transform)
    if transform == "dct":
        return np.ones(k, dtype=bool)
    return np.array([s == 0 or 2 * s == k for s in range(k // 2 + 1)])


def slice_weights(k: int, transform: str = "fft") -> Float[np.ndarray, " slices"]:
    """c_s with |A|_F^2 = sum_s c_s |A_s|_F^2: the number of FFT slices that s stands for over k, or 1 for the DCT."""
    real = real_slices(k, transform)
    return np.ones(k) if transform == "dct" else np.where(real, 1.0, 2.0) / k


def to_slices(A: Float[np.ndarray, "n m k"], transform: str = "fft") -> Complex[np.ndarray, "slices n m"]:
    """The kept slices of the transformed tensor, slice index first."""
    check_transform(transform)
    hat = np.fft.rfft(A, axis=2) if transform == "fft" else dct(A, axis=2, norm="ortho").astype(np.complex128)
    return np.ascontiguousarray(np.moveaxis(hat, 2, 0))


def from_slices(
    slices: Complex[np.ndarray, "slices n m"], k: int, transform: str = "fft"
) -> Float[np.ndarray, "n m k"]:
    """The inverse of :func:`to_slices`; `k` tells even from odd."""
    check_transform(transform)
    hat = np.moveaxis(slices, 0, 2)
    return np.fft.irfft(hat, n=k, axis=2) if transform == "fft" else idct(hat.real, axis=2, norm="ortho")


def adjoint(slices: Complex[np.ndarray, "slices n m"]) -> Complex[np.ndarray, "slices m n"]:
    """Conjugate transpose of every slice."""
    return slices.conj().swapaxes(1, 2)


def t_product(
    A: Float[np.ndarray, "n p k"], B: Float[np.ndarray, "p m k"], transform: str = "fft"
) -> Float[np.ndarray, "n m k"]:
    """A * B: circular convolution of tubes in place of products of numbers. k = 1 is the matrix product."""
    A, B = check_third_order(A, "A"), check_third_order(B, "B")
    if A.shape[1] != B.shape[0] or A.shape[2] != B.shape[2]:
        raise ValueError(f"A * B needs n x p x k and p x m x k; got shapes {A.shape} and {B.shape}")
    return from_slices(to_slices(A, transform) @ to_slices(B, transform), A.shape[2], transform)


def t_transpose(A: Float[np.ndarray, "n m k"], transform: str = "fft") -> Float[np.ndarray, "m n k"]:
    """A^T: every frontal slice transposed and, for the FFT, slices 2..k in reverse order."""
    A = check_third_order(A, "A")
    check_transform(transform)
    order = -np.arange(A.shape[2]) % A.shape[2] if transform == "fft" else np.arange(A.shape[2])
    return np.ascontiguousarray(A[:, :, order].transpose(1, 0, 2))


def t_identity(n: int, k: int, transform: str = "fft") -> Float[np.ndarray, "n n k"]:
    """The identity of the t-product: the identity matrix in every transformed slice."""
    slices = np.broadcast_to(np.eye(n, dtype=np.complex128), (len(real_slices(k, transform)), n, n))
    return from_slices(slices, k, transform)


def svd_slices(slices: np.ndarray, real: np.ndarray, full: bool = False) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Batched SVD in which real slices keep real singular vectors, so that the inverse transform is real."""
    U, s, Vh = np.linalg.svd(slices, full_matrices=full)
    for i in np.flatnonzero(real):
        U[i], s[i], Vh[i] = np.linalg.svd(slices[i].real, full_matrices=full)
    return U, s, Vh


def t_svd(A: Float[np.ndarray, "n m k"], full: bool = False, transform: str = "fft") -> TSVD:
    """The tubal singular value decomposition; economy-sized unless `full`."""
    A = check_third_order(A, "A")
    k = A.shape[2]
    U, values, Vh = svd_slices(to_slices(A, transform), real_slices(k, transform), full)
    S = np.zeros((len(values), U.shape[2], Vh.shape[1]), dtype=np.complex128)
    diagonal = np.arange(values.shape[1])
    S[:, diagonal, diagonal] = values
    U, S, V = (from_slices(x, k, transform) for x in (U, S, adjoint(Vh)))
    return TSVD(U, S, V, values)


def fourier_singular_values(A: Float[np.ndarray, "n m k"], transform: str = "fft") -> Float[np.ndarray, "slices min"]:
    """Singular values of every kept slice, largest first."""
    return np.linalg.svd(to_slices(check_third_order(A, "A"), transform), compute_uv=False)


def tubal_singular_values(A: Float[np.ndarray, "n m k"], transform: str = "fft") -> Float[np.ndarray, " min"]:
    """2-norms of the tubes S[i, i, :]."""
    return tube_norms(fourier_singular_values(A, transform), A.shape[2], transform)


def tube_norms(values: Float[np.ndarray, "slices min"], k: int, transform: str = "fft") -> Float[np.ndarray, " min"]:
    """2-norms of tubes that are given by their values in every slice."""
    return np.sqrt(slice_weights(k, transform) @ values**2)


def _count(values: np.ndarray, tol: float) -> np.ndarray:
    if not tol >= 0:
        raise ValueError(f"tol {tol} must be >= 0: singular values below tol times the largest count as zero")
    return (values > tol * values.max(initial=0.0)).sum(axis=-1)


def tubal_rank(A: Float[np.ndarray, "n m k"], tol: float = 1e-10, transform: str = "fft") -> int:
    """Number of tubal singular values above `tol` times the largest (2-norms of tubes)."""
    return int(_count(tubal_singular_values(A, transform), tol))


def multi_rank(A: Float[np.ndarray, "n m k"], tol: float = 1e-10, transform: str = "fft") -> tuple[int, ...]:
    """The rank of each of the k transformed slices; conjugate FFT slices repeat the rank of their partners."""
    ranks = _count(fourier_singular_values(A, transform), tol)
    k = A.shape[2]
    return tuple(int(ranks[s if s < len(ranks) else k - s]) for s in range(k))


def average_rank(A: Float[np.ndarray, "n m k"], tol: float = 1e-10, transform: str = "fft") -> float:
    """Mean of the multi-rank: rank(bcirc(A)) / k."""
    return float(np.mean(multi_rank(A, tol, transform)))


def spectral_norm(A: Float[np.ndarray, "n m k"], transform: str = "fft") -> float:
    """The largest singular value of any slice: the operator norm of X -> A * X."""
    return float(fourier_singular_values(A, transform).max())


def tubal_nuclear_norm(A: Float[np.ndarray, "n m k"], transform: str = "fft") -> float:
    """Sum of the slices' nuclear norms with the weights c_s; for the FFT the mean over k slices (Lu et al., 2019)."""
    return float(slice_weights(A.shape[2], transform) @ fourier_singular_values(A, transform).sum(axis=1))


def t_svt(A: Float[np.ndarray, "n m k"], tau: float, transform: str = "fft") -> Float[np.ndarray, "n m k"]:
    """Tubal singular value thresholding: argmin_X tau |X|_TNN + |X - A|_F^2 / 2."""
    if not tau >= 0:
        raise ValueError(f"tau {tau} must be >= 0")
    A = check_third_order(A, "A")
    U, values, Vh = svd_slices(to_slices(A, transform), real_slices(A.shape[2], transform))
    return from_slices((U * np.maximum(values - tau, 0.0)[:, None, :]) @ Vh, A.shape[2], transform)


def truncate(A: Float[np.ndarray, "n m k"], r: int, transform: str = "fft") -> Float[np.ndarray, "n m k"]:
    """Best approximation of tubal rank r in the Frobenius norm (Eckart-Young): the leading r terms of the t-SVD."""
    A = check_third_order(A, "A")
    if not 0 <= r <= min(A.shape[:2]):
        raise ValueError(f"tubal rank {r} is outside 0..{min(A.shape[:2])}, what shape {A.shape} allows")
    U, values, Vh = svd_slices(to_slices(A, transform), real_slices(A.shape[2], transform))
    return from_slices((U[:, :, :r] * values[:, None, :r]) @ Vh[:, :r], A.shape[2], transform)


def t_condition_number(A: Float[np.ndarray, "n m k"], transform: str = "fft") -> float:
    """The largest singular value of any slice over the smallest (infinite where one is zero)."""
    values = fourier_singular_values(A, transform)
    return float(values.max() / values.min()) if values.min() > 0 else np.inf


def t_inverse(A: Float[np.ndarray, "n n k"], transform: str = "fft") -> Float[np.ndarray, "n n k"]:
    """The tensor B with A * B = B * A = identity. ValueError where a slice is singular to working precision."""
    A = check_third_order(A, "A")
    if A.shape[0] != A.shape[1]:
        raise ValueError(f"shape {A.shape}: only n x n x k tensors have a t-inverse")
    condition = t_condition_number(A, transform)
    if condition > 1e14:
        raise ValueError(f"tensor has t-condition number {condition:.1e}: a slice is singular, no t-inverse")
    return from_slices(np.linalg.inv(to_slices(A, transform)), A.shape[2], transform)


def is_orthogonal(Q: Float[np.ndarray, "n m k"], tol: float = 1e-10, transform: str = "fft") -> bool:
    """Whether Q^T * Q is the identity up to `tol` in every entry of every slice (orthonormal columns)."""
    slices = to_slices(check_third_order(Q, "Q"), transform)
    return bool(np.abs(adjoint(slices) @ slices - np.eye(Q.shape[1])).max() <= tol)


def largest_sine(U: Complex[np.ndarray, "slices n r"], V: Complex[np.ndarray, "slices n r"]) -> float:
    """Largest sine of a principal angle in any slice between orthonormal bases, |(I - V V^H) U|: accurate near 0."""
    return float(np.linalg.norm(U - V @ (adjoint(V) @ U), ord=2, axis=(1, 2)).max())


def principal_angle(U: Float[np.ndarray, "n r k"], V: Float[np.ndarray, "n r k"], transform: str = "fft") -> float:
    """Sine of the largest principal angle between the column spaces of U and V, the worst of the transformed slices.

    The columns need not be orthonormal; where they are dependent in a slice, the space is completed arbitrarily.
    """
    U, V = check_third_order(U, "U"), check_third_order(V, "V")
    if U.shape != V.shape or U.shape[0] < U.shape[1]:
        raise ValueError(f"U and V must have the same shape n x r x k with r <= n; got {U.shape} and {V.shape}")
    return largest_sine(*(np.linalg.qr(to_slices(X, transform))[0] for X in (U, V)))
