"""A factor Q = (I + U Vᵀ) diag(d) of P = QᵀQ with U and V of rank r: cost and memory grow as n r.

The step is that of the Lie groups, dQ = 𝓔 Q with 𝓔 in the span of the parts. d moves in every update, and either U or
V, drawn at random, for with one of them fixed the matrices I + U Vᵀ are a group. The inverse of P needs an r × r solve.
Source: X.-L. Li, Stochastic Hessian Fittings with Lie Groups (2024, arXiv 2402.11858), section on sparse groups.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from ..base import in_interval, nonnegative, positive
from .fitter import NonFinite, VectorFitter, check_step, damped
from .norm_bounds import lift, track

_START = 0.1**0.5  # norm of U and of V
_ROWS = 65_536  # of a product in place


class LowRank(VectorFitter):
    """Fits U, V and d; rank 0 fits d alone.

    Args:
        lr: normalised step in (0, 2].
        beta: how slowly the Lipschitz constants forget, in [0, 1).
        damping: noise added to h, an upper bound 1/damping on P.

    Raises:
        ValueError: a rank of n or more.
    """

    def __init__(
        self,
        n: int,
        rank: int = 10,
        lr: float = 0.1,
        *,
        init_scale: float = 1.0,
        beta: float = 0.9,
        damping: float = 0.0,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str = "cpu",
        generator: torch.Generator | None = None,
        nonfinite: NonFinite = "raise",
    ) -> None:
        super().__init__(n, nonfinite=nonfinite)
        if not 0 <= rank < n:
            raise ValueError(f"rank {rank} must be in [0, {n}), less than the size of the vectors")
        self.rank, self.lr, self.generator = rank, check_step("lr", lr), generator
        self.beta, self.damping = in_interval("beta", beta, 0, 1), nonnegative("damping", damping)
        positive("init_scale", init_scale)
        for name in ("U", "V"):
            start = torch.randn(n, rank, dtype=dtype, device=device, generator=generator)
            self.state[name] = start * (_START / torch.linalg.matrix_norm(start)) if rank else start
        self.state["d"] = torch.full((n,), init_scale, dtype=dtype, device=device)
        self.state["L"] = lift(torch.zeros(3, dtype=dtype, device=device))  # of U, V and d

    def _update(self, v: Tensor, h: Tensor) -> None:
        h = damped(h, self.damping, self.generator)
        self._balance()
        U, V, d, L = (self.state[name] for name in ("U", "V", "d", "L"))
        a = _forward(U, V, d * h)
        Ph = d * _forward(V, U, a)
        core = V.T @ U
        core.diagonal().add_(1)  # I + VᵀU
        factors, pivots = torch.linalg.lu_factor(lift(core))
        b = v / d
        b = b - V @ torch.linalg.lu_solve(factors, pivots, lift(U.T @ b)[:, None], adjoint=True)[:, 0].to(V.dtype)
        Pv = b - U @ torch.linalg.lu_solve(factors, pivots, lift(V.T @ b)[:, None])[:, 0].to(U.dtype)
        Pv = Pv / d  # P⁻¹ v

        up, down = Ph * h, v * Pv
        L_d = track(L[2], up.abs().max() + down.abs().max(), self.beta)
        self.state["d"] = d - ((self.lr / L_d) * (up - down).to(L.dtype)).to(d.dtype) * d
        L_U, L_V = L[0], L[1]
        if self.rank:
            coin = float(torch.rand((), generator=self.generator, device=d.device))
            if coin < 0.5:
                L_U = self._move_left(a, b, core)
            else:
                L_V = self._move_right(a, b)
        self.state["L"] = torch.stack((L_U, L_V, L_d))

    def _move_left(self, a: Tensor, b: Tensor, core: Tensor) -> Tensor:
        U, V = self.state["U"], self.state["V"]
        aV, bV = a @ V, b @ V
        L = track(self.state["L"][0], _ell(a, V @ aV) + _ell(b, V @ bV), self.beta)
        step = (self.lr / L).to(U.dtype)
        U.addmm_(torch.stack((a, b), 1), torch.stack((-step * (aV @ core), step * (bV @ core))))
        return L

    def _move_right(self, a: Tensor, b: Tensor) -> Tensor:
        U, V = self.state["U"], self.state["V"]
        aU, bU = a @ U, b @ U
        L = track(self.state["L"][1], _ell(a, U @ aU) + _ell(b, U @ bU), self.beta)
        step = (self.lr / L).to(U.dtype)
        V.addmm_(torch.stack((a + V @ aU, b + V @ bU), 1), torch.stack((-step * aU, step * bU)))
        return L

    def _balance(self) -> None:
        """U and V of one norm and, step by step, of one Gram matrix; their product stays."""
        if not self.rank:
            return
        U, V = self.state["U"], self.state["V"]
        UU, VV = U.T @ U, V.T @ V
        size_U, size_V = torch.trace(UU.float()), torch.trace(VV.float())
        ratio = (size_U / size_V).sqrt()  # squared scale
        E = 0.1 * (UU / ratio - VV * ratio) / (size_U / ratio + size_V * ratio)
        half = 0.5 * E @ E  # (I - E + E²/2)(I + E + E²/2) = I + E⁴/4
        identity = torch.eye(self.rank, dtype=U.dtype, device=U.device)
        scale = ratio.sqrt()
        _times(U, ((identity - E + half) / scale).to(U.dtype))
        _times(V, ((identity + E + half) * scale).to(V.dtype))

    @property
    def Q(self) -> Float[Tensor, "n n"]:
        U, V, d = self.state["U"], self.state["V"], self.state["d"]
        return (torch.eye(len(d), dtype=d.dtype, device=d.device) + U @ V.T) * d

    @property
    def P(self) -> Float[Tensor, "n n"]:
        return self.Q.T @ self.Q

    def apply(self, g: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        U, V, d = self.state["U"], self.state["V"], self.state["d"]
        return d * _forward(V, U, _forward(U, V, d * g))


def _forward(U: Tensor, V: Tensor, x: Tensor) -> Tensor:
    """(I + U Vᵀ) x."""
    return x + U @ (V.T @ x)


def _times(X: Tensor, M: Tensor) -> None:
    """X ← X M in place, some rows at a time: no second matrix of the size of X."""
    for rows in X.split(_ROWS):
        rows.copy_(rows @ M)


def _ell(x: Tensor, y: Tensor) -> Tensor:
    return torch.linalg.vector_norm(x) * torch.linalg.vector_norm(y)
