"""P = P₁ ⊗ … ⊗ P_k for a tensor of order k: a factor for each mode, dense or diagonal, fitted from pairs or gradients.

With X = P h as a tensor, the move of factor i takes D = XᵢXᵢᵀ - VᵢVᵢᵀ, with X and V matricised along mode i. For
whitening the second term has the expectation τ I with τ = numel / size, which stands in its place: no v is drawn.
Source: X.-L. Li, Stochastic Hessian Fittings with Lie Groups (2024, arXiv 2402.11858), section on sparse groups.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Inexact
from torch import Tensor

from tensorbench.core.errors import unknown

from ..base import in_interval, nonnegative, positive, whole
from .fitter import Fitter, NonFinite, check_step, damped
from .inverse_free import Geometry, check_geometry, move, move_diagonal
from .norm_bounds import lift, norm_lower_bound_spd, track

LARGEST_ORDER = 26


def dense_modes(shape: Sequence[int], max_size: float = math.inf, max_skew: float = 1.0) -> tuple[bool, ...]:
    """Which modes get a full factor: no longer than ``max_size``, and size² no more than ``max_skew`` times numel."""
    numel = math.prod(shape)
    return tuple(1 < size <= max_size and size**2 <= max_skew * numel for size in shape)


def balance_kron(Q: Sequence[Tensor]) -> list[Tensor]:
    """Factors (stacked in the first dimension) scaled to one largest absolute entry; their product stays."""
    sizes = [q.abs().flatten(1).amax(1) for q in Q]
    mean = torch.stack(sizes).log().mean(0).exp()
    return [q * (mean / size).view(-1, *[1] * (q.ndim - 1)).to(q.dtype) for q, size in zip(Q, sizes, strict=True)]


class Kron(Fitter):
    """Fits the factors for ``members`` tensors of one shape side by side.

    Args:
        shape: of one tensor; dimensions of size 1 get a number.
        geometry: the move of a factor (:mod:`.inverse_free`); ``EQ`` is the triangular group.
        lr: normalised step in (0, 2].
        max_size, max_skew: which modes are dense (:func:`dense_modes`).
        init_scale: Q starts as this times the identity.
        beta: how slowly the Lipschitz constants forget, in [0, 1); 0.999 for very sparse gradients.
        damping: noise added to h or g, an upper bound 1/damping on P.
        balance: probability of balancing the factors after an update (QEP always does).
        members: tensors side by side; with more than one (or ``stacked=True``) pairs have a first dimension more.

    Raises:
        ValueError: order above 26, an unknown geometry, numbers out of their range.
    """

    takes_complex = True

    def __init__(
        self,
        shape: Sequence[int],
        geometry: Geometry = "Q0p5EQ1p5",
        lr: float = 0.1,
        *,
        max_size: float = math.inf,
        max_skew: float = 1.0,
        init_scale: float = 1.0,
        beta: float = 0.9,
        damping: float = 1e-9,
        balance: float = 0.01,
        members: int = 1,
        stacked: bool = False,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str = "cpu",
        generator: torch.Generator | None = None,
        nonfinite: NonFinite = "raise",
    ) -> None:
        super().__init__()
        if len(shape) > LARGEST_ORDER:
            raise ValueError(f"a tensor of order {len(shape)} is more than {LARGEST_ORDER}; reshape it to fewer modes")
        if nonfinite not in ("raise", "skip"):
            raise ValueError(unknown("nonfinite", nonfinite, ["raise", "skip"]))
        self.modes = tuple(shape) or (1,)
        self.numel, self.members = math.prod(self.modes), whole("members", members)
        self.geometry, self.lr, self.generator = check_geometry(geometry), check_step("lr", lr), generator
        self.beta, self.damping = in_interval("beta", beta, 0, 1), nonnegative("damping", damping)
        self.balance = in_interval("balance", balance, 0, 1, closed="both")
        self.nonfinite = nonfinite
        self.shape = (members, *shape) if stacked or members > 1 else tuple(shape)
        self.dense = dense_modes(self.modes, max_size, max_skew)
        scale = positive("init_scale", init_scale) ** ((2 if geometry == "PRO4P" else 1) / len(self.modes))
        for i, size in enumerate(self.modes):
            kind = torch.eye if self.dense[i] else torch.ones
            factor = scale * kind(size, dtype=dtype, device=device)
            self.state[f"Q{i}"] = factor.expand(members, *factor.shape).clone()
        real = torch.zeros(len(self.modes), members, dtype=dtype, device=device).real
        self.state["L"] = lift(real.clone())
        self._products: list[Tensor] | None = None
        self._of: Tensor | None = None

    @property
    def factors(self) -> list[Tensor]:
        """Each with the members in its first dimension."""
        return [self.state[f"Q{i}"] for i in range(len(self.modes))]

    def products(self) -> list[Tensor]:
        """Pᵢ of each mode; kept until the next update."""
        if self._products is None or self._of is not self.state.get("Q0"):
            if self.geometry == "PRO4P":
                self._products = self.factors
            else:
                self._products = [q.mH @ q if q.ndim == 3 else (q.conj() * q) for q in self.factors]
            self._of = self.state["Q0"]
        return self._products

    def apply(self, g: Tensor) -> Tensor:
        x = g.reshape(self.members, *self.modes)
        for i, P in enumerate(self.products()):
            x = along(P, x, i)
        return x.view(g.shape)

    @property
    def P(self) -> Inexact[Tensor, "n n"]:
        if self.members > 1:
            raise ValueError(f"P is one matrix, and {self.members} tensors are fitted side by side; see products()")
        result = self.state["Q0"].new_ones(1, 1)
        for P in self.products():
            result = torch.kron(result, P[0] if P.ndim == 3 else torch.diag(P[0]))
        return result

    def _update(self, v: Tensor, h: Tensor) -> None:
        h = damped(h, self.damping, self.generator).reshape(self.members, *self.modes)
        v = v.reshape(self.members, *self.modes)
        if self.geometry == "EQ":
            x, y = h, v
            for i, q in enumerate(self.factors):
                x, y = along(q, x, i), solve_along(q, y, i)
        else:
            x, y = self.apply(h), v
        moved, bounds = [], []
        for i, q in enumerate(self.factors):
            a, b = (along(q, x, i), along(q, y, i)) if self.geometry == "QEP" else (x, y)
            up, down = gram(a, i, self.dense[i]), gram(b, i, self.dense[i])
            L = self._track(i, self._bound(up + down))
            bounds.append(L)
            moved.append(self._move(q, up - down, self.lr / L))
        self._finish(moved, bounds)

    def whiten(self, g: Tensor) -> None:
        """One step towards a covariance of P^½ g that is the identity, for a gradient or momentum ``g``.

        Unlike :meth:`update` it looks at nothing first.
        """
        if self.geometry == "EQ":
            v = torch.randn(g.shape, dtype=g.dtype, device=g.device, generator=self.generator)
            self._update(v, g)
            return
        x = self.apply(damped(g, self.damping, self.generator).reshape(self.members, *self.modes))
        moved, bounds = [], []
        for i, q in enumerate(self.factors):
            tau = self.numel / self.modes[i]
            if self.geometry == "QEP":
                up = gram(along(q, x, i), i, self.dense[i])
                down = tau * (q @ q.mH if self.dense[i] else q.conj() * q)
                L, D = self._track(i, self._bound(up + down)), up - down
            else:
                D = gram(x, i, self.dense[i])
                L = self._track(i, self._bound(D) + tau)
                (D.diagonal(dim1=-2, dim2=-1) if self.dense[i] else D).sub_(tau)
            bounds.append(L)
            moved.append(self._move(q, D, self.lr / L))
        self._finish(moved, bounds)

    def _bound(self, A: Tensor) -> Tensor:
        return norm_lower_bound_spd(A, generator=self.generator) if A.ndim == 3 else A.real.amax(-1)

    def _track(self, i: int, ell: Tensor) -> Tensor:
        L = track(self.state["L"][i], ell, self.beta)
        return L.clamp(min=torch.finfo(L.dtype).tiny)

    def _move(self, q: Tensor, D: Tensor, step: Tensor) -> Tensor:
        return (move if q.ndim == 3 else move_diagonal)(self.geometry, q, D, step)

    def _finish(self, moved: list[Tensor], bounds: list[Tensor]) -> None:
        if len(moved) > 1 and (self.geometry == "QEP" or self._coin() < self.balance):
            moved = balance_kron(moved)
        for i, q in enumerate(moved):
            self.state[f"Q{i}"] = q
        self.state["L"] = torch.stack(bounds)
        self._products = None

    def _coin(self) -> float:
        device = self.state["L"].device if self.generator is None else self.generator.device
        return float(torch.rand((), generator=self.generator, device=device)) if self.balance else 1.0


def along(q: Tensor, x: Inexact[Tensor, "members *modes"], i: int) -> Inexact[Tensor, "members *modes"]:
    """The factor times the tensor along mode ``i``."""
    if q.ndim == 2:
        return x * q.view(len(q), *[1] * i, -1, *[1] * (x.ndim - i - 2))
    if i == x.ndim - 2:
        return (x.flatten(1, -2) @ q.mT).view(x.shape) if x.ndim > 2 else (q @ x[..., None])[..., 0]
    if i == 0:
        return (q @ x.flatten(2)).view(x.shape)
    moved = x.movedim(i + 1, 1)
    return (q @ moved.flatten(2)).view(moved.shape).movedim(1, i + 1)


def solve_along(q: Tensor, x: Inexact[Tensor, "members *modes"], i: int) -> Inexact[Tensor, "members *modes"]:
    """Q⁻ᴴ times the tensor along mode ``i`` for upper triangular Q."""
    if q.ndim == 2:
        return along(1 / q.conj(), x, i)
    moved = x.movedim(i + 1, 1)
    columns = lift(moved.reshape(len(x), len(q[0]), -1))
    solved = torch.linalg.solve_triangular(lift(q.mH), columns, upper=False).to(x.dtype)
    return solved.view(moved.shape).movedim(1, i + 1)


def gram(x: Inexact[Tensor, "members *modes"], i: int, dense: bool) -> Tensor:
    """XᵢXᵢᴴ of the tensor matricised along mode ``i``, or its diagonal."""
    if not dense:
        return (x.conj() * x).movedim(i + 1, 1).reshape(len(x), x.shape[i + 1], -1).sum(-1)
    if i == x.ndim - 2:
        X = x.flatten(1, -2) if x.ndim > 2 else x[:, None]
        return X.mT @ X.conj()
    X = x.movedim(i + 1, 1).flatten(2)
    return X @ X.mH
