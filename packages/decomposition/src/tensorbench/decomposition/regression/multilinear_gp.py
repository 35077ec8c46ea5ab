"""A Gaussian process with a low-rank multilinear kernel on contracted images: likelihood, gradients, prediction.

H. Sun, W. Manchester, M. Jin, Y. Liu and Y. Chen, "Tensor Gaussian Process with Contraction for Multi-Channel Imaging
Analysis", ICML 2023 (arXiv 2301.11203). An image X (C, H, W) is contracted channel by channel to Z = A X B^T, and

    k(X, X') = vec(Z)^T (K3 ⊗ K2 ⊗ K1) vec(Z'),   K_j = U_j^T U_j,

acts on Z with U1 along the height, U2 along the width, U3 along the channels. With the features
F = Z ×_height U1 ×_width U2 ×_channel U3 (N rows of q = r1 r2 r3 numbers) the kernel matrix is F F^T, so nothing of
size hwC x hwC is ever formed, and with s = sigma^2 the likelihood of y needs the q x q matrix S = F^T F + s I only:

    (F F^T + s I)^{-1} v = (v - F S^{-1} F^T v) / s,     logdet = (N - q) log s + logdet S.

With alpha = Sigma^{-1} y and omega = F^T alpha = S^{-1} F^T y the derivatives of
NLL = 0.5 (logdet Sigma + y^T Sigma^{-1} y), which leaves out the constant 0.5 N log 2 pi, are

    dNLL/dF = F S^{-1} - alpha omega^T,     dNLL/d log s = 0.5 s (tr Sigma^{-1} - |alpha|^2);

the rest is the chain rule through the multilinear map. Where N < q the N x N matrix is used instead of S.

The sizes: N images, C channels, H x W pixels, h x w latent pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.linalg import lapack

Array = np.ndarray
NAMES = ("A", "B", "U1", "U2", "U3")


def latent(
    X: Float[np.ndarray, "n c H W"], A: Float[np.ndarray, "h H"], B: Float[np.ndarray, "w W"]
) -> Float[np.ndarray, "n c h w"]:
    """The contracted images A X B^T, channel by channel."""
    return A @ (X @ B.T)


def features(
    Z: Float[np.ndarray, "n c h w"],
    U1: Float[np.ndarray, "r1 h"],
    U2: Float[np.ndarray, "r2 w"],
    U3: Float[np.ndarray, "r3 c"],
) -> Float[np.ndarray, "n q"]:
    """F with F F^T the kernel matrix; column (a, b, c) in row-major order belongs to rows a, b, c of U1, U2, U3."""
    inner = U1 @ (Z @ U2.T)  # n c r1 r2
    return np.einsum("kc,ncab->nabk", U3, inner, optimize=True).reshape(len(Z), -1)


def multilinear_kernel(
    Z: Float[np.ndarray, "n c h w"],
    Z2: Float[np.ndarray, "m c h w"],
    U1: Float[np.ndarray, "r1 h"],
    U2: Float[np.ndarray, "r2 w"],
    U3: Float[np.ndarray, "r3 c"],
) -> Float[np.ndarray, "n m"]:
    """vec(Z)^T (K3 ⊗ K2 ⊗ K1) vec(Z') for all pairs."""
    return features(Z, U1, U2, U3) @ features(Z2, U1, U2, U3).T


@dataclass(frozen=True)
class Evidence:
    """The Gaussian likelihood of y under F F^T + noise I, and what gradients and predictions need of it.

    ``solved`` is Sigma^{-1} F (q, N): like the features here, with the images along the last axis.
    """

    nll: float
    alpha: Array  # Sigma^{-1} y
    omega: Array  # F^T alpha
    solved: Array
    trace: float  # of Sigma^{-1}
    noise: float

    @property
    def by_features(self) -> Array:
        """dNLL/dF, transposed (q, N)."""
        return self.solved - np.multiply.outer(self.omega, self.alpha)

    @property
    def by_log_noise(self) -> float:
        """dNLL/d log sigma^2."""
        return float(0.5 * self.noise * (self.trace - self.alpha @ self.alpha))


def evidence(Ft: Array, y: Array, noise: float) -> Evidence:
    """From the transposed features (q, N) and the noise variance. Raises LinAlgError where Sigma is not definite."""
    q, n = Ft.shape
    small = min(q, n)
    gram = (Ft @ Ft.T if q <= n else Ft.T @ Ft) + noise * np.eye(small)
    chol, failed = lapack.dpotrf(gram, lower=1, overwrite_a=1)
    if failed:
        raise np.linalg.LinAlgError("the kernel matrix plus noise is not positive definite")
    logdet = 2.0 * float(np.log(np.diagonal(chol)).sum())
    inverse = lapack.dpotri(chol, lower=1)[0]
    inverse = np.tril(inverse) + np.tril(inverse, -1).T
    if q <= n:
        omega = inverse @ (Ft @ y)
        alpha = (y - omega @ Ft) / noise
        solved = inverse @ Ft
        logdet += (n - q) * np.log(noise)
        trace = (n - q) / noise + float(np.trace(inverse))
    else:
        alpha = inverse @ y
        omega = Ft @ alpha
        solved = Ft @ inverse
        trace = float(np.trace(inverse))
    return Evidence(0.5 * (logdet + float(y @ alpha)), alpha, omega, solved, trace, noise)


def woodbury_solve(
    F: Float[np.ndarray, "n q"], noise: float, v: Float[np.ndarray, "n *m"]
) -> Float[np.ndarray, "n *m"]:
    """(F F^T + noise I)^{-1} v through the q x q matrix, never forming the N x N one.

    Raises:
        ValueError: the noise is not positive.
    """
    if not noise > 0:
        raise ValueError(f"noise {noise} must be positive")
    inner = F.T @ F + noise * np.eye(F.shape[1])
    return (v - F @ np.linalg.solve(inner, F.T @ v)) / noise


def nll(F: Float[np.ndarray, "n q"], y: Float[np.ndarray, " n"], sigma: float) -> float:
    """0.5 (logdet(F F^T + sigma^2 I) + y^T (F F^T + sigma^2 I)^{-1} y): without the constant 0.5 N log 2 pi."""
    return evidence(np.ascontiguousarray(F.T), y, sigma**2).nll


def predict(
    F: Float[np.ndarray, "n q"], y: Float[np.ndarray, " n"], F2: Float[np.ndarray, "m q"], sigma: float
) -> tuple[Float[np.ndarray, " m"], Float[np.ndarray, " m"]]:
    """Mean and variance (without noise) of the process at new features, given y at the old ones.

    The variance is sigma^2 f^T S^{-1} f, in which nothing cancels: f^T f - f^T F^T Sigma^{-1} F f could be negative.
    """
    noise = sigma**2
    S = F.T @ F + noise * np.eye(F.shape[1])
    half = np.linalg.solve(np.linalg.cholesky(S), F2.T)
    return F2 @ np.linalg.solve(S, F.T @ y), noise * np.sum(half**2, axis=0)


# ------------------------------------------------------------------ images along the last axis: every product a GEMM


def contract_rows(M: Array, T: Array) -> Array:
    """M (m, a) times T (a, ...) along the first axis."""
    return (M @ T.reshape(len(T), -1)).reshape(len(M), *T.shape[1:])


def contract_second(M: Array, T: Array) -> Array:
    """M (m, b) times T (a, b, ...) along the second axis."""
    a, b = T.shape[:2]
    return (M @ T.reshape(a, b, -1)).reshape(a, len(M), *T.shape[2:])


def contract_third(M: Array, T: Array) -> Array:
    """M (m, c) times T (a, b, c, n) along the third axis."""
    a, b, c, n = T.shape
    return (M @ T.reshape(a * b, c, n)).reshape(a, b, len(M), n)


def project(Z: Array, U1: Array, U2: Array, U3: Array) -> Array:
    """Z (h, w, C, N) to the features (r1, r2, r3, N)."""
    return contract_third(U3, contract_second(U2, contract_rows(U1, Z)))


def pull_back(G: Array, U1: Array, U2: Array, U3: Array) -> Array:
    """A derivative by the features (r1, r2, r3, N), carried to Z (h, w, C, N)."""
    return project(G, U1.T, U2.T, U3.T)


def kernel_gradients(G: Array, Z: Array, U1: Array, U2: Array, U3: Array) -> tuple[Array, Array, Array]:
    """Derivatives by U1, U2 and U3 from the one by the features, G (r1, r2, r3, N)."""
    one = contract_rows(U1, Z)
    two = contract_second(U2, one)
    back = contract_third(U3.T, G)  # r1 r2 C N
    r1, r2, c, n = back.shape
    by_U3 = (G.reshape(r1 * r2, -1, n) @ two.reshape(r1 * r2, c, n).transpose(0, 2, 1)).sum(0)
    by_U2 = (back.reshape(r1, r2, -1) @ one.reshape(r1, -1, c * n).transpose(0, 2, 1)).sum(0)
    back = contract_second(U2.T, back)  # r1 w C N
    by_U1 = back.reshape(r1, -1) @ Z.reshape(len(Z), -1).T
    return by_U1, by_U2, by_U3


def gradient_second(G: Array, T: Array) -> Array:
    """Derivative by M of what :func:`contract_second` makes of T (a, b, ...): from G (a, m, ...) to (m, b)."""
    a, m = G.shape[:2]
    return (G.reshape(a, m, -1) @ T.reshape(a, T.shape[1], -1).transpose(0, 2, 1)).sum(0)


# ------------------------------------------------------------------ the whole gradient, for its own sake and for tests


def nll_grad(
    X: Float[np.ndarray, "n c H W"],
    y: Float[np.ndarray, " n"],
    A: Float[np.ndarray, "h H"],
    B: Float[np.ndarray, "w W"],
    U1: Float[np.ndarray, "r1 h"],
    U2: Float[np.ndarray, "r2 w"],
    U3: Float[np.ndarray, "r3 c"],
    eta: float,
) -> dict[str, Array | float]:
    """The negative log-likelihood (``nll``) and its derivatives by A, B, U1, U2, U3 and ``eta`` = log sigma^2."""
    images = X.transpose(2, 3, 1, 0)  # H W C N
    rows = contract_rows(A, np.ascontiguousarray(images))  # h W C N
    Z = contract_second(B, rows)
    F = project(Z, U1, U2, U3)
    found = evidence(F.reshape(-1, F.shape[-1]), y, float(np.exp(eta)))
    G = found.by_features.reshape(F.shape)
    by_Z = pull_back(G, U1, U2, U3)
    columns = contract_rows(B, np.ascontiguousarray(images.transpose(1, 0, 2, 3)))  # w H C N
    by_A = gradient_second(np.ascontiguousarray(by_Z.transpose(1, 0, 2, 3)), columns)
    kernel = kernel_gradients(G, Z, U1, U2, U3)
    by = dict(zip(NAMES, (by_A, gradient_second(by_Z, rows), *kernel), strict=True))
    return by | {"eta": found.by_log_noise, "nll": found.nll}


def nll_torch(X, y, A, B, U1, U2, U3, eta):
    """The same likelihood in torch, differentiable by autograd, through the N x N matrix: the slow twin, for tests."""
    import torch

    Z = torch.einsum("hi,ncij,wj->nchw", A, X, B)
    F = torch.einsum("nchw,ah,bw,kc->nabk", Z, U1, U2, U3).reshape(len(y), -1)
    sigma = F @ F.T + torch.exp(eta) * torch.eye(len(y), dtype=F.dtype)
    return 0.5 * (torch.linalg.slogdet(sigma)[1] + y @ torch.linalg.solve(sigma, y))
